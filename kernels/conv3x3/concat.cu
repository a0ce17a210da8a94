// The convolution behind crop and concatenate, without the concatenation: it reads the up path's map and the skip where they lie.
//
//   y = conv(concat(up, crop(skip)), w) = conv(up, w[:, :, :U]) + conv(crop(skip), w[:, :, U:])
//
// Changed since 08: a block walks over two maps, one after the other, and adds both to the same sums, which stay in registers
//   meanwhile. In between the pipeline runs empty once. It is 08 for channels of both maps in multiples of DEPTH, and without
//   splits.
// Saved: the copy, which reads and writes every value of the concatenation: at the first level of the paper's network 157 MB an
//   image, on an H100 an estimated 50 us beside a convolution of 300 us; and its 79 MB, which need not be kept for the gradient.
// Predicted gain over crop/forward.cu, then 08: 1.15x at the first level, 1.05x at the deepest, if there are tiles enough.
// Measured gain:
// Limited by: as 08. Where there are fewer tiles than multiprocessors, 08 with splits on the copy is faster.
//
// Launch: grid (ceil(N P Q / PIXELS), ceil(O / CHANNELS)), block THREADS, STAGES stages of dynamic shared memory, as `Block` has
//   them. In 3xTF32 CHANNELS is 64: 128 spill a register.
#include "tu_concat.cuh"
#include "tu_conv3x3.cuh"
#include "tu_epilogue.cuh"
#include "tu_mma.cuh"
#include "tu_tile.cuh"

constexpr int DEPTH = 16, STAGES = 4, QUADS = DEPTH / 4;  // copies of 16 bytes for one pixel

template <int CHANNELS, bool PRECISE> struct Block {
  static constexpr int PIXELS = CHANNELS == 64 && !PRECISE ? 256 : 128;
  using Sums = BlockTile<PIXELS, CHANNELS, PRECISE>;

  Tile<PIXELS, DEPTH, 4> x;  // one stage; padded as in 08
  Tile<DEPTH, CHANNELS, 8> w;
};

template <int CHANNELS, bool PRECISE>
__global__ void __launch_bounds__(Block<CHANNELS, PRECISE>::Sums::THREADS, 2)  // 2 blocks on a multiprocessor
conv3x3_concat(const float *__restrict__ up, const float *__restrict__ skip, const float *__restrict__ w,
               const float *__restrict__ b, float *__restrict__ y,
               int N, int H, int W, int up_channels, int A, int B, int skip_channels, int top, int left,
               int O, int pad, int relu) {
  using Stage = Block<CHANNELS, PRECISE>;
  constexpr int THREADS = Stage::Sums::THREADS, STEP = THREADS / QUADS, PER_THREAD = Stage::PIXELS / STEP;
  constexpr int W_QUADS = CHANNELS / 4, W_STEP = THREADS / W_QUADS, W_PER_THREAD = DEPTH / W_STEP;
  extern __shared__ __align__(16) float memory[];
  auto stages = reinterpret_cast<Stage *>(memory);
  const Concat<float> both{up, skip, H, W, up_channels, A, B, skip_channels, top, left};
  const Conv3x3 p{N, H, W, both.channels(), O, pad};
  const int m0 = blockIdx.x * Stage::PIXELS, o0 = blockIdx.y * CHANNELS;
  const int pixel = threadIdx.x / 32 * 8 + threadIdx.x / 4 % 2 * 4 + threadIdx.x / 8 % 4;  // in the order of 08

  typename Stage::Sums sums;
#pragma unroll  // twice the code, but what differs between the maps needs no registers
  for (int map = 0; map < 2; map++) {
    const int channels = map ? skip_channels : up_channels, columns = map ? B : W, first = map ? up_channels : 0;
    const float *const x = map ? skip : up;
    int windows[PER_THREAD];                                // where in it the first tap of each pixel has channel 0
    unsigned taps[PER_THREAD];
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
      const int m = m0 + pixel + i * STEP, row = m / p.Q();
      windows[i] = both.at(row / p.P(), row % p.P() - pad, m % p.Q() - pad, first) - x;
      taps[i] = p.window(m).taps;
    }
    int tap = 0, c0 = 0;                                    // of the piece that is copied next
    auto load = [&](int, int stage) {
      const int channel = threadIdx.x % QUADS * 4;
      const int at = (tap / 3 * columns + tap % 3) * channels + c0 + channel;
#pragma unroll
      for (int i = 0; i < PER_THREAD; i++) {
        const bool inside = taps[i] >> tap & 1;
        tu_cp_async16(&stages[stage].x(pixel + i * STEP, channel), inside ? x + windows[i] + at : x, inside);
      }
      const int depth = threadIdx.x / W_QUADS, o = threadIdx.x % W_QUADS * 4;
#pragma unroll
      for (int i = 0; i < W_PER_THREAD; i++) {
        const int row = depth + i * W_STEP;
        const bool inside = o0 + o < O;
        tu_cp_async16(&stages[stage].w(row, o), w + (tap * p.C + first + c0) * O + (inside ? row * O + o0 + o : 0), inside);
      }
      c0 += DEPTH;
      if (c0 == channels) c0 = 0, tap++;
    };
    pipeline<STAGES>(9 * (channels / DEPTH), load, [&](int stage) {
      auto &s = stages[stage];
#pragma unroll(PRECISE ? 1 : 2)  // as in 08
      for (int k0 = 0; k0 < DEPTH; k0 += 8)
        sums.template multiply<8>([&](int m, int k) { return s.x(m, k0 + k); }, [&](int k, int o) { return s.w(k0 + k, o); });
    });
    __syncthreads();                                        // all are done with the last stages: the next map may have them
  }

  const Epilogue epilogue{b, relu};
  sums.each_pair([&](int i, int j, float sum, float next) {
    const int m = m0 + i, o = o0 + j;
    if (m < N * p.P() * p.Q() && o < O) store_pair(y + m * O + o, epilogue(sum, o), epilogue(next, o + 1), O - o, true);
  });
}
