"""Initial weights: Gaussian with standard deviation sqrt(2/N) (section 3; He et al. 2015), biases zero.

N is the number of numbers that one output adds up. A ReLU halves the mean square of its input; a variance of 2/N doubles it
again, so that activations neither vanish nor explode with depth.
"""

from __future__ import annotations

import math

import numpy as np

from tinyunet.backend import Array


def he_normal(shape: tuple[int, ...], fan_in: int, rng: np.random.Generator) -> Array:
    """w ~ N(0, 2 / fan_in)

    -> shape, float32

    fan_in is 9 C for a 3x3 convolution of C channels (the paper's example: 9 * 64 = 576), C for a 1x1 convolution and for a
    2x2 up-convolution of stride 2, where every output pixel sees a single input pixel. (The authors' release divides by 4 O
    there, a peculiarity of its framework.)
    """
    w = rng.standard_normal(shape, dtype=np.float32)
    w *= math.sqrt(2 / fan_in)
    return w
