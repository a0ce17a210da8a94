// Shuffles, votes and barriers with votes, one value a thread.
extern "C" __global__ void shuffles(int *y, const int *x, int by, int width) {
  int t = threadIdx.x, n = blockDim.x;
  y[t] = __shfl_sync(~0u, x[t], by, width);
  y[n + t] = __shfl_up_sync(~0u, x[t], by, width);
  y[2 * n + t] = __shfl_down_sync(~0u, x[t], by, width);
  y[3 * n + t] = __shfl_xor_sync(~0u, x[t], by, width);
}

extern "C" __global__ void shuffle_double(double *y, const double *x) {
  y[threadIdx.x] = __shfl_down_sync(~0u, x[threadIdx.x], 1);
}

extern "C" __global__ void votes(unsigned *y, const int *x) {
  int t = threadIdx.x, n = blockDim.x;
  y[t] = __ballot_sync(~0u, x[t]);
  y[n + t] = __any_sync(~0u, x[t]);
  y[2 * n + t] = __all_sync(~0u, x[t]);
  y[3 * n + t] = __syncthreads_count(x[t]);
  y[4 * n + t] = __syncthreads_and(x[t]);
  y[5 * n + t] = __syncthreads_or(x[t]);
}

// The sum of a block, as every reduction on a GPU ends: shuffles in a warp, shared memory between warps.
extern "C" __global__ void block_sum(float *y, const float *x, int n) {
  __shared__ float part[32];
  int t = threadIdx.x, lane = t % 32;
  float sum = 0;
  for (int i = blockIdx.x * blockDim.x + t; i < n; i += gridDim.x * blockDim.x) sum += x[i];
  for (int by = 16; by; by /= 2) sum += __shfl_down_sync(~0u, sum, by);
  if (lane == 0) part[t / 32] = sum;
  __syncthreads();
  if (t < 32) {
    sum = lane < blockDim.x / 32 ? part[lane] : 0;
    for (int by = 16; by; by /= 2) sum += __shfl_down_sync(~0u, sum, by);
    if (lane == 0) atomicAdd(y, sum);
  }
}

// Lanes that return drop out of the collectives of their warp; halves of a warp may meet by themselves.
extern "C" __global__ void halves(int *y, const int *x, int alive) {
  int t = threadIdx.x;
  if (t >= alive) return;
  unsigned mask = t < 16 ? 0x0000ffff : 0xffff0000;
  y[t] = __shfl_xor_sync(mask, x[t], 1);
  __syncwarp();
  y[t] += 100;
}
