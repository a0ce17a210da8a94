// Tiles of shared memory, filled from anywhere in global memory.
//
// The functions ask `at(row, column)` for the address of an element, and take zero where it is null: past an edge, outside
// the image. They move VECTOR floats at a time, 4 or 1. With 4, addresses must be multiples of 16 bytes, and a vector lies
// wholly inside or wholly outside. A block of THREADS threads in one dimension fills a tile together; who reads it waits
// first, by __syncthreads() or as `pipeline` does. A thread asks for its elements row by row, from above; where a row's vectors
// divide THREADS they are all in one column, `Walk::column`, and `Walk::stride` rows apart. No more than 8 elements are under
// way at once, for their addresses take registers.
#pragma once
#include "tu_device.cuh"

// Rows one after the other, PAD floats apart.
template <int ROWS_, int COLUMNS_, int PAD = 0>
struct alignas(16) Tile {
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_;
  float data[ROWS][COLUMNS + PAD];
  __device__ __forceinline__ float &operator()(int row, int column) { return data[row][column]; }
};

// Rows of 16 floats, whose four vectors change places from one pair of rows to the next. Any 8 rows then have their vectors
// number v in 8 different places over the 32 banks, so that lanes can read down a column and write along rows, each bank once.
// A pad would do for one of the two, not for both.
template <int ROWS_>
struct alignas(16) SwizzledTile {
  static constexpr int ROWS = ROWS_, COLUMNS = 16;
  float data[ROWS][COLUMNS];
  __device__ __forceinline__ float &operator()(int row, int column) {
    return data[row][(column / 4 ^ row / 2 % 4) * 4 + column % 4];
  }
};

// Whether a thread has a vector number k of ALL. The compiler, which does not know that there are no more than THREADS threads,
// need not look where they divide the vectors evenly, and can take loops apart.
template <int ALL, int THREADS> __device__ __forceinline__ bool inside(int k) { return ALL % THREADS == 0 || k < ALL; }

template <int COLUMNS, int VECTOR, int THREADS>
struct Walk {
  static_assert(THREADS % (COLUMNS / VECTOR) == 0, "each thread has one column");
  static constexpr int stride = THREADS / (COLUMNS / VECTOR);
  static __device__ int row() { return threadIdx.x / (COLUMNS / VECTOR); }  // the first
  static __device__ int column() { return threadIdx.x % (COLUMNS / VECTOR) * VECTOR; }
};

template <int VECTOR, int THREADS, class Shared, class At>
__device__ __forceinline__ void fill(Shared &tile, At at) {
  constexpr int VECTORS = Shared::COLUMNS / VECTOR;  // of a row
#pragma unroll (VECTOR == 4 ? 8 : 4)
  for (int k0 = 0; k0 < Shared::ROWS * VECTORS; k0 += THREADS) {
    const int k = k0 + threadIdx.x;
    if (!inside<Shared::ROWS * VECTORS, THREADS>(k)) break;
    const int row = k / VECTORS, column = k % VECTORS * VECTOR;
    const float *from = at(row, column);
    if constexpr (VECTOR == 4)
      *reinterpret_cast<float4 *>(&tile(row, column)) =
          from ? *reinterpret_cast<const float4 *>(from) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    else
      tile(row, column) = from ? *from : 0.0f;
  }
}

// The same for a matrix that lies the other way in global memory: tile(row, column) is at(column, row), and vectors run along
// the rows of global memory, so each is spread over four rows of the tile.
template <int VECTOR, int THREADS, class Shared, class At>
__device__ __forceinline__ void fill_transposed(Shared &tile, At at) {
  constexpr int VECTORS = Shared::ROWS / VECTOR;
#pragma unroll (VECTOR == 4 ? 8 : 4)
  for (int k0 = 0; k0 < Shared::COLUMNS * VECTORS; k0 += THREADS) {
    const int k = k0 + threadIdx.x;
    if (!inside<Shared::COLUMNS * VECTORS, THREADS>(k)) break;
    const int column = k / VECTORS, row = k % VECTORS * VECTOR;
    const float *from = at(column, row);
    if constexpr (VECTOR == 4) {
      const float4 v = from ? *reinterpret_cast<const float4 *>(from) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      tile(row, column) = v.x;
      tile(row + 1, column) = v.y;
      tile(row + 2, column) = v.z;
      tile(row + 3, column) = v.w;
    } else {
      tile(row, column) = from ? *from : 0.0f;
    }
  }
}

// The same as `fill`, by asynchronous copies: they have landed when the thread has waited for them.
template <int VECTOR, int THREADS, class Shared, class At>
__device__ __forceinline__ void fill_async(Shared &tile, At at) {
  constexpr int VECTORS = Shared::COLUMNS / VECTOR;
#pragma unroll (VECTOR == 4 ? 8 : 4)
  for (int k0 = 0; k0 < Shared::ROWS * VECTORS; k0 += THREADS) {
    const int k = k0 + threadIdx.x;
    if (!inside<Shared::ROWS * VECTORS, THREADS>(k)) break;
    const int row = k / VECTORS, column = k % VECTORS * VECTOR;
    const float *from = at(row, column);
    if constexpr (VECTOR == 4)
      tu_cp_async16(&tile(row, column), from, from != nullptr);
    else
      tu_cp_async4(&tile(row, column), from, from != nullptr);
  }
}

// Runs load(step, stage) STAGES - 1 steps ahead of multiply(stage), for steps 0, 1, ... steps - 1; stages are used in turn.
template <int STAGES, class Load, class Multiply>
__device__ __forceinline__ void pipeline(int steps, Load load, Multiply multiply) {
#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) load(step, step);
    tu_cp_commit();                       // also if there was nothing to load: the count of groups is the count of steps
  }
  for (int step = 0, stage = 0, free = STAGES - 1; step < steps; step++) {
    tu_cp_wait<STAGES - 2>();             // this thread's copies for this step have landed
    __syncthreads();                      // those of all threads have; and all are done with the step before, whose stage is free
    if (step + STAGES - 1 < steps) load(step + STAGES - 1, free);
    tu_cp_commit();
    multiply(stage);
    free = stage;
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }
}
