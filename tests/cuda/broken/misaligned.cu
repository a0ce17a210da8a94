// problem: misaligned
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifdef RIGHT
  float4 v = *(const float4 *)(x + 4 * t);
#else
  float4 v = *(const float4 *)(x + 4 * t + 1);  // <-- here
#endif
  y[t] = v.x + v.y + v.z + v.w;
}
