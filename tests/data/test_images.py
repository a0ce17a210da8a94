"""Image files are read as the numbers they store, or refused in one line that says what to do.

The files come from two small writers below, so that what they hold is known without the library under test.
"""

import os
import struct
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from tinyunet.data import images
from tinyunet.data.images import read_image, read_mask, read_mask_stack, read_pages, read_stack, write_image, write_labels
from tinyunet.errors import DataError


def png(path, pixels, depth=8, colour=0, filter_type=0):
    """A PNG of (H, W) or (H, W, C) integers of `depth` bits; colour 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA."""
    h, w = pixels.shape[:2]
    rows = pixels.reshape(h, -1)
    if depth == 16:
        lines = rows.astype(">u2").view(np.uint8).reshape(h, -1)
    elif depth == 8:
        lines = rows.astype(np.uint8)
    else:
        bits = (rows[..., None] >> np.arange(depth)[::-1]) & 1
        lines = np.packbits(bits.reshape(h, -1).astype(np.uint8), axis=1)
    if filter_type == 1:  # Sub: every byte minus the one a pixel to its left
        step = lines.shape[1] // w
        left = np.pad(lines, ((0, 0), (step, 0)))[:, :-step]
        lines = lines - left
    data = b"".join(bytes([filter_type]) + line.tobytes() for line in lines)

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    palette = chunk(b"PLTE", bytes(range(48))) if colour == 3 else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0)) + palette
                     + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))
    return path


def tiff(path, pixels, *, order="<", photometric=None, planar=False, deflate=False, extra=()):
    """A TIFF of one strip from (H, W) or (H, W, C) numbers of any depth, its directory behind the pixels, as libtiff has it."""
    h, w = pixels.shape[:2]
    c = pixels.shape[2] if pixels.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    if photometric is None:
        photometric = 2 if c >= 3 else 1
    stored = np.moveaxis(pixels, -1, 0) if planar else pixels
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    strips = [data[i * len(data) // c:(i + 1) * len(data) // c] for i in range(c)] if planar else [data]
    strips = [zlib.compress(s) for s in strips] if deflate else strips
    body, offsets = b"", []
    for s in strips:
        offsets.append(8 + len(body))
        body += s + b"\0" * (len(s) % 2)
    entries = [(256, 4, [w]), (257, 4, [h]), (258, 3, [pixels.dtype.itemsize * 8] * c), (259, 3, [8 if deflate else 1]),
               (262, 3, [photometric]), (273, 4, offsets), (277, 3, [c]), (278, 4, [h]), (279, 4, [len(s) for s in strips]),
               (284, 3, [2 if planar else 1])]
    if extra:
        entries.append((338, 3, list(extra)))
    entries.append((339, 3, [kind] * c))
    ifd = 8 + len(body)
    after, table, tail = ifd + 2 + 12 * len(entries) + 4, b"", b""
    for tag, width, values in entries:
        packed = struct.pack(order + ("H" if width == 3 else "I") * len(values), *values)
        if len(packed) > 4:
            field = struct.pack(order + "I", after + len(tail))
            tail += packed + b"\0" * (len(packed) % 2)
        else:
            field = packed.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, width, len(values)) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, ifd)
    path.write_bytes(head + body + struct.pack(order + "H", len(entries)) + table + struct.pack(order + "I", 0) + tail)
    return path


def message(function, *args, **options):
    """The text of the DataError that a call must raise."""
    with pytest.raises(DataError) as caught:
        function(*args, **options)
    return str(caught.value)


def array_or_refusal(read, path):
    """What `read` makes of a damaged file: an array, or the text of its DataError; any other error fails the test."""
    try:
        return read(path)
    except DataError as refused:
        return str(refused)


# Numbers survive

@pytest.mark.parametrize(("order", "dtype", "as_image"), [
    ("<", "u1", "u1"), ("<", "u2", "u2"), ("<", "i1", "f4"), ("<", "i2", "f4"), ("<", "i4", "f4"), ("<", "f4", "f4"),
    ("<", "u4", "f4"),
    (">", "u1", "u1"), (">", "u2", "u2"), (">", "i1", "f4"), (">", "i2", "f4"), (">", "i4", "f4"), (">", "f4", "f4")])
