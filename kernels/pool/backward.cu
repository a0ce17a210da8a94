// The gradient of 2x2 max-pooling, and with it the gradient that came across the skip.
//
//   dx[n, 2i+a, 2j+b, c] = dy[n,i,j,c] if (a, b) won its window, else 0     + dskip[n, 2i+a, 2j+b, c]
//
// In one pass over memory: dy and the winners are read, dx is written: 4 + 1 + 16 bytes a window; with the skip 16 more, or what
//   of it the crop kept.
// Saved: the pooled map also went across, so its two gradients add. As operations of their own, dskip is filled with zeros and
//   the gradient copied into it (16 + 32), dx is written (21), and both are read and added (48): 117 bytes a window. Here dskip
//   is never written: what it would hold is read from the gradient of the concatenation, where it lies. 37 bytes.
// Predicted gain: 3.2x, the ratio of bytes.
// Measured gain:
// Limited by: memory bandwidth.
//
// Each window is one thread's, whose four pixels ask in turn: was it me? So nothing is added up in memory, and no order matters.
// Launch: a thread a vector of dy, grid ceil(n / 256), block 256. n = N P Q vectors. SKIP as tu_concat.cuh's Cut has it.
#include "tu_concat.cuh"

template <class V, bool SKIP>
__global__ void __launch_bounds__(256)
pool_backward(const V *__restrict__ dy, const typename Vector<V>::Bytes *__restrict__ winner, V *__restrict__ dx,
              int n, int P, int Q, int vectors,
              const V *__restrict__ skip, int H, int W, int channels, int top, int left, int channel) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int c = i % vectors, j = i / vectors % Q, row = i / vectors / Q;
  const V g = dy[i];
  const typename Vector<V>::Bytes place = winner[i];
  const Cut<V> across{skip, H, W, channels, top, left, channel};
  for (int p = 0; p < 4; p++) {
    const int h = 2 * (row % P) + p / 2, v = 2 * j + p % 2;
    V sum = SKIP ? across.at(row / P, h, v, c) : zeros<V>();
    for (int k = 0; k < Vector<V>::WIDTH; k++)
      if (at(place, k) == p) at(sum, k) += at(g, k);
    dx[((2 * row + p / 2) * 2 * Q + v) * vectors + c] = sum;
  }
}
