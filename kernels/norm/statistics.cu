// Mean and variance of each channel, over images and pixels.
//
//   mean[c] = 1/M sum of x     var[c] = 1/M sum of (x - mean)^2     inv_std[c] = 1 / sqrt(var + eps)
//
// In one pass over memory: x is read once, 4 bytes a value.
// Saved: the two formulas as they stand read x twice. mean(x^2) - mean^2 reads it once, but where the mean is large against
//   the deviation it subtracts two nearly equal numbers: at a mean of 1000 and a deviation of 1, float32 has no digit left.
//   Welford's running mean has neither fault: each value moves the mean by its share, and m2 grows by the product of the
//   distances before and after. Two such triples merge exactly (Chan, Golub, LeVeque 1979), so threads and blocks can work apart.
// Predicted gain: 2x over two passes. The division by the running count is shared by the four channels of a thread.
// Measured gain:
// Limited by: memory bandwidth.
//
// Launch: norm_parts as channel_sum; then norm_merge, grid ceil(vectors / X), block (X, 256 / X), with the same pixels and
//   number of parts.
#include "tu_columns.cuh"

template <class V> struct Moments {
  float count;  // exact up to 2^24 values, and beyond that its error is one in 2^24
  V mean, m2;   // m2: sum of squared distances from the mean

  __device__ void add(V x) {
    count += 1.0f;
    const float share = 1.0f / count;
    for (int k = 0; k < Vector<V>::WIDTH; k++) {
      const float before = at(x, k) - at(mean, k);
      at(mean, k) += before * share;
      at(m2, k) += before * (at(x, k) - at(mean, k));
    }
  }
  __device__ void merge(const Moments &other) {
    if (other.count == 0.0f) return;                      // 0 / 0 otherwise, where both are empty
    const float total = count + other.count, share = other.count / total;
    for (int k = 0; k < Vector<V>::WIDTH; k++) {
      const float distance = at(other.mean, k) - at(mean, k);
      at(mean, k) += distance * share;
      at(m2, k) += at(other.m2, k) + distance * distance * (count * share);
    }
    count = total;
  }
};

template <class V>
__global__ void __launch_bounds__(COLUMN_THREADS)
norm_parts(const V *__restrict__ x, V *__restrict__ means, V *__restrict__ squares, int pixels, int vectors) {
  const Columns columns{pixels, vectors};
  const int c = columns.vector();
  Moments<V> m{0.0f, zeros<V>(), zeros<V>()};
  if (c < vectors) {
#pragma unroll 4
    for (int pixel = columns.first(); pixel < columns.end(); pixel += blockDim.y)
      m.add(x[pixel * vectors + c]);
  }
  m = merge_rows(m);
  if (threadIdx.y == 0 && c < vectors) {
    means[blockIdx.y * vectors + c] = m.mean;
    squares[blockIdx.y * vectors + c] = m.m2;
  }
}

template <class V>
__global__ void __launch_bounds__(COLUMN_THREADS)
norm_merge(const V *__restrict__ means, const V *__restrict__ squares, V *__restrict__ mean, V *__restrict__ var,
           V *__restrict__ inv_std, int pixels, int parts, int vectors, float eps) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x, run = (pixels + parts - 1) / parts;
  Moments<V> m{0.0f, zeros<V>(), zeros<V>()};
  if (c < vectors) {
    for (int part = threadIdx.y; part < parts; part += blockDim.y) {
      const float count = max(0, min(run, pixels - part * run));  // how many pixels norm_parts gave to this part
      m.merge(Moments<V>{count, means[part * vectors + c], squares[part * vectors + c]});
    }
  }
  m = merge_rows(m);
  if (threadIdx.y == 0 && c < vectors) {
    V root;
    for (int k = 0; k < Vector<V>::WIDTH; k++) {
      at(m.m2, k) /= m.count;
      at(root, k) = 1.0f / sqrtf(at(m.m2, k) + eps);
    }
    mean[c] = m.mean;
    var[c] = m.m2;
    inv_std[c] = root;
  }
}
