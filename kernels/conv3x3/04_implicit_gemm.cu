// 04 implicit gemm: the convolution as one product of two matrices, in tiles of shared memory.
//
// Changed since 03: the problem is looked at as a product, y = A B, of N P Q pixels by O channels. Row m of A is what pixel m
//   reads, its 9 C inputs; B is w, which lies in memory as that matrix already. A is never built ("implicit"): its tiles are
//   picked from x where they are needed. A block computes 64 pixels by 64 channels and goes through the 9 C inputs in pieces
//   of 8 channels of one tap; both pieces go to shared memory. A thread computes 8 pixels by 4 channels. Bias and ReLU come in.
// Why faster: now w is shared as well. A piece is 512 values of x and 512 of w for 32768 multiply-adds: a load from global
//   memory for 32 of them, where 03 has one for 8. From shared memory 12 loads for 32 multiply-adds, not 10 for 24. And any
//   64 pixels make a tile, of any rows and images: small images leave no threads idle.
// Predicted gain: 1.3x to 2x.
// Measured gain:
// Limited by: loads from shared memory still, one for 2.7 multiply-adds, each of 4 bytes; the next rung makes the tile of a
//   thread larger, and its loads wider. 80 to 96 registers let 5 or 6 blocks of 128 threads share a multiprocessor: enough.
//
// Launch: grid (ceil(N P Q / 64), ceil(O / 64)), block 128.
#include "tu_conv3x3.cuh"
#include "tu_epilogue.cuh"

constexpr int PIXELS = 64, CHANNELS = 64;  // of a block
constexpr int DEPTH = 8;                   // input channels at a time: one sector of a pixel
constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
conv3x3(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int N, int H, int W, int C, int O, int pad, int relu) {
  __shared__ float xs[PIXELS][DEPTH], ws[DEPTH][CHANNELS];
  const Conv3x3 p{N, H, W, C, O, pad};
  const int m0 = blockIdx.x * PIXELS, o0 = blockIdx.y * CHANNELS;
  const int column = threadIdx.x % 16, row = threadIdx.x / 16;  // computes pixels row + 8 i, channels column + 16 j

  // Of the tile of x, a thread loads channel `lane` of four pixels: 8 lanes together load a sector.
  const int lane = threadIdx.x % DEPTH, first = threadIdx.x / DEPTH;
  Conv3x3::Window windows[4];
  for (int i = 0; i < 4; i++) windows[i] = p.window(m0 + first + 16 * i);

  float sum[8][4] = {};
  for (int tap = 0; tap < 9; tap++)
    for (int c0 = 0; c0 < C; c0 += DEPTH) {
      const int at = (tap / 3 * W + tap % 3) * C + c0 + lane;
      for (int i = 0; i < 4; i++) {
        float value = 0.0f;                                     // outside the image, and past the last channel
        if (c0 + lane < C && windows[i].taps >> tap & 1) value = x[windows[i].at + at];
        xs[first + 16 * i][lane] = value;
      }
      for (int i = 0; i < 4; i++) {
        const int k = threadIdx.x / CHANNELS + 2 * i, o = threadIdx.x % CHANNELS;
        float value = 0.0f;
        if (c0 + k < C && o0 + o < O) value = w[(tap * C + c0 + k) * O + o0 + o];
        ws[k][o] = value;
      }
      __syncthreads();                                          // both tiles are complete

      for (int k = 0; k < DEPTH; k++) {
        float inputs[8], weights[4];
        for (int i = 0; i < 8; i++)
          inputs[i] = xs[row + 8 * i][k];
        for (int j = 0; j < 4; j++)
          weights[j] = ws[k][column + 16 * j];
        for (int i = 0; i < 8; i++)
          for (int j = 0; j < 4; j++) sum[i][j] += inputs[i] * weights[j];
      }
      __syncthreads();                                          // nobody needs them any more
    }

  const Epilogue epilogue{b, relu};
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 4; j++) {
      const int m = m0 + row + 8 * i, o = o0 + column + 16 * j;
      if (m < N * p.P() * p.Q() && o < O) y[m * O + o] = epilogue(sum[i][j], o);
    }
}
