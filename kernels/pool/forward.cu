// 2x2 max-pooling, and which pixel of each window won.
//
//   y[n,i,j,c] = max over a,b in {0,1} of x[n, 2i+a, 2j+b, c]     winner: 2a + b         (N, 2P, 2Q, C) -> (N, P, Q, C), twice
//
// In one pass over memory: x is read, y and the winners are written: 16 + 4 + 1 bytes an output.
// Saved: the gradient needs the winners, not x: a byte an output is kept instead of 16, and the comparison is not done again.
// Predicted gain: 1.0x, nothing can be left out. Against keeping x and y for the gradient: none here, 1.8x there.
// Measured gain:
// Limited by: memory bandwidth.
//
// Of equal values the first in row-major order wins. A NaN wins over numbers, and the first NaN stays.
// Launch: a thread a vector of outputs, grid ceil(n / 256), block 256. n = N P Q vectors.
#include "tu_vector.cuh"

template <class V>
__global__ void __launch_bounds__(256)
pool_forward(const V *__restrict__ x, V *__restrict__ y, typename Vector<V>::Bytes *__restrict__ winner,
             int n, int Q, int vectors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int c = i % vectors, j = i / vectors % Q, row = i / vectors / Q;  // row of all images: n P + i
  V best = x[(4 * row * Q + 2 * j) * vectors + c];        // rows of x have 2 Q pixels, and 2 rows are a row of y
  typename Vector<V>::Bytes place;
  for (int k = 0; k < Vector<V>::WIDTH; k++) at(place, k) = 0;
  for (int p = 1; p < 4; p++) {
    const V rival = x[((2 * row + p / 2) * 2 * Q + 2 * j + p % 2) * vectors + c];
    for (int k = 0; k < Vector<V>::WIDTH; k++)
      if (!(at(rival, k) <= at(best, k)) && at(best, k) == at(best, k)) {  // "not <=" lets a NaN win, "==" lets it stay
        at(best, k) = at(rival, k);
        at(place, k) = p;
      }
  }
  y[i] = best;
  winner[i] = place;
}
