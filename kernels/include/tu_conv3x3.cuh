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

  // The rungs from 04 on number the output pixels of all images, m = (n P + i) Q + j: so y_at(n, i, j) is m O.
  // Window m is what pixel m reads: tap (r, s) is bit 3 r + s of `taps` if it lies in the image, and then its channel 0 is
  // x[at + (r W + s) C]. Past the last pixel no tap is set. All divisions are here, once for a thread, before its loop.
  struct Window { int at; unsigned taps; };
  __device__ Window window(int m) const {
    const int j = m % Q(), i = m / Q() % P(), n = m / (Q() * P());
    unsigned taps = 0;
    for (int tap = 0; tap < 9; tap++)
      if (n < N && inside(i + tap / 3 - pad, j + tap % 3 - pad)) taps |= 1u << tap;
    return {x_at(n, i - pad, j - pad), taps};
  }
};

// Four neighbours in memory, of which the first `valid` exist: the others are read as zero, and not written.
// WIDE promises that all four exist or none, and that they start at a multiple of 16 bytes: one access, not four.
template <bool WIDE> __device__ float4 load4(const float *from, int valid) {
  if (WIDE) return valid > 0 ? *(const float4 *)from : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  return make_float4(valid > 0 ? from[0] : 0.0f, valid > 1 ? from[1] : 0.0f, valid > 2 ? from[2] : 0.0f, valid > 3 ? from[3] : 0.0f);
}
template <bool WIDE> __device__ void store4(float *to, float4 v, int valid) {
  if (WIDE) {
    if (valid > 0) *(float4 *)to = v;
    return;
  }
  if (valid > 0) to[0] = v.x;
  if (valid > 1) to[1] = v.y;
  if (valid > 2) to[2] = v.z;
  if (valid > 3) to[3] = v.w;
}
__device__ inline void spread(float *to, float4 v) { to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w; }
