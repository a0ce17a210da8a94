// The end of the network and the beginning of its gradient: head, cross-entropy weighted by a map, and the head's gradients.
//
//   a = b + x w     E = 1/M sum of weight (log(sum over j of exp(a_j)) - a_label)     da = weight / M (softmax(a) - [k is label])
//   dx = da w^T     dw = x^T da     db = sum of da         With K = 1, one logit stands for (0, a): the sigmoid.
//
// In one pass over memory: x, labels and weights are read, dx is written: 8 C + 8 bytes a pixel. Logits, probabilities and their
//   gradients live and die in registers and shared memory.
// Saved: the head reads x and writes a, the loss reads a and writes da, the head's gradient reads x again: 12 C + 16 K + 8 bytes,
//   even if each of the three is one kernel. At 64 channels and 2 classes 520 bytes instead of 808.
// Predicted gain: 1.6x, the ratio of bytes.
// Measured gain:
// Limited by: memory bandwidth, as head/backward.cu.
//
// M, the number of pixels that have a label, is counted on the GPU by `count_labels`; so nobody waits for a number to reach the
// host. E is added up in double precision: a part for every warp, then channel_sum.
// Launch: count_labels: a thread a pixel, *count is 0 before. head_loss: as head_backward. weights may be null.
#include "tu_head.cuh"

constexpr int IGNORE = -1;  // the label of a pixel that nobody annotated

__global__ void __launch_bounds__(256)
count_labels(const int *__restrict__ labels, int *__restrict__ count, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned counted = __ballot_sync(~0u, i < n && labels[i] != IGNORE);
  if (threadIdx.x % 32 == 0) atomicAdd(count, __popc(counted));  // of integers: any order gives the same sum
}

// -> the cross-entropy of a pixel; turns its logits into probabilities minus what they should be.
template <int K> __device__ __forceinline__ float cross_entropy(float (&a)[K], int label) {
  if (K == 1) {
    const float small = expf(-fabsf(a[0])), target = label == 1;  // exp of negative numbers only: at most 1
    const float energy = fmaxf(a[0], 0.0f) + log1pf(small) - a[0] * target;
    a[0] = (a[0] > 0 ? 1.0f : small) / (1.0f + small) - target;
    return energy;
  }
  float largest = a[0], sum = 0.0f, energy = 0.0f;
  for (int k = 1; k < K; k++) largest = fmaxf(largest, a[k]);
  for (int k = 0; k < K; k++) sum += expf(a[k] - largest);
  const float log_sum = logf(sum);
  for (int k = 0; k < K; k++) {
    const float log_p = a[k] - largest - log_sum;
    if (k == label) energy = -log_p;
    a[k] = expf(log_p) - (k == label);
  }
  return energy;
}

template <class V, int K>
__global__ void __launch_bounds__(128, 4)  // as head_backward
head_loss(const V *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, const int *__restrict__ labels,
          const float *__restrict__ weights, const int *__restrict__ count, V *__restrict__ dx, double *__restrict__ energies,
          float *__restrict__ parts, int pixels, int vectors) {
  extern __shared__ float4 shared[];
  HeadTile<V, K> tile(shared, vectors);
  tile.load_weights(w);
  tile.clear_dw();
  const float share = 1.0f / max(*count, 1);
  float db[K] = {};
  double energy = 0.0;
  for (int first = blockIdx.x * blockDim.x; first < pixels; first += gridDim.x * blockDim.x) {
    const int pixel = first + threadIdx.x;
    tile.load(x, first, pixels);
    __syncthreads();                                      // the tile is complete
    float a[K] = {};
    if (pixel < pixels) {
      const int label = labels[pixel];
      const float weight = weights ? weights[pixel] : 1.0f, factor = label == IGNORE ? 0.0f : share * weight;
      tile.logits(a, b);
      energy += factor * cross_entropy(a, label);
      for (int k = 0; k < K; k++) a[k] *= factor;
    }
    for (int k = 0; k < K; k++) {
      db[k] += a[k];
      tile.da[k * blockDim.x + threadIdx.x] = a[k];
    }
    __syncthreads();                                      // and so are the gradients of its logits
    tile.store_dx(dx, first, pixels);
    tile.add_dw();
    __syncthreads();                                      // nobody needs either any more
  }
  energy = warp_sum(energy);
  if (threadIdx.x % 32 == 0) energies[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = energy;
  tile.store_part(db, parts + blockIdx.x * (vectors * Vector<V>::WIDTH + 1) * K);
}
