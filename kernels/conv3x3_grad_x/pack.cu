// pack: the weights that turn a forward kernel into the gradient by input.
//
//   dx[n,h,v,c] = sum over r,s,o of dy[n, h-r+pad, v-s+pad, o] w[r,s,c,o]
//
// With r' = 2 - r, s' = 2 - s and pad' = 2 - pad this is dy[n, h+r'-pad', v+s'-pad', o] packed[r',s',o,c]: a forward
// convolution of dy by packed[r,s,o,c] = w[2-r, 2-s, c, o], taps flipped, C and O swapped. So every rung of `conv3x3/` is a
// gradient by input too, and it gathers: no output is written twice, and nothing depends on an order.
//
// What it costs: 9 C O floats are read and written once; at 1024 channels 75 MB, a hundredth of the convolution's time.
// Tile by tile through shared memory, for the swap is a transposition: lanes read along O and write along C. A row of the tile
// has 33 floats, so that 32 lanes down a column meet 32 banks.
//
// Launch: grid (ceil(O / 32), ceil(C / 32), 9), block (32, 8).

extern "C" __global__ void __launch_bounds__(256)
pack(const float *__restrict__ w, float *__restrict__ packed, int C, int O) {
  __shared__ float tile[32][33];
  const int tap = blockIdx.z, c0 = blockIdx.y * 32, o0 = blockIdx.x * 32;
  for (int c = threadIdx.y; c < 32; c += 8)
    if (c0 + c < C && o0 + threadIdx.x < O)
      tile[c][threadIdx.x] = w[(tap * C + c0 + c) * O + o0 + threadIdx.x];
  __syncthreads();
  for (int o = threadIdx.y; o < 32; o += 8)
    if (o0 + o < O && c0 + threadIdx.x < C)
      packed[((8 - tap) * O + o0 + o) * C + c0 + threadIdx.x] = tile[threadIdx.x][o];  // tap 8 - t is (2 - r, 2 - s)
}
