// Bias and ReLU in one pass, and the mask that the gradient needs.
//
//   y = max(x + b, 0)     positive = x + b > 0         (pixels, C), (C,) -> (pixels, C), (pixels, C)
//
// In one pass over memory: x is read, y and the mask are written: 4 + 4 + 1 bytes a value.
// Saved: bias and ReLU as two operations move 4 + 4 and 4 + 4 + 1 bytes, 17 in all. The mask is a byte where keeping x would
//   be four. A convolution that does this in its epilogue (rung 06 and later) saves the rest as well.
// Predicted gain: 1.9x, the ratio of bytes.
// Measured gain:
// Limited by: memory bandwidth.
//
// A NaN is not "<= 0": it stays a NaN, and is seen.
// Launch: a thread a vector, grid ceil(n / 256), block 256. b may be null: ReLU alone.
#include "tu_vector.cuh"

template <class V>
__global__ void __launch_bounds__(256)
relu_forward(const V *__restrict__ x, const V *__restrict__ b, V *__restrict__ y,
             typename Vector<V>::Bytes *__restrict__ positive, int n, int vectors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  V value = x[i];
  const V bias = b ? b[i % vectors] : zeros<V>();
  typename Vector<V>::Bytes mask;
  for (int k = 0; k < Vector<V>::WIDTH; k++) {
    at(value, k) += at(bias, k);
    at(mask, k) = !(at(value, k) <= 0);
    if (!at(mask, k)) at(value, k) = 0;
  }
  y[i] = value;
  positive[i] = mask;
}
