// The sum over images and pixels, for each channel: the gradient of a bias, and the second pass of all sums over channels.
//
//   s[c] = sum over pixels of a[pixel, c]          (pixels, C) -> (parts, C), then (parts, C) -> (1, C)
//
// In one pass over memory: a is read, 4 bytes a value; the parts are next to nothing.
// Saved: nothing, this is what the other files save by adding up in passing what they have at hand anyway.
// Predicted gain: against one atomicAdd a value 20x and more: all pixels of a channel would queue for one address.
// Measured gain:
// Limited by: memory bandwidth in the first pass; latency in the second, a few microseconds in which few blocks run.
//
// Launch: grid (ceil(vectors / X), parts), block (X, 256 / X); see tu_columns.cuh. Then once more on the parts, with one part.
#include "tu_columns.cuh"

template <class V>
__global__ void __launch_bounds__(COLUMN_THREADS)
channel_sum(const V *__restrict__ a, V *__restrict__ parts, int pixels, int vectors) {
  const Columns columns{pixels, vectors};
  const int c = columns.vector();
  Sum<V> sum{zeros<V>()};
  if (c < vectors) {
#pragma unroll 4
    for (int pixel = columns.first(); pixel < columns.end(); pixel += blockDim.y)
      sum.add(a[pixel * vectors + c]);
  }
  sum = merge_rows(sum);
  if (threadIdx.y == 0 && c < vectors)
    parts[blockIdx.y * vectors + c] = sum.value;
}
