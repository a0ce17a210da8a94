// 03 mma TF32: the same three products on tensor cores, with copies that run ahead.
//
// Changed since 02: mma.sync multiplies, in TF32 or 3xTF32; a warp has 64x64 elements. cp.async brings the tiles three steps
//   before they are needed. Tiles lie in shared memory as their matrices do in global memory, for a fragment can be read either
//   way: nothing is transposed.
// Why faster: one mma.sync is 1024 multiply-adds, where a warp's fp32 instruction is 32; and nobody waits for global memory.
// Predicted gain: 4x in TF32, 1.5x in 3xTF32.
// Measured gain:
// Limited by: memory in forward and grad_x where there are few channels (y is 4 O floats a pixel for 4 O C multiply-adds: at 128
//   channels some 40 multiply-adds a byte), else issuing: a fragment is read by loads of 4 bytes.
// Accuracy: relative to float64 3e-4 in TF32, as fp32 in 3xTF32.
// Order: fixed, in grad_w given the number of splits.
//
// Launch: tiles of TILE_M x TILE_N over forward (N H W, 4 O), grad_x (N H W, C), grad_w (4 O, C), grid (tiles down, tiles across,
//   and for grad_w splits), block TILE_M TILE_N / 128, in 3xTF32 TILE_M TILE_N / 64, and 4 stages of shared memory: of
//   64 (TILE_M + TILE_N) bytes in forward, 64 (TILE_M + TILE_N + 8) in grad_x, 64 (TILE_M + TILE_N + 16) in grad_w.
#include "tu_epilogue.cuh"
#include "tu_mma.cuh"
#include "tu_tile.cuh"
#include "tu_upconv2x2.cuh"

constexpr int DEPTH = 16;  // terms of the sum at a time
constexpr int STAGES = 4;
// A fragment is 8 rows of 4 neighbours where the sum runs along rows: those tiles are swizzled. Where it runs down it is 4 rows
// of 8 neighbours, which meet all 32 banks once if rows are 8 banks apart: those have a pad of 8.

// VC, VQ: floats that a copy moves along C and along 4 O; 4 where C is a multiple of 4, or O of 2, else 1
template <int TILE_M, int TILE_N, bool PRECISE, int VC, int VQ>
__global__ void __launch_bounds__(TILE_M * TILE_N / 64)
forward(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int pixels, int W, int C, int O, int relu) {
  struct Stage {
    SwizzledTile<TILE_M> xs;
    SwizzledTile<TILE_N> ws;
  };
  extern __shared__ __align__(16) float shared[];
  Stage *stages = reinterpret_cast<Stage *>(shared);
  const UpConv2x2 p(pixels, W, C, O);
  const int m0 = blockIdx.x * TILE_M, q0 = blockIdx.y * TILE_N;

  using Sums = BlockTile<TILE_M, TILE_N, PRECISE>;
  Sums sums;
  pipeline<STAGES>(
      (C + DEPTH - 1) / DEPTH,
      [&](int step, int stage) {
        const int c0 = step * DEPTH;
        fill_async<VC, Sums::THREADS>(stages[stage].xs, [&](int m, int c) -> const float * {
          return (m0 + m < pixels) & (c0 + c < C) ? x + (m0 + m) * C + c0 + c : nullptr;
        });
        fill_async<VC, Sums::THREADS>(stages[stage].ws, [&](int q, int c) -> const float * {
          return (q0 + q < 4 * O) & (c0 + c < C) ? w + (q0 + q) * C + c0 + c : nullptr;
        });
      },
      [&](int stage) {
        sums.template multiply<DEPTH>([&](int m, int c) { return stages[stage].xs(m, c); },
                                      [&](int c, int q) { return stages[stage].ws(q, c); });
      });

  const Epilogue epilogue{b, relu};
  const FastDivision by_o(O);
  sums.each_pair([&](int m, int q, float sum, float next) {  // a pair has one a, for q and 2 O are even: neighbours in memory
    m += m0, q += q0;
    const int o = by_o.remainder(q), after = o + 1 < O ? o + 1 : 0;
    if (m < pixels) store_pair(y + p.y_at(m, q), epilogue(sum, o), epilogue(next, after), 4 * O - q, true);
  });
}

