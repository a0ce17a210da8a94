// problem: endless loop
// launch: 2, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  volatile float *flag = y;
  if (threadIdx.x == 0) {
#ifdef RIGHT
    flag[blockIdx.x] = 1;
#else
    while (flag[0] == 0) {}  // <-- here
#endif
  }
}
