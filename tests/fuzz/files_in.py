"""Targets that read pictures, arrays, masks and folders of them."""

import io
import os
import pickle
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hostile import EDGES, Target, World, mutations, png, png_chunks, spoiled, tiff_entries, u32, without_privileges
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage  # noqa: F401  loaded before a case gives up the privilege to read it

from tinyunet.data.images import SUFFIXES, read_image, read_mask, read_mask_stack, read_pages, read_stack
from tinyunet.data.readers import FORMATS, read_dataset, read_folder, read_npz, read_tiff_pair
from tinyunet.data.sample import describe

# Image files ---------------------------------------------------------------------------------------------------------


@cache
def pictures() -> dict[str, bytes]:
    """Small files of every format and depth that is read, and of some that are not."""
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (9, 11), np.uint8)
    rgb = rng.integers(0, 256, (9, 11, 3), np.uint8)
    deep = rng.integers(0, 65536, (9, 11)).astype(np.uint16)
    real = rng.standard_normal((9, 11)).astype(np.float32)
    holes = real.copy()
    holes[2, 3], holes[4, 5] = np.nan, np.inf
    alpha = np.dstack([rgb, grey])
    binary = Image.fromarray(grey > 99)
    palette = Image.fromarray(grey % 5).convert("P")
    other = Image.fromarray(rgb[:5])
    out: dict[str, bytes] = {}

    def add(name: str, im: Image.Image, kind: str, **options: Any) -> None:
        file = io.BytesIO()
        im.save(file, kind, **options)
        out[name] = file.getvalue()

    for kind in ("PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG"):
        for name, array in (("grey", grey), ("rgb", rgb), ("dot", grey[:1, :1]), ("alpha", alpha)):
            if name != "alpha" or kind != "JPEG":
                add(f"{kind} {name}", Image.fromarray(array), kind, **({"lossless": True} if kind == "WEBP" else {}))
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        add(f"{kind} binary", binary, kind)
        add(f"{kind} palette", palette, kind)
    for kind in ("PNG", "TIFF"):
        add(f"{kind} 16", Image.fromarray(deep), kind)
    add("PNG transparent palette", palette, "PNG", transparency=1)
    add("PNG text", Image.fromarray(grey), "PNG", icc_profile=b"x" * 200)
    add("PNG animated", Image.fromarray(grey), "PNG", save_all=True, append_images=[Image.fromarray(255 - grey)])
    add("GIF animated", Image.fromarray(grey), "GIF", save_all=True, append_images=[Image.fromarray(255 - grey)] * 2)
    add("WEBP lossy", Image.fromarray(rgb), "WEBP", quality=50)
    add("WEBP animated", Image.fromarray(rgb), "WEBP", save_all=True, append_images=[Image.fromarray(255 - rgb)])
    add("JPEG progressive", Image.fromarray(rgb), "JPEG", progressive=True)
    add("JPEG cmyk", Image.fromarray(rgb).convert("CMYK"), "JPEG")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        add(f"TIFF {compression}", Image.fromarray(rgb), "TIFF", compression=compression)
    add("TIFF lzw 16", Image.fromarray(deep), "TIFF", compression="tiff_lzw")
    add("TIFF group4", binary, "TIFF", compression="group4")
    add("TIFF float", Image.fromarray(real), "TIFF")
    add("TIFF float nan", Image.fromarray(holes), "TIFF")
    add("TIFF int32", Image.fromarray(deep.astype(np.int32) * 999), "TIFF")
    add("TIFF stack", Image.fromarray(grey), "TIFF", save_all=True, append_images=[Image.fromarray(255 - grey)] * 2)
    add("TIFF uneven stack", Image.fromarray(grey), "TIFF", save_all=True, append_images=[other, Image.fromarray(deep)])
    add("TIFF big", Image.fromarray(grey), "TIFF", big_tiff=True)
    add("PPM", Image.fromarray(rgb), "PPM")
    add("EPS", Image.fromarray(rgb), "EPS")
    add("ICO", Image.fromarray(rgb), "ICO")
    add("PDF", Image.fromarray(rgb), "PDF")
    out["nothing"] = b""
    out["text"] = b"not an image\n" * 20
    out["svg"] = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    out["pickle"] = b"\x80\x04."
    return out


