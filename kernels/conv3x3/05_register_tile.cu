// 05 register tile: a thread computes 8 pixels by 8 channels, and loads 16 bytes at a time.
//
// Changed since 04: a block computes 128 pixels by 128 channels with 256 threads, a thread 8 by 8. Loads are float4, from
//   global memory and from shared memory. For that the tile of x is transposed while it is stored, so that neighbouring pixels
//   are neighbours; its rows are 4 floats longer than needed, or the threads of a warp would store to the same banks.
// Why faster: 16 values from shared memory serve 64 multiply-adds, and they come with 4 instructions: one for 16 multiply-adds,
//   where 04 has one for 2.7. From global memory a value for 64 multiply-adds, with one instruction for 256.
// Predicted gain: 2x to 2.5x: from here on most instructions are multiply-adds, which is what the GPU's peak counts.
// Measured gain:
// Limited by: waiting. All threads load, wait for memory, meet at the barrier, compute, meet again: while they wait, nobody in
//   the block computes, and registers leave room for only two blocks of a multiprocessor to fill in for one another.
//
// Launch: grid (ceil(N P Q / 128), ceil(O / 128)), block 256. WIDE: C and O are multiples of 4, arrays start at 16 bytes.
#include "tu_conv3x3.cuh"
#include "tu_epilogue.cuh"

constexpr int PIXELS = 128, CHANNELS = 128;
constexpr int DEPTH = 8;
constexpr int THREADS = 256;

template <bool WIDE> __global__ void __launch_bounds__(THREADS)
conv3x3(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int N, int H, int W, int C, int O, int pad, int relu) {
  __shared__ __align__(16) float xs[DEPTH][PIXELS + 4];
  __shared__ __align__(16) float ws[DEPTH][CHANNELS];
  const Conv3x3 p{N, H, W, C, O, pad};
  const int m0 = blockIdx.x * PIXELS, o0 = blockIdx.y * CHANNELS;

  // The 32 threads of a warp lie 4 by 8, the 8 warps 4 by 2. A thread computes pixels row to row + 3 and again 64 further on,
  // channels column to column + 3 and again 64 further on: so the float4 of neighbouring threads are neighbours, too.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = (warp / 2 * 4 + lane / 8) * 4, column = (warp % 2 * 8 + lane % 8) * 4;

  const int pixel = threadIdx.x / 2, channel = threadIdx.x % 2 * 4;       // of x, a thread loads 4 channels of one pixel,
  const int depth = threadIdx.x / 32, o = threadIdx.x % 32 * 4;           // of w, 4 output channels of one input channel
  const Conv3x3::Window window = p.window(m0 + pixel);

  float sum[8][8] = {};
  for (int tap = 0; tap < 9; tap++)
    for (int c0 = 0; c0 < C; c0 += DEPTH) {
      const int at = window.at + (tap / 3 * W + tap % 3) * C + c0 + channel;
      const float4 value = load4<WIDE>(x + at, window.taps >> tap & 1 ? C - c0 - channel : 0);
      xs[channel][pixel] = value.x;
      xs[channel + 1][pixel] = value.y;
      xs[channel + 2][pixel] = value.z;
      xs[channel + 3][pixel] = value.w;
      *(float4 *)&ws[depth][o] = load4<WIDE>(w + (tap * C + c0 + depth) * O + o0 + o, c0 + depth < C ? O - o0 - o : 0);
      __syncthreads();

#pragma unroll
      for (int k = 0; k < DEPTH; k++) {
        float inputs[8], weights[8];
        for (int half = 0; half < 2; half++) {
          spread(&inputs[4 * half], *(float4 *)&xs[k][row + 64 * half]);
          spread(&weights[4 * half], *(float4 *)&ws[k][column + 64 * half]);
        }
        for (int i = 0; i < 8; i++)
          for (int j = 0; j < 8; j++) sum[i][j] += inputs[i] * weights[j];
      }
      __syncthreads();
    }

  const Epilogue epilogue{b, relu};
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      const int m = m0 + row + i % 4 + i / 4 * 64, o = o0 + column + j / 4 * 64;
      float4 v = make_float4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]);
      if (m < N * p.P() * p.Q()) store4<WIDE>(y + m * O + o, epilogue(v, o, O - o), O - o);
    }
}
