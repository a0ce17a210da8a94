"""The 1x1 convolution to few classes, alone and together with the loss: kernels/head/."""

from __future__ import annotations

from typing import NamedTuple

from tinyunet.backend import Array, array_module
from tinyunet.cuda import runtime
from tinyunet.cuda.sums import add_parts
from tinyunet.cuda.vectors import PARTS, THREADS, Vector, blocks, ints, vector
from tinyunet.errors import BackendError

CLASSES = 8
"""At most: a thread holds the logits of a pixel in registers."""

SHARED = 48 << 10
"""Bytes of shared memory that every GPU gives a block without being asked."""


def takes(channels: int, classes: int) -> bool:
    """Whether the kernels can run a head of this size."""
    return classes <= CLASSES and _bytes(vector(channels), channels, classes, 32) <= SHARED


def forward(x: Array, w: Array, b: Array) -> Array:
    """y[..., k] = b[k] + sum over c of x[..., c] w[0, 0, c, k]

    (N, H, W, C), (1, 1, C, K), (K,) -> (N, H, W, K)

    Raises BackendError if C or K is too large for the kernel: see `takes`.
    """
    head = _launch(x, w)
    y = array_module(x).empty((*x.shape[:3], w.shape[3]), x.dtype)
    runtime.run("head/forward.cu", f"head_forward<{head.template}>", (head.tiles,), (head.threads,),
                (x, w, b, y, *ints(head.pixels, head.vectors)), head.shared)  # fmt: skip
    return y


def backward(dy: Array, x: Array, w: Array) -> tuple[Array, Array, Array]:
    """dx = dy w^T,   dw = x^T dy,   db = sum of dy over pixels

    (N, H, W, K), (N, H, W, C), (1, 1, C, K) -> (N, H, W, C), (1, 1, C, K), (K,)
    """
    xp, head = array_module(x), _launch(x, w)
    dx, parts = xp.empty_like(x), xp.empty((head.parts, w.size + w.shape[3]), x.dtype)
    runtime.run("head/backward.cu", f"head_backward<{head.template}>", (head.parts,), (head.threads,),
                (dy, x, w, dx, parts, *ints(head.pixels, head.vectors)), head.shared)  # fmt: skip
    return dx, *_split(parts, w)


def loss(x: Array, w: Array, b: Array, labels: Array, weights: Array | None = None) -> tuple[Array, Array, Array, Array]:
    """E of the logits x w + b, and the gradients of E by x, w and b. Softmax cross-entropy, of one class sigmoid cross-entropy.

    (N, H, W, C), (1, 1, C, K), (K,), (N, H, W) labels -1 to ignore, (N, H, W) weights or None for 1
    -> E (1,) float64, dx (N, H, W, C), dw (1, 1, C, K), db (K,)

    E stays on the device: nobody waits. For that labels are not looked at here; one that is no class counts as wrong in all.
    """
    xp, head = array_module(x), _launch(x, w)
    labels = labels.astype("int32", copy=False)
    count = xp.zeros(1, "int32")
    runtime.run("head/loss.cu", "count_labels", blocks(labels.size), (THREADS,), (labels, count, *ints(labels.size)))
    dx, parts = xp.empty_like(x), xp.empty((head.parts, w.size + w.shape[3]), x.dtype)
    energies = xp.empty((head.parts * head.threads // 32, 1), "float64")
    args = (x, w, b, labels, weights, count, dx, energies, parts, *ints(head.pixels, head.vectors))
    runtime.run("head/loss.cu", f"head_loss<{head.template}>", (head.parts,), (head.threads,), args, head.shared)
    return add_parts(energies), dx, *_split(parts, w)


class _Launch(NamedTuple):
    template: str  # arguments
    threads: int  # and pixels of a tile
    tiles: int
    pixels: int
    vectors: int
    shared: int  # bytes

    @property
    def parts(self) -> int:
        """Blocks that add up gradients by w: each walks over several tiles."""
        return min(PARTS, self.tiles)


def _launch(x: Array, w: Array) -> _Launch:
    """The largest tile that fits in shared memory."""
    channels, classes = w.shape[2:]
    if not takes(channels, classes):
        raise BackendError(f"head: {channels} channels to {classes} classes do not fit the kernels, which take at most {CLASSES} "
                           f"classes, and tiles of {SHARED >> 10} KiB. Use a matrix product: x @ w[0, 0].")  # fmt: skip
    lanes = vector(channels, arrays=(x,))
    threads = next(t for t in (128, 64, 32) if _bytes(lanes, channels, classes, t) <= SHARED)
    pixels = x.size // channels
    return _Launch(f"{lanes.kind}, {classes}", threads, -(-pixels // threads), pixels, channels // lanes.width,
                   _bytes(lanes, channels, classes, threads))  # fmt: skip


def _bytes(lanes: Vector, channels: int, classes: int, threads: int) -> int:
    """Shared memory of a block, as HeadTile of kernels/include/tu_head.cuh divides it."""
    vectors = channels // lanes.width
    slices = max(1, threads // vectors)
    values = threads * (vectors | 1) * lanes.width + classes * channels * (1 + slices) + classes * threads
    return 4 * values


def _split(parts: Array, w: Array) -> tuple[Array, Array]:
    """dw and db, from the parts of both."""
    sums = add_parts(parts)
    return sums[: w.size].reshape(w.shape), sums[w.size :]