def with_lies(data: bytes, kind: str, a: int, b: int) -> bytes:
    """The bytes with a lie in their structure, where they have the structure for it: sizes, lengths, counts, loops."""
    edge, second = EDGES[a % len(EDGES)], EDGES[b % len(EDGES)]
    if kind == "none":
        return data
    if data[:4] == b"\x89PNG":
        chunks = png_chunks(data)
        if kind == "size":
            body = struct.pack(">II", edge, second) + chunks[0][1][8:]
            return png([(b"IHDR", body), *chunks[1:]])
        if kind == "depth":
            body = chunks[0][1][:8] + bytes([(1, 2, 4, 8, 16, 32, 0)[a % 7], b % 8]) + chunks[0][1][10:]
            return png([(b"IHDR", body), *chunks[1:]])
        if kind == "length":
            return png(chunks, edge)
        if kind == "loop":  # chunks again, or in another order
            at = a % len(chunks)
            return png([*chunks[:at], chunks[b % len(chunks)], *chunks[at:]])
    if data[:4] in (b"II*\0", b"MM\0*"):
        order, entries = "<" if data[:2] == b"II" else ">", tiff_entries(data)
        if kind == "loop":  # the next directory is one that was seen, or lies anywhere
            where = entries[-1]
            return data[:where] + struct.pack(order + "I", (8, edge, second, a % len(data))[b % 4]) + data[where + 4 :]
        entry = entries[a % (len(entries) - 1)]
        if kind == "size":  # width, height
            for tag, value in ((256, edge), (257, second)):
                for place in entries[:-1]:
                    if struct.unpack(order + "H", data[place : place + 2])[0] == tag:
                        data = data[: place + 2] + struct.pack(order + "HII", 4, 1, value) + data[place + 12 :]
            return data
        if kind == "depth":
            return data[: entry + 8] + struct.pack(order + "I", second) + data[entry + 12 :]
        if kind == "length":
            return data[: entry + 4] + struct.pack(order + "I", second) + data[entry + 8 :]
    if data[:2] == b"BM" and kind == "size":
        return data[:18] + struct.pack("<II", edge, second) + data[26:]
    if data[:3] == b"GIF" and kind == "size":
        return data[:6] + struct.pack("<HH", edge % 65536, second % 65536) + data[10:]
    if data[:2] == b"\xff\xd8" and kind == "size" and (at := max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))) > 0:
        return data[: at + 5] + struct.pack(">HH", edge % 65536, second % 65536) + data[at + 9 :]
    return data


NAMES = ("a{}", "A b{}", "ä膜{}", "a\nb{}", "a.b.c{}", "[red]x{}", "-x{}", "%s{{}}{}", "é" * 80 + "{}")

image_cases = st.tuples(
    st.sampled_from(sorted(pictures())),
    st.sampled_from(["none", "none", "size", "depth", "length", "loop"]), u32, u32,
    mutations,
    st.sampled_from([*SUFFIXES, ".PNG", ".txt", ""]), st.sampled_from(NAMES),
    st.sampled_from(["image", "image", "mask", "stack", "pages", "mask stack"]), st.booleans(),
)  # fmt: skip


def play_image(world: World, case: Any) -> None:
    what, lie, a, b, changes, suffix, name, reader, drop_alpha = case
    path = world.folder / name.format(suffix)
    path.write_bytes(spoiled(with_lies(pictures()[what], lie, a, b), changes))
    if reader == "image":
        array = world.call((path,), read_image, path, drop_alpha=drop_alpha)
    elif reader == "stack":
        array = world.call((path,), read_stack, path, drop_alpha=drop_alpha)
    elif reader == "pages":
        found = world.call((path,), lambda: list(read_pages(path, drop_alpha=drop_alpha)))
        array = None if found is None else np.stack(found)
    else:
        array = world.call((path,), read_mask if reader == "mask" else read_mask_stack, path)
    if array is not None:
        assert array.ndim == {"image": 3, "mask": 2, "stack": 4, "pages": 4, "mask stack": 3}[reader]
        assert array.size
        assert array.flags.c_contiguous
        if "mask" in reader:
            assert array.dtype.kind in "iu"
        else:
            assert array.shape[-1] in (1, 3)
            assert array.dtype in (np.uint8, np.uint16, np.float32)
            assert np.isfinite(array).all()
    assert list(world.folder.iterdir()) == [path]