@pytest.mark.parametrize("deflate", [False, True])
def test_grey_tiff_gives_stored_numbers(tmp_path, rng, order, deflate, dtype, as_image):
    """Grey TIFFs of every depth, sign and byte order: masks exactly, images as uint8, uint16 or float32 with equal values."""
    low, high = {"u": (0, 250), "i": (-100, 100), "f": (-100, 100)}[dtype[0]]
    values = rng.integers(low, high, (5, 7)).astype(dtype)
    if dtype == "u2":
        values[0, 0] = 65535
    path = tiff(tmp_path / "a.tif", values, order=order, deflate=deflate)
    mask, image = read_mask(path), read_image(path)
    assert mask.dtype.kind in "iu"
    assert mask.dtype.isnative
    np.testing.assert_array_equal(mask, values)
    assert image.dtype == as_image
    assert image.shape == (5, 7, 1)
    np.testing.assert_array_equal(image[..., 0], values)


def test_32_bit_ids(tmp_path):
    """A mask keeps 32-bit ids, beyond the signed range too; as an image they are refused where float32 would round them."""
    ids = np.array([[0, 70000], [2**24 + 1, 2**32 - 1]], np.uint32)
    path = tiff(tmp_path / "a.tif", ids)
    np.testing.assert_array_equal(read_mask(path), ids)
    assert message(read_image, path) == (
        f"read_image: {path} holds 4294967295, and float32 is exact up to 16777216 only. Rescale it and save it as 16-bit "
        f"integers or 32-bit floats.")


@pytest.mark.parametrize("filter_type", [0, 1])
@pytest.mark.parametrize(("colour", "channels", "kept"), [(0, 1, 1), (2, 3, 3), (4, 2, 1), (6, 4, 3)])
def test_16_bit_png(tmp_path, rng, colour, channels, kept, filter_type):
    """All 16 bits of grey, RGB, grey + alpha and RGBA PNGs arrive; an opaque alpha channel is left out."""
    pixels = rng.integers(0, 65536, (6, 5, channels))
    if channels in (2, 4):
        pixels[..., -1] = 65535
    image = read_image(png(tmp_path / "a.png", pixels, 16, colour, filter_type))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, pixels[..., :kept])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff(tmp_path, rng, order, deflate, channels):
    """All 16 bits of RGB and RGBA TIFFs arrive, raw or compressed, of either byte order."""
    pixels = rng.integers(0, 65536, (6, 5, channels)).astype(np.uint16)
    pixels[..., 3:] = 65535
    path = tiff(tmp_path / "a.tif", pixels, order=order, deflate=deflate, extra=(2,) * (channels - 3))
    np.testing.assert_array_equal(read_image(path), pixels[..., :3])
    assert read_image(path).dtype == np.uint16


