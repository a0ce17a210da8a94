"""One image file in, one array out, and back; through Pillow, which does the decoding and loses nothing on the way.

Pillow is lenient where microscopy is not: it cuts 16-bit colour to 8 bits, stretches 4-bit greys to 0..255, inverts
some TIFFs and drops a second channel, all in silence. Here a file is read as the numbers it stores, or refused with a
remedy.

    read_image        PNG, TIFF, JPEG, BMP, GIF, WebP     -> (H, W, C)     uint8, uint16 or float32
    read_stack        multi-page TIFF                     -> (T, H, W, C)
    read_pages        any of these, a page at a time      -> (H, W, C), (H, W, C), ...
    read_mask         a lossless format                   -> (H, W)        integers, exactly as stored
    read_mask_stack   multi-page TIFF                     -> (T, H, W)
    write_image, write_labels                             PNG or TIFF, whole or not at all

Every refusal is a `DataError` that names the file and says what to do.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.sample import counted
from tinyunet.errors import DataError, TinyUNetError
from tinyunet.files import atomic_write

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["MAX_PIXELS", "SUFFIXES", "read_image", "read_mask", "read_mask_stack", "read_pages", "read_stack",
           "write_image", "write_labels"]

MAX_PIXELS = 2**30
"""Pixels of one page above which a file is taken for a decompression bomb: 32768 x 32768. The number is ours. Pillow
warns from 89 million pixels, too few for microscopy, where 20000 x 20000 is an honest slide; ours is 1 GiB of 8-bit
grey."""

CLAIMED, EMPTIEST = 2**24, 10_000
"""A page of more pixels than 4096 x 4096 must have a byte for every ten thousand of them. Deflate packs an empty 1-bit mask
eight thousand to one, and can do no better; a file that claims more has a damaged header. The numbers are ours."""

DENSEST = 100
"""Pixels a byte of a stack, which may have more than `MAX_PIXELS` if its file is as large as that. Images are packed ten to
one at most, masks a hundred to one, and bombs a thousand to one. The number is ours."""

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
"""File names that count as images in a folder (in either case)."""

_FORMATS = ("PNG", "TIFF", "JPEG", "BMP", "GIF", "WEBP")
"""What Pillow may try. Not all it knows: EPS would start Ghostscript, PGM is rescaled to 0..255 without a word."""

_NATIVE = {"I;16S": "I;16NS", "I;16BS": "I;16NS", "I;32S": "I;32NS", "I;32BS": "I;32NS", "F;32F": "F;32NF", "F;32BF": "F;32NF"}
"""Raw modes of compressed TIFFs: libtiff unpacks to the machine's byte order, and Pillow turns these numbers once more."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LOCK = threading.RLock()  # Pillow's pixel limit and Python's warning filters belong to the whole process


# Reading

def read_image(path: str | os.PathLike[str], *, drop_alpha: bool = False) -> Array:
    """file -> (H, W, C): uint8 and uint16 as stored, everything else as float32.

    C is 1 (grey) or 3 (RGB). A palette image becomes the colours that it shows, a 1-, 2- or 4-bit grey the 0..255 that
    it shows. 16-bit RGB keeps its 16 bits. Signed and 32-bit integers become float32, where that is exact.
    An opaque alpha channel says nothing and is left out; one that hides something is refused, unless `drop_alpha`.

    DataError: the file is missing, empty, damaged, too large (`MAX_PIXELS`), holds several pages, or numbers that would
    be lost: integers above 2**24, NaN, infinities.
    """
    path = Path(path)
    with _opened(path, "read_image") as im:
        _one_page(im, path, "read_image", "read_stack")
        return _to_image(_page(im, path, 0, "read_image"), path, "read_image", drop_alpha)


def read_stack(path: str | os.PathLike[str], *, drop_alpha: bool = False) -> Array:
    """multi-page TIFF -> (T, H, W, C). Every page is read as `read_image` would; all must be alike.

    DataError: as for `read_image`; not a TIFF; pages that differ.
    """
    path = Path(path)
    with _opened(path, "read_stack") as im:
        _tiff(im, path, "read_stack", "read_image")
        pages: list[Array] = []
        for t in range(_pages(im)):
            pages.append(_to_image(_page(im, path, t, "read_stack"), path, "read_stack", drop_alpha))
            _alike(pages, path, "read_stack")
        return np.stack(pages)