template <int TILE_M, int TILE_N, bool PRECISE, int VC, int VQ>
__global__ void __launch_bounds__(TILE_M * TILE_N / 64)
grad_x(const float *__restrict__ dy, const float *__restrict__ w, float *__restrict__ dx, int pixels, int W, int C, int O) {
  struct Stage {
    SwizzledTile<TILE_M> dys;
    Tile<DEPTH, TILE_N, 8> ws;
  };
  extern __shared__ __align__(16) float shared[];
  Stage *stages = reinterpret_cast<Stage *>(shared);
  const UpConv2x2 p(pixels, W, C, O);
  const int m0 = blockIdx.x * TILE_M, c0 = blockIdx.y * TILE_N;

  using Sums = BlockTile<TILE_M, TILE_N, PRECISE>;
  Sums sums;
  pipeline<STAGES>(
      (4 * O + DEPTH - 1) / DEPTH,
      [&](int step, int stage) {
        const int q0 = step * DEPTH;
        fill_async<VQ, Sums::THREADS>(stages[stage].dys, [&](int m, int q) -> const float * {
          return (m0 + m < pixels) & (q0 + q < 4 * O) ? dy + p.y_at(m0 + m, q0 + q) : nullptr;
        });
        fill_async<VC, Sums::THREADS>(stages[stage].ws, [&](int q, int c) -> const float * {
          return (q0 + q < 4 * O) & (c0 + c < C) ? w + (q0 + q) * C + c0 + c : nullptr;
        });
      },
      [&](int stage) {
        sums.template multiply<DEPTH>([&](int m, int q) { return stages[stage].dys(m, q); },
                                      [&](int q, int c) { return stages[stage].ws(q, c); });
      });

  sums.each_pair([&](int m, int c, float sum, float next) {
    m += m0, c += c0;
    if (m < pixels) store_pair(dx + m * C + c, sum, next, C - c, C % 2 == 0);
  });
}

template <int TILE_M, int TILE_N, bool PRECISE, int VC, int VQ>
__global__ void __launch_bounds__(TILE_M * TILE_N / 64)
grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ partials,
       int pixels, int W, int C, int O, int share) {
  struct Stage {
    Tile<DEPTH, TILE_M, 8> dys;
    Tile<DEPTH, TILE_N, 8> xs;
  };
  extern __shared__ __align__(16) float shared[];
  Stage *stages = reinterpret_cast<Stage *>(shared);
  const UpConv2x2 p(pixels, W, C, O);
  const int q0 = blockIdx.x * TILE_M, c0 = blockIdx.y * TILE_N;
  const int first = blockIdx.z * share, last = min(first + share, pixels);

  using Sums = BlockTile<TILE_M, TILE_N, PRECISE>;
  Sums sums;
  pipeline<STAGES>(
      (last - first + DEPTH - 1) / DEPTH,
      [&](int step, int stage) {
        const int k0 = first + step * DEPTH;
        fill_async<VQ, Sums::THREADS>(stages[stage].dys, [&](int k, int q) -> const float * {
          return (k0 + k < last) & (q0 + q < 4 * O) ? dy + p.y_at(k0 + k, q0 + q) : nullptr;
        });
        fill_async<VC, Sums::THREADS>(stages[stage].xs, [&](int k, int c) -> const float * {
          return (k0 + k < last) & (c0 + c < C) ? x + (k0 + k) * C + c0 + c : nullptr;
        });
      },
      [&](int stage) {
        sums.template multiply<DEPTH>([&](int q, int k) { return stages[stage].dys(k, q); },
                                      [&](int k, int c) { return stages[stage].xs(k, c); });
      });

  float *partial = partials + blockIdx.z * 4 * O * C;
  sums.each_pair([&](int q, int c, float sum, float next) {
    q += q0, c += c0;
    if (q < 4 * O) store_pair(partial + q * C + c, sum, next, C - c, C % 2 == 0);
  });
}
