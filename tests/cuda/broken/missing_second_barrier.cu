// problem: race
// launch: 1, 64
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float s[64];
  int t = threadIdx.x;
  float sum = 0;
  for (int round = 0; round < 3; round++) {
    s[t] = x[t + 64 * round];  // <-- here
    __syncthreads();
    sum += s[(t + 32) % 64];
#ifdef RIGHT
    __syncthreads();
#endif
  }
  y[t] = sum;
}
