// problem: race
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
#ifdef RIGHT
  if (threadIdx.x == 0)
#endif
  y[0] = x[threadIdx.x];  // <-- here
}
