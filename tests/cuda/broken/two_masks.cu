// problem: collective mismatch
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifdef RIGHT
  unsigned mask = ~0u;
#else
  unsigned mask = t < 16 ? 0xffffffff : 0xffff8000;  // lane 15 is in both
#endif
  y[t] = __shfl_xor_sync(mask, x[t], 1);  // <-- here
}
