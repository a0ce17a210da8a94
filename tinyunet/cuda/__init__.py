"""The CUDA kernels of `kernels/`, on a GPU through CuPy, or emulated on a machine without one.

`source` reads them, `loader` compiles and launches them on a GPU, `emulator` runs them without; `runtime` has one call for both.
A module for every operation makes the results and knows how its kernels are launched. Operations ask `takes(x)`, and go there or
through their formulas.
"""

from tinyunet.cuda import crop, head, norm, optim, pool, relu, sums
from tinyunet.cuda.rungs import precision
from tinyunet.cuda.runtime import emulated, takes

__all__ = ["crop", "emulated", "head", "norm", "optim", "pool", "precision", "relu", "sums", "takes"]
