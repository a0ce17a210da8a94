// The matrix of patches: row k holds what output pixel k of a 3x3 convolution sees, 9 C values in the order of the weights
// (r, s, c). The gradient by weight is its transpose times dy, (9 C, N P Q) (N P Q, O) -> (9 C, O). It is never stored: `at`
// says where in x an element lies.
#pragma once
#include "tu_conv3x3.cuh"
#include "tu_index.cuh"

struct Patches {
  const Conv3x3 p;
  const float *x;
  const int pixels, columns;        // N P Q, 9 C
  const FastDivision by_c, by_q, by_p;

  __device__ Patches(const Conv3x3 &p, const float *x)
      : p(p), x(x), pixels(p.N * p.P() * p.Q()), columns(9 * p.C), by_c(p.C), by_q(p.Q()), by_p(p.P()) {}

  // Where patch `pixel` has its element `column`; null outside the image, and past the last column.
  __device__ __forceinline__ const float *at(int pixel, int column) const {
    const int tap = by_c.quotient(column), c = column - tap * p.C;
    const int row = by_q.quotient(pixel), j = pixel - row * p.Q();
    const int n = by_p.quotient(row), i = row - n * p.P();
    const int h = i + tap / 3 - p.pad, v = j + tap % 3 - p.pad;
    return column < columns && p.inside(h, v) ? x + p.x_at(n, h, v) + c : nullptr;
  }
};
