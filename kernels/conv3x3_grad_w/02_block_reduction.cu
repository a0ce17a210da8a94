// 02 block reduction: a block sums a weight's products itself, and stores the sum once.
//
// Changed since 01: gather, not scatter. A block has 32 weights, those of one tap and one input channel and of 32 output
//   channels. Its 8 warps take every eighth pixel each and sum in a register; 8 sums then meet in shared memory.
// Why faster: no atomics. Instead of N P Q additions in memory for a weight there is one store.
// Predicted gain: 10x and more: an addition in a register takes a clock, one in the L2 cache some hundred.
// Measured gain:
// Limited by: two loads for each multiply-add: a value of x serves one tap and 32 channels, a value of dy one weight. And by
//   the few blocks where there are few weights: 18 for the first layer of a network, which leave most of a GPU idle.
// Order: fixed. A thread sums pixels in order, and the 8 sums are added in order.
//
// Launch: grid (9 C, ceil(O / 32)), block (32, 8).
#include "tu_conv3x3.cuh"

constexpr int WARPS = 8;

extern "C" __global__ void __launch_bounds__(32 * WARPS)
grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ dw,
       int N, int H, int W, int C, int O, int pad) {
  __shared__ float sums[WARPS][32];
  const Conv3x3 p{N, H, W, C, O, pad};
  const int o = blockIdx.y * 32 + threadIdx.x;  // lanes over output channels
  const int c = blockIdx.x % C, s = blockIdx.x / C % 3, r = blockIdx.x / (3 * C);

  float sum = 0.0f;
  for (int pixel = threadIdx.y; pixel < N * p.P() * p.Q(); pixel += WARPS) {
    const int j = pixel % p.Q(), i = pixel / p.Q() % p.P(), n = pixel / (p.Q() * p.P());
    const int h = i + r - pad, v = j + s - pad;
    if (p.inside(h, v) && o < O)
      sum += x[p.x_at(n, h, v) + c]
           * dy[pixel * O + o];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();                              // the sums of all warps are there
  if (threadIdx.y > 0 || o >= O) return;
  for (int warp = 1; warp < WARPS; warp++)
    sum += sums[warp][threadIdx.x];
  dw[p.w_at(r, s, c) + o] = sum;
}
