// The matrix of patches: row k holds what output pixel k of a 3x3 convolution sees, 9 C values in the order of the weights
// (r, s, c). The gradient by weight is its transpose times dy, (9 C, N P Q) (N P Q, O) -> (9 C, O). It is never stored.
#pragma once
#include "tu_conv3x3.cuh"

// The way of one thread through that matrix: down one column, `stride` rows at a time. A row number would have to be divided
// twice to become a pixel of x. Walking, it is an addition, and a carry where a row of pixels ends, and where an image does.
struct PatchWalk {
  const Conv3x3 p;
  const float *x;
  const int stride, dh, dv, step;          // what a stride adds to h, to v, and in memory
  const int last, end_h, end_v;            // where pixels end, rows of an image, and pixels of a row
  int pixel, h, v, at;                     // the next element: pixel of y; row and column in the image, may be outside; in memory

  __device__ PatchWalk(const Conv3x3 &p, const float *x, int column, int first, int last, int stride)
      : p(p), x(x), stride(stride), dh(stride / p.Q() % p.P()), dv(stride % p.Q()),
        step(p.x_at(stride / (p.Q() * p.P()), dh, dv)),
        last(column < 9 * p.C ? last : 0), // past the last column there is nothing
        end_h(p.P() + column / p.C / 3 - p.pad), end_v(p.Q() + column / p.C % 3 - p.pad), pixel(first),
        h(first / p.Q() % p.P() + column / p.C / 3 - p.pad), v(first % p.Q() + column / p.C % 3 - p.pad),
        at(p.x_at(first / (p.Q() * p.P()), h, v) + column % p.C) {}

  // Where the next element lies in x; null outside the image, and behind the last pixel.
  __device__ __forceinline__ const float *next() {
    const float *here = (pixel < last) & p.inside(h, v) ? x + at : nullptr;
    pixel += stride, h += dh, v += dv, at += step;
    if (v >= end_v) v -= p.Q(), h++, at += (p.W - p.Q()) * p.C;
    if (h >= end_h) h -= p.P(), at += (p.H - p.P()) * p.W * p.C;
    return here;
  }
};
