// problem: out of bounds
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
#ifdef RIGHT
  const float *p = x;
#else
  const float *p = (const float *)64;
#endif
  y[threadIdx.x] = p[threadIdx.x];  // <-- here
}