def read_pages(path: str | os.PathLike[str], *, drop_alpha: bool = False) -> Iterator[Array]:
    """file -> its pages in turn, (H, W, C) each, as `read_stack` has them together; of other files than TIFFs the only one.

    So a stack can be read that does not fit into memory. The file is opened anew for every page, and closed in between.

    DataError: as for `read_image`; pages that differ.
    """
    path, who = Path(path), "read_pages"
    with _opened(path, who) as im:
        if im.format != "TIFF":
            _one_page(im, path, who, "read_stack")
        count = _pages(im)
    first = ""

    def page(t: int) -> Array:
        nonlocal first
        with _opened(path, who) as im:
            image = _to_image(_page(im, path, t, who), path, who, drop_alpha)
        first = first or _describe(image)
        _like_first(t + 1, _describe(image), first, path, who)
        return image

    for t in range(count):
        yield page(t)  # no name of its own here, which would keep it while the next is read


def read_mask(path: str | os.PathLike[str]) -> Array:
    """file -> (H, W) integers, exactly as stored: palette indices (not colours), 16- and 32-bit ids, 1-bit as 0 and 1.

    The numbers are not judged here: 0 and 255 come back as 0 and 255. Three equal channels count as grey.
    Floats pass if they are integral. A TIFF with an inverting lookup table (ImageJ) gives the stored numbers too.

    DataError: as for `read_image`; JPEG and other lossy compression, which invents values along every edge; colours;
    fractions; an alpha channel that hides something.
    """
    path = Path(path)
    with _opened(path, "read_mask") as im:
        _one_page(im, path, "read_mask", "read_mask_stack")
        return _to_mask(_page(im, path, 0, "read_mask"), path, "read_mask")


def read_mask_stack(path: str | os.PathLike[str]) -> Array:
    """multi-page TIFF -> (T, H, W) integers. Every page is read as `read_mask` would; all must share size and depth.

    DataError: as for `read_mask`; not a TIFF; pages that differ.
    """
    path = Path(path)
    with _opened(path, "read_mask_stack") as im:
        _tiff(im, path, "read_mask_stack", "read_mask")
        pages = []
        for t in range(_pages(im)):
            pages.append(_to_mask(_page(im, path, t, "read_mask_stack"), path, "read_mask_stack"))
            _alike(pages, path, "read_mask_stack")
        return np.stack(pages)


# Opening, with every failure turned into one line

@contextmanager
def _opened(path: Path, who: str) -> Iterator[ImageFile]:
    """The file, opened by Pillow and checked. Whatever Pillow raises, here or in the block, leaves as a DataError."""
    try:
        if path.is_dir():
            raise DataError(f"{who}: {path} is a folder. Give one image file, or read the folder with read_folder.")
        if path.exists() and not path.is_file():  # a pipe would let one wait for ever
            raise DataError(f"{who}: {path} is a pipe or a device. Give a file.")
        with path.open("rb") as file:
            magic = file.read(4)
    except TinyUNetError:
        raise
    except FileNotFoundError:
        raise DataError(f"{who}: there is no file {path}. Check the name and the folder.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{who}: {path} cannot be opened ({error}). Check its name and permissions.") from error
    if not magic:
        raise DataError(f"{who}: {path} is empty (0 bytes). Copy or export it again.")
    from PIL import Image, UnidentifiedImageError

    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if magic in _TIFF_MAGIC:  # half a TIFF header is read on with a warning: float32 may then pass for integers
            warnings.filterwarnings("error", message="Corrupt EXIF data")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is checked below
        try:
            if magic == b"\x89PNG":  # decoding skips the checksums, so a flipped bit could pass for a grey value
                with Image.open(path, formats=_FORMATS) as im:
                    im.verify()
            with path.open("rb") as file, Image.open(file, formats=_FORMATS) as im:
                _small_enough(im, path, who)
                yield im
        except TinyUNetError:
            raise
        except UnidentifiedImageError as error:
            if magic in _TIFF_MAGIC:
                raise DataError(f"{who}: {path} is a damaged TIFF, or of a kind that Pillow cannot read (64-bit "
                                f"floats, 16-bit with 2 or 5 channels, ...). Save it as 8- or 16-bit grey or RGB, or "
                                f"as 32-bit float grey.") from error
            raise DataError(f"{who}: {path} is no image that can be read, or its header is damaged. Save it as PNG or "
                            f"TIFF (JPEG, BMP, GIF and WebP are read too).") from error
        except MemoryError as error:
            raise DataError(f"{who}: {path} does not fit in memory. Cut it into parts.") from error
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, zlib.error and others
            raise DataError(f"{who}: {path} is damaged or cut short ({error}). Copy or export it again.") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _small_enough(im: ImageFile, path: Path, who: str) -> None:
    w, h = im.size
    if w * h > MAX_PIXELS:
        raise DataError(f"{who}: {path} says it is {h}x{w}, {w * h} pixels; the limit is {MAX_PIXELS}, against files "
                        f"that unpack without end. Cut it into parts, or raise tinyunet.data.images.MAX_PIXELS if it "
                        f"is true.")
    if w * h > max(CLAIMED, EMPTIEST * path.stat().st_size):
        raise DataError(f"{who}: {path} says it is {h}x{w}, {w * h} pixels, in {path.stat().st_size} bytes. It is damaged, or "
                        f"packed so as to unpack without end. Export it again.")


