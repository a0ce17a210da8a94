#include "tu_device.cuh"

// D = A B + D for one 16x8x8 tile: a (16, 8), b (8, 8), d (16, 8), row by row.
extern "C" __global__ void mma(float *d, const float *a, const float *b, int round) {
  int l = threadIdx.x, g = l / 4, t = l % 4;
  auto bits = [&](float v) { return round ? tu_tf32(v) : __float_as_uint(v); };
  unsigned fa[4] = {bits(a[g * 8 + t]), bits(a[(g + 8) * 8 + t]), bits(a[g * 8 + t + 4]), bits(a[(g + 8) * 8 + t + 4])};
  unsigned fb[2] = {bits(b[t * 8 + g]), bits(b[(t + 4) * 8 + g])};
  float fd[4];
  for (int i = 0; i < 4; i++) fd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  tu_mma_m16n8k8(fd, fa, fb);
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}

// y (stages, 4 n): what each stage holds right after the wait that leaves `stages - 1 - stage` groups under way.
extern "C" __global__ void copies(float *y, const float *x, int valid) {
  extern __shared__ __align__(16) float s[];
  int t = threadIdx.x, n = blockDim.x;
  for (int stage = 0; stage < 3; stage++) {
    int at = (stage * n + t) * 4;
    tu_cp_async16(s + at, x + at, at < valid);
    tu_cp_commit();
  }
  tu_cp_wait<2>();
  for (int i = 0; i < 4; i++) y[t * 4 + i] = s[t * 4 + i];
  tu_cp_wait<1>();
  for (int i = 0; i < 4; i++) y[(n + t) * 4 + i] = s[(n + t) * 4 + i];
  tu_cp_wait<0>();
  for (int i = 0; i < 4; i++) y[(2 * n + t) * 4 + i] = s[(2 * n + t) * 4 + i];
}

// What lies in shared memory while a copy is under way: NaN, so that a result shows it.
extern "C" __global__ void too_early(float *y, const float *x) {
  __shared__ float4 s[32];
  tu_cp_async16(&s[threadIdx.x], x + threadIdx.x * 4, true);
  tu_cp_commit();
  y[threadIdx.x] = s[threadIdx.x].x;
}

// A three-stage pipeline as the fast rungs have it: copies run ahead, one barrier a round.
extern "C" __global__ void pipeline(float *y, const float *x, int rounds) {
  __shared__ float s[3][128];
  int t = threadIdx.x;
  auto load = [&](int round) {
    if (round < rounds) tu_cp_async16(&s[round % 3][t * 4], x + (round * 32 + t) * 4, true);
    tu_cp_commit();
  };
  load(0);
  load(1);
  float sum = 0;
  for (int round = 0; round < rounds; round++) {
    tu_cp_wait<1>();
    __syncthreads();
    load(round + 2);
    for (int i = 0; i < 4; i++) sum += s[round % 3][(t * 4 + i + 17) % 128];
  }
  y[t] = sum;
}

// The barrier comes before the wait: it orders the start of the copies, not their landing.
extern "C" __global__ void early_barrier(float *y, const float *x) {
  __shared__ float4 s[64];
  int t = threadIdx.x;
  tu_cp_async16(&s[t], x + t * 4, true);
  tu_cp_commit();
  __syncthreads();
  tu_cp_wait<0>();
  if (t >= 32) y[t] = s[t - 32].x;
}
