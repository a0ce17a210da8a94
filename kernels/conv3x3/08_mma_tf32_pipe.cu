// 08 mma tf32 pipe: copies run three pieces ahead of the tensor cores, and warps compute 64x64. The kernel for sm_80 and newer.
//
// Changed since 07: cp.async carries pieces into a ring of 4 stages of shared memory, past the registers; a block waits only for a
//   copy that it asked for three pieces ago. A warp computes 64 pixels by 64 channels, not 64 by 32; a block 128 by 128, or
//   256 by 64 for layers with so few channels. Factors come unrounded, so they are rounded when they are taken.
//   PRECISE computes in 3xTF32, with the accuracy of float32 (tu_mma.cuh), and is the default of the network. If there are
//   fewer tiles than multiprocessors, gridDim.z blocks share a tile, each takes a part of the 9 C inputs and writes its sums to
//   y + z N P Q O; reduce/add_splits.cu adds them in order, so the result is the same at every run.
// Why faster: nobody waits for global memory; and 64 values from shared memory serve 32 mma, where 07 needs 48 for 32.
// Predicted gain over 07: 2x to 3x in TF32. 3xTF32 has a third of that speed, about 1.7x that of 06.
// Measured gain:
// Limited by: issue. For an mma a warp issues 4 instructions: itself, a load, two that round; in 3xTF32 4.3. On an H100 a scheduler
//   has about 6 clocks for them, as mma.sync reaches two thirds of what Hopper's own wgmma can do. Shared memory serves one
//   request an mma. In TF32 a thread has up to 204 registers, in 3xTF32 128 (CHANNELS = 64: 168): 8, 16 and 12 warps for a
//   multiprocessor. In 3xTF32 an infinity may become NaN: what is left of it beyond its first bits is inf - inf.
//
// Launch: grid (ceil(N P Q / PIXELS), ceil(O / CHANNELS), splits), block THREADS, and 4 Blocks of dynamic shared memory, 58 to 98 KiB:
//   see Block. With splits, b is null and relu 0. WIDE as in 05.
#include "tu_conv3x3.cuh"
#include "tu_epilogue.cuh"
#include "tu_mma.cuh"
#include "tu_tile.cuh"

constexpr int DEPTH = 16, STAGES = 4;

// The tile of a block. One of 64 channels is for layers with so few. In 3xTF32 shared memory has three times as long for a
// warp's tile, so that half of one is enough: it leaves registers for two factors of each value.
template <int WIDTH, bool PRECISE> struct Block {
  static constexpr int CHANNELS = WIDTH, PIXELS = WIDTH == 64 && !PRECISE ? 256 : 128;
  static constexpr int COLUMNS = PRECISE ? 32 : 64, ACROSS = CHANNELS / COLUMNS;  // of a warp; warps side by side
  static constexpr int THREADS = PIXELS / 64 * ACROSS * 32;
  static constexpr int BLOCKS = WIDTH == 64 && PRECISE ? 3 : 2;  // that share a multiprocessor

  float x[PIXELS][DEPTH + 4];    // one stage; pitches as in 07: no two lanes of a warp want the same bank
  float w[DEPTH][CHANNELS + 8];
};

// Copies from[at] to from[at + 3], of which the first `valid` exist; the others become zero. WIDE as in load4.
template <bool WIDE> __device__ __forceinline__ void copy4(float *to, const float *from, int at, int valid) {
  if (WIDE)
    tu_cp_async16(to, valid > 0 ? from + at : from, valid > 0);
  else
    for (int i = 0; i < 4; i++) tu_cp_async4(to + i, valid > i ? from + at + i : from, valid > i);
}

template <int WIDTH, bool WIDE, bool PRECISE>
__global__ void __launch_bounds__(Block<WIDTH, PRECISE>::THREADS, Block<WIDTH, PRECISE>::BLOCKS)
conv3x3(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int N, int H, int W, int C, int O, int pad, int relu) {
  using B = Block<WIDTH, PRECISE>;
  constexpr int X_QUADS = DEPTH / 4, X_STEP = B::THREADS / X_QUADS, X_PER_THREAD = B::PIXELS / X_STEP;  // copies of 16 bytes
  constexpr int W_QUADS = WIDTH / 4, W_STEP = B::THREADS / W_QUADS, W_PER_THREAD = DEPTH / W_STEP;
  extern __shared__ __align__(16) float memory[];
  auto stages = reinterpret_cast<B *>(memory);
  const Conv3x3 p{N, H, W, C, O, pad};
  const int m0 = blockIdx.x * B::PIXELS, o0 = blockIdx.y * WIDTH;

  // This block's part of the pieces, all of them if gridDim.z is 1.
  const int pieces = (C + DEPTH - 1) / DEPTH, share = (9 * pieces + gridDim.z - 1) / gridDim.z;
  const int first = blockIdx.z * share, steps = min(share, 9 * pieces - first);

  // The eight lanes that store together have two pixels, 4 apart: 80 floats in the tile, so that they fill all banks.
  const int pixel = threadIdx.x / 32 * 8 + threadIdx.x / 4 % 2 * 4 + threadIdx.x / 8 % 4;
  Conv3x3::Window windows[X_PER_THREAD];
#pragma unroll
  for (int i = 0; i < X_PER_THREAD; i++) windows[i] = p.window(m0 + pixel + i * X_STEP);

  int tap = first / pieces, c0 = first % pieces * DEPTH;  // of the piece that is copied next
  auto load = [&](int, int stage) {
    const int channel = threadIdx.x % X_QUADS * 4, depth = threadIdx.x / W_QUADS, o = threadIdx.x % W_QUADS * 4;
    const int at = (tap / 3 * W + tap % 3) * C + c0 + channel;
#pragma unroll
    for (int i = 0; i < X_PER_THREAD; i++)
      copy4<WIDE>(&stages[stage].x[pixel + i * X_STEP][channel], x, windows[i].at + at,
                  windows[i].taps >> tap & 1 ? C - c0 - channel : 0);
#pragma unroll
    for (int i = 0; i < W_PER_THREAD; i++) {
      const int c = c0 + depth + i * W_STEP;
      copy4<WIDE>(&stages[stage].w[depth + i * W_STEP][o], w, (tap * C + c) * O + o0 + o, c < C ? O - o0 - o : 0);
    }
    c0 += DEPTH;
    if (c0 >= C) c0 = 0, tap++;
  };

  const int row = threadIdx.x / 32 / B::ACROSS * 64, column = threadIdx.x / 32 % B::ACROSS * B::COLUMNS;
  WarpTile<64, B::COLUMNS, PRECISE> tile;
  pipeline<STAGES>(steps, load, [&](int stage) {
    const auto &s = stages[stage];
#pragma unroll(PRECISE ? 1 : 2)  // unrolled, 3xTF32 would not fit into 128 registers
    for (int k0 = 0; k0 < DEPTH; k0 += 8)
      tile.multiply([&](int i, int k) { return s.x[row + i][k0 + k]; }, [&](int k, int j) { return s.w[k0 + k][column + j]; });
  });

  const int pixels = N * p.P() * p.Q();
  const Epilogue epilogue{b, relu};
  y += (size_t)blockIdx.z * pixels * O;
  tile.each_pair([&](int i, int j, float sum, float next) {
    const int m = m0 + row + i, to = o0 + column + j;
    if (m >= pixels || to >= O) return;
    if (WIDE || to + 1 < O) next = epilogue(next, to + 1);
    store_pair(y + m * O + to, epilogue(sum, to), next, O - to, WIDE || O % 2 == 0);
  });
}
