// problem: out of bounds
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifdef RIGHT
  y[t] = t ? x[t - 1] : 0;
#else
  y[t] = x[t - 1];  // <-- here
#endif
}
