// The instructions that CUDA C++ has no word for: tensor cores and asynchronous copies. The only file with PTX, and the only
// one that knows of the emulator. Kernels include no other header: NVRTC finds none.
#pragma once

// mma.sync m16n8k8, TF32: a warp computes D += A B with A 16x8, B 8x8, D 16x8. Lane l holds, with g = l / 4 and t = l % 4,
//   a[0] = A[g][t]     a[1] = A[g+8][t]     a[2] = A[g][t+4]   a[3] = A[g+8][t+4]
//   b[0] = B[t][g]     b[1] = B[t+4][g]
//   d[0] = D[g][2t]    d[1] = D[g][2t+1]    d[2] = D[g+8][2t]  d[3] = D[g+8][2t+1]
// A and B are the bits of floats; the tensor core ignores the low 13 (round them before: tu_tf32). sm_80 and newer.
//
// cp.async copies 16 or 4 bytes from global to shared memory while the thread goes on; `read` false fills in zeros instead, and
// the global address is then not used. Copies are committed in groups, and tu_cp_wait<N>() returns when all but the newest N
// groups of this thread have landed. Other threads see them after the next __syncthreads(). sm_80 and newer.

#ifdef TU_EMULATOR

__device__ __forceinline__ void tu_mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  tu_emu::mma_m16n8k8_tf32(d, a, b);
}
__device__ __forceinline__ unsigned tu_tf32(float x) {  // to nearest, ties away from zero
  unsigned bits = __float_as_uint(x);
  bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (finite ? bits + 0x1000u : bits) & 0xffffe000u;
}
__device__ __forceinline__ void tu_cp_async16(void *shared, const void *global, bool read) {
  tu_emu::copy_async(shared, global, 16, read ? 16 : 0);
}
__device__ __forceinline__ void tu_cp_async4(void *shared, const void *global, bool read) {
  tu_emu::copy_async(shared, global, 4, read ? 4 : 0);
}
__device__ __forceinline__ void tu_cp_commit() { tu_emu::commit_copies(); }
template <int N> __device__ __forceinline__ void tu_cp_wait() { tu_emu::wait_copies(N); }

#else

__device__ __forceinline__ void tu_mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ unsigned tu_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}
__device__ __forceinline__ void tu_cp_async16(void *shared, const void *global, bool read) {
  unsigned to = (unsigned)__cvta_generic_to_shared(shared);
  int size = read ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(size) : "memory");
}
__device__ __forceinline__ void tu_cp_async4(void *shared, const void *global, bool read) {
  unsigned to = (unsigned)__cvta_generic_to_shared(shared);
  int size = read ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(size) : "memory");
}
__device__ __forceinline__ void tu_cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void tu_cp_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#endif
