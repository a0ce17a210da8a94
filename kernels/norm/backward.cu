// The gradients of batch normalisation, alone or with the ReLU behind it.
//
//   dgamma = sum dy x_hat     dbeta = sum dy     dx = gamma inv_std (dy - dbeta / M - x_hat dgamma / M)
//
// In two passes over memory, for every dx needs sums over all pixels: norm_sums reads x and dy, norm_dx reads both again and
//   writes dx: 8 + 12 bytes a value.
// Saved: dgamma and dbeta come from one pass, not from two that read 8 + 4 bytes. With FUSED, x is what went into batch norm,
//   not x_hat, and dy the gradient of the ReLU's output: both passes compute x_hat and the mask anew, where a ReLU of its own
//   would read dy and the mask and write a gradient, 4 + 1 + 4 bytes. 20 bytes a value instead of 33.
// Predicted gain: 1.6x, the ratio of bytes.
// Measured gain:
// Limited by: memory bandwidth. A small map is still in the L2 cache at the second pass; the large ones are not.
//
// Launch: norm_sums as channel_sum, its parts are rows of 2 C sums: of dy, then of dy x_hat. norm_dx: a thread a vector, grid
//   ceil(n / 256), block 256. Without FUSED, x is x_hat, and mean and beta are not looked at.
#include "tu_columns.cuh"
#include "tu_norm.cuh"

// Of one value: x_hat, and what of dy reaches batch norm. Turns x and dy into them.
template <class V, bool FUSED>
__device__ __forceinline__ void recall(V &x, V &dy, int c, const V *mean, const V *inv_std, const V *gamma, const V *beta) {
  if (!FUSED) return;
  const V m = mean[c], r = inv_std[c], g = gamma[c], b = beta[c];
  for (int k = 0; k < Vector<V>::WIDTH; k++) {
    at(x, k) = normalized(at(x, k), at(m, k), at(r, k));
    if (scaled(at(x, k), at(g, k), at(b, k)) <= 0) at(dy, k) = 0;
  }
}

template <class V> struct TwoSums {
  V dy, product;

  __device__ void merge(const TwoSums &other) {
    for (int k = 0; k < Vector<V>::WIDTH; k++) {
      at(dy, k) += at(other.dy, k);
      at(product, k) += at(other.product, k);
    }
  }
};

template <class V, bool FUSED>
__global__ void __launch_bounds__(COLUMN_THREADS)
norm_sums(const V *__restrict__ x, const V *__restrict__ dy, const V *__restrict__ mean, const V *__restrict__ inv_std,
          const V *__restrict__ gamma, const V *__restrict__ beta, V *__restrict__ parts, int pixels, int vectors) {
  const Columns columns{pixels, vectors};
  const int c = columns.vector();
  TwoSums<V> sums{zeros<V>(), zeros<V>()};
  if (c < vectors) {
#pragma unroll 4
    for (int pixel = columns.first(); pixel < columns.end(); pixel += blockDim.y) {
      V x_hat = x[pixel * vectors + c], g = dy[pixel * vectors + c];
      recall<V, FUSED>(x_hat, g, c, mean, inv_std, gamma, beta);
      for (int k = 0; k < Vector<V>::WIDTH; k++) at(x_hat, k) *= at(g, k);
      sums.merge(TwoSums<V>{g, x_hat});
    }
  }
  sums = merge_rows(sums);
  if (threadIdx.y == 0 && c < vectors) {
    parts[blockIdx.y * 2 * vectors + c] = sums.dy;
    parts[(blockIdx.y * 2 + 1) * vectors + c] = sums.product;
  }
}

template <class V, bool FUSED>
__global__ void __launch_bounds__(256)
norm_dx(const V *__restrict__ x, const V *__restrict__ dy, const V *__restrict__ mean, const V *__restrict__ inv_std,
        const V *__restrict__ gamma, const V *__restrict__ beta, const V *__restrict__ sums, V *__restrict__ dx,
        int n, int vectors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, c = i % vectors;
  if (i >= n) return;
  V x_hat = x[i], g = dy[i];
  recall<V, FUSED>(x_hat, g, c, mean, inv_std, gamma, beta);
  const V dbeta = sums[c], dgamma = sums[vectors + c], scale = gamma[c], r = inv_std[c];
  const float share = 1.0f / (n / vectors);               // of a pixel: 1 / M
  for (int k = 0; k < Vector<V>::WIDTH; k++)
    at(g, k) = at(scale, k) * at(r, k) * (at(g, k) - at(dbeta, k) * share - at(x_hat, k) * (at(dgamma, k) * share));
  dx[i] = g;
}
