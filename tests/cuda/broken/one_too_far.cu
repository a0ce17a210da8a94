// problem: out of bounds
// launch: 5, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int i = blockIdx.x * 64 + threadIdx.x;
#ifdef RIGHT
  if (i < n) y[i] = x[i % 64];
#else
  if (i <= n) y[i] = x[i % 64];  // <-- here
#endif
}
