// A warp's share of a matrix product on tensor cores: ROWS x COLUMNS elements, in TF32 or, if PRECISE, in 3xTF32.
//
// TF32 keeps 10 of the 23 bits after the point. 3xTF32 splits a factor v into big, its first 10 bits, and small, what is left,
// rounded to TF32: together some 21 bits. Of the product (A + a)(B + b) it computes a B, A b and A B, and leaves out a b, which
// is as small as the rounding of float32: three times the work for nearly its accuracy.
#pragma once
#include "tu_device.cuh"

template <int LENGTH, bool PRECISE>
struct Fragment {
  unsigned big[LENGTH], small[LENGTH];

  __device__ __forceinline__ void set(int i, float v) {
    if constexpr (PRECISE) {
      // Big is cut off, not rounded, for small has the rest anyway: that is one instruction, where rounding that keeps a NaN
      // takes four. Adding half of the last place is all that is left of the rounding of small, whose NaN nobody misses.
      big[i] = __float_as_uint(v) & 0xffffe000u;
      small[i] = __float_as_uint(v - __uint_as_float(big[i])) + 0x1000u;
    } else {
      big[i] = tu_tf32(v);
    }
  }
};

template <int ROWS, int COLUMNS, bool PRECISE>
struct WarpTile {
  static constexpr int DOWN = ROWS / 16, ACROSS = COLUMNS / 8;  // mma.sync computes 16 x 8
  float sum[DOWN][ACROSS][4] = {};

  // Adds 8 products to every element: a(row, k) and b(k, column) are the factors, k from 0 to 7.
  template <class A, class B> __device__ __forceinline__ void multiply(A a, B b) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;    // as tu_device.cuh has them
    Fragment<2, PRECISE> right[ACROSS];
#pragma unroll
    for (int j = 0; j < ACROSS; j++) {
      right[j].set(0, b(t, j * 8 + g));
      right[j].set(1, b(t + 4, j * 8 + g));
    }
#pragma unroll
    for (int i = 0; i < DOWN; i++) {
      Fragment<4, PRECISE> left;
      left.set(0, a(i * 16 + g, t));
      left.set(1, a(i * 16 + g + 8, t));
      left.set(2, a(i * 16 + g, t + 4));
      left.set(3, a(i * 16 + g + 8, t + 4));
      if constexpr (PRECISE) {
        // A tensor core cuts its sums off where it should round them, and over thousands of steps that adds up. So it sums
        // these three products from zero, the small ones first, and an ordinary addition does the rest. Four elements of the
        // row of tiles are under way together, for each mma.sync waits for the one whose sum it takes.
#pragma unroll
        for (int j0 = 0; j0 < ACROSS; j0 += 4) {
          float part[4][4] = {};
#pragma unroll
          for (int j = 0; j < 4; j++) tu_mma_m16n8k8(part[j], left.small, right[j0 + j].big);
#pragma unroll
          for (int j = 0; j < 4; j++) tu_mma_m16n8k8(part[j], left.big, right[j0 + j].small);
#pragma unroll
          for (int j = 0; j < 4; j++) tu_mma_m16n8k8(part[j], left.big, right[j0 + j].big);
#pragma unroll
          for (int j = 0; j < 16; j++) sum[i][j0 + j / 4][j % 4] += part[j / 4][j % 4];
        }
      } else {
#pragma unroll
        for (int j = 0; j < ACROSS; j++) tu_mma_m16n8k8(sum[i][j], left.big, right[j].big);
      }
    }
  }

  // Calls store(row, column, sum, next sum) for pairs of elements; columns are even.
  template <class Store> __device__ __forceinline__ void each_pair(Store store) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
      for (int j = 0; j < ACROSS; j++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          store(i * 16 + g + 8 * half, j * 8 + 2 * t, sum[i][j][2 * half], sum[i][j][2 * half + 1]);
  }
};

// A block's tile of a matrix product, shared out among warps: 64x64 elements each. In 3xTF32 it is 64x32: a factor, once loaded,
// serves three times the products anyway, and the sums and both parts of all factors of 64x64 would not fit the registers.
template <int TILE_M, int TILE_N, bool PRECISE>
struct BlockTile {
  static constexpr int WARP_M = 64, WARP_N = PRECISE ? 32 : 64, ACROSS = TILE_N / WARP_N;
  static constexpr int THREADS = 32 * (TILE_M / WARP_M) * ACROSS;
  WarpTile<WARP_M, WARP_N, PRECISE> tile;
  const int m0 = threadIdx.x / 32 / ACROSS * WARP_M, n0 = threadIdx.x / 32 % ACROSS * WARP_N;  // where the warp's part begins

  // Adds DEPTH products to every element: a(m, k) and b(k, n) are the factors.
  template <int DEPTH, class A, class B> __device__ __forceinline__ void multiply(A a, B b) {
#pragma unroll
    for (int k0 = 0; k0 < DEPTH; k0 += 8)
      tile.multiply([&](int m, int k) { return a(m0 + m, k0 + k); }, [&](int k, int n) { return b(k0 + k, n0 + n); });
  }

  // Calls store(m, n, sum, next sum) for pairs of elements; n is even.
  template <class Store> __device__ __forceinline__ void each_pair(Store store) const {
    tile.each_pair([&](int m, int n, float sum, float next) { store(m0 + m, n0 + n, sum, next); });
  }
};

// Stores a pair at y[0] and y[1], of which `left` lie inside the row; in one instruction if rows have an even length.
__device__ __forceinline__ void store_pair(float *y, float first, float second, int left, bool even) {
  if (even && left > 0) {
    *reinterpret_cast<float2 *>(y) = make_float2(first, second);
  } else {
    if (left > 0) y[0] = first;
    if (left > 1) y[1] = second;
  }
}
