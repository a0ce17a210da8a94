// 04 mma TF32: the same product on tensor cores.
//
// Changed since 03: who multiplies. Four warps share the 64x64 tile, each has 32x32 of it, and mma.sync computes 16x8x8 at a
//   time from fragments that lie in the registers of all 32 lanes. Factors are rounded to TF32, or split in two for 3xTF32.
// Why faster: one instruction is 1024 multiply-adds, where a warp's fp32 instruction is 32.
// Predicted gain: 2x to 4x in TF32, about 1.5x in 3xTF32: the loads, which have not changed, now take most of the time.
// Measured gain:
// Limited by: waiting. A block loads, waits, multiplies, waits. And by loads from shared memory: 8 floats a lane for 8
//   instructions, which at 32x32 elements a warp is more than the tensor cores' time. The next rung mends both.
// Accuracy: relative to float64 3e-4 in TF32, as sums of products with 11 bits have it; as fp32 in 3xTF32.
// Order: fixed, given the number of splits.
//
// Launch: grid (ceil(9 C / 64), ceil(O / 64), splits), block 128. Each split has `share` pixels, a multiple of 16.
#include "tu_mma.cuh"
#include "tu_patches.cuh"
#include "tu_tile.cuh"

constexpr int TILE = 64, THREADS = 128;
constexpr int DEPTH = 16;         // pixels at a time
constexpr int PAD = 8;            // a fragment is 4 rows of 8 neighbours: with rows 8 banks apart they meet all 32 banks once

template <bool PRECISE, int VC, int VO>
__global__ void __launch_bounds__(THREADS, 3)
grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ partials,
       int N, int H, int W, int C, int O, int pad, int share) {
  __shared__ Tile<DEPTH, TILE, PAD> xs, dys;
  const Conv3x3 p{N, H, W, C, O, pad};
  const int m0 = blockIdx.x * TILE, o0 = blockIdx.y * TILE;
  const int first = blockIdx.z * share, last = min(first + share, N * p.P() * p.Q());
  const int warp = threadIdx.x / 32, m_warp = warp / 2 * 32, o_warp = warp % 2 * 32;  // where in the tile the warp's part is

  WarpTile<32, 32, PRECISE> sums;
  using Thread = Walk<TILE, VC, THREADS>;
  PatchWalk patches(p, x, m0 + Thread::column(), first + Thread::row(), last, Thread::stride);
  for (int k0 = first; k0 < last; k0 += DEPTH) {
    fill<VC, THREADS>(xs, [&](int, int) { return patches.next(); });
    fill<VO, THREADS>(dys, [&](int k, int o) -> const float * {
      return (k0 + k < last) & (o0 + o < O) ? dy + (k0 + k) * O + o0 + o : nullptr;
    });
    __syncthreads();                     // the tiles are complete
#pragma unroll
    for (int k8 = 0; k8 < DEPTH; k8 += 8)
      sums.multiply([&](int m, int k) { return xs(k8 + k, m_warp + m); },
                    [&](int k, int o) { return dys(k8 + k, o_warp + o); });
    __syncthreads();                     // nobody needs them any more
  }
  float *partial = partials + blockIdx.z * 9 * C * O;
  sums.each_pair([&](int m, int o, float sum, float next) {
    m += m0 + m_warp, o += o0 + o_warp;
    if (m < 9 * C) store_pair(partial + m * O + o, sum, next, O - o, O % 2 == 0);
  });
}
