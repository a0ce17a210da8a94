"""The ladders of the hot operations on the CPU; importing this package registers every rung, and those of CUDA above them.

`conv3x3` computes  y[n,i,j,o] = sum over r,s,c of x[n, i+r-pad, j+s-pad, c] w[r,s,c,o]   (x is zero outside the image)

    forward(x, w, pad)         (N, H, W, C), (K, K, C, O) -> (N, P, Q, O)     P = H + 2 pad - K + 1
    grad_x(dy, w, pad)         (N, P, Q, O), (K, K, C, O) -> (N, H, W, C)
    grad_w(x, dy, size, pad)   (N, H, W, C), (N, P, Q, O) -> (K, K, C, O)     K = size

`upconv2x2` computes  y[n, 2i+a, 2j+b, o] = sum over c of x[n,i,j,c] w[a,b,o,c]

    forward(x, w)              (N, H, W, C), (2, 2, O, C) -> (N, 2H, 2W, O)
    grad_x(dy, w)              (N, 2H, 2W, O), (2, 2, O, C) -> (N, H, W, C)
    grad_w(x, dy)              (N, H, W, C), (N, 2H, 2W, O) -> (2, 2, O, C)

These are linear, and the two gradients are the adjoints of forward. A bias is no part of them: the operation adds it, or lets
a rung that has `fused` do so, forward(..., b), while the values are in the cache. Rungs do not check their arguments: the
operations have done so.
"""

from tinyunet.cuda import rungs as kernels
from tinyunet.ladder import register
from tinyunet.rungs import gemm, im2col, loops, planes, strips, taps, winograd, winograd1d

register("conv3x3", loops.CONV)
register("conv3x3", taps.CONV)
register("conv3x3", im2col.CONV)
register("conv3x3", strips.CONV)
register("conv3x3", planes.CONV)
register("conv3x3", winograd1d.CONV)
register("conv3x3", winograd.CONV)
register("upconv2x2", loops.UPCONV)
register("upconv2x2", gemm.UPCONV)
for rung in kernels.CONV:
    register("conv3x3", rung)
for rung in kernels.UPCONV:
    register("upconv2x2", rung)
