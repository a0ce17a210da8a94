// problem: return before barrier
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
#ifndef RIGHT
  if (t >= n) return;
#endif
  __syncthreads();  // <-- here
  if (t < n) y[t] = s[t ^ 1];
}
