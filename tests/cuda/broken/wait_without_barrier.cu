// problem: race
// launch: 1, 64
#include "tu_device.cuh"
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float4 s[64];
  int t = threadIdx.x;
  tu_cp_async16(&s[t], x + t * 4, true);  // counts as a write by the thread that waits for it
  tu_cp_commit();
  tu_cp_wait<0>();
#ifdef RIGHT
  __syncthreads();
#endif
  y[t] = s[63 - t].x;  // <-- here
}