def _pages(im: ImageFile) -> int:
    return 1 if im.format == "MPO" else int(getattr(im, "n_frames", 1))  # an MPO is a JPEG with previews behind it


def _one_page(im: ImageFile, path: Path, who: str, instead: str) -> None:
    if (pages := _pages(im)) > 1:
        remedy = f"Read it with {instead}, or two stacks as a data set with read_tiff_pair" if im.format == "TIFF" else "Save one"
        raise DataError(f"{who}: {path} holds {pages} pages and one was expected. {remedy}.")


def _tiff(im: ImageFile, path: Path, who: str, instead: str) -> None:
    if im.format != "TIFF":
        raise DataError(f"{who}: {path} is {im.format}; a stack is a TIFF. Read one image with {instead}.")


def _alike(pages: list[Array], path: Path, who: str) -> None:
    """The last page is like the first, and all together are no more than such a file may hold."""
    first, last = pages[0], pages[-1]
    _like_first(len(pages), _describe(last), _describe(first), path, who)
    pixels = len(pages) * first.shape[0] * first.shape[1]
    if pixels > max(MAX_PIXELS, DENSEST * path.stat().st_size):
        raise DataError(f"{who}: {path} has more than {pixels} pixels in {path.stat().st_size} bytes; the limit is {MAX_PIXELS}, "
                        f"against files that unpack without end. Cut it into parts, or raise tinyunet.data.images.MAX_PIXELS if "
                        f"it is true.")


def _like_first(number: int, page: str, first: str, path: Path, who: str) -> None:
    if page != first:
        raise DataError(f"{who}: page {number} of {path} is {page}, page 1 is {first}. Save the pages alike, or as files of "
                        f"their own.")


def _describe(a: Array) -> str:
    return f"{'x'.join(map(str, a.shape))} {a.dtype}"


# Decoding one page to the numbers that it stores

class _Page(NamedTuple):
    """What the file says, before anyone asks whether it is an image or a mask.

    values    (H, W) or (H, W, 3)   as stored: indices of a palette, 0..15 of a 4-bit grey
    palette   (256, 3) uint8, or None
    alpha     (H, W), or None if there is none or all of it is opaque
    white     the grey that 1, 2 and 4 bits call white: 1, 3, 15; else 0
    lossy     the compression's name if it changes values, else ""
    """

    values: Array
    palette: Array | None = None
    alpha: Array | None = None
    white: int = 0
    lossy: str = ""


