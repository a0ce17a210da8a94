// 01 naive atomics: one thread per output of forward, which adds each of its products to the weight that made it.
//
//   dw[r,s,c,o] = sum over n,i,j of x[n, i+r-pad, j+s-pad, c] dy[n,i,j,o]
//
// Changed since the last rung: this is the first.
// Predicted gain: none, it is the measure of the others.
// Measured gain:
// Limited by: atomics. Every one of the 9 C O weights is added to N P Q times, by threads all over the GPU. Additions to one
//   address go one by one, and all of them go through the L2 cache.
// Order: not fixed. Threads add in the order in which they arrive, and a sum of floats depends on it, so two runs differ in
//   the last bits. The emulator shows it with another schedule. All rungs above this one have a fixed order.
//
// Launch: N P Q O threads in all, grid ceil(N P Q O / 256), block 256. dw is zero before.
#include "tu_conv3x3.cuh"

extern "C" __global__ void __launch_bounds__(256)
grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ dw,
       int N, int H, int W, int C, int O, int pad) {
  const Conv3x3 p{N, H, W, C, O, pad};
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= N * p.P() * p.Q() * O) return;
  const int pixel = thread / O, o = thread % O;  // lanes over output channels
  const int j = pixel % p.Q(), i = pixel / p.Q() % p.P(), n = pixel / (p.Q() * p.P());

  const float d = dy[p.y_at(n, i, j) + o];
  for (int r = 0; r < 3; r++)
    for (int s = 0; s < 3; s++) {
      const int h = i + r - pad, v = j + s - pad;
      if (!p.inside(h, v)) continue;
      for (int c = 0; c < C; c++)
        atomicAdd(&dw[p.w_at(r, s, c) + o], x[p.x_at(n, h, v) + c] * d);
    }
}
