// problem: absent lane
// launch: 1, 32
#include "tu_device.cuh"
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
  float d[4] = {};
  unsigned a[4] = {tu_tf32(x[t]), 0, 0, 0}, b[2] = {tu_tf32(x[t]), 0};
#ifndef RIGHT
  if (t >= 16) return;
#endif
  tu_mma_m16n8k8(d, a, b);  // <-- here
  y[t] = d[0];
}
