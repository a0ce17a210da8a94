// problem: deadlock
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifdef RIGHT
  __syncthreads();
#else
  if (t % 2) __syncthreads();  // <-- here
#endif
  y[t] = __shfl_down_sync(~0u, x[t], 1);
}
