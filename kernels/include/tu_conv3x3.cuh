// What all 3x3 convolutions of the ladder share: the problem, and its sizes.
//
//   y[n,i,j,o] = sum over r,s,c of x[n, i+r-pad, j+s-pad, c] w[r,s,c,o]        x is zero outside the image
//   (N, H, W, C), (3, 3, C, O) -> (N, P, Q, O)     P = H + 2 pad - 2, Q = W + 2 pad - 2
//
// Everything is NHWC and C-contiguous. Arrays have fewer than 2^31 elements.
#pragma once

struct Conv3x3 {
  int N, H, W, C, O, pad;

  __device__ int P() const { return H + 2 * pad - 2; }
  __device__ int Q() const { return W + 2 * pad - 2; }

  // Whether input pixel (h, v) lies in the image; an unsigned comparison is both h >= 0 and h < H.
  __device__ bool inside(int h, int v) const { return (unsigned)h < (unsigned)H && (unsigned)v < (unsigned)W; }

  __device__ int x_at(int n, int h, int v) const { return ((n * H + h) * W + v) * C; }       // of channel 0
  __device__ int y_at(int n, int i, int j) const { return ((n * P() + i) * Q() + j) * O; }   // of channel 0
  __device__ int w_at(int r, int s, int c) const { return ((r * 3 + s) * C + c) * O; }       // of output channel 0
};
