// 01 naive: one thread per output, the formula as it stands.
//
// Changed since the last rung: this is the first.
// Predicted gain: none, it is the measure of the others.
// Measured gain:
// Limited by: memory requests. The 32 lanes of a warp take neighbouring pixels of one output channel. In NHWC, pixels are
//   C floats apart, so each lane reads a 32-byte sector of its own and uses 4 bytes of it; the weight is the same for all.
//   One multiply-add costs two loads, one of which moves up to 32 sectors where 4 would do. Stores are spread the same way.
//
// Launch: N P Q O threads in all, grid ceil(N P Q O / 256), block 256.
#include "tu_conv3x3.cuh"

extern "C" __global__ void __launch_bounds__(256)
conv3x3(const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y,
        int N, int H, int W, int C, int O, int pad) {
  const Conv3x3 p{N, H, W, C, O, pad};
  const int pixels = N * p.P() * p.Q();
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= pixels * O) return;
  const int pixel = thread % pixels, o = thread / pixels;  // lanes over pixels
  const int j = pixel % p.Q(), i = pixel / p.Q() % p.P(), n = pixel / (p.Q() * p.P());

  float sum = 0.0f;
  for (int r = 0; r < 3; r++)
    for (int s = 0; s < 3; s++) {
      const int h = i + r - pad, v = j + s - pad;
      if (!p.inside(h, v)) continue;
      for (int c = 0; c < C; c++)
        sum += x[p.x_at(n, h, v) + c]
             * w[p.w_at(r, s, c) + o];
    }
  y[p.y_at(n, i, j) + o] = sum;
}
