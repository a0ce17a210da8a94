// problem: race
// launch: 2, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
  y[blockIdx.x * 64 + t] = x[t];
#ifdef RIGHT
  y[blockIdx.x * 64 + t] += 1;
#else
  __syncthreads();  // orders the threads of a block, not the blocks
  if (blockIdx.x == 1) y[64 + t] += y[t];  // <-- here
#endif
}
