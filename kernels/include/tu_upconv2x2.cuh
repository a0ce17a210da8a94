// What all up-convolutions share: the problem, and its sizes.
//
//   y[n, 2i+a, 2j+d, o] = b[o] + sum over c of x[n,i,j,c] w[a,d,o,c]        a, d in {0, 1}
//   (N, H, W, C), (2, 2, O, C) -> (N, 2H, 2W, O)
//
// Every pixel of x paints 2x2 pixels of y, and no two overlap: 4 O numbers, q = (a, d, o) in the order of the weights. So with
// pixels in rows all three directions are products of matrices, and where y's elements lie is the whole difference:
//
//   forward   y (N H W, 4 O) = x (N H W, C) w^T        w (4 O, C)
//   grad_x   dx (N H W, C)   = dy (N H W, 4 O) w
//   grad_w   dw (4 O, C)     = dy^T (4 O, N H W) x
#pragma once
#include "tu_index.cuh"

struct UpConv2x2 {
  int pixels, W, C, O;  // pixels = N H W
  FastDivision by_w;

  __device__ UpConv2x2(int pixels, int W, int C, int O) : pixels(pixels), W(W), C(C), O(O), by_w(W) {}

  // Where in y pixel `pixel` of x has its number q. For one a the numbers (d, o) of a pixel are 2 O neighbours in memory, and
  // the next pixel's come right after them: y is (N H, 2, W, 2 O).
  __device__ __forceinline__ int y_at(int pixel, int q) const {
    const int row = by_w.quotient(pixel), a = q >= 2 * O;
    return (pixel + (row + a) * W) * 2 * O + q - a * 2 * O;
  }
};