# Array files ---------------------------------------------------------------------------------------------------------

DTYPES = (
    "?",
    "u1",
    "u2",
    "u4",
    "u8",
    "i1",
    "i2",
    "i4",
    "i8",
    "f2",
    "f4",
    "f8",
    ">u2",
    ">f4",
    "g",
    "c8",
    "U3",
    "S3",
    "V4",
    "M8[s]",
    "m8[s]",
    "O",
    [("a", "u1"), ("b", "f4")],
)
SHAPES = (
    (),
    (0,),
    (5,),
    (6, 7),
    (1, 1),
    (3, 6, 7),
    (3, 6, 7, 1),
    (3, 6, 7, 3),
    (3, 6, 7, 2),
    (3, 6, 7, 0),
    (0, 6, 7),
    (3, 0, 7),
    (3, 6, 0),
    (3, 1, 1),
    (1, 6, 7),
    (2, 6, 7),
    (3, 7, 6),
    (1, 1, 1, 1, 1),
    (3, 1, 6, 7),
)
KEYS = ("images", "image", "labels", "masks", "label", "mask", "instances", "names", "ids", "x", "../x", "", "a/b")
good_options = st.sampled_from(
    [
        {},
        {},
        {"kind": "instances"},
        {"kind": "classes"},
        {"kind": "instances", "instances": "ids"},
        {"label_map": {0: 0, 255: 1, 1: 1}},
        {"partial": True},
        {"instances": "components"},
    ]
)
any_options = st.fixed_dictionaries({}, optional={
    "kind": st.sampled_from(["binary", "classes", "instances", "both", ""]),
    "label_map": st.sampled_from([{}, {0: 0, 255: 1}, {0: 0, 1: 1, 2: "ignore"}, {0: 1, 1: 0}, {0: -1}, {"0": 0}, {0: 10**30},
                                  {10**30: 0, 0: 0, 1: 1}, {0: 0, 1: 70}, {0: 0, 1: 10**6}, {0: 0, 1: 10**9}, {-1: "ignore",
                                  0: 0, 1: 1},
                                  {0: 0.5}]),
    "class_names": st.sampled_from([(), ("a",), ("a", "b"), ("a", "a"), ("a", "b", "c"), ("",) * 50]),
    "instances": st.sampled_from(["ids", "components", "objects"]),
    "partial": st.booleans(),
})  # fmt: skip
options_cases = good_options | good_options | any_options
OPTIONS = ("kind", "label_map", "class_names", "instances", "partial")


class Payload:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def filled(dtype: Any, shape: tuple[int, ...], what: str, seed: int, evil: Path) -> Any:
    """An array of that type and shape: noise, few numbers, nothing, ids, or what must not be in an image."""
    rng = np.random.default_rng(seed)
    if dtype == "O":
        out = np.empty(shape, object)
        out[...] = Payload(evil)
        return out
    values: Any = {
        "noise": lambda: rng.integers(0, 256, shape), "few": lambda: rng.integers(0, 3, shape),
        "binary": lambda: rng.integers(0, 2, shape), "0 and 255": lambda: 255 * rng.integers(0, 2, shape),
        "nothing": lambda: np.zeros(shape), "full": lambda: np.ones(shape),
        "ids": lambda: 1 + np.arange(np.prod(shape, dtype=int)).reshape(shape), "fractions": lambda: rng.random(shape),
        "nan": lambda: np.full(shape, np.nan), "inf": lambda: np.full(shape, -np.inf),
        "large": lambda: rng.integers(0, 2**62, shape), "negative": lambda: -rng.integers(0, 3, shape),
    }[what]()  # fmt: skip
    with np.errstate(all="ignore"):
        dtype = np.dtype(dtype)
        if dtype.kind in "SUVMm" or dtype.fields:
            return np.zeros(shape, dtype)
        return values.astype(dtype)


FILLS = (
    "noise",
    "few",
    "binary",
    "binary",
    "0 and 255",
    "nothing",
    "full",
    "ids",
    "fractions",
    "nan",
    "inf",
    "large",
    "negative",
)
array_cases = st.tuples(
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.sampled_from(FILLS)),
             max_size=4, unique_by=lambda entry: entry[0]),
    st.sampled_from([True, True, False]),  # begin with arrays that fit
    st.sampled_from([*[""] * 12, "npy", "pickle", "header", "header", "text header", "zip size", "lzma", "twice"]),
    u32, st.just([]) | mutations, options_cases,
)  # fmt: skip

HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1000000, 1000000), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
    "{'descr': '<U999999999', 'fortran_order': False, 'shape': (9,), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (0, 99999999999999999999999), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (2147483648, 2147483648, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3, 6, 7), }",
    "{'descr': 'evil', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': [('a', '<f4', (1000000, 1000000))], 'fortran_order': False, 'shape': (3,), }",
    "__import__('os').mkdir('evil')",
    "[" * 5000,
    "-" * 9000 + "1",
    "{'descr': '<f4'}",
    "\xff\0",
)


def npy(header: str, body: bytes = b"") -> bytes:
    """An .npy file with a header of one's own."""
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + body


def play_array(world: World, case: Any) -> None:
    entries, fitting, trick, seed, changes, options = case
    path, evil = world.folder / "data.npz", world.evil
    arrays: dict[str, Any] = {}
    if fitting:
        arrays = {"images": filled("u1", (3, 6, 7), "noise", seed, evil), "labels": filled("u1", (3, 6, 7), "binary", seed, evil)}
    arrays |= {key: filled(dtype, shape, what, seed, evil) for key, dtype, shape, what in entries}
    if trick == "npy":
        with path.open("wb") as file:
            np.save(file, next(iter(arrays.values()), np.zeros(3)))
    elif trick == "pickle":
        path.write_bytes(pickle.dumps(Payload(evil)))
    else:
        compression = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[seed % 2] if trick != "lzma" else zipfile.ZIP_LZMA
        with zipfile.ZipFile(path, "w", compression) as archive:
            for i, (key, array) in enumerate(arrays.items()):
                buffer = io.BytesIO()
                np.save(buffer, array)
                data = buffer.getvalue()
                if i == 0 and trick == "header":
                    data = npy(HEADERS[seed % len(HEADERS)], data[128:])
                if i == 0 and trick == "text header":
                    data = spoiled(data[:128], [("set", seed // 256, seed), ("number", seed % 99, seed // 7)]) + data[128:]
                archive.writestr(key + ".npy", data)
    data = path.read_bytes()
    if trick == "zip size" and (at := data.rfind(b"PK\x01\x02")) >= 0:  # what the directory says of the last file
        data = data[: at + 20] + struct.pack("<II", EDGES[seed % 16], EDGES[seed // 16 % 16]) + data[at + 28 :]
    if trick == "twice":
        data += data
    path.write_bytes(spoiled(data, changes))
    data_set = world.call((path, *OPTIONS), read_npz, path, **options)
    if data_set is not None:
        world.call((path,), describe, data_set)
    assert list(world.folder.iterdir()) == [path]


# Masks ---------------------------------------------------------------------------------------------------------------


def mask_of(what: str, size: tuple[int, int], seed: int) -> np.ndarray:
    """A mask that somebody might hand in."""
    rng, (h, w) = np.random.default_rng(seed), size
    match what:
        case "background":
            return np.zeros(size, np.uint8)
        case "foreground":
            return np.ones(size, np.uint8)
        case "binary":
            return rng.integers(0, 2, size).astype(np.uint8)
        case "0 and 255":
            return (255 * rng.integers(0, 2, size)).astype(np.uint8)
        case "thousand":  # as many objects as fit, up to 1000 and more
            return (np.arange(h * w).reshape(size) // 4 + 1).astype(np.uint16)
        case "few":
            return rng.integers(0, 4, size).astype(np.uint8)
        case "noise":
            return rng.integers(0, 256, size).astype(np.uint8)
        case "fractions":
            return rng.random(size).astype(np.float32)
        case "integral":
            return rng.integers(0, 2, size).astype(np.float32)
        case "colours":
            return rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        case "grey colours":
            return np.repeat(rng.integers(0, 2, size).astype(np.uint8)[..., None], 3, -1)
        case "negative":
            return rng.integers(-2, 2, size).astype(np.int32)
        case "large":
            return rng.integers(0, 2**31 - 1, size).astype(np.int32)
    raise AssertionError(what)


MASKS = (
    "background",
    "foreground",
    "binary",
    "binary",
    "0 and 255",
    "thousand",
    "few",
    "noise",
    "fractions",
    "integral",
    "colours",
    "grey colours",
    "negative",
    "large",
)
SIZES = ((1, 1), (1, 9), (6, 7), (6, 7), (16, 16), (64, 64))
mask_cases = st.tuples(
    st.lists(st.tuples(st.sampled_from(MASKS), st.sampled_from(SIZES), st.sampled_from([".tif", ".tif", ".jpg", ".webp"])),
             min_size=1, max_size=3),
    st.sampled_from(["own", "own", "own", "own", "other size", "16 bits", "rgb"]),
    u32, options_cases, st.sampled_from(["folder", "folder", "dataset", "pair"]),
)  # fmt: skip


def play_mask(world: World, case: Any) -> None:
    files, image, seed, options, reader = case
    for name in ("images", "masks"):
        (world.folder / name).mkdir()
    rng, masks = np.random.default_rng(seed), []
    for i, (what, size, suffix) in enumerate(files):
        mask = mask_of(what, size, seed + i)
        if suffix == ".jpg" and mask.dtype != np.uint8:
            suffix = ".tif"
        if suffix == ".webp" and mask.dtype != np.uint8:
            suffix = ".tif"
        masks.append(Image.fromarray(mask))
        masks[-1].save(world.folder / "masks" / f"{i}{suffix}")
        if image == "other size" and i == len(files) - 1:
            size = (size[0] + 1, size[1])
        pixels = rng.integers(0, 256, size if image != "rgb" or i else (*size, 3)).astype(
            np.uint16 if image == "16 bits" and i else np.uint8
        )
        Image.fromarray(pixels).save(world.folder / "images" / f"{i}.png")
    where = (world.folder, *OPTIONS)
    if reader == "pair":
        first, last = world.folder / "images.tif", world.folder / "masks.tif"
        masks = [mask.copy() for mask in masks]  # without what saving has put into them
        images = [Image.open(world.folder / "images" / f"{i}.png") for i in range(len(masks))]
        images[0].save(first, save_all=True, append_images=images[1:])
        masks[0].save(last, save_all=True, append_images=masks[1:])
        data = world.call(where, read_tiff_pair, first, last, **options)
    elif reader == "folder":
        data = world.call(where, read_folder, world.folder, **options)
    else:
        data = world.call(where, read_dataset, world.folder, **options)
    if data is not None:
        world.call(where, describe, data)
        for sample in data:
            assert sample.labels.shape == sample.image.shape[:2]
            assert sample.labels.dtype == np.int32
            assert -1 <= sample.labels.min() <= sample.labels.max() < len(data.class_names)


# Folders -------------------------------------------------------------------------------------------------------------

ENTRIES = (
    "image",
    "image",
    "image",
    "mask",
    "mask",
    "broken",
    "empty",
    "folder",
    "loop",
    "dangling",
    "up",
    "fifo",
    "text",
    "locked",
    "other suffix",
)
LAYOUTS = (
    "images/masks",
    "images/masks",
    "side by side",
    "image/label",
    "ctc",
    "dsb2018",
    "isbi2012",
    "two of each",
    "none",
    "file",
    "missing",
    "loop",
    "fifo",
    "locked",
)
STEMS = (
    "a",
    "b",
    "t1",
    "t10",
    "t2",
    "a_mask",
    "b_mask",
    "a_label",
    "man_seg001",
    "man_seg_0_1",
    "t001",
    "train-volume",
    "train-labels",
    "ä",
    "a\u0308",
    "膜",
    "a\nb",
    "a\tb",
    "[red]b[/]",
    "%s",
    "-h",
    " ",
    "a b",
    ".hidden",
    "x" * 200,
    "\udcff",
    "²",
    "٣",
    "1" * 150,
    "CON",
    "a'b\"c",
    "🦠",
)
entries = st.lists(st.tuples(st.sampled_from(["0", "1"]), st.sampled_from(STEMS), st.sampled_from(ENTRIES)), max_size=6)
folder_cases = st.tuples(
    st.sampled_from(LAYOUTS), st.just([]) | entries | entries, st.sampled_from([True, True, True, False]),
    st.sampled_from([*["auto"] * 12, *FORMATS, "zip", ""]),
    st.sampled_from([*[None] * 8, "masks", "nothing", "."]), st.just({}) | options_cases, st.booleans(),
)  # fmt: skip


@cache
def small_pictures() -> dict[str, bytes]:
    out = {}
    for name, array in (("image", np.arange(42, dtype=np.uint8)), ("mask", np.arange(42, dtype=np.uint8) % 2)):
        for suffix in ("PNG", "TIFF"):
            file = io.BytesIO()
            Image.fromarray(array.reshape(6, 7)).save(file, suffix)
            out[name + suffix] = file.getvalue()
    return out


def put_entry(folder: Path, stem: str, what: str, role: str) -> None:
    """One entry of a folder; a name that is there, or that the file system does not take, is left out."""
    suffix = {"text": ".txt", "other suffix": ".tif"}.get(what, ".png")
    if stem.startswith(("man_seg", "t0", "train")):
        suffix = ".tif"
    path, files = folder / (stem + suffix), small_pictures()
    good = files[role + ("TIFF" if suffix == ".tif" else "PNG")]
    if os.path.lexists(path):
        return
    try:
        match what:
            case "broken":
                path.write_bytes(good[:40])
            case "empty":
                path.touch()
            case "folder":
                path.mkdir()
            case "loop":
                path.symlink_to(path.name)
            case "dangling":
                path.symlink_to("nowhere")
            case "up":
                path.symlink_to("..")
            case "fifo":
                os.mkfifo(path)
            case "locked":
                path.write_bytes(good)
                path.chmod(0)
            case "mask":
                path.write_bytes(files["mask" + ("TIFF" if suffix == ".tif" else "PNG")])
            case _:
                path.write_bytes(good)
    except (OSError, UnicodeError):
        pass


def play_folder(world: World, case: Any) -> None:
    layout, found, fitting, format, masks, options, drop = case
    root = world.folder / "dsb set" if layout == "dsb2018" else world.folder / "set"
    sub = {
        "images/masks": ("images", "masks"), "image/label": ("image", "label"), "ctc": ("01", "01_GT/SEG"),
        "dsb2018": ("n1/images", "n1/masks"), "two of each": ("images", "labels"), "isbi2012": (".", "."),
    }.get(layout, (".", "."))  # fmt: skip
    if layout == "loop":
        root.symlink_to("set")
    elif layout == "file":
        root.write_bytes(b"x")
    elif layout == "fifo":
        os.mkfifo(root)
    elif layout != "missing":
        folders = [root / name for name in sub]
        for folder in (*folders, *([root / "imgs"] if layout == "two of each" else [])):
            folder.mkdir(parents=True, exist_ok=True)
        if fitting:
            for folder, role in zip(folders, ("image", "mask"), strict=True):
                stem = {"ctc": {"image": "t001", "mask": "man_seg001"}[role], "none": "x",
                        "isbi2012": {"image": "train-volume", "mask": "train-labels"}[role]}.get(layout, "c")  # fmt: skip
                put_entry(folder, stem + ("_mask" if layout == "side by side" and role == "mask" else ""), role, role)
        for which, stem, what in found:
            put_entry(folders[int(which)], stem, what, ("image", "mask")[int(which)])
        if layout == "locked":
            root.chmod(0)
    given: dict[str, Any] = {**options, **({} if masks is None else {"masks": str(root / masks)})}
    where = (root, *OPTIONS, "format", *FORMATS)
    if drop:
        with without_privileges():
            data = world.call(where, read_dataset, root, format, **given)
    else:
        data = world.call(where, read_dataset, root, format, **given)
    if data is not None:
        world.call(where, describe, data)


TARGETS = (
    Target("image files", image_cases, play_image, 2900,
           "PNG, TIFF, JPEG, GIF, BMP, WebP and others: cut, flipped, sizes that lie, loops, wrong suffix, odd names"),
    Target("array files", array_cases, play_array, 1500,
           ".npz and .npy: every dtype, zero sizes, NaN, lying headers, damaged archives, pickled payloads"),
    Target("masks", mask_cases, play_mask, 1000,
           "all background, 1,000 objects, fractions, colours, lossy formats, wrong maps and names, images that do not fit"),
    Target("folders", folder_cases, play_folder, 1000,
           "every layout: partners missing, symlink loops, pipes, no permission, odd names, broken files"),
)  # fmt: skip
