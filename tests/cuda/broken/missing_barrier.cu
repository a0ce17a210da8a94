// problem: race
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
#ifdef RIGHT
  __syncthreads();
#endif
  y[t] = s[63 - t];  // <-- here
}
