// 07 mma tf32: tensor cores, where a warp multiplies 16x8 by 8x8 with one instruction.
//
// Changed since 05 (06's double buffer is left out here and comes back in 08): the products of a piece are computed by
//   mma.sync m16n8k8. A block still computes 128 pixels by 128 channels; a warp 64 by 32 of them, as 4 by 4 of these small
//   products. Factors are rounded to TF32 (10 bits after the point, not 23) when they are put into shared memory; sums stay
//   float32. Each lane needs single values from 8 rows and 4 columns, so both tiles keep the order that they have in
//   global memory, nothing is transposed, and the rows are longer than needed by what puts the 32 lanes into 32 banks.
// Why faster: one instruction does 1024 multiply-adds, where a warp of 06 needs 32 for that. TF32 tensor cores multiply 4x
//   (A100: 8x) as fast as the float32 units: by mma.sync on an H100 some 300 TFLOP/s against 67.
// Predicted gain over 06: 1.5x to 2.5x; the rest of what tensor cores could do is lost by waiting.
// Measured gain:
// Limited by: waiting again, as in 05, and now more so: the 256 mma of a piece are done in some 300 clocks, and nothing loads
//   meanwhile. 128 registers let two blocks share a multiprocessor. Error: 3e-4 of the result's norm, from rounding the factors.
//
// Launch: grid (ceil(N P Q / 128), ceil(O / 128)), block 256. WIDE as in 05. sm_80 and newer.
#include "tu_conv3x3.cuh"
#include "tu_device.cuh"
#include "tu_epilogue.cuh"

constexpr int PIXELS = 128, CHANNELS = 128, DEPTH = 16;
constexpr int THREADS = 256;
constexpr int X_PITCH = DEPTH + 4;     // lanes read rows 0 to 7 and columns 0 to 3: 20 row + column mod 32 are all different
constexpr int W_PITCH = CHANNELS + 8;  // lanes read rows 0 to 3 and columns 0 to 7: 8 row + column

__device__ uint4 round4(float4 v) { return make_uint4(tu_tf32(v.x), tu_tf32(v.y), tu_tf32(v.z), tu_tf32(v.w)); }

template <bool WIDE> __global__ void __launch_bounds__(THREADS)
conv3x3(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int N, int H, int W, int C, int O, int pad, int relu) {
  __shared__ __align__(16) unsigned xs[PIXELS][X_PITCH];
  __shared__ __align__(16) unsigned ws[DEPTH][W_PITCH];
  const Conv3x3 p{N, H, W, C, O, pad};
  const int m0 = blockIdx.x * PIXELS, o0 = blockIdx.y * CHANNELS;

  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;  // g and t as in tu_device.cuh
  const int row = warp / 4 * 64, column = warp % 4 * 32;  // of the warp's tile

  // Of x, a thread loads 4 channels of two pixels. The eight lanes that store together have pixels 4 apart, 80 floats in the
  // tile: so they fill all banks. Of w, it loads 4 output channels of two input channels.
  const int pixel = warp * 8 + threadIdx.x / 4 % 2 * 4 + threadIdx.x / 8 % 4, channel = threadIdx.x % 4 * 4;
  const int depth = warp, o = threadIdx.x % 32 * 4;
  const Conv3x3::Window windows[2] = {p.window(m0 + pixel), p.window(m0 + pixel + 64)};

  float sum[4][4][4] = {};
  for (int tap = 0; tap < 9; tap++)
    for (int c0 = 0; c0 < C; c0 += DEPTH) {
      const int at = (tap / 3 * W + tap % 3) * C + c0 + channel;
      for (int i = 0; i < 2; i++) {
        const int valid = windows[i].taps >> tap & 1 ? C - c0 - channel : 0, c = c0 + depth + 8 * i;
        *(uint4 *)&xs[pixel + 64 * i][channel] = round4(load4<WIDE>(x + windows[i].at + at, valid));
        *(uint4 *)&ws[depth + 8 * i][o] = round4(load4<WIDE>(w + (tap * C + c) * O + o0 + o, c < C ? O - o0 - o : 0));
      }
      __syncthreads();

#pragma unroll
      for (int k = 0; k < DEPTH; k += 8) {
        unsigned inputs[4][4], weights[4][2];
        for (int i = 0; i < 4; i++)
          for (int part = 0; part < 4; part++)
            inputs[i][part] = xs[row + 16 * i + g + part % 2 * 8][k + t + part / 2 * 4];
        for (int j = 0; j < 4; j++)
          for (int part = 0; part < 2; part++)
            weights[j][part] = ws[k + t + part * 4][column + 8 * j + g];
        for (int i = 0; i < 4; i++)
          for (int j = 0; j < 4; j++) tu_mma_m16n8k8(sum[i][j], inputs[i], weights[j]);
      }
      __syncthreads();
    }

  const Epilogue epilogue{b, relu};
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int part = 0; part < 4; part++) {
        const int m = m0 + row + 16 * i + g + part / 2 * 8, to = o0 + column + 8 * j + 2 * t + part % 2;
        if (m < N * p.P() * p.Q() && to < O) y[m * O + to] = epilogue(sum[i][j][part], to);
      }
}
