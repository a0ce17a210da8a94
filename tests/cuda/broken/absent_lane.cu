// problem: absent lane
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifdef RIGHT
  int lanes = 16;
#else
  int lanes = 20;
#endif
  unsigned mask = (1u << lanes) - 1;
  if (t < lanes) y[t] = __shfl_xor_sync(mask, x[t], 8);  // <-- here
}
