// problem: race
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float s[32];
  int t = threadIdx.x;
  s[t] = x[t];
  float other = __shfl_xor_sync(~0u, x[t], 1);  // lanes meet here, but their stores need not have arrived
#ifdef RIGHT
  __syncwarp();
#endif
  y[t] = s[t ^ 1] + other;  // <-- here
}
