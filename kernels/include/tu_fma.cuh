// A thread's share of a matrix product, in registers: 8x8 elements of a 64x64 tile, which 64 threads compute together.
#pragma once

struct RegisterTile {
  static constexpr int SIZE = 64, THREADS = 64;
  float sum[8][8] = {};

  // Element k of the thread's 8 rows or columns: two runs of four, half a tile apart, so that the lanes of a warp read
  // neighbouring vectors of shared memory, each bank once.
  static __device__ __forceinline__ int place(int thread, int k) { return k / 4 * (SIZE / 2) + thread * 4 + k % 4; }

  // Adds the product of two tiles, a (depth, rows) and b (depth, columns): 16 loads, in 4 vectors, for 64 multiply-adds.
  template <int DEPTH, int PITCH_A, int PITCH_B>
  __device__ __forceinline__ void multiply(const float (&a)[DEPTH][PITCH_A], const float (&b)[DEPTH][PITCH_B]) {
    const int row = threadIdx.x / 8, column = threadIdx.x % 8;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      float u[8], v[8];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float4 p = *reinterpret_cast<const float4 *>(&a[k][place(row, 4 * half)]);
        const float4 q = *reinterpret_cast<const float4 *>(&b[k][place(column, 4 * half)]);
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

  // Calls store(row, column, sum) for each of the thread's elements.
  template <class Store> __device__ __forceinline__ void each(Store store) const {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++)
        store(place(threadIdx.x / 8, i), place(threadIdx.x % 8, j), sum[i][j]);
  }
};
