// What the kernels of batch normalisation share. Forward and backward must agree to the last bit on which values the ReLU
// behind it let through, so both get them from here, with a fused multiply-add that no compiler may undo or add.
#pragma once

__device__ __forceinline__ float normalized(float x, float mean, float inv_std) { return (x - mean) * inv_std; }
__device__ __forceinline__ float scaled(float x_hat, float gamma, float beta) { return fmaf(gamma, x_hat, beta); }
