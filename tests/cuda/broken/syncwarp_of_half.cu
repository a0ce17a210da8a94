// problem: race
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float s[32];
  int t = threadIdx.x;
  s[t] = x[t];
#ifdef RIGHT
  __syncwarp();
#else
  __syncwarp(t < 16 ? 0x0000ffff : 0xffff0000);  // orders either half, not one with the other
#endif
  y[t] = s[t ^ 16];  // <-- here
}