@pytest.mark.parametrize("deflate", [False, True])
def test_16_bit_colour_in_planes_is_refused(tmp_path, rng, deflate):
    """16-bit channels stored one after the other, which Pillow would cut to 8 bits, are refused with a remedy."""
    path = tiff(tmp_path / "a.tif", rng.integers(0, 65536, (6, 5, 3)).astype(np.uint16), planar=True, deflate=deflate)
    assert message(read_image, path) == (
        f"read_image: {path} is 16-bit colour with its channels stored apart, which Pillow cuts to 8 bits. Save it with "
        f"interleaved channels, as PNG, or every channel as a file of its own.")


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits(tmp_path, rng, depth):
    """1-, 2- and 4-bit greys are stored numbers in a mask (Pillow stretches them) and 0..255 in an image."""
    stored = rng.integers(0, 2**depth, (5, 16))
    path = png(tmp_path / "a.png", stored, depth)
    np.testing.assert_array_equal(read_mask(path), stored)
    np.testing.assert_array_equal(read_image(path)[..., 0], stored * (255 // (2**depth - 1)))
    assert read_image(path).dtype == np.uint8


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_palette(tmp_path, rng, depth):
    """A palette file is its indices as a mask and its colours as an image."""
    indices = rng.integers(0, min(2**depth, 16), (5, 8))
    path = png(tmp_path / "a.png", indices, depth, colour=3)
    np.testing.assert_array_equal(read_mask(path), indices)
    np.testing.assert_array_equal(read_image(path), np.arange(48).reshape(16, 3)[indices])


def test_inverted_lookup_table(tmp_path):
    """A white-is-zero TIFF, as ImageJ writes with an inverting table, gives its stored numbers, 8-bit and 16-bit alike."""
    for dtype in (np.uint8, np.uint16):
        stored = np.array([[0, 1], [7, 255]], dtype)
        path = tiff(tmp_path / f"{dtype.__name__}.tif", stored, photometric=0)
        np.testing.assert_array_equal(read_mask(path), stored)
        np.testing.assert_array_equal(read_image(path)[..., 0], stored)


def test_second_channel_is_not_dropped(tmp_path, rng):
    """A TIFF with more channels than Pillow can give is refused, not cut."""
    path = tiff(tmp_path / "a.tif", rng.integers(0, 256, (4, 5, 2)).astype(np.uint8), extra=(0,))
    assert message(read_image, path) in (
        f"read_image: {path} holds 2 channels and only 1 can be read. Save it as grey or RGB, or every channel as a page or a "
        f"file of its own.",
        f"read_image: {path} is a damaged TIFF, or of a kind that Pillow cannot read (64-bit floats, 16-bit with 2 or 5 "
        f"channels, ...). Save it as 8- or 16-bit grey or RGB, or as 32-bit float grey.")  # Pillow before 11


@pytest.mark.parametrize("dtype", ["f8", "u4"])
def test_unknown_tiff(tmp_path, dtype):
    """A kind of TIFF that Pillow does not know is refused with the kinds that it does."""
    path = tiff(tmp_path / "a.tif", np.zeros((4, 5), dtype), order=">")
    assert message(read_image, path) == (
        f"read_image: {path} is a damaged TIFF, or of a kind that Pillow cannot read (64-bit floats, 16-bit with 2 or 5 "
        f"channels, ...). Save it as 8- or 16-bit grey or RGB, or as 32-bit float grey.")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tif"])
def test_formats_by_pillow(tmp_path, rng, suffix):
    """8-bit grey written by Pillow in every lossless format comes back equal, as image and as mask."""
    pixels = rng.integers(0, 256, (9, 7)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}")[..., 0], pixels)
    if suffix != ".gif":  # a GIF has a palette, in an order of its writer's choice
        np.testing.assert_array_equal(read_mask(tmp_path / f"a{suffix}"), pixels)


def test_lossy_image_is_fine(tmp_path):
    """JPEG is refused for masks only: images come, grey as one channel and colour as three."""
    for shape, c in (((16, 24), 1), ((16, 24, 3), 3)):
        Image.fromarray(np.full(shape, 90, np.uint8)).save(tmp_path / "a.jpg")
        image = read_image(tmp_path / "a.jpg")
        assert image.shape == (16, 24, c)
        assert abs(int(image.mean()) - 90) <= 1


# Alpha, colours, fractions

def test_alpha(tmp_path):
    """An opaque alpha channel is left out; one that hides pixels is refused, or dropped when asked."""
    pixels = np.full((4, 5, 4), 255, np.uint8)
    pixels[..., :3] = 7
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (4, 5, 3)
    pixels[1, 1, 3] = 30
    path = tmp_path / "b.png"
    Image.fromarray(pixels).save(path)
    assert message(read_image, path) == (
        f"read_image: {path} has an alpha channel that hides pixels (alpha goes down to 30). Flatten it when saving, or read it "
        f"with drop_alpha=True (train, evaluate: --drop-alpha).")
    assert message(read_mask, path) == (
        f"read_mask: {path} has an alpha channel that hides pixels. Save the mask without one.")
    assert (read_image(path, drop_alpha=True) == 7).all()


def test_transparent_palette(tmp_path):
    """A palette colour declared transparent hides pixels as an alpha channel does."""
    im = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    im.save(tmp_path / "a.png", transparency=1)
    assert "alpha goes down to 0" in message(read_image, tmp_path / "a.png")


def test_colour_mask(tmp_path):
    """Three equal channels are grey; a coloured mask is refused."""
    grey = np.array([[0, 3], [3, 9]], np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), grey)
    path = tmp_path / "b.png"
    Image.fromarray(np.stack([grey, grey, grey.T * 2], -1)).save(path)
    assert message(read_mask, path) == (
        f"read_mask: {path} is a colour picture of a mask. Save the label numbers themselves, as grey, 16-bit grey or palette "
        f"PNG.")


def test_fractional_mask(tmp_path):
    """Integral floats are a mask; a fraction or NaN is not."""
    np.testing.assert_array_equal(read_mask(tiff(tmp_path / "a.tif", np.array([[0, 2]], np.float32))), [[0, 2]])
    path = tiff(tmp_path / "b.tif", np.array([[0, 1 / 255]], np.float32))
    assert message(read_mask, path) == (
        f"read_mask: {path} holds 0.00392157, and a mask holds integers. Was it divided by 255, or resized with "
        f"interpolation? Save the labels as they were, as PNG or 16-bit TIFF.")
    path = tiff(tmp_path / "c.tif", np.array([[0, np.nan, np.inf]], np.float32))
    assert "holds nan, and a mask holds integers" in message(read_mask, path)
    assert message(read_image, path) == f"read_image: 2 of the 3 values in {path} are NaN or infinite. Replace them."


def test_lossy_mask(tmp_path):
    """JPEG, lossy WebP and a TIFF with JPEG inside are refused as masks; lossless WebP is not."""
    mask = Image.fromarray(np.kron(np.eye(4, dtype=np.uint8), np.full((8, 8), 255, np.uint8)))
    mask.save(tmp_path / "a.jpg")
    assert message(read_mask, tmp_path / "a.jpg") == (
        f"read_mask: {tmp_path / 'a.jpg'} is JPEG, which changes values along every edge. Export the mask again from its "
        f"source, as PNG or TIFF; converting this file does not bring the labels back.")
    mask.save(tmp_path / "a.tif", compression="jpeg")
    assert "is a TIFF with jpeg compression" in message(read_mask, tmp_path / "a.tif")
    if features.check("webp"):
        mask.convert("RGB").save(tmp_path / "a.webp")
        assert "is lossy WebP" in message(read_mask, tmp_path / "a.webp")
        mask.convert("RGB").save(tmp_path / "b.webp", lossless=True)
        np.testing.assert_array_equal(read_mask(tmp_path / "b.webp"), np.asarray(mask))


def test_other_colour_spaces(tmp_path):
    """CMYK is refused by name."""
    path = tmp_path / "a.tif"
    Image.new("CMYK", (4, 4)).save(path)
    assert message(read_image, path) == f"read_image: {path} is in the colour space CMYK. Save it as grey or RGB."


# Files that are no images, or no longer

@pytest.mark.parametrize("read", [read_image, read_mask, read_stack, read_mask_stack])
def test_no_file(tmp_path, read):
    """Absent, a folder, empty, or text: each is said, with what to do."""
    who, path = read.__name__, tmp_path / "a.png"
    assert message(read, path) == f"{who}: there is no file {path}. Check the name and the folder."
    assert message(read, tmp_path) == (
        f"{who}: {tmp_path} is a folder. Give one image file, or read the folder with read_folder.")
    path.touch()
    assert message(read, path) == f"{who}: {path} is empty (0 bytes). Copy or export it again."
    path.write_text("version https://git-lfs")
    assert message(read, path) == (
        f"{who}: {path} is no image that can be read, or its header is damaged. Save it as PNG or TIFF (JPEG, BMP, GIF and "
        f"WebP are read too).")
    assert "cannot be opened" in message(read, tmp_path / "a\0b")


@pytest.mark.parametrize(("name", "options", "dtype"), [
    ("a.png", {}, np.uint8), ("a.jpg", {}, np.uint8), ("a.bmp", {}, np.uint8), ("a.gif", {}, np.uint8), ("a.tif", {}, np.uint8),
    ("a.tif", {"compression": "tiff_lzw"}, np.uint8), ("a.tif", {}, np.float32),
    ("a.tif", {"compression": "tiff_lzw"}, np.float32)])
def test_cut_short(tmp_path, rng, name, options, dtype):
    """A file cut anywhere is refused, or still gives every pixel: never others, never another error."""
    path = tmp_path / name
    Image.fromarray(rng.integers(0, 256, (24, 17)).astype(dtype)).save(path, **options)
    whole, data, refused = read_image(path), path.read_bytes(), 0
    for n in np.unique([*range(1, 40), *np.linspace(40, len(data) - 1, 40).astype(int), *range(len(data) - 20, len(data))]):
        path.write_bytes(data[:n])
        got = array_or_refusal(read_image, path)
        if isinstance(got, str):
            assert str(path) in got
            refused += 1
        else:
            np.testing.assert_array_equal(got, whole)
    assert refused > 50


def test_cut_directory(tmp_path):
    """A float TIFF without the end of its directory is refused, where Pillow would take the floats for integers."""
    path = tiff(tmp_path / "a.tif", np.ones((4, 4), np.float32))
    data = path.read_bytes()
    for n in range(1, 30):
        path.write_bytes(data[:-n])
        got = array_or_refusal(read_image, path)
        assert "damaged" in got if isinstance(got, str) else (got == 1).all()


def test_flipped_bits(tmp_path, rng):
    """One flipped bit anywhere in a PNG is noticed (its chunks carry checksums), or changes no pixel."""
    pixels = rng.integers(0, 256, (6, 5)).astype(np.uint8)
    path = png(tmp_path / "a.png", pixels)
    data = path.read_bytes()
    refused = 0
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1:])
        got = array_or_refusal(read_image, path)
        if isinstance(got, str):
            refused += 1
        else:
            np.testing.assert_array_equal(got[..., 0], pixels)
    assert refused > len(data) * 0.9


