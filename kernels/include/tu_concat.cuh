// A concatenation that is never written: the map of the up path, and behind it the centre of the skip.
//
// Sizes of channels are in units of V. Pixels are counted in the concatenation, or in the skip, as each says.
#pragma once
#include "tu_vector.cuh"

// Channel c of pixel (n, h, v) of the concatenation lies in one of two maps. A loader that is given this instead of one pointer
// reads both; the channels of a tile that does not straddle the seam all come from one of them.
template <class V> struct Concat {
  const V *up, *skip;
  int H, W, up_channels;        // up: (N, H, W, up_channels)
  int A, B, skip_channels;      // skip: (N, A, B, skip_channels)
  int top, left;                // of the crop, in the skip

  __device__ int channels() const { return up_channels + skip_channels; }
  __device__ const V *at(int n, int h, int v, int c) const {
    return c < up_channels ? up + ((n * H + h) * W + v) * up_channels + c
                           : skip + ((n * A + h + top) * B + v + left) * skip_channels + c - up_channels;
  }
};

// Going back: what a map gets of a smaller one that was cut out of it, from the channel at which its own begin there.
template <class V> struct Cut {
  const V *a;                   // (N, H, W, channels)
  int H, W, channels;
  int top, left, channel;       // its pixel (0, 0) lies at (top, left) of the map, and its channel `channel` is the map's 0

  __device__ V at(int n, int h, int v, int c) const {  // zero outside
    const int i = h - top, j = v - left;
    if ((unsigned)i >= (unsigned)H || (unsigned)j >= (unsigned)W) return zeros<V>();
    return a[((n * H + i) * W + j) * channels + channel + c];
  }
};
