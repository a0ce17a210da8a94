// Batch normalisation with known statistics, of the batch or running ones, and if asked the ReLU behind it.
//
//   x_hat = (x - mean) inv_std     y = gamma x_hat + beta     or max(0, .) of it
//
// In one pass over memory: x is read, y is written, 4 + 4 bytes a value; and x_hat if somebody keeps it, 4 more.
// Saved: with the ReLU and without x_hat 8 bytes, where the operations one by one move 4 + 4 + 4 and 4 + 4 + 1, 21 in all.
//   The gradient then has neither x_hat nor a mask, and computes both anew from x: three operations cost less than a load.
// Predicted gain: 2.6x, the ratio of bytes.
// Measured gain:
// Limited by: memory bandwidth. What is left would go into the next convolution's load, and cost it nine times the arithmetic.
//
// Launch: a thread a vector, grid ceil(n / 256), block 256. x_hat may be null.
#include "tu_norm.cuh"
#include "tu_vector.cuh"

template <class V, bool RELU>
__global__ void __launch_bounds__(256)
norm_apply(const V *__restrict__ x, const V *__restrict__ mean, const V *__restrict__ inv_std, const V *__restrict__ gamma,
           const V *__restrict__ beta, V *__restrict__ y, V *__restrict__ x_hat, int n, int vectors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, c = i % vectors;
  if (i >= n) return;
  V value = x[i];
  const V m = mean[c], r = inv_std[c], g = gamma[c], b = beta[c];
  for (int k = 0; k < Vector<V>::WIDTH; k++)
    at(value, k) = normalized(at(value, k), at(m, k), at(r, k));
  if (x_hat) x_hat[i] = value;
  for (int k = 0; k < Vector<V>::WIDTH; k++) {
    at(value, k) = scaled(at(value, k), at(g, k), at(b, k));
    if (RELU && at(value, k) <= 0) at(value, k) = 0;      // a NaN stays
  }
  y[i] = value;
}
