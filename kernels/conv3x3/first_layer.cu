// The first layer: 1 to 4 channels in, grey or colour, and many out.
//
// It is bound by memory: of grey images, a result costs 9 multiply-adds and 4 bytes to be written. The tiles of the ladder would
// fill most of their depth with zeros here. So every thread keeps a row of 8 pixels of 4 channels in registers; the weights
// and the few values of x come from the cache, where all blocks find them, and the results are written 16 bytes at a time.
//
// Launch: block (lanes, 256 / lanes), a lane for 4 channels, 16 lanes at most; grid (ceil(pieces / block.y), ceil(O / 4 lanes))
//   with N P ceil(Q / 8) pieces. C is a template argument; WIDE: O is a multiple of 4, and arrays start at 16 bytes.
#include "tu_conv3x3.cuh"
#include "tu_epilogue.cuh"

constexpr int PIECE = 8;  // pixels

template <int C, bool WIDE> __global__ void __launch_bounds__(256)
conv3x3(const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b, float *__restrict__ y,
        int N, int H, int W, int O, int pad, int relu) {
  const Conv3x3 p{N, H, W, C, O, pad};
  const int across = (p.Q() + PIECE - 1) / PIECE, piece = blockIdx.x * blockDim.y + threadIdx.y;
  const int j0 = piece % across * PIECE, i = piece / across % p.P(), n = piece / (across * p.P());
  const int o = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
  if (n >= N || o >= O) return;

  float sum[PIECE][4] = {};
#pragma unroll
  for (int r = 0; r < 3; r++)
#pragma unroll
    for (int c = 0; c < C; c++) {
      float row[PIECE + 2];  // what the three taps of this row read of this channel; the same for all lanes
#pragma unroll
      for (int k = 0; k < PIECE + 2; k++) {
        const int h = i + r - pad, v = j0 + k - pad;
        row[k] = p.inside(h, v) ? x[p.x_at(n, h, v) + c] : 0.0f;
      }
#pragma unroll
      for (int s = 0; s < 3; s++) {
        float weights[4];
        spread(weights, load4<WIDE>(w + p.w_at(r, s, c) + o, O - o));
#pragma unroll
        for (int k = 0; k < PIECE; k++)
#pragma unroll
          for (int q = 0; q < 4; q++) sum[k][q] += row[k + s] * weights[q];
      }
    }

  const Epilogue epilogue{b, relu};
#pragma unroll
  for (int k = 0; k < PIECE; k++) {
    const float4 v = make_float4(sum[k][0], sum[k][1], sum[k][2], sum[k][3]);
    if (j0 + k < p.Q()) store4<WIDE>(y + p.y_at(n, i, j0 + k) + o, epilogue(v, o, O - o), O - o);
  }
}

// Gradient by the weights, first of two passes:  dw[r,s,c,o] = sum over n,i,j of x[n,i+r-pad,j+s-pad,c] dy[n,i,j,o].
// A thread has one output channel and all 9 C sums of it in registers. It walks along pieces of rows of 64 pixels; the 9 C values of x
// under the window are kept, too, so a step loads one value of dy and the 3 C values that come into the window. The rows of a
// block are added up in shared memory, in order, and every block writes sums of its own, which reduce/channel_sum.cu adds in
// order: the result is the same at every run.
//
// Launch: block (32, 8), grid (parts, ceil(O / 32)); partials is (parts, 3, 3, C, O).
template <int C> __global__ void __launch_bounds__(256)
conv3x3_grad_w(const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ partials,
               int N, int H, int W, int O, int pad) {
  constexpr int LENGTH = 64, ROWS = 8;
  __shared__ float sums[ROWS][9 * C][32];
  const Conv3x3 p{N, H, W, C, O, pad};
  const int o = blockIdx.y * 32 + threadIdx.x;
  const int across = (p.Q() + LENGTH - 1) / LENGTH, pieces = N * p.P() * across;

  float sum[3][3][C] = {};
  for (int piece = blockIdx.x * ROWS + threadIdx.y; piece < pieces; piece += gridDim.x * ROWS) {
    const int j0 = piece % across * LENGTH, i = piece / across % p.P(), n = piece / (across * p.P());
    const int end = min(j0 + LENGTH, p.Q());
    float window[3][3][C];
    auto column = [&](int s, int v) {       // column v of x comes into column s of the window
#pragma unroll
      for (int r = 0; r < 3; r++)
#pragma unroll
        for (int c = 0; c < C; c++) {
          const int h = i + r - pad;
          window[r][s][c] = p.inside(h, v) ? x[p.x_at(n, h, v) + c] : 0.0f;
        }
    };
    column(0, j0 - pad);
    column(1, j0 + 1 - pad);
    for (int j = j0; j < end; j++) {
      column(2, j + 2 - pad);
      const float g = o < O ? dy[p.y_at(n, i, j) + o] : 0.0f;
#pragma unroll
      for (int r = 0; r < 3; r++)
#pragma unroll
        for (int c = 0; c < C; c++) {
#pragma unroll
          for (int s = 0; s < 3; s++) sum[r][s][c] += window[r][s][c] * g;
          window[r][0][c] = window[r][1][c];
          window[r][1][c] = window[r][2][c];
        }
    }
  }

#pragma unroll
  for (int k = 0; k < 9 * C; k++) sums[threadIdx.y][k][threadIdx.x] = sum[k / (3 * C)][k / C % 3][k % C];
  __syncthreads();
  for (int k = threadIdx.y; k < 9 * C; k += ROWS) {
    float total = 0.0f;
    for (int row = 0; row < ROWS; row++) total += sums[row][k][threadIdx.x];
    if (o < O) partials[(blockIdx.x * 9 * C + k) * O + o] = total;
  }
}
