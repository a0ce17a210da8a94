// 02 GEMM: three matrix products in tiles of 64x64, through shared memory and registers.
//
// Changed since 01: a block computes a 64x64 tile of the result, 16 terms of the sum at a time, and a thread 8x8 of it. Forward
//   shuffles pixels where it stores and the gradients where they load; nothing is rearranged in memory. grad_w cuts its long
//   sum over pixels into splits, which `reduce/channel_sum.cu` adds up.
// Why faster: a value from global memory serves 64 multiply-adds, and 16 loads from shared memory, 4 as vectors, serve 64.
// Predicted gain: 10x to 20x.
// Measured gain:
// Limited by: the fp32 units, if enough blocks run on a multiprocessor to hide that each waits for its loads. Where a matrix
//   lies with the sum along its rows (x and w in forward, dy in grad_x), a vector is spread over four rows of the tile, and
//   these stores take two passes over the banks.
// Order: fixed, in grad_w given the number of splits.
//
// Launch: tiles of 64x64 over forward (N H W, 4 O), grad_x (N H W, C), grad_w (4 O, C), grid (tiles down, tiles across, and for
//   grad_w splits), block 64. Each split has `share` pixels, a multiple of 16.
#include "tu_epilogue.cuh"
#include "tu_fma.cuh"
#include "tu_tile.cuh"
#include "tu_upconv2x2.cuh"

constexpr int TILE = RegisterTile::SIZE, THREADS = RegisterTile::THREADS;
constexpr int DEPTH = 16;        // terms of the sum at a time
constexpr int PAD = 4;           // of a tile that is filled by columns

// VC, VQ: floats that a load moves along C and along 4 O; 4 where C is a multiple of 4, or O of 2, else 1
template <int VC, int VQ>
__global__ void __launch_bounds__(THREADS)
forward(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int pixels, int W, int C, int O, int relu) {
  __shared__ Tile<DEPTH, TILE, PAD> xs, ws;
  const UpConv2x2 p(pixels, W, C, O);
  const int m0 = blockIdx.x * TILE, q0 = blockIdx.y * TILE;

  RegisterTile sums;
  for (int c0 = 0; c0 < C; c0 += DEPTH) {
    fill_transposed<VC, THREADS>(xs, [&](int m, int c) -> const float * {
      return (m0 + m < pixels) & (c0 + c < C) ? x + (m0 + m) * C + c0 + c : nullptr;
    });
    fill_transposed<VC, THREADS>(ws, [&](int q, int c) -> const float * {
      return (q0 + q < 4 * O) & (c0 + c < C) ? w + (q0 + q) * C + c0 + c : nullptr;
    });
    __syncthreads();             // the tiles are complete
    sums.multiply(xs, ws);
    __syncthreads();             // nobody needs them any more
  }
  const Epilogue epilogue{b, relu};
  sums.store<VQ>(
      [&](int m, int q) -> float * { return (m0 + m < pixels) & (q0 + q < 4 * O) ? y + p.y_at(m0 + m, q0 + q) : nullptr; },
      [&](float sum, int q) { return epilogue(sum, (q0 + q) % O); });
}

template <int VC, int VQ>
__global__ void __launch_bounds__(THREADS)
grad_x(const float *__restrict__ dy, const float *__restrict__ w, float *__restrict__ dx, int pixels, int W, int C, int O) {
  __shared__ Tile<DEPTH, TILE, PAD> dys;
  __shared__ Tile<DEPTH, TILE> ws;
  const UpConv2x2 p(pixels, W, C, O);
  const int m0 = blockIdx.x * TILE, c0 = blockIdx.y * TILE;

  RegisterTile sums;
  for (int q0 = 0; q0 < 4 * O; q0 += DEPTH) {
    fill_transposed<VQ, THREADS>(dys, [&](int m, int q) -> const float * {
      return (m0 + m < pixels) & (q0 + q < 4 * O) ? dy + p.y_at(m0 + m, q0 + q) : nullptr;
    });
    fill<VC, THREADS>(ws, [&](int q, int c) -> const float * {
      return (q0 + q < 4 * O) & (c0 + c < C) ? w + (q0 + q) * C + c0 + c : nullptr;
    });
    __syncthreads();             // the tiles are complete
    sums.multiply(dys, ws);
    __syncthreads();             // nobody needs them any more
  }
  sums.store<VC>([&](int m, int c) -> float * {
    return (m0 + m < pixels) & (c0 + c < C) ? dx + (m0 + m) * C + c0 + c : nullptr;
  });
}

template <int VC, int VQ>
__global__ void __launch_bounds__(THREADS)
grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ partials,
       int pixels, int W, int C, int O, int share) {
  __shared__ Tile<DEPTH, TILE> dys, xs;
  const UpConv2x2 p(pixels, W, C, O);
  const int q0 = blockIdx.x * TILE, c0 = blockIdx.y * TILE;
  const int first = blockIdx.z * share, last = min(first + share, pixels);

  RegisterTile sums;
  for (int k0 = first; k0 < last; k0 += DEPTH) {
    fill<VQ, THREADS>(dys, [&](int k, int q) -> const float * {
      return (k0 + k < last) & (q0 + q < 4 * O) ? dy + p.y_at(k0 + k, q0 + q) : nullptr;
    });
    fill<VC, THREADS>(xs, [&](int k, int c) -> const float * {
      return (k0 + k < last) & (c0 + c < C) ? x + (k0 + k) * C + c0 + c : nullptr;
    });
    __syncthreads();             // the tiles are complete
    sums.multiply(dys, xs);
    __syncthreads();             // nobody needs them any more
  }
  float *partial = partials + blockIdx.z * 4 * O * C;
  sums.store<VC>([&](int q, int c) -> float * {
    return (q0 + q < 4 * O) & (c0 + c < C) ? partial + (q0 + q) * C + c0 + c : nullptr;
  });
}