def _page(im: ImageFile, path: Path, t: int, who: str) -> _Page:
    """Page t of an open file. Raw modes are Pillow's names for the layout of the bytes, `RGB;16B` being big-endian."""
    im.seek(t)
    _small_enough(im, path, who)
    mode, raw, lossy = im.mode, _raw_mode(im), _lossy(im, path)
    tags: dict[int, Any] = dict(getattr(im, "tag_v2", {}))  # TIFF alone has them
    bits = int(np.max(tags.get(258, 8)))
    if im.tile and im.tile[0][0] == "libtiff" and raw in _NATIVE:
        im.tile = [_with_raw_mode(tile, _NATIVE[raw]) for tile in im.tile]
    if tags and (samples := int(tags.get(277, 1))) != len(im.getbands()):
        raise DataError(f"{who}: {path} holds {counted(samples, 'channel')} and only {len(im.getbands())} can be read. Save "
                        f"it as grey or RGB, or every channel as a page or a file of its own.")
    if bits == 16 and len(im.getbands()) > 1 and (int(tags.get(284, 1)) == 2 or ";16" not in raw):
        raise DataError(f"{who}: {path} is 16-bit colour with its channels stored apart, which Pillow cuts to 8 bits. "
                        f"Save it with interleaved channels, as PNG, or every channel as a file of its own.")

    if mode == "1":
        return _Page(np.asarray(im).astype(np.uint8), white=1)
    if mode == "L":
        values = np.array(im)
        white = {"L;2": 3, "L;4": 15}.get(raw[:3], 0)
        if white:
            values //= 255 // white  # Pillow has stretched 0..15 to 0..255
        elif raw.startswith("L;I"):
            values = 255 - values  # Pillow has inverted a white-is-zero TIFF; 16-bit ones it leaves alone
        return _Page(values.view(np.int8) if tags.get(339, (1,))[0] == 2 else values, white=white, lossy=lossy)
    if mode.startswith("I;16"):
        return _Page(np.asarray(im).astype(np.uint16), lossy=lossy)
    if mode == "I":
        values = np.array(im)
        if raw.startswith("I;16") and not raw.endswith("S"):  # older Pillows open 16-bit PNGs as 32-bit integers
            return _Page(values.astype(np.uint16))
        return _Page(values.view(np.uint32) if tags and tags.get(339, (1,))[0] == 1 else values, lossy=lossy)
    if mode == "F":
        return _Page(np.array(im), lossy=lossy)
    if mode in ("P", "PA"):
        palette = np.zeros((256, 3), np.uint8)
        colours = np.array(im.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[:len(colours)] = colours
        alpha = np.asarray(im.convert("RGBA"))[..., 3] if mode == "PA" or "transparency" in im.info else None
        values = np.array(im)
        return _Page(values[..., 0] if mode == "PA" else values, palette, _hiding(alpha))
    if mode in ("LA", "RGB", "RGBA"):
        values = _sixteen_bits(im, path, t, raw, who) if ";16" in raw else np.array(im)
        channels = 1 if values.shape[-1] == 2 else 3
        alpha = _hiding(values[..., channels]) if values.shape[-1] > channels else None
        return _Page(values[..., 0] if channels == 1 else values[..., :3], alpha=alpha, lossy=lossy)
    raise DataError(f"{who}: {path} is in the colour space {mode}. Save it as grey or RGB.")


def _raw_mode(im: ImageFile) -> str:
    if not im.tile:
        return ""
    args: Any = im.tile[0][3]
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _sixteen_bits(im: ImageFile, path: Path, t: int, raw: str, who: str) -> Array:
    """16-bit colour -> (H, W, C) uint16, in spite of Pillow, whose colours have 8 bits.

    Pillow keeps the high byte of every number. Told that the bytes lie the other way round, it keeps the low one: so
    the page is decoded twice, and value = 256 high + low. Grey with alpha, two 16-bit numbers, is read as four bytes.
    """
    from PIL import Image

    swapped = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    if raw not in {f"{c};16{o}" for c in ("RGB", "RGBA") for o in swapped} | {"LA;16B"}:
        raise DataError(f"{who}: {path} stores 16-bit colour as {raw}, which Pillow cuts to 8 bits. Save it as 16-bit "
                        f"RGB PNG, or every channel as a file of its own.")
    other = "RGBA" if raw == "LA;16B" else raw[:-1] + swapped[raw[-1]]
    with path.open("rb") as file, Image.open(file, formats=_FORMATS) as again:
        again.seek(t)
        again.tile = [_with_raw_mode(tile, other) for tile in again.tile]
        low = np.asarray(again).astype(np.uint16)
    if raw == "LA;16B":
        return low[..., 0::2] << 8 | low[..., 1::2]
    return np.asarray(im).astype(np.uint16) << 8 | low


def _with_raw_mode(tile: Any, raw: str) -> Any:
    args = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)  # older Pillows: plain tuples


