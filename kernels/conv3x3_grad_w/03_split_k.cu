// 03 split-K: the gradient as one matrix product, cut along its sum.
//
// Changed since 02: the 9 C x O weights are the product of the matrix of patches, transposed, and dy. A block computes a 64x64
//   tile of it, 16 pixels at a time, through shared memory; a thread has 8x8 weights in registers. The sum over pixels is
//   long, up to millions, and the tiles are few, so it is cut into splits, each a block of its own. Every split writes a partial
//   as large as dw, and a second kernel (`reduce/channel_sum.cu`) adds them up.
// Why faster: 16 loads from shared memory, 4 as vectors, serve 64 multiply-adds; a value from global memory serves 64. And
//   there are blocks for all multiprocessors, whatever the layer.
// Predicted gain: 10x to 20x: from two global loads a multiply-add to 1/32, and 1/16 vectors from shared memory.
// Measured gain:
// Limited by: the fp32 units, if enough blocks run on a multiprocessor to hide that each waits for its loads.
// Order: fixed, given the number of splits. The launcher takes that from the number of multiprocessors; give it as `sms` to
//   have the same bits on another GPU.
//
// Launch: grid (ceil(9 C / 64), ceil(O / 64), splits), block 64. Each split has `share` pixels, a multiple of 16.
#include "tu_fma.cuh"
#include "tu_patches.cuh"
#include "tu_tile.cuh"

constexpr int TILE = RegisterTile::SIZE, THREADS = RegisterTile::THREADS;
constexpr int DEPTH = 16;  // pixels at a time

// VC, VO: floats that a load moves along C and along O, 4 where that is a multiple of 4, else 1
template <int VC, int VO>
__global__ void __launch_bounds__(THREADS)
grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ partials,
       int N, int H, int W, int C, int O, int pad, int share) {
  __shared__ Tile<DEPTH, TILE> xs, dys;
  const Conv3x3 p{N, H, W, C, O, pad};
  const int m0 = blockIdx.x * TILE, o0 = blockIdx.y * TILE;
  const int first = blockIdx.z * share, last = min(first + share, N * p.P() * p.Q());

  RegisterTile sums;
  using Thread = Walk<TILE, VC, THREADS>;
  PatchWalk patches(p, x, m0 + Thread::column(), first + Thread::row(), last, Thread::stride);
  for (int k0 = first; k0 < last; k0 += DEPTH) {
    fill<VC, THREADS>(xs, [&](int, int) { return patches.next(); });
    fill<VO, THREADS>(dys, [&](int k, int o) -> const float * {
      return (k0 + k < last) & (o0 + o < O) ? dy + (k0 + k) * O + o0 + o : nullptr;
    });
    __syncthreads();                     // the tiles are complete
    sums.multiply(xs, dys);
    __syncthreads();                     // nobody needs them any more
  }
  float *partial = partials + blockIdx.z * 9 * C * O;
  sums.store<VO>([&](int m, int o) -> float * {
    return m0 + m < 9 * C && o0 + o < O ? partial + (m0 + m) * O + o0 + o : nullptr;
  });
}
