// A 1x1 convolution from many channels to few classes, K of them, for a tile of pixels, one for each thread of a block.
//
// The tile lies in shared memory, so that x comes from memory once and serves the logits, which want a thread to see all
// channels of a pixel, and the gradient by w, which wants a thread to see all pixels of a channel. A pixel is padded to an odd
// number of vectors: then neither direction has bank conflicts.
#pragma once
#include "tu_vector.cuh"

template <class V, int K> struct HeadTile {
  static constexpr int WIDTH = Vector<V>::WIDTH;
  int vectors, pitch;  // of a pixel, without and with padding
  int slices;          // threads that share the pixels of one vector of channels, for the gradient by w
  V *x, *w;            // [pixel * pitch + c], [k * vectors + c]
  float *da;           // [k * blockDim.x + pixel]: the gradients of the logits
  V *dw;               // [(slice * K + k) * vectors + c]

  __device__ HeadTile(float4 *shared, int vectors) : vectors(vectors), pitch(vectors | 1) {
    slices = max(1, (int)blockDim.x / vectors);
    x = reinterpret_cast<V *>(shared);
    w = x + blockDim.x * pitch;
    da = reinterpret_cast<float *>(w + K * vectors);
    dw = reinterpret_cast<V *>(da + K * blockDim.x);
  }

  __device__ void load_weights(const float *weights) {  // (C, K), turned so that the channels of a class are neighbours
    const int channels = vectors * WIDTH;
    for (int i = threadIdx.x; i < channels * K; i += blockDim.x)
      reinterpret_cast<float *>(w)[i % K * channels + i / K] = weights[i];
  }

  __device__ void load(const V *map, int first, int pixels) {  // zeros past the last pixel
#pragma unroll 8  // so many loads under way for a thread: a block loads only part of the time
    for (int i = threadIdx.x; i < (int)blockDim.x * vectors; i += blockDim.x) {
      const int pixel = i / vectors, c = i % vectors;
      V value = zeros<V>();
      if (first + pixel < pixels) value = map[first * vectors + i];
      x[pixel * pitch + c] = value;
    }
  }

  __device__ void logits(float (&a)[K], const float *b) const {  // of this thread's pixel
    for (int k = 0; k < K; k++) a[k] = b[k];
    for (int c = 0; c < vectors; c++) {
      const V value = x[threadIdx.x * pitch + c];
      for (int k = 0; k < K; k++) {
        const V weight = w[k * vectors + c];
        for (int e = 0; e < WIDTH; e++) a[k] += at(value, e) * at(weight, e);
      }
    }
  }

  __device__ void store_dx(V *dx, int first, int pixels) const {  // lanes over channels, so that stores are whole sectors
    for (int i = threadIdx.x; i < (int)blockDim.x * vectors; i += blockDim.x) {
      const int pixel = i / vectors, c = i % vectors;
      if (first + pixel >= pixels) return;
      V sum = zeros<V>();
      for (int k = 0; k < K; k++) {
        const V weight = w[k * vectors + c];
        for (int e = 0; e < WIDTH; e++) at(sum, e) += da[k * blockDim.x + pixel] * at(weight, e);
      }
      dx[first * vectors + i] = sum;
    }
  }

  __device__ void clear_dw() {
    for (int job = threadIdx.x; job < vectors * slices; job += blockDim.x)
      for (int k = 0; k < K; k++) dw[(job / vectors * K + k) * vectors + job % vectors] = zeros<V>();
  }

  __device__ void add_dw() {  // a thread comes back to the same jobs at every tile, so nobody waits
    for (int job = threadIdx.x; job < vectors * slices; job += blockDim.x) {
      const int slice = job / vectors, c = job % vectors;
      V sum[K];
      for (int k = 0; k < K; k++) sum[k] = dw[(slice * K + k) * vectors + c];
      for (int pixel = slice; pixel < blockDim.x; pixel += slices) {
        const V value = x[pixel * pitch + c];
        for (int k = 0; k < K; k++)
          for (int e = 0; e < WIDTH; e++) at(sum[k], e) += da[k * blockDim.x + pixel] * at(value, e);
      }
      for (int k = 0; k < K; k++) dw[(slice * K + k) * vectors + c] = sum[k];
    }
  }

  // This block's part of dw, (C, K), and behind it of db, (K,). db[k] is what the thread has added up of da. A barrier comes
  // before: all have added to dw, and nobody needs da any more.
  __device__ void store_part(const float (&db)[K], float *part) {
    const int channels = vectors * WIDTH, warps = blockDim.x / 32;
    for (int i = threadIdx.x; i < channels * K; i += blockDim.x) {
      float sum = 0.0f;
      for (int slice = 0; slice < slices; slice++)
        sum += reinterpret_cast<float *>(dw)[(slice * K + i % K) * channels + i / K];
      part[i] = sum;
    }
    for (int k = 0; k < K; k++) {
      const float sum = warp_sum(db[k]);
      if (threadIdx.x % 32 == 0) da[k * warps + threadIdx.x / 32] = sum;
    }
    __syncthreads();                                      // every warp has stored its sums
    if (threadIdx.x < K) {
      float sum = 0.0f;
      for (int warp = 0; warp < warps; warp++) sum += da[threadIdx.x * warps + warp];
      part[channels * K + threadIdx.x] = sum;
    }
  }
};
