// problem: race
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  atomicAdd(&y[0], x[threadIdx.x]);
#ifdef RIGHT
  __syncthreads();
#endif
  if (threadIdx.x == 40) y[1] = y[0];  // <-- here
}
