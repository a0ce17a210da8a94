// 05 mma TF32 pipe: copies run ahead of the products, and a warp has 64x64 elements.
//
// Changed since 04: cp.async brings the tiles three steps before they are needed, into four stages of shared memory, past the
//   registers. A warp has 64x64 elements. How large the tile of a block is, in such pieces, is the launcher's choice, so that
//   9 C x O splits into whole tiles where it can: 192x64 for 64 channels (9 x 64 = 3 x 192), 128x128 for more.
// Why faster: nobody waits for global memory. And 8 pixels take 32 loads from shared memory for 32 mma.sync, where in 04 they
//   take 16 for 8: twice the products for a load.
// Predicted gain: 2x to 3x.
// Measured gain:
// Limited by: issuing. A step of 16 pixels is some 460 instructions for 64 mma.sync: 64 loads, 128 that round, two a value, and
//   the rest the addresses of 8 copies and the bounds.
//   On Hopper also mma.sync itself, which reaches about 60 % of wgmma; but wgmma wants pixels, along which this product sums,
//   to be neighbours in memory, and in NHWC channels are.
// In 3xTF32 a warp has 64x32 elements; `tu_mma.cuh` says why.
// Order: fixed, given the number of splits.
//
// Launch: grid (ceil(9 C / TILE_M), ceil(O / TILE_O), splits), block TILE_M TILE_O / 128, in 3xTF32 TILE_M TILE_O / 64, and
//   4 stages of shared memory of 64 (TILE_M + TILE_O + 16) bytes. Each split has `share` pixels, a multiple of 16.
#include "tu_mma.cuh"
#include "tu_patches.cuh"
#include "tu_tile.cuh"

constexpr int DEPTH = 16;  // pixels at a time
constexpr int STAGES = 4;

template <int TILE_M, int TILE_O, bool PRECISE, int VC, int VO>
__global__ void __launch_bounds__(TILE_M * TILE_O / 64)
grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ partials,
       int N, int H, int W, int C, int O, int pad, int share) {
  struct Stage {
    Tile<DEPTH, TILE_M, 8> xs;  // padded as in 04
    Tile<DEPTH, TILE_O, 8> dys;
  };
  extern __shared__ __align__(16) float shared[];
  Stage *stages = reinterpret_cast<Stage *>(shared);

  const Conv3x3 p{N, H, W, C, O, pad};
  const int m0 = blockIdx.x * TILE_M, o0 = blockIdx.y * TILE_O;
  const int first = blockIdx.z * share, last = min(first + share, N * p.P() * p.Q());

  using Sums = BlockTile<TILE_M, TILE_O, PRECISE>;
  Sums sums;
  using Thread = Walk<TILE_M, VC, Sums::THREADS>;
  PatchWalk patches(p, x, m0 + Thread::column(), first + Thread::row(), last, Thread::stride);
  pipeline<STAGES>(
      (last - first + DEPTH - 1) / DEPTH,
      [&](int step, int stage) {
        const int k0 = first + step * DEPTH;
        fill_async<VC, Sums::THREADS>(stages[stage].xs, [&](int, int) { return patches.next(); });
        fill_async<VO, Sums::THREADS>(stages[stage].dys, [&](int k, int o) -> const float * {
          return (k0 + k < last) & (o0 + o < O) ? dy + (k0 + k) * O + o0 + o : nullptr;
        });
      },
      [&](int stage) {
        sums.template multiply<DEPTH>([&](int m, int k) { return stages[stage].xs(k, m); },
                                      [&](int k, int o) { return stages[stage].dys(k, o); });
      });

  float *partial = partials + blockIdx.z * 9 * C * O;
  sums.each_pair([&](int m, int o, float sum, float next) {
    m += m0, o += o0;
    if (m < 9 * C) store_pair(partial + m * O + o, sum, next, O - o, O % 2 == 0);
  });
}
