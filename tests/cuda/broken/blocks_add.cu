// problem: race
// launch: 4, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifdef RIGHT
  atomicAdd(&y[t], x[t + blockIdx.x * 64]);
#else
  y[t] += x[t + blockIdx.x * 64];  // <-- here
#endif
}
