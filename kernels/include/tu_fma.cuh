// A thread's share of a matrix product, in registers: 8x8 elements of a 64x64 tile, which 64 threads compute together.
#pragma once

struct RegisterTile {
  static constexpr int SIZE = 64, THREADS = 64;
  float sum[8][8] = {};

  // Element k of the thread's 8 rows or columns: two runs of four, half a tile apart, so that the lanes of a warp read
  // neighbouring vectors of shared memory, each bank once.
  static __device__ __forceinline__ int place(int thread, int k) { return k / 4 * (SIZE / 2) + thread * 4 + k % 4; }

  // Adds the product of two tiles, a (depth, rows) and b (depth, columns): 16 loads, in 4 vectors, for 64 multiply-adds.
  template <class A, class B> __device__ __forceinline__ void multiply(A &a, B &b) {
    const int row = threadIdx.x / 8, column = threadIdx.x % 8;
#pragma unroll
    for (int k = 0; k < A::ROWS; k++) {
      float u[8], v[8];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float4 p = *reinterpret_cast<const float4 *>(&a(k, place(row, 4 * half)));
        const float4 q = *reinterpret_cast<const float4 *>(&b(k, place(column, 4 * half)));
        u[4 * half] = p.x, u[4 * half + 1] = p.y, u[4 * half + 2] = p.z, u[4 * half + 3] = p.w;
        v[4 * half] = q.x, v[4 * half + 1] = q.y, v[4 * half + 2] = q.z, v[4 * half + 3] = q.w;
      }
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
          sum[i][j] += u[i] * v[j];
    }
  }

  // Stores final(sum, column) at the address at(row, column), or nowhere if that is null; VECTOR floats at a time, 4 or 1, as
  // `fill` loads them.
  template <int VECTOR, class At, class Final> __device__ __forceinline__ void store(At at, Final final) const {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j += VECTOR) {
        const int column = place(threadIdx.x % 8, j);
        float *to = at(place(threadIdx.x / 8, i), column);
        if (!to) continue;
        if constexpr (VECTOR == 4)
          *reinterpret_cast<float4 *>(to) = make_float4(final(sum[i][j], column), final(sum[i][j + 1], column + 1),
                                                        final(sum[i][j + 2], column + 2), final(sum[i][j + 3], column + 3));
        else
          *to = final(sum[i][j], column);
      }
  }
  template <int VECTOR, class At> __device__ __forceinline__ void store(At at) const {
    store<VECTOR>(at, [](float v, int) { return v; });
  }
};
