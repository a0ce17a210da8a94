// problem: write to const
// launch: 1, 32
extern "C" __global__ void broken(float *y, const float *x, int n) {
  int t = threadIdx.x;
#ifndef RIGHT
  const_cast<float *>(x)[t] = 0;  // <-- here
#endif
  y[t] = x[t];
}
