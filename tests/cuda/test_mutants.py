"""Every barrier of every kernel is needed: with any one of them deleted, the checker objects.

A barrier that could go unnoticed would be a cost for nothing, or a gap in the checker. Both have to be seen.
"""

import re

import numpy as np
import pytest

from tinyunet.cuda import conv3x3, conv3x3_gradients, crop, emulated, head, runtime, source, sums, upconv2x2

ORDERS = re.compile(r"__syncthreads\(\);|__syncwarp\([^()]*\);|tu_cp_wait<[^<>]*>\(\);")
HOME = "include/tu_device.cuh"  # which defines what the others use


def forward(rung):
    """Three pieces of 8 or two of 16 channels for each tap: every stage of every ring is used again."""
    return lambda draw: conv3x3.forward(rung, draw(1, 4, 5, 20), draw(3, 3, 20, 8), 1)


def grad_w(rung):
    """A thousand pixels: more steps than there are stages, also in a split."""
    return lambda draw: conv3x3_gradients.grad_w(rung, draw(1, 30, 34, 8), draw(1, 30, 34, 8), 1, sms=1)


def of_head(call):
    """Several tiles of pixels for a block, of 12 channels and 2 classes."""
    return lambda draw: call(draw(2, 19, 23, 12), draw(1, 1, 12, 2), draw(2), np.ones((2, 19, 23), np.int32))


def up_convolution(draw):
    """Forward and both gradients."""
    x, dy, w = draw(1, 6, 7, 36), draw(1, 12, 14, 40), draw(2, 2, 40, 36)
    upconv2x2.forward("02_gemm", x, w)
    upconv2x2.grad_x("02_gemm", dy, w)
    upconv2x2.grad_w("02_gemm", x, dy, sms=1)


# What runs a file that has barriers; a header by a kernel that uses all of it
WORK = {
    "include/tu_tile.cuh": forward("08_mma_3xtf32_pipe"),
    "include/tu_columns.cuh": lambda draw: sums.column_sums(draw(2, 19, 23, 12)),
    "include/tu_head.cuh": of_head(lambda x, w, b, labels: head.backward(x[..., :2].copy(), x, w)),
    "conv3x3/03_halo_tile.cu": forward("03_halo_tile"),
    "conv3x3/04_implicit_gemm.cu": forward("04_implicit_gemm"),
    "conv3x3/05_register_tile.cu": forward("05_register_tile"),
    "conv3x3/06_pipelined.cu": forward("06_pipelined"),
    "conv3x3/07_mma_tf32.cu": forward("07_mma_tf32"),
    "conv3x3/concat.cu": lambda draw: crop.conv_forward(draw(1, 5, 5, 32), draw(1, 7, 7, 16), 1, 1, draw(3, 3, 48, 8), 1),
    "conv3x3/first_layer.cu": lambda draw: conv3x3.first_layer_grad_w(draw(1, 12, 9, 2), draw(1, 10, 7, 4), 0),
    "conv3x3_grad_x/pack.cu": lambda draw: conv3x3_gradients.pack(draw(3, 3, 37, 33)),
    "conv3x3_grad_w/02_block_reduction.cu": grad_w("02_block_reduction"),
    "conv3x3_grad_w/03_split_k.cu": grad_w("03_split_k"),
    "conv3x3_grad_w/04_mma_tf32.cu": grad_w("04_mma_tf32"),
    "head/forward.cu": of_head(lambda x, w, b, labels: head.forward(x, w, b)),
    "head/backward.cu": of_head(lambda x, w, b, labels: head.backward(x[..., :2].copy(), x, w)),
    "head/loss.cu": of_head(lambda x, w, b, labels: head.loss(x, w, b, labels)),
    "upconv2x2/02_gemm.cu": up_convolution,
}


def orders(file):
    """The barriers and waits of a file, as they stand there."""
    return ORDERS.findall((source.kernels_folder() / file).read_text(encoding="utf-8"))


FILES = {path.relative_to(source.kernels_folder()).as_posix() for path in source.kernels_folder().rglob("*.cu*")} - {HOME}
MUTANTS = [(file, text, orders(file)[:number].count(text))
           for file in sorted(FILES) for number, text in enumerate(orders(file))]  # fmt: skip


def test_there_is_work_for_every_file_with_barriers():
    """And for no others, so that none is left out when it gets one."""
    assert {file for file, _, _ in MUTANTS} == set(WORK)


def test_as_they_are_the_kernels_are_not_accused(compiler, monkeypatch):
    """The work of the mutants, on kernels that nobody touched."""
    monkeypatch.setattr(head, "PARTS", 3)
    monkeypatch.setattr(runtime, "EMULATED_MULTIPROCESSORS", 1)
    for work in WORK.values():
        with emulated(mode="check") as run:
            work(lambda *shape: np.random.default_rng(0).standard_normal(shape, np.float32))
        assert not run.problems, run.problems


@pytest.mark.slow
@pytest.mark.parametrize(("file", "text", "which"), MUTANTS)
def test_a_barrier_less_is_reported(file, text, which, compiler, mutate, monkeypatch):
    """A race, or a copy that was not waited for, in the order in which threads run by default."""
    monkeypatch.setattr(head, "PARTS", 3)
    monkeypatch.setattr(runtime, "EMULATED_MULTIPROCESSORS", 1)
    mutate(file, text, ";", which)
    with emulated(mode="check") as run:
        WORK[file](lambda *shape: np.random.default_rng(0).standard_normal(shape, np.float32))
    assert {finding.kind for report in run.problems for finding in report.findings} & {"race", "cp.async not waited for"}
