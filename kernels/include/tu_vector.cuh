// Kernels that do little with much data are templates of V, what a thread moves at a time: float, or float4 where the number of
// channels is a multiple of 4. Sixteen bytes a load are a quarter of the instructions, and four times the bytes under way.
#pragma once

template <class V> struct Vector;
template <> struct Vector<float> { static constexpr int WIDTH = 1; using Bytes = unsigned char; };
template <> struct Vector<float4> { static constexpr int WIDTH = 4; using Bytes = uchar4; };
template <> struct Vector<double> { static constexpr int WIDTH = 1; };

// Element k of a vector. k is known once a loop is unrolled, so that this is a register and no address.
__device__ __forceinline__ float &at(float &v, int) { return v; }
__device__ __forceinline__ double &at(double &v, int) { return v; }
__device__ __forceinline__ float &at(float4 &v, int k) { return (&v.x)[k]; }
__device__ __forceinline__ unsigned char &at(unsigned char &v, int) { return v; }
__device__ __forceinline__ unsigned char &at(uchar4 &v, int k) { return (&v.x)[k]; }
__device__ __forceinline__ float at(const float &v, int) { return v; }
__device__ __forceinline__ double at(const double &v, int) { return v; }
__device__ __forceinline__ float at(const float4 &v, int k) { return (&v.x)[k]; }
__device__ __forceinline__ unsigned char at(const unsigned char &v, int) { return v; }
__device__ __forceinline__ unsigned char at(const uchar4 &v, int k) { return (&v.x)[k]; }

template <class V> __device__ __forceinline__ V zeros() {
  V v;
  for (int k = 0; k < Vector<V>::WIDTH; k++) at(v, k) = 0;
  return v;
}

// The sum over the lanes of a warp, all of which must call it. Every lane gets it, added up in the same order.
template <class T> __device__ __forceinline__ T warp_sum(T value) {
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
  return value;
}
