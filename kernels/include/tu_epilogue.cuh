// What is done to a finished sum before it is stored: bias and ReLU, y = max(0, sum + b[o]). Both are optional.
//
// It is fused into the kernels because it is free there: the sum is in a register. A kernel of its own would read and write
// all of y again, and that is all the time that it takes.
#pragma once

struct Epilogue {
  const float *b;  // one value for each output channel; null: no bias
  int relu;

  __device__ float operator()(float sum, int o) const {
    if (b) sum += b[o];
    return relu && sum < 0.0f ? 0.0f : sum;  // not fmaxf: that would make 0 of a NaN, and hide it
  }

  // The same for channels o to o + 3, of which the first `valid` exist.
  __device__ float4 operator()(float4 v, int o, int valid) const {
    if (valid > 0) v.x = (*this)(v.x, o);
    if (valid > 1) v.y = (*this)(v.y, o + 1);
    if (valid > 2) v.z = (*this)(v.z, o + 2);
    if (valid > 3) v.w = (*this)(v.w, o + 3);
    return v;
  }
};
