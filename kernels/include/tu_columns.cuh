// Sums over pixels, for each channel: the columns of a matrix of pixels x channels.
//
// In two passes, for a result that is the same in every run. In the first a block takes a run of pixels and writes its part; in
// the second one block adds the parts. An atomicAdd to one sum would need no second pass, but blocks end in any order, float
// addition rounds, and so the last digits would change from run to run.
//
// A block has blockDim.x vectors of channels, side by side in memory, and blockDim.y pixels at a time. So a thread adds up one
// pixel in blockDim.y, of one run in gridDim.y: a few dozen values, and the rest is added pairwise, which keeps the error of
// float32 small. Groups of channels lie along blockIdx.x, which may count further than y.
#pragma once
#include "tu_vector.cuh"

constexpr int COLUMN_THREADS = 256;  // at most, in a block

struct Columns {
  int pixels, vectors;

  __device__ int vector() const { return blockIdx.x * blockDim.x + threadIdx.x; }
  __device__ int run() const { return (pixels + gridDim.y - 1) / gridDim.y; }
  __device__ int first() const { return blockIdx.y * run() + threadIdx.y; }
  __device__ int end() const { return min(pixels, (int)(blockIdx.y + 1) * run()); }
};

template <class V> struct Sum {
  V value;

  __device__ void add(V v) {  // by value: one load of the whole vector, not one of each element
    for (int k = 0; k < Vector<V>::WIDTH; k++) at(value, k) += at(v, k);
  }
  __device__ void merge(const Sum &other) { add(other.value); }
};

// What the threads of a column have, merged pairwise: whole in the threads of row 0. All threads of the block must call it.
template <class T> __device__ __forceinline__ T merge_rows(T mine) {
  __shared__ float4 room[COLUMN_THREADS * sizeof(T) / sizeof(float4)];  // no T: shared memory is not constructed
  T *all = reinterpret_cast<T *>(room);
  const int me = threadIdx.y * blockDim.x + threadIdx.x;
  all[me] = mine;
  for (int rows = blockDim.y; rows > 1; rows = (rows + 1) / 2) {
    const int half = (rows + 1) / 2;
    __syncthreads();                                      // the row above has stored what it got in the last round
    if (threadIdx.y + half < rows) {
      mine.merge(all[me + half * blockDim.x]);
      all[me] = mine;
    }
  }
  return mine;
}
