"""Winograd's convolution F(4x4, 3x3): a 4x4 tile of the output from a 6x6 tile of the input with 36 products instead of 144.

Multiplying two polynomials is cheap at points: evaluate both, multiply value by value, and interpolate. Correlation is that
with one map transposed. For one tile d of the input, a kernel w, and the matrices A, B, G of `matrices`:

    y  = A^T [ (G w G^T) * (B^T d B) ] A                      * multiplies value by value
    dd = B   [ (G w G^T) * (A dy A^T) ] B^T
    dw = G^T [ (B^T d B) * (A dy A^T) ] G

The lesson is in the last two lines. y is linear in d and in w, and the gradient of a linear map is its transpose. So nothing
about gradients has to be invented: take the factors of the fast algorithm in reverse order, each transposed, and backward is
as fast as forward. (For dx we take the other road that there is, a convolution of dy with the flipped kernel, because tiles
of the input overlap, so that dd would have to be added up, while tiles of the output do not.)

With channels, each of the 36 products becomes a matrix product (tiles x C) @ (C x O), and that is where the time goes: a
quarter of the multiplications of im2col. The transforms are matrix products too, so they cost the same for any A, B and G,
and the points can be chosen for the smallest rounding error, see `POINTS`.

Lavin, Gray, "Fast algorithms for convolutional neural networks", arXiv 1509.09308 (2015), section 4, F(4x4, 3x3). They use the
points 0, 1, -1, 2, -2, made for few additions. Ours, closer together, lose about 6 times less: about 2e-6 of the largest output.

Letters: N images, H x W their rows x columns, P x Q those of the output, C channels in, O channels out; a grid of I x J tiles,
T = I J.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyunet.backend import Array, array_module
from tinyunet.ladder import Rung
from tinyunet.parallel import each, groups, workspace
from tinyunet.rungs.strips import padded_rows

POINTS = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)
"""Where the polynomials are evaluated, besides infinity."""

STRIP_TILES = 128, 320
"""Tiles of a strip, at least: enough rows for an efficient matrix product; and at most: few enough for the cache."""

STRIPS = 8
"""A map has about so many strips between these bounds, for as many cores."""

LARGE_KERNEL = 2**16
"""Pairs of channels from which on a transformed kernel no longer fits into the cache of one core."""

TILES_BYTES = 2**25
"""What all tiles of a map may take, transformed, where they need not be kept together."""


def matrices(points: tuple[float, ...] = POINTS) -> tuple[Array, Array, Array]:
    """A (6, 4), B (6, 6) and G (6, 3) of Toom and Cook, in float64: A evaluates an output polynomial of 4 coefficients at the
    points, G a kernel of 3, each divided by what Lagrange's interpolation divides by, and the columns of B are the
    polynomials that interpolate: column k is the product of all (t - p) but that of its own point. The last row or column of
    each belongs to the point at infinity, where a polynomial has the value of its highest coefficient.
    """
    a, g, b = np.zeros((6, 4)), np.zeros((6, 3)), np.zeros((6, 6))
    for k, p in enumerate(points):
        others = [q for q in points if q != p]
        a[k] = [p**i for i in range(4)]
        g[k] = [p**i / np.prod([p - q for q in others]) for i in range(3)]
        b[:5, k] = np.poly(others)[::-1]
    a[5, 3] = g[5, 2] = 1
    b[:, 5] = np.poly(points)[::-1]
    return a, b, g


A, B, G = (m.astype(np.float32) for m in matrices())


def transform(matrix: Array, tiles: Array, out: Array) -> None:
    """out[:, :, i, j, c] = matrix @ tiles[:, :, i, j, c] @ matrix^T, for every tile (i, j) and channel c

    (K, L), (L, L, I, J, C) -> (K, K, I, J, C); views with any strides, as long as those of the channels lie side by side.
    """
    size, rows, cols, channels = len(matrix), *tiles.shape[2:]
    half = workspace("half", (size, tiles.shape[1], rows, cols, channels), np.float32)
    np.matmul(matrix, tiles.transpose(1, 2, 3, 0, 4), out=half.transpose(1, 2, 3, 0, 4))
    np.matmul(matrix, half.transpose(0, 2, 3, 1, 4), out=out.transpose(0, 2, 3, 1, 4))


def transform_rows(rows: Array, out: Array) -> None:
    """B^T d B for the tiles of (4 I + 2, 4 J + 2, C) rows of the image, which overlap by two pixels: -> (6, 6, I, J, C)

    As `transform` does it, except that the first product is taken for every column of the image and not for every tile, whose
    six columns are shared by its neighbours.
    """
    _, _, i, j, c = out.shape
    width = rows.shape[1]
    down, right, item = rows.strides
    merged = width if width * c <= 2**13 else 1  # pixels that go into one product: few channels make short ones
    strided = np.lib.stride_tricks.as_strided
    view = strided(rows, (i, width // merged, 6, merged * c), (4 * down, merged * right, down, item))
    half = workspace("half", (6, i, width // merged, merged * c), np.float32)
    np.matmul(B.T, view, out=half.transpose(1, 2, 0, 3))
    plane, line, pixel = i * width * c * item, width * c * item, c * item
    tiles = strided(half, (6, i, j, 6, c), (plane, line, 4 * pixel, pixel, item))
    np.matmul(B.T, tiles, out=out.transpose(0, 2, 3, 1, 4))


def kernel(w: Array, out: Array, flip: bool = False) -> None:
    """G w G^T for every pair of channels: (3, 3, C, O) -> (36, C, O); with `flip`, of the kernel turned by 180 degrees."""
    both = np.kron(G, G)
    np.matmul(both[:, ::-1] if flip else both, w.reshape(9, *w.shape[2:]).transpose(1, 0, 2), out=out.transpose(1, 0, 2))


class Grid(NamedTuple):
    """The tiles of a map of P x Q pixels; those at the bottom and on the right may reach beyond it."""

    images: int
    rows: int  # P
    cols: int  # Q
    down: int  # I tiles
    right: int  # J tiles
    height: int  # of a strip, in tiles

    def strips(self) -> list[tuple[int, int, int]]:
        """(image, first row of tiles, last but one)"""
        tops = range(0, self.down, self.height)
        return [(n, top, min(top + self.height, self.down)) for n in range(self.images) for top in tops]

    def part(self, top: int, stop: int) -> slice:
        """The rows of pixels that these rows of tiles cover."""
        return slice(4 * top, min(4 * stop, self.rows))


def grid(images: int, rows: int, cols: int) -> Grid:
    """Cover the output with tiles, and the tiles with strips."""
    down, right = -(-rows // 4), -(-cols // 4)
    least, most = STRIP_TILES
    return Grid(images, rows, cols, down, right, max(1, min(max(least, down * right // STRIPS), most) // right))


def take_rows(image: Array, top: int, stop: int, right: int, pad: int, out: Array) -> None:
    """B^T d B of some rows of tiles of one image: (H, W, C) -> (6, 6, stop - top, J, C)"""
    transform_rows(padded_rows(image, 4 * top, 4 * stop + 2, pad, 4 * right + 2), out)


def take_gradient(dy: Array, right: int, out: Array) -> None:
    """A dy A^T of some rows: (h, Q, O) -> (6, 6, I, J, O); pixels beyond the map count as zero."""
    i, o = out.shape[2], dy.shape[2]
    whole = padded_rows(dy, 0, 4 * i, 0, 4 * right)
    transform(A, whole.reshape(i, 4, right, 4, o).transpose(1, 3, 0, 2, 4), out)


def give_rows(products: Array, y: Array, b: Array | None = None) -> None:
    """A^T m A (+ b) into rows of the output: (6, 6, I, J, O) -> (h, Q, O), leaving out what lies beyond the map."""
    _, _, i, j, o = products.shape
    fits = y.shape[:2] == (4 * i, 4 * j) and y.strides[0] == y.shape[1] * y.strides[1]
    tiles = y.reshape(i, 4, j, 4, o) if fits else workspace("tiles", (i, 4, j, 4, o), np.float32)
    transform(A.T, products, tiles.transpose(1, 3, 0, 2, 4))
    if not fits:
        y[...] = tiles.reshape(4 * i, 4 * j, o)[: y.shape[0], : y.shape[1]]
    if b is not None:
        y += b


def correlate(x: Array, w: Array, pad: int, flip: bool, b: Array | None = None) -> Array:
    """Forward, and b added; and with `flip`, the convolution with the flipped kernel (3, 3, O, C) that takes dy to dx.

    Where the image is wide, strips of tiles are the jobs, and every tile stays in the cache from its first transform to its last.
    Where channels are many, the transformed kernel does not stay there; then blocks of output channels are the jobs, and each
    transforms its own part of the kernel when it needs it.
    """
    images, height, width, c_in = x.shape
    c_out = w.shape[2] if flip else w.shape[3]
    tiles = grid(images, height + 2 * pad - 2, width + 2 * pad - 2)
    y = np.empty((images, tiles.rows, tiles.cols, c_out), np.float32)
    across = tiles.down * tiles.right

    def transformed(block: slice) -> Array:
        part = w[:, :, block] if flip else w[..., block]
        u = workspace("kernel", (36, *part.shape[2:]), np.float32)
        kernel(part, u, flip)
        return u.transpose(0, 2, 1) if flip else u

    if not by_blocks(tiles, c_in, c_out) or (tiles_bytes(tiles, c_in) > TILES_BYTES and c_out <= images * across):
        u = transformed(slice(None))

        def strip(job: tuple[int, int, int]) -> None:
            n, top, stop = job
            v = workspace("v", (6, 6, stop - top, tiles.right, c_in), np.float32)
            take_rows(x[n], top, stop, tiles.right, pad, v)
            m = workspace("m", (6, 6, stop - top, tiles.right, c_out), np.float32)
            np.matmul(v.reshape(36, -1, c_in), u, out=m.reshape(36, -1, c_out))
            give_rows(m, y[n, tiles.part(top, stop)], b)

        each(strip, tiles.strips())
        return y

    v = all_tiles(x, tiles, pad)

    def block(job: slice) -> None:
        u = transformed(job)
        m = workspace("m", (6, 6, images * tiles.down, tiles.right, u.shape[2]), np.float32)
        np.matmul(v, u, out=m.reshape(36, images * across, u.shape[2]))
        for n in range(images):
            give_rows(m[:, :, n * tiles.down : (n + 1) * tiles.down], y[n, :, :, job],
                      b if b is None else b[job])  # fmt: skip

    each(block, blocks(c_out))
    return y


def all_tiles(x: Array, tiles: Grid, pad: int) -> Array:
    """B^T d B of all tiles of all images: (N, H, W, C) -> (36, N I J, C)"""
    v = workspace("all tiles", (6, 6, tiles.images * tiles.down, tiles.right, x.shape[3]), np.float32)

    def strip(job: tuple[int, int, int]) -> None:
        n, top, stop = job
        first = n * tiles.down
        take_rows(x[n], top, stop, tiles.right, pad, v[:, :, first + top : first + stop])

    each(strip, tiles.strips())
    return v.reshape(36, tiles.images * tiles.down * tiles.right, x.shape[3])


def by_blocks(tiles: Grid, c_in: int, c_out: int) -> bool:
    """Whether jobs are blocks of output channels: these are more than the tiles, or the kernel is larger than a cache; by far,
    where not all tiles fit into `TILES_BYTES` either."""
    large = LARGE_KERNEL if tiles_bytes(tiles, c_in) <= TILES_BYTES else 2 * LARGE_KERNEL
    return c_out > tiles.images * tiles.down * tiles.right or c_in * c_out >= large


def tiles_bytes(tiles: Grid, channels: int) -> int:
    """Of `all_tiles`."""
    return 36 * 4 * tiles.images * tiles.down * tiles.right * channels


def blocks(channels: int, size: int | None = None) -> list[slice]:
    """Channels, cut into jobs: wide ones multiply faster, but there should be one for every core."""
    size = size or (128 if channels >= 512 else 64)
    return [slice(start, min(start + size, channels)) for start in range(0, channels, size)]


def forward(x: Array, w: Array, pad: int, b: Array | None = None) -> Array:
    """y = A^T [ (G w G^T) * (B^T d B) ] A (+ b)"""
    return correlate(x, w, pad, False, b)


def grad_x(dy: Array, w: Array, pad: int) -> Array:
    """dx = dy, padded by 2 - pad, convolved with the flipped kernel in which C and O have changed places"""
    return correlate(dy, w, 2 - pad, flip=True)


def grad_w(x: Array, dy: Array, size: int, pad: int) -> Array:
    """dw = G^T [ sum over tiles of (B^T d B) * (A dy A^T) ] G"""
    images, rows, cols, c_out = dy.shape
    c_in = x.shape[3]
    tiles = grid(images, rows, cols)
    back = np.kron(G, G).T  # (9, 36)
    dw = np.zeros((9, c_in, c_out), np.float32)

    def products(strips: Sequence[tuple[int, int, int]]) -> Array:
        """The sum over some strips: -> (9, C, O)"""
        du = workspace("kernel", (36, c_in, c_out), np.float32)
        du[...] = 0
        for n, top, stop in strips:
            v = workspace("v", (6, 6, stop - top, tiles.right, c_in), np.float32)
            take_rows(x[n], top, stop, tiles.right, pad, v)
            m = workspace("m", (6, 6, stop - top, tiles.right, c_out), np.float32)
            take_gradient(dy[n, tiles.part(top, stop)], tiles.right, m)
            product = workspace("product", du.shape, np.float32)
            np.matmul(v.reshape(36, -1, c_in).transpose(0, 2, 1), m.reshape(36, -1, c_out), out=product)
            du += product
        return (back @ du.reshape(36, -1)).reshape(9, c_in, c_out)

    if not by_blocks(tiles, c_in, c_out):
        for part in each(products, groups(tiles.strips())):
            dw += part
        return dw.reshape(3, 3, c_in, c_out)

    def block(job: slice) -> None:
        width = job.stop - job.start
        m = workspace("m", (6, 6, images * tiles.down, tiles.right, width), np.float32)
        for n in range(images):
            take_gradient(dy[n, :, :, job], tiles.right, m[:, :, n * tiles.down : (n + 1) * tiles.down])
        du = workspace("kernel", (36, v.shape[2], width), np.float32)
        np.matmul(v.transpose(0, 2, 1), m.reshape(36, v.shape[1], width), out=du)
        dw[:, some, job] = (back @ du.reshape(36, -1)).reshape(9, v.shape[2], width)

    parts = max(1, -(-tiles_bytes(tiles, c_in) // TILES_BYTES))
    for some in blocks(c_in, -(-c_in // parts)):  # channels in, as many as all tiles may take memory for
        v = all_tiles(x[..., some], tiles, pad)
        each(block, blocks(c_out))
    return dw.reshape(3, 3, c_in, c_out)


def refuses(x: Array, w: Array) -> str | None:
    """float32 and 3x3 only: in float64 one asks for exactness, and the tiles are made for this kernel."""
    if array_module(x) is not np:
        return "it takes NumPy arrays"
    if x.dtype != np.float32:
        return f"it takes float32, not {x.dtype}, because its rounding errors are larger than those of the other rungs"
    return None if w.shape[:2] == (3, 3) else f"it takes 3x3 kernels, not {w.shape[0]}x{w.shape[1]}"


CONV = Rung("winograd", forward, grad_x, grad_w, refuses, fused=forward)