def _hiding(alpha: Array | None) -> Array | None:
    """The alpha channel, or None where it is opaque everywhere and so says nothing."""
    return None if alpha is None or (alpha == np.iinfo(alpha.dtype).max).all() else alpha


def _lossy(im: ImageFile, path: Path) -> str:
    if im.format in ("JPEG", "MPO"):
        return "JPEG"
    if im.format == "TIFF" and str(im.info.get("compression")) in ("jpeg", "tiff_jpeg", "webp", "jpeg2000"):
        return f"a TIFF with {im.info['compression']} compression"
    if im.format == "WEBP":
        data, at = path.read_bytes(), 12
        while at + 8 <= len(data):  # RIFF: four letters, a size, the bytes, padded to even
            if data[at:at + 4] == b"VP8 ":
                return "lossy WebP"
            at += 8 + (size := int.from_bytes(data[at + 4:at + 8], "little")) + size % 2
    return ""


# What an image and what a mask make of the numbers

def _to_image(page: _Page, path: Path, who: str, drop_alpha: bool) -> Array:
    if page.alpha is not None and not drop_alpha:
        raise DataError(f"{who}: {path} has an alpha channel that hides pixels (alpha goes down to "
                        f"{page.alpha.min()}). Flatten it when saving, or read it with drop_alpha=True (train, evaluate: "
                        f"--drop-alpha).")
    values = page.values if page.palette is None else page.palette[page.values]
    if page.white:
        values = values * np.uint8(255 // page.white)
    return image_array(values, str(path), who)


def image_array(values: Array, where: str, who: str) -> Array:
    """numbers (H, W) or (H, W, C) -> (H, W, C), C-contiguous: uint8 and uint16 stay, the rest becomes float32.

    The dtype never depends on the values, so that the images of one set come out alike.
    """
    values = np.atleast_3d(values)  # (H, W) -> (H, W, 1)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.bool_:
        return np.ascontiguousarray(values.astype(np.uint8) * np.uint8(255))
    if values.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(values)
    if values.dtype.kind in "iu":
        worst = max(values.max(initial=0), values.min(initial=0), key=lambda v: abs(int(v)))
        if abs(int(worst)) > 2**24:
            raise DataError(f"{who}: {where} holds {int(worst)}, and float32 is exact up to {2**24} only. Rescale it "
                            f"and save it as 16-bit integers or 32-bit floats.")
    elif values.dtype.kind != "f":
        raise DataError(f"{who}: {where} is an array of {values.dtype}. An image is uint8, uint16 or float32.")
    elif bad := values.size - int(np.isfinite(values).sum()):
        raise DataError(f"{who}: {bad} of the {values.size} values in {where} are NaN or infinite. Replace them.")
    return np.ascontiguousarray(values, np.float32)


def _to_mask(page: _Page, path: Path, who: str) -> Array:
    values = page.values
    if page.lossy:
        raise DataError(f"{who}: {path} is {page.lossy}, which changes values along every edge. Export the mask again "
                        f"from its source, as PNG or TIFF; converting this file does not bring the labels back.")
    if page.alpha is not None:
        raise DataError(f"{who}: {path} has an alpha channel that hides pixels. Save the mask without one.")
    if values.ndim == 3:
        if not ((values[..., 0] == values[..., 1]) & (values[..., 0] == values[..., 2])).all():
            raise DataError(f"{who}: {path} is a colour picture of a mask. Save the label numbers themselves, as grey, "
                            f"16-bit grey or palette PNG.")
        values = values[..., 0]
    return mask_array(values, str(path), who)


def mask_array(values: Array, where: str, who: str) -> Array:
    """numbers (H, W) -> the same as C-contiguous integers; bool becomes 0 and 1, integral floats int32."""
    if values.dtype == np.bool_:
        return np.ascontiguousarray(values, np.uint8)
    if values.dtype.kind in "iu":
        return np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if values.dtype.kind != "f":
        raise DataError(f"{who}: {where} is an array of {values.dtype}. A mask holds integers.")
    if values.dtype == np.float16:  # which does not know 2**31
        values = values.astype(np.float32)
    odd = ~(np.abs(values) < 2**31) | (values != np.rint(values))  # the first part is true for NaN as well
    if odd.any():
        raise DataError(f"{who}: {where} holds {values[odd][0]:g}, and a mask holds integers. Was it divided by 255, "
                        f"or resized with interpolation? Save the labels as they were, as PNG or 16-bit TIFF.")
    return np.ascontiguousarray(values, np.int32)


# Writing

def write_image(path: str | os.PathLike[str], image: Array) -> Path:
    """(H, W), (H, W, 1) or (H, W, 3) -> PNG or TIFF, by the file's name; `read_image` gives the same array back.

    uint8 grey and RGB, uint16 grey; float32 grey as TIFF only. The file appears whole or not at all.

    DataError: another dtype or shape, 16-bit RGB (Pillow cannot write it), another format, a folder that is not there.
    """
    path, image = Path(path), np.asarray(image)
    pixels = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3) or not pixels.size:
        raise DataError(f"write_image: {path} would hold an array of shape {image.shape}. Give (H, W), (H, W, 1) or "
                        f"(H, W, 3).")
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise DataError(f"write_image: {path} would hold {image.dtype}. Give uint8, uint16 or float32: for "
                        f"probabilities, (255 * p).round().astype(np.uint8).")
    if pixels.ndim == 3 and pixels.dtype != np.uint8:
        raise DataError(f"write_image: {path} would hold {image.dtype} RGB, which Pillow cannot write. Write every "
                        f"channel as a file of its own, or uint8.")
    if pixels.dtype == np.float32 and path.suffix.lower() == ".png":
        raise DataError(f"write_image: {path} would hold float32, which PNG does not have. Name it {path.stem}.tif.")
    return _write(path, pixels, "write_image")


