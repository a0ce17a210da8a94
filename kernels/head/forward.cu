// The head: a 1x1 convolution from C channels to K classes.
//
//   y[pixel, k] = b[k] + sum over c of x[pixel, c] w[c, k]         (pixels, C), (C, K), (K,) -> (pixels, K)
//
// In one pass over memory: x is read, y is written: 4 C + 4 K bytes a pixel, for 2 C K operations: one a byte at two classes.
//   A matrix product cut into tiles for hundreds of columns would leave nearly all of its tile empty.
// Saved: the bias as an operation of its own, 8 K bytes.
// Predicted gain: 1.06x of bytes at 64 channels and 2 classes; against a general matrix product 2x to 5x.
// Measured gain:
// Limited by: memory bandwidth, if enough tiles are under way: a block loads, then computes, while others load.
//
// Launch: grid ceil(pixels / T), block T = 128, 64 or 32, shared memory as tu_head.cuh's HeadTile takes it.
#include "tu_head.cuh"

template <class V, int K>
__global__ void __launch_bounds__(128, 4)  // as head_backward
head_forward(const V *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
             int pixels, int vectors) {
  extern __shared__ float4 shared[];
  HeadTile<V, K> tile(shared, vectors);
  const int first = blockIdx.x * blockDim.x;
  tile.load_weights(w);
  tile.load(x, first, pixels);
  __syncthreads();                                        // the tile is complete

  float a[K];
  tile.logits(a, b);
  for (int k = 0; k < K; k++) tile.da[threadIdx.x * K + k] = a[k];
  __syncthreads();                                        // all logits are there, in the order of y: stored side by side
  for (int i = threadIdx.x; i < min((int)blockDim.x, pixels - first) * K; i += blockDim.x)
    y[first * K + i] = tile.da[i];
}