@pytest.mark.parametrize("seed", range(40))
def test_noise_in_a_tiff(tmp_path, monkeypatch, seed):
    """Bytes overwritten at random in a TIFF give an array or a DataError, nothing else."""
    monkeypatch.setattr(images, "MAX_PIXELS", 10**6)
    rng = np.random.default_rng(seed)
    path = tiff(tmp_path / "a.tif", rng.integers(0, 256, (6, 5, 3)).astype(np.uint16), deflate=seed % 2 == 1)
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[rng.integers(4, len(data), 4)] = rng.integers(0, 256, 4)
    path.write_bytes(data.tobytes())
    for read in (read_image, read_mask, read_stack):
        got = array_or_refusal(read, path)
        assert str(path) in got if isinstance(got, str) else got.ndim >= 2


def test_decompression_bomb(tmp_path):
    """A small file that says it is huge is refused before a pixel is unpacked."""
    path = png(tmp_path / "a.png", np.zeros((1, 1), np.uint8))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 100000, 200000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    assert message(read_image, path) == (
        f"read_image: {path} says it is 200000x100000, 20000000000 pixels; the limit is 1073741824, against files that unpack "
        f"without end. Cut it into parts, or raise tinyunet.data.images.MAX_PIXELS if it is true.")


def test_limit_is_ours(tmp_path, monkeypatch):
    """Images above Pillow's own limit are read, and that limit is as before afterwards, after an error too."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
    path = write_labels(tmp_path / "a.tif", pixels)
    np.testing.assert_array_equal(read_mask(path), pixels)
    assert Image.MAX_IMAGE_PIXELS == 10
    path.write_bytes(b"II*\0")
    message(read_mask, path)
    assert Image.MAX_IMAGE_PIXELS == 10
    assert images.MAX_PIXELS >= 20000 * 20000


# Stacks

def stack(path, pages, **options):
    """A multi-page TIFF."""
    first, *rest = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=rest, **options)
    return path


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stack(tmp_path, rng, compression, dtype):
    """All pages of a stack arrive in order, as images and as masks; a single-page TIFF is a stack of one."""
    pages = rng.integers(0, np.iinfo(dtype).max, (4, 6, 5)).astype(dtype)
    path = stack(tmp_path / "a.tif", pages, compression=compression)
    np.testing.assert_array_equal(read_stack(path), pages[..., None])
    np.testing.assert_array_equal(read_mask_stack(path), pages)
    assert read_stack(path).dtype == dtype
    assert read_stack(stack(tmp_path / "b.tif", pages[:1])).shape == (1, 6, 5, 1)


def test_stack_of_16_bit_colour(tmp_path, rng):
    """Every page of a 16-bit RGB stack keeps its own low bytes."""
    a, b = (rng.integers(0, 65536, (3, 4, 3)).astype(np.uint16) for _ in range(2))
    one, two = (tiff(tmp_path / name, pixels).read_bytes() for name, pixels in (("a.tif", a), ("b.tif", b)))
    count = 11  # directory entries of `tiff` for RGB
    ifd = struct.unpack("<I", two[4:8])[0]
    shift = len(one)
    moved = bytearray(two)
    for k in range(count):  # offsets in the second directory move with it
        at = ifd + 2 + 12 * k
        tag, width, n = struct.unpack("<HHI", two[at:at + 8])
        if tag == 273 or n * (2 if width == 3 else 4) > 4:
            moved[at + 8:at + 12] = struct.pack("<I", struct.unpack("<I", two[at + 8:at + 12])[0] + shift)
    assert struct.unpack("<H", two[ifd:ifd + 2])[0] == count
    joined = bytearray(one)
    first = struct.unpack("<I", one[4:8])[0]
    joined[first + 2 + 12 * count:first + 6 + 12 * count] = struct.pack("<I", ifd + shift)
    path = tmp_path / "c.tif"
    path.write_bytes(joined + moved)
    np.testing.assert_array_equal(read_stack(path), [a, b])


def test_stack_where_one_page_was_expected(tmp_path):
    """A stack is not cut to its first page."""
    path = stack(tmp_path / "a.tif", np.zeros((3, 6, 5), np.uint8))
    assert message(read_image, path) == (
        f"read_image: {path} holds 3 pages and one was expected. Read it with read_stack, or two stacks as a data set with "
        f"read_tiff_pair.")
    assert "Read it with read_mask_stack" in message(read_mask, path)


def test_pages_that_differ(tmp_path):
    """Pages of two sizes or depths are refused with both."""
    path = stack(tmp_path / "a.tif", [np.zeros((6, 5), np.uint8), np.zeros((6, 5), np.uint8), np.zeros((3, 5), np.uint8)])
    assert message(read_stack, path) == (
        f"read_stack: page 3 of {path} is 3x5x1 uint8, page 1 is 6x5x1 uint8. Save the pages alike, or as files of their own.")
    path = stack(tmp_path / "b.tif", [np.zeros((6, 5), np.uint8), np.zeros((6, 5), np.uint16)])
    assert "page 2 of" in message(read_mask_stack, path)


def test_pages_in_turn(tmp_path, rng):
    """Pages come one by one as `read_stack` has them; other files have one; a file may be replaced while one is looked at."""
    path = stack(tmp_path / "a.tif", rng.integers(0, 256, (3, 6, 5), np.uint8))
    np.testing.assert_array_equal(list(read_pages(path)), read_stack(path))
    png = write_image(tmp_path / "a.png", rng.integers(0, 256, (6, 5, 3), np.uint8))
    np.testing.assert_array_equal(list(read_pages(png)), [read_image(png)])
    pages = read_pages(path)
    next(pages)
    path.unlink()
    assert "there is no file" in message(list, pages)


def test_pages_in_turn_must_be_alike(tmp_path):
    """The page that differs is refused when it is reached; of a film that is no TIFF, all."""
    path = stack(tmp_path / "a.tif", [np.zeros((6, 5), np.uint8), np.zeros((6, 5), np.uint16)])
    pages = read_pages(path)
    assert next(pages).shape == (6, 5, 1)
    assert message(list, pages).startswith(f"read_pages: page 2 of {path} is 6x5x1 uint16, page 1 is 6x5x1 uint8. Save the")
    film = stack(tmp_path / "a.gif", [np.zeros((6, 5), np.uint8), np.full((6, 5), 9, np.uint8)])
    assert "holds 2 pages and one was expected" in message(list, read_pages(film))


def test_only_one_page_is_in_memory(tmp_path):
    """Whoever looks at one page after the other needs memory for one, and what decoding it takes."""
    path = stack(tmp_path / "a.tif", np.zeros((12, 500, 500), np.uint8))
    list(read_pages(path))
    tracemalloc.start()
    try:
        for page in read_pages(path):
            assert page.size == 250_000
            del page
        assert tracemalloc.get_traced_memory()[1] < 5 * 250_000
    finally:
        tracemalloc.stop()


def test_stack_is_a_tiff(tmp_path):
    """A PNG is no stack."""
    path = write_image(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    assert message(read_stack, path) == f"read_stack: {path} is PNG; a stack is a TIFF. Read one image with read_image."


# Writing

@given(h=st.integers(1, 40), w=st.integers(1, 40), seed=st.integers(0, 2**32 - 1),
       suffix=st.sampled_from([".png", ".tif", ".TIFF"]), high=st.sampled_from([1, 255, 256, 65535]),
       dtype=st.sampled_from([np.int32, np.int64, np.uint16, np.uint32]))
def test_labels_come_back(h, w, seed, suffix, high, dtype):
    """write_labels, then read_mask: the same numbers, in 8 bits where they fit."""
    labels = np.random.default_rng(seed).integers(0, high, (h, w), endpoint=True).astype(dtype)
    labels[0, 0] = high
    with tempfile.TemporaryDirectory() as folder:
        back = read_mask(write_labels(Path(folder) / f"a{suffix}", labels))
    np.testing.assert_array_equal(back, labels)
    assert back.dtype == (np.uint8 if high < 256 else np.uint16)


@pytest.mark.parametrize(("dtype", "shape", "suffix"), [
    (np.uint8, (6, 5), ".png"), (np.uint8, (6, 5, 1), ".tif"), (np.uint8, (6, 5, 3), ".png"), (np.uint8, (6, 5, 3), ".tif"),
    (np.uint16, (6, 5), ".png"), (np.uint16, (6, 5, 1), ".tif"), (np.float32, (6, 5), ".tif")])
def test_images_come_back(tmp_path, rng, dtype, shape, suffix):
    """write_image, then read_image: the same numbers and dtype."""
    image = (rng.random(shape) * (1 if dtype is np.float32 else np.iinfo(dtype).max)).astype(dtype)
    back = read_image(write_image(tmp_path / f"a{suffix}", image))
    np.testing.assert_array_equal(back.reshape(shape), image)
    assert back.dtype == dtype


def test_bool_labels(tmp_path):
    """Bool labels are written as 0 and 1."""
    np.testing.assert_array_equal(read_mask(write_labels(tmp_path / "a.png", np.array([[True, False]]))), [[1, 0]])


def test_labels_that_do_not_fit(tmp_path):
    """Ids above 16 bits, negative, fractional or of another shape are refused, and nothing is written."""
    path = tmp_path / "a.png"
    assert message(write_labels, path, np.array([[65536]])) == (
        f"write_labels: {path} would hold 65536, and 16 bits end at 65535. Renumber the ids first: "
        f"np.unique(labels, return_inverse=True)[1].reshape(labels.shape).")
    assert message(write_labels, path, np.array([[-1, 1]])) == (
        f"write_labels: {path} would hold -1, and image files hold no negative labels. Give unknown pixels a free number first: "
        f"np.where(labels < 0, 255, labels).")
    assert message(write_labels, path, np.array([[0.5]])) == (
        f"write_labels: {path} would hold float64. Labels are integers: take the argmax first.")
    assert message(write_labels, path, np.zeros((1, 4, 4), int)) == (
        f"write_labels: {path} would hold an array of shape (1, 4, 4). Give (H, W), one image at a time.")
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit(tmp_path):
    """What a format or Pillow cannot hold is refused with what it can."""
    path = tmp_path / "a.png"
    assert message(write_image, path, np.zeros((4, 4))) == (
        f"write_image: {path} would hold float64. Give uint8, uint16 or float32: for probabilities, "
        f"(255 * p).round().astype(np.uint8).")
    assert message(write_image, path, np.zeros((4, 4, 3), np.uint16)) == (
        f"write_image: {path} would hold uint16 RGB, which Pillow cannot write. Write every channel as a file of its own, or "
        f"uint8.")
    assert message(write_image, path, np.zeros((4, 4), np.float32)) == (
        f"write_image: {path} would hold float32, which PNG does not have. Name it a.tif.")
    assert message(write_image, path, np.zeros((4, 4, 2), np.uint8)) == (
        f"write_image: {path} would hold an array of shape (4, 4, 2). Give (H, W), (H, W, 1) or (H, W, 3).")
    path = tmp_path / "a.jpg"
    assert message(write_image, path, np.zeros((4, 4), np.uint8)) == (
        f"write_image: {path} ends in '.jpg'. Name it .png or .tif, which lose nothing.")
    path = tmp_path / "no" / "a.png"
    assert message(write_image, path, np.zeros((4, 4), np.uint8)) == (
        f"write_image: there is no folder {tmp_path / 'no'}. Make it first.")
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    """A write that fails leaves the file that was there, and nothing beside it."""
    path = write_labels(tmp_path / "a.png", np.array([[1, 2]]))

    def full(self, file, *args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        assert f"{path}: cannot be written (No space left on device)" in message(write_labels, path, np.array([[3, 4]]))
    np.testing.assert_array_equal(read_mask(path), [[1, 2]])
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


# Hostile files (found by tests/fuzz) --------------------------------------------------------------------------------

@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_a_pipe_is_no_image(tmp_path):
    """Reading a pipe would wait for ever."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"^read_image: .*a\.png is a pipe or a device\. Give a file\.$"):
        read_image(tmp_path / "a.png")


