// 06 pipelined: while a block computes with one piece, the next one is on its way. The kernel for float32 without tensor cores.
//
// Changed since 05: shared memory has two of each tile. Before a thread computes with one, it asks for its part of the next, and
//   puts it into the other when it has computed: the values arrive in registers meanwhile (sm_75 has no cp.async). One barrier
//   a piece is enough, for nobody writes to what others still read. CHANNELS = 64 is there for layers with so many: half of
//   a tile of 128 would be zeros.
// Why faster: a piece is 512 multiply-adds of a thread, about as long as global memory takes to answer. Nobody waits for it.
// Predicted gain: 1.2x to 1.4x.
// Measured gain:
// Limited by: multiply-adds: 64 of them need 4 loads from shared memory, and little else is left in the loop. 128 registers let
//   two blocks of 256 threads share a multiprocessor. Faster is only what multiplies faster: tensor cores.
//
// Launch: grid (ceil(N P Q / 128), ceil(O / CHANNELS)), block 2 CHANNELS. WIDE as in 05.
#include "tu_conv3x3.cuh"
#include "tu_epilogue.cuh"

constexpr int PIXELS = 128;
constexpr int DEPTH = 8;

template <int CHANNELS, bool WIDE> __global__ void __launch_bounds__(2 * CHANNELS, CHANNELS == 128 ? 2 : 3)
conv3x3(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int N, int H, int W, int C, int O, int pad, int relu) {
  constexpr int THREADS = 2 * CHANNELS, QUADS = CHANNELS / 4;
  constexpr int PER_THREAD = PIXELS * DEPTH / 4 / THREADS;  // float4 of x: one, or two
  __shared__ __align__(16) float xs[2][DEPTH][PIXELS + 4];
  __shared__ __align__(16) float ws[2][DEPTH][CHANNELS];
  const Conv3x3 p{N, H, W, C, O, pad};
  const int m0 = blockIdx.x * PIXELS, o0 = blockIdx.y * CHANNELS;

  // 16 rows of threads, CHANNELS / 8 columns; a warp is 4 by 8 of them, as in 05.
  constexpr int ACROSS = CHANNELS / 64, HALF = CHANNELS / 2;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = (warp / ACROSS * 4 + lane / 8) * 4, column = (warp % ACROSS * 8 + lane % 8) * 4;

  const int pixel = threadIdx.x / 2, channel = threadIdx.x % 2 * 4;
  const int depth = threadIdx.x / QUADS, o = threadIdx.x % QUADS * 4;
  Conv3x3::Window windows[PER_THREAD];
  for (int i = 0; i < PER_THREAD; i++) windows[i] = p.window(m0 + pixel + i * THREADS / 2);

  float4 next_x[PER_THREAD], next_w;
  int tap = 0, c0 = 0;                                      // of the piece that is fetched next
  auto fetch = [&] {
    const int at = (tap / 3 * W + tap % 3) * C + c0 + channel;
    for (int i = 0; i < PER_THREAD; i++)
      next_x[i] = load4<WIDE>(x + windows[i].at + at, windows[i].taps >> tap & 1 ? C - c0 - channel : 0);
    next_w = load4<WIDE>(w + (tap * C + c0 + depth) * O + o0 + o, c0 + depth < C ? O - o0 - o : 0);
    c0 += DEPTH;
    if (c0 >= C) c0 = 0, tap++;
  };
  auto put = [&](int stage) {
    for (int i = 0; i < PER_THREAD; i++) {
      float *to = &xs[stage][channel][pixel + i * THREADS / 2];
      to[0 * (PIXELS + 4)] = next_x[i].x;
      to[1 * (PIXELS + 4)] = next_x[i].y;
      to[2 * (PIXELS + 4)] = next_x[i].z;
      to[3 * (PIXELS + 4)] = next_x[i].w;
    }
    *(float4 *)&ws[stage][depth][o] = next_w;
  };

  float sum[8][8] = {};
  fetch();
  put(0);
  __syncthreads();
  for (int stage = 0, more = 1; more; stage ^= 1) {
    more = tap < 9;
    if (more) fetch();                                      // asks, and does not wait: the values are needed in put()
#pragma unroll 2  // all 8 at once, the compiler would load ahead so far that registers run out
    for (int k = 0; k < DEPTH; k++) {
      float inputs[8], weights[8];
      for (int half = 0; half < 2; half++) {
        spread(&inputs[4 * half], *(float4 *)&xs[stage][k][row + 64 * half]);
        spread(&weights[4 * half], *(float4 *)&ws[stage][k][column + HALF * half]);
      }
      for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) sum[i][j] += inputs[i] * weights[j];
    }
    if (more) put(stage ^ 1);
    __syncthreads();                                        // the next piece is complete, and nobody needs this one
  }

  const Epilogue epilogue{b, relu};
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      const int m = m0 + row + i % 4 + i / 4 * 64, to = o0 + column + j / 4 * HALF;
      float4 v = make_float4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]);
      if (m < N * p.P() * p.Q()) store4<WIDE>(y + m * O + to, epilogue(v, to, O - to), O - to);
    }
}
