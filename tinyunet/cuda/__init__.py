"""The CUDA kernels of `kernels/`: `source` reads them, `emulator` runs them on a machine without a GPU."""
