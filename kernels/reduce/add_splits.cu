// Adds up what the splits of a convolution computed, and finishes it: the second pass of split-K.
//
//   y[m, o] = epilogue(parts[0, m, o] + parts[1, m, o] + ...)          (splits, pixels, O) -> (pixels, O)
//
// One thread adds a result, from the first split to the last: the same order and so the same bytes in every run. The other way,
// an atomicAdd by every split, needs no second pass, but takes them in the order in which they happen to finish.
//
// Launch: grid ceil(pixels ceil(O / 4) / 256), block 256. WIDE: O is a multiple of 4, and arrays start at 16 bytes.
#include "tu_conv3x3.cuh"
#include "tu_epilogue.cuh"

template <bool WIDE> __global__ void __launch_bounds__(256)
add_splits(const float *__restrict__ parts, const float *__restrict__ b, float *__restrict__ y,
           int splits, int pixels, int O, int relu) {
  const int quads = (O + 3) / 4, thread = blockIdx.x * blockDim.x + threadIdx.x;
  const int pixel = thread / quads, o = thread % quads * 4;
  if (pixel >= pixels) return;
  const size_t at = (size_t)pixel * O + o;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
  for (int split = 0; split < splits; split++) {
    const float4 part = load4<WIDE>(parts + (size_t)split * pixels * O + at, O - o);
    sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
  }
  store4<WIDE>(y + at, Epilogue{b, relu}(sum, o, O - o), O - o);
}
