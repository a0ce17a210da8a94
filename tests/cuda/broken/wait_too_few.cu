// problem: cp.async not waited for
// launch: 1, 16
#include "tu_device.cuh"
extern "C" __global__ void broken(float *y, const float *x, int n) {
  __shared__ float4 s[2][16];
  int t = threadIdx.x;
  for (int stage = 0; stage < 2; stage++) {
    tu_cp_async16(&s[stage][t], x + (stage * 16 + t) * 4, true);
    tu_cp_commit();
  }
#ifdef RIGHT
  tu_cp_wait<0>();
#else
  tu_cp_wait<1>();  // the first has landed, the second not
#endif
  y[t] = s[1][t].x;  // <-- here
}