def test_a_name_that_is_too_long(tmp_path):
    """What the system says of the name comes through."""
    text = r"^read_image: .*xxx cannot be opened \(.*File name too long.*\)\. Check its name and permissions\.$"
    with pytest.raises(DataError, match=text):
        read_image(tmp_path / ("x" * 300))


def test_a_stack_that_unpacks_without_end(tmp_path, monkeypatch):
    """Pages that are each small enough may be too many together, if the file is much smaller than what it unpacks to."""
    page = Image.fromarray(np.zeros((400, 400), np.uint8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page] * 9, compression="tiff_adobe_deflate")
    monkeypatch.setattr(images, "MAX_PIXELS", 400 * 400)
    for read in (read_stack, read_mask_stack):
        text = rf"^{read.__name__}: .*a\.tif has more than \d+ pixels in \d+ bytes; the limit is 160000, against files that "
        with pytest.raises(DataError, match=text):
            read(tmp_path / "a.tif")
    page.save(tmp_path / "b.tif", save_all=True, append_images=[page] * 9)
    assert read_stack(tmp_path / "b.tif").shape == (10, 400, 400, 1)  # an honest file is as large as what it holds


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_full_disk_keeps_the_old_file(tmp_path, suffix):
    """Every byte refused by the system, from the first on: an error with path and reason, the old file, and nothing else."""
    resource = pytest.importorskip("resource", reason="this system cannot limit the size of files")
    path = write_image(tmp_path / f"a{suffix}", np.zeros((50, 60), np.uint8))
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 1, 50):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(DataError, match=rf"a\{suffix}: cannot be written \(File too large\)\. Is there space left\?"):
                write_image(path, np.arange(3000, dtype=np.uint16).reshape(50, 60))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="file names are bytes on Linux alone")
