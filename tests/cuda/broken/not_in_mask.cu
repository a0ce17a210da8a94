// problem: lane not in mask
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifdef RIGHT
  if (t < 16)
#endif
  y[t] = __shfl_xor_sync(0x0000ffff, x[t], 1);  // <-- here
}
