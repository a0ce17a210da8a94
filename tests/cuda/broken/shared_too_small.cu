// problem: out of bounds
// launch: 1, 64, shared 192
extern "C" __global__ void broken(float *y, const float *x, int n) {
  extern __shared__ float s[];
  int t = threadIdx.x;
#ifdef RIGHT
  if (t >= 48) return;
#endif
  s[t] = x[t];  // <-- here
  y[t] = s[t];
}