def test_names_that_are_no_unicode(tmp_path):
    """A file name of any bytes is written and read."""
    for suffix in (".png", ".tif"):
        path = write_image(tmp_path / f"a\udcff{suffix}", np.zeros((3, 4), np.uint8))
        assert read_image(path).shape == (3, 4, 1)


def test_names_with_a_null(tmp_path):
    """No file can be called so."""
    with pytest.raises(DataError, match=r"cannot be written \(embedded null byte\)"):
        write_image(tmp_path / "a\0b.png", np.zeros((3, 4), np.uint8))


def test_16_bit_colour_times_its_alpha(tmp_path, rng):
    """Colours that the file has multiplied by its alpha channel: Pillow would cut all to 8 bits."""
    path = tiff(tmp_path / "a.tif", rng.integers(0, 65536, (5, 6, 4)).astype(np.uint16), extra=(1,))
    assert message(read_image, path) == (
        f"read_image: {path} stores 16-bit colour as RGBa;16L, which Pillow cuts to 8 bits. Save it as 16-bit RGB PNG, or every "
        "channel as a file of its own.")


def test_an_image_that_does_not_fit_in_memory(tmp_path, monkeypatch):
    """Too little memory is said with the file, and is no damage of it."""
    write_image(tmp_path / "a.png", np.zeros((3, 4), np.uint8))

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_page", full)
    assert message(read_image, tmp_path / "a.png") == (
        f"read_image: {tmp_path}/a.png does not fit in memory. Cut it into parts.")


