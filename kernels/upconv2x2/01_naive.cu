// 01 naive: one thread per result, the formulas as they stand.
//
// Changed since the last rung: this is the first.
// Predicted gain: none, it is the measure of the others.
// Measured gain:
// Limited by: memory requests, two loads for each multiply-add. Forward reads a row of weights in each lane, C floats apart, so
//   a request moves a sector for every lane. grad_w leaves the whole sum over pixels to one thread, and there are only 4 O C.
// Order: fixed. Every sum is one thread's, as it gathers.
//
// Launch: forward N H W 4 O threads, grad_x N H W C, grad_w 4 O C; grid ceil(threads / 256), block 256.
#include "tu_epilogue.cuh"
#include "tu_upconv2x2.cuh"

extern "C" __global__ void __launch_bounds__(256)
forward(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int pixels, int W, int C, int O, int relu) {
  const UpConv2x2 p(pixels, W, C, O);
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= pixels * 4 * O) return;
  const int pixel = thread / (4 * O), q = thread % (4 * O);
  float sum = 0.0f;
  for (int c = 0; c < C; c++)
    sum += x[pixel * C + c]
         * w[q * C + c];
  y[p.y_at(pixel, q)] = Epilogue{b, relu}(sum, q % O);
}

extern "C" __global__ void __launch_bounds__(256)
grad_x(const float *__restrict__ dy, const float *__restrict__ w, float *__restrict__ dx, int pixels, int W, int C, int O) {
  const UpConv2x2 p(pixels, W, C, O);
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= pixels * C) return;
  const int pixel = thread / C, c = thread % C;
  float sum = 0.0f;
  for (int q = 0; q < 4 * O; q++)
    sum += dy[p.y_at(pixel, q)]
         * w[q * C + c];
  dx[thread] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ dw, int pixels, int W, int C, int O) {
  const UpConv2x2 p(pixels, W, C, O);
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= 4 * O * C) return;
  const int q = thread / C, c = thread % C;
  float sum = 0.0f;
  for (int pixel = 0; pixel < pixels; pixel++)
    sum += dy[p.y_at(pixel, q)]
         * x[pixel * C + c];
  dw[thread] = sum;
}
