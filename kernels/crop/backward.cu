// The gradient of crop and concatenate, for one of the two maps: its part of dy, and zero around it.
//
//   dup = dy[..., :U]     dskip = 0 except dskip[:, top : top+H, left : left+W] = dy[..., U:]
//
// In one pass over memory: each value of dup and dskip is written once, and each of dy read once, in one of the two launches.
// Saved: dskip filled with zeros first, its centre written again: 4 bytes a value of the centre. Here every value of the result
//   has a thread, which asks where in dy its gradient lies, and so nothing is left to fill.
// Predicted gain: 1.3x, the ratio of bytes at the paper's crops.
// Measured gain:
// Limited by: memory bandwidth. pool/backward.cu can take dskip straight from dy, and then only dup is wanted.
//
// Launch: a thread a vector of dx, grid ceil(n / 256), block 256. n = N A B vectors. For dup, top = left = channel = 0.
#include "tu_concat.cuh"

template <class V>
__global__ void __launch_bounds__(256)
crop_backward(const V *__restrict__ dy, V *__restrict__ dx, int n, int A, int B, int vectors,
              int H, int W, int channels, int top, int left, int channel) {
  const Cut<V> mine{dy, H, W, channels, top, left, channel};
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int c = i % vectors, pixel = i / vectors;
  dx[i] = mine.at(pixel / (A * B), pixel / B % A, pixel % B, c);
}
