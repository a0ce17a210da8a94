// problem: divergent barrier
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifdef RIGHT
  __syncthreads();
#else
  if (t < 32)
    __syncthreads();  // <-- here
  else
    __syncthreads();
#endif
  y[t] = x[t];
}
