// The gradients of the head, all three from one reading of x.
//
//   dx[pixel, c] = sum over k of dy[pixel, k] w[c, k]     dw[c, k] = sum over pixels of x[pixel, c] dy[pixel, k]
//   db[k] = sum over pixels of dy[pixel, k]
//
// In one pass over memory: x and dy are read, dx is written: 8 C + 4 K bytes a pixel; the parts of dw and db, one a block, are
//   next to nothing. channel_sum adds them up.
// Saved: three operations read dy three times, 8 K bytes of 8 C + 12 K.
// Predicted gain: 1.03x of bytes at 64 channels and 2 classes; the gain is in one launch for three.
// Measured gain:
// Limited by: memory bandwidth; two thirds of the time no loads are under way in a block, and other blocks must fill in.
//
// Launch: grid min(512, ceil(pixels / T)), block T = 128, 64 or 32, shared memory as tu_head.cuh's HeadTile takes it.
#include "tu_head.cuh"

template <class V, int K>
__global__ void __launch_bounds__(128, 4)  // 4 blocks: else it is compiled to fewer registers than 128, and spills
head_backward(const float *__restrict__ dy, const V *__restrict__ x, const float *__restrict__ w, V *__restrict__ dx,
              float *__restrict__ parts, int pixels, int vectors) {
  extern __shared__ float4 shared[];
  HeadTile<V, K> tile(shared, vectors);
  tile.load_weights(w);
  tile.clear_dw();
  float db[K] = {};
  for (int first = blockIdx.x * blockDim.x; first < pixels; first += gridDim.x * blockDim.x) {
    tile.load(x, first, pixels);
    for (int i = threadIdx.x; i < (int)blockDim.x * K; i += blockDim.x)
      tile.da[i % K * blockDim.x + i / K] = first + i / K < pixels ? dy[first * K + i] : 0.0f;
    __syncthreads();                                      // the tile is complete
    for (int k = 0; k < K; k++) db[k] += tile.da[k * blockDim.x + threadIdx.x];
    tile.store_dx(dx, first, pixels);
    tile.add_dw();
    __syncthreads();                                      // nobody needs it any more
  }
  tile.store_part(db, parts + blockIdx.x * (vectors * Vector<V>::WIDTH + 1) * K);
}