def write_labels(path: str | os.PathLike[str], labels: Array) -> Path:
    """(H, W) classes or instance ids -> PNG or TIFF, 8-bit up to 255 and 16-bit up to 65535.

    `read_mask` gives the same numbers back. The file appears whole or not at all.

    DataError: floats, a shape that is not (H, W), ids above 65535, negative numbers (`IGNORE`), another format.
    """
    path, labels = Path(path), np.asarray(labels)
    if labels.ndim != 2 or not labels.size:
        raise DataError(f"write_labels: {path} would hold an array of shape {labels.shape}. Give (H, W), one image at "
                        f"a time.")
    if labels.dtype.kind not in "iub":
        raise DataError(f"write_labels: {path} would hold {labels.dtype}. Labels are integers: take the argmax first.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError(f"write_labels: {path} would hold {low}, and image files hold no negative labels. Give unknown "
                        f"pixels a free number first: np.where(labels < 0, 255, labels).")
    if high > 65535:
        raise DataError(f"write_labels: {path} would hold {high}, and 16 bits end at 65535. Renumber the ids first: "
                        f"np.unique(labels, return_inverse=True)[1].reshape(labels.shape).")
    return _write(path, labels.astype(np.uint8 if high < 256 else np.uint16), "write_labels")


def _write(path: Path, pixels: Array, who: str) -> Path:
    from PIL import Image, features

    if path.suffix.lower() not in (".png", ".tif", ".tiff"):
        raise DataError(f"{who}: {path} ends in {path.suffix or 'nothing'!r}. Name it .png or .tif, which lose "
                        f"nothing.")
    if not path.parent.is_dir():
        raise DataError(f"{who}: there is no folder {path.parent}. Make it first.")
    im = Image.fromarray(np.ascontiguousarray(pixels))
    with atomic_write(path) as part:
        packed = io.BytesIO()  # libtiff, given a name, takes no name that is not UTF-8, and names no reason when the disk is full
        if path.suffix.lower() == ".png":
            im.save(packed, "PNG")
        else:
            im.save(packed, "TIFF", compression="tiff_lzw" if features.check("libtiff") else None)
        part.write_bytes(packed.getbuffer())
    return path
