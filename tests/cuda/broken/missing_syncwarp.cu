// problem: race
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float s[32];
  int t = threadIdx.x;
  s[t] = x[t];
#ifdef RIGHT
  __syncwarp();
#endif
  y[t] = s[t ^ 1];  // <-- here
}
