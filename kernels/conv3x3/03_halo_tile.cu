// 03 halo tile: a block loads its piece of the image once, into shared memory, and all its threads reuse it.
//
// Changed since 02: a block computes 8x8 pixels of 32 output channels. For that it needs 10x10 pixels of x, the tile and a
//   ring of one pixel around it, the halo; it takes them 8 channels at a time. A thread computes a row of 8 pixels of one
//   channel, so that a weight, once loaded, serves 8 multiply-adds.
// Why faster: a pixel of x is loaded from global memory 100 / 64 times for 32 output channels, not 9 x 32 times; a weight
//   once for 8 outputs. From 2 global loads for a multiply-add to about 1/8; the others become loads from shared memory,
//   10 for 24 multiply-adds, all of them broadcasts: one pass each.
// Predicted gain: 2x to 4x. A multiply-add still costs half a load, but from shared memory, which answers far sooner.
// Measured gain:
// Limited by: loads from shared memory, 10 for 24 multiply-adds: a thread computes one channel, so it uses a value of x no
//   more than three times. The next rung gives it more channels.
//
// Launch: grid (ceil(Q / 8), ceil(P / 8), N ceil(O / 32)), block (32, 8).
#include "tu_conv3x3.cuh"

constexpr int TILE = 8;             // pixels along a side
constexpr int HALO = TILE + 2;
constexpr int DEPTH = 8;            // channels at a time: 8 floats are one sector of global memory

extern "C" __global__ void __launch_bounds__(32 * TILE)
conv3x3(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y,
        int N, int H, int W, int C, int O, int pad) {
  __shared__ float tile[HALO][HALO][DEPTH];
  const Conv3x3 p{N, H, W, C, O, pad};
  const int groups = (O + 31) / 32, n = blockIdx.z / groups;
  const int o = blockIdx.z % groups * 32 + threadIdx.x;   // lanes over output channels, as before
  const int i = blockIdx.y * TILE + threadIdx.y, j0 = blockIdx.x * TILE;
  const int thread = threadIdx.y * 32 + threadIdx.x;

  float sum[TILE] = {};
  for (int c0 = 0; c0 < C; c0 += DEPTH) {
    for (int k = thread; k < HALO * HALO * DEPTH; k += 32 * TILE) {
      const int c = c0 + k % DEPTH, column = k / DEPTH % HALO, row = k / (DEPTH * HALO);
      const int h = blockIdx.y * TILE + row - pad, v = j0 + column - pad;
      float value = 0.0f;                                 // outside the image, and past the last channel
      if (c < C && p.inside(h, v)) value = x[p.x_at(n, h, v) + c];
      tile[row][column][k % DEPTH] = value;
    }
    __syncthreads();                                      // the tile is complete

    const int depth = min(DEPTH, C - c0);
    for (int c = 0; c < depth; c++)
      for (int r = 0; r < 3; r++) {
        float pixels[HALO];
        for (int k = 0; k < HALO; k++)
          pixels[k] = tile[threadIdx.y + r][k][c];
        for (int s = 0; s < 3; s++) {
          const float weight = o < O ? w[p.w_at(r, s, c0 + c) + o] : 0.0f;
          for (int j = 0; j < TILE; j++)
            sum[j] += pixels[j + s] * weight;
        }
      }
    __syncthreads();                                      // nobody needs it any more: the next channels may overwrite it
  }
  for (int j = 0; j < TILE; j++)
    if (o < O && i < p.P() && j0 + j < p.Q())
      y[p.y_at(n, i, j0 + j) + o] = sum[j];
}
