// problem: uninitialised read
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float s[64];
  int t = threadIdx.x;
#ifndef RIGHT
  if (t < 63)
#endif
  s[t] = x[t];
  __syncthreads();
  y[t] = s[t];  // <-- here
}