@pytest.mark.parametrize("read", [read_image, read_mask, read_stack])
def test_a_header_that_claims_more_than_the_file_can_hold(tmp_path, read):
    """Sizes below the limit, but beyond all packing of so few bytes, are refused before memory is taken for them."""
    path = tiff(tmp_path / "a.tif", np.zeros((4, 4, 4), np.uint8), extra=(2,))
    data = bytearray(path.read_bytes())
    directory = struct.unpack("<I", data[4:8])[0] + 2
    for entry in (directory, directory + 12):  # width and height, which come first
        data[entry + 8:entry + 12] = struct.pack("<I", 30_000)
    path.write_bytes(data)
    assert message(read, path) == (
        f"{read.__name__}: {path} says it is 30000x30000, 900000000 pixels, in {len(data)} bytes. It is damaged, or packed so as "
        "to unpack without end. Export it again.")


def test_an_empty_mask_packs_well(tmp_path):
    """A large mask without a cell, in one bit a pixel, is honest: no other packs better."""
    mask = np.zeros((4100, 4100), np.uint8)
    Image.fromarray(mask).convert("1").save(tmp_path / "a.png")
    assert mask.size / (tmp_path / "a.png").stat().st_size > 5000
    assert not read_mask(tmp_path / "a.png").any()
