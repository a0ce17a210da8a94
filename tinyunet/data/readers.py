"""Data sets on disk -> `Dataset`: every image checked against its mask before the first step of training.

    read_folder       a folder of images, a folder of masks, matched by name
    read_tiff_pair    two multi-page TIFFs
    read_npz          arrays in one NumPy file
    read_isbi2012     electron microscopy: membranes (the paper's section 4, table 1)
    read_ctc          Cell Tracking Challenge: PhC-U373, DIC-HeLa and others (section 4, table 2)
    read_dsb2018      Data Science Bowl 2018: nuclei
    read_dataset      any of these, by the look of the folder

Most wrong segmentations begin with a wrong mask: 255 read as class 255, labels divided by 255, edges blurred by JPEG, a mask
half the size of its image. None of them gets through here. What a number in a mask means is said with `label_map`, never
guessed: {0, 255} is refused until `label_map={0: 0, 255: 1}` says so.

All images are held in memory with the depth of their files, 1 or 2 bytes a number (4 for float32): a thousand 512x512 8-bit
greys take 250 MiB, their int32 labels four times as much, and instances again. Files that start with a dot, and those that
are no images by their suffix, are passed over.

Images that are grey but saved as RGB, all channels being equal, keep one channel, and a network for grey results: 3 times less
to read in the first layer, and the same answer. If one image of the set is coloured, all stay RGB.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np

from tinyunet.backend import Array
from tinyunet.data import images as pictures
from tinyunet.data.images import (
    SUFFIXES,
    image_array,
    mask_array,
    read_image,
    read_mask,
    read_mask_stack,
    read_stack,
)
from tinyunet.data.masks import Kind, LabelMap, Pair, assemble, is_grey, parse_label_map, size_of
from tinyunet.data.sample import Dataset, counted
from tinyunet.errors import ConfigError, DataError, TinyUNetError, short

__all__ = ["FORMATS", "Kind", "LabelMap", "options_taken", "parse_label_map", "read_ctc", "read_dataset", "read_dsb2018",
           "read_folder", "read_isbi2012", "read_npz", "read_tiff_pair"]

PathLike: TypeAlias = str | os.PathLike[str]
Reader = TypeVar("Reader", bound=Callable[..., Any])


def _reader(read: Reader) -> Reader:
    """What the operating system refuses (a folder without permission, a name too long) leaves a reader as a DataError."""
    @functools.wraps(read)
    def reader(*args: Any, **options: Any) -> Any:
        try:
            return read(*args, **options)
        except OSError as error:
            raise DataError(f"{read.__name__}: {error.filename or 'a file'} cannot be read ({error.strerror or error}). Check "
                            f"its name and permissions.") from error
    return cast(Reader, reader)


# Data sets of your own

@_reader
def read_folder(
    images: PathLike, masks: PathLike | None = None, *, kind: Kind = "binary", label_map: LabelMap | None = None,
    class_names: Sequence[str] | None = None, instances: Literal["ids", "components"] | None = None,
    partial: bool = False, drop_alpha: bool = False,
) -> Dataset:
    """Images and masks with the same names -> Dataset, in natural order (t2 before t10).

    images, masks   two folders. Or one folder alone, that holds images/ and masks/ (or image/ and label/, imgs/ and
                    labels/ ...), or pairs side by side as a.png and a_mask.png. A mask may carry _mask, _masks, _label,
                    _labels, _seg, _gt, _instances or _cp_masks after the name of its image.
    kind            "binary": 0 and 1. "classes": 0..K-1. "instances": 0 is background, every object has a number of its own;
                    its class is 1.
    label_map       what the numbers mean, e.g. {0: 0, 255: 1} or {0: 0, 1: 1, 255: "ignore"}. It must name every number
                    that occurs. For instances it may only say which are background (0) or "ignore".
    class_names     one a class, background first. Without it K is the highest class + 1, at least 2.
    instances       "components": objects are the 4-connected pieces of the foreground. Asked for explicitly, since touching
                    objects become one. "ids": the masks hold ids, however scattered these are, and need no check.
    partial         some objects carry no annotation: what is unlabelled is then unknown, and becomes `IGNORE`.
    drop_alpha      read images that are partly transparent as if they were not.

    DataError, naming the files: a partner missing, two files for one name, sizes that differ, numbers that have no meaning,
    lossy or fractional masks, ids scattered as only grey values are, images of different channels or depth, no foreground
    in any mask.
    """
    who = "read_folder"
    image_files, mask_files, name = _image_and_mask_files(images, masks, who)
    pairs = (Pair(stem, str(image), str(mask), read_image(image, drop_alpha=drop_alpha), read_mask(mask))
             for stem, image, mask in _match(image_files, mask_files, who))
    return assemble(pairs, name, who, kind, label_map, class_names, instances, partial)


@_reader
def read_tiff_pair(
    images: PathLike, masks: PathLike, *, kind: Kind = "binary", label_map: LabelMap | None = None,
    class_names: Sequence[str] | None = None, instances: Literal["ids", "components"] | None = None,
    partial: bool = False,
) -> Dataset:
    """Two multi-page TIFFs, page t of one belonging to page t of the other -> Dataset. Options as for `read_folder`.

    DataError: as for `read_folder`; different numbers of pages.
    """
    who = "read_tiff_pair"
    return assemble(_stack_pairs(Path(images), Path(masks), who), Path(images).stem, who, kind, label_map, class_names,
                     instances, partial)


@_reader
def read_npz(
    path: PathLike, *, kind: Kind = "binary", label_map: LabelMap | None = None,
    class_names: Sequence[str] | None = None, instances: Literal["ids", "components"] | None = None,
    partial: bool = False,
) -> Dataset:
    """A NumPy .npz file -> Dataset. Options as for `read_folder`; they say what the array `labels` holds.

    images      (N, H, W) or (N, H, W, C); or `image`, one of them: (H, W) or (H, W, C)
    labels      (N, H, W); or `masks`, `label`, `mask`
    instances   (N, H, W) ids, if they come beside the labels; alone, they are read with kind="instances"
    names, ids  (N,) strings, used as the names of the samples

    64-bit floats become float32. Pickled objects are never loaded, since they can run code.

    DataError: as for `read_folder`; no .npz file; arrays missing, pickled, or of different lengths.
    """
    who, path = "read_npz", Path(path)
    arrays = _load_npz(path, who)
    image = _one_of(arrays, ("images", "image"), path, who)
    labels = _one_of(arrays, ("labels", "masks", "label", "mask"), path, who, needed="instances" not in arrays)
    ids = arrays.get("instances")
    if ids is not None and labels is not None and (kind == "instances" or instances is not None):
        raise ConfigError(f'{who}: {path} has labels and instances, so the objects are known; kind says what its '
                          f'labels hold. Use kind="binary" or "classes" (command line: --kind), without the option '
                          f'instances.')
    if labels is None:  # then there are ids
        labels, ids, kind = arrays["instances"], None, "instances"
    if labels.ndim == 2:  # one image
        image, labels, ids = image[None], labels[None], None if ids is None else ids[None]
    if labels.ndim != 3 or image.ndim not in (3, 4) or len(image) != len(labels) or (
            ids is not None and ids.shape != labels.shape):
        raise DataError(f"{who}: {path} holds images {image.shape} and labels {labels.shape}"
                        f"{'' if ids is None else f' and instances {ids.shape}'}. Give (N, H, W) or (N, H, W, C) "
                        f"images and (N, H, W) labels.")
    names = next((arrays[key] for key in ("names", "ids") if key in arrays and arrays[key].shape == (len(image),)), None)
    pairs = (Pair(f"{n:03d}" if names is None else str(names[n]), f"image {n} of {path}", f"mask {n} of {path}",
                   image_array(image[n], f"image {n} of {path}", who),
                   mask_array(labels[n], f"mask {n} of {path}", who),
                   None if ids is None else mask_array(ids[n], f"instances {n} of {path}", who))
             for n in range(len(image)))
    return assemble(pairs, path.stem, who, kind, label_map, class_names, instances, partial)


# Data sets of the field

@_reader
def read_isbi2012(root: PathLike) -> Dataset:
    """The training slices of the ISBI 2012 EM challenge -> Dataset: membrane 0, cell interior 1.

    root holds image/ and label/ (or images/ and labels/) with one PNG a slice, or the challenge's own train-volume.tif and
    train-labels.tif. In the files 0 is membrane and 255 interior. Instances are the 4-connected components of the interior,
    as the challenge counts them. The labels of the challenge's test slices are secret.

    DataError: neither layout found, or as for `read_folder`.
    """
    who, root = "read_isbi2012", _folder(root, "read_isbi2012")
    volume, labels = root / "train-volume.tif", root / "train-labels.tif"
    pairs: Iterable[Pair]
    if volume.is_file() and labels.is_file():
        pairs = _stack_pairs(volume, labels, who)
    elif found := next(((root / a, root / b) for a, b in (("image", "label"), ("images", "labels"))
                        if (root / a).is_dir() and (root / b).is_dir()), None):
        pairs = (Pair(stem, str(image), str(mask), read_image(image), read_mask(mask))
                 for stem, image, mask in _match(_list(found[0], who), _list(found[1], who), who))
    else:
        raise DataError(f"{who}: {root} has neither image/ and label/ nor train-volume.tif and train-labels.tif; it "
                        f"holds {_content(root)}. Give the folder that holds them.")
    return assemble(pairs, root.name, who, "binary", {0: 0, 255: 1}, ("membrane", "cell"), "components", False)


@_reader
def read_ctc(root: PathLike, sequence: str = "01", source: str = "GT", *, partial: bool = False) -> Dataset:
    """One sequence of a 2-D Cell Tracking Challenge set -> Dataset of the frames that have a mask; kind is "instances".

    root        the folder of the set, e.g. PhC-C2DH-U373, with 01/tNNN.tif and 01_GT/SEG/man_segNNN.tif
    sequence    "01" or "02"
    source      "GT": drawn by people, few frames. "ST": computed from the entries of the challenge (silver), every frame
    partial     In some GT frames some cells carry no annotation (all of DIC-HeLa's, for one); the files do not say which.
                With True, whatever is not labelled is unknown: its label is `IGNORE`, in every frame. No pixel then teaches
                background, so such frames measure (SEG looks at annotated objects only) or join others in training.
                With False, whatever is not labelled is background.

    DataError: folders or frames missing, 3-D masks, or as for `read_folder`.
    """
    who, root = "read_ctc", _folder(root, "read_ctc")
    frames, segmented = root / sequence, root / f"{sequence}_{source}" / "SEG"
    for folder in (frames, segmented):
        if not folder.is_dir():
            raise DataError(f"{who}: there is no folder {folder}; {root} holds {_content(root)}. Give the folder of "
                            f'the set, a sequence ("01") and a source ("GT" or "ST").')
    pairs = []
    for mask in _list(segmented, who):
        number = re.fullmatch(r"man_seg_?(\d+)", mask.stem)
        if number is None:
            raise DataError(f"{who}: {mask} is not named man_segNNN.tif. Masks of 3-D sets (man_seg_000_012.tif) are "
                            f"slices of volumes, and tinyunet is 2-D.")
        frame = frames / f"t{number[1]}.tif"
        if not frame.is_file():
            raise DataError(f"{who}: {mask} has no frame: there is no {frame}. Unpack the sequence again, or remove "
                            f"the mask.")
        pairs.append((f"{sequence}/{frame.stem}", frame, mask))
    return assemble((Pair(name, str(frame), str(mask), read_image(frame), read_mask(mask))
                      for name, frame, mask in pairs), root.name, who, "instances", None, None, "ids", partial)


@_reader
def read_dsb2018(root: PathLike) -> Dataset:
    """Nuclei of the Data Science Bowl 2018 -> Dataset; kind is "instances".

    root holds one folder an image, each with images/ID.png and masks/*.png, one file a nucleus (the layout of stage1_train);
    or images/ and masks/ with instance ids, one file an image.
    Nuclei get the ids 1, 2, ... in the order of their file names. A pixel that two of them claim goes to the smaller one,
    so that none disappears under another. The originals are RGBA, most of them grey: if all are, one channel is kept.

    DataError: neither layout found, an empty nucleus, or as for `read_folder`.
    """
    who, root = "read_dsb2018", _folder(root, "read_dsb2018")
    pairs: list[Pair] = []
    one_file = (root / "images").is_dir() and (root / "masks").is_dir()
    if one_file:
        pairs = [Pair(stem, str(image), str(mask), read_image(image), read_mask(mask))
                 for stem, image, mask in _match(_list(root / "images", who), _list(root / "masks", who), who)]
    else:
        for folder in sorted((f for f in root.iterdir() if (f / "images").is_dir()), key=_natural):
            found, nuclei = _list(folder / "images", who), folder / "masks"
            if len(found) > 1:
                raise DataError(f"{who}: {folder / 'images'} holds {len(found)} images, and the layout has one. Move "
                                f"the others to folders of their own.")
            if not nuclei.is_dir():
                raise DataError(f"{who}: {folder} has no masks/ beside images/. Is it the test part? Read the training "
                                f"part.")
            image = read_image(found[0])
            pairs.append(Pair(folder.name, str(found[0]), str(nuclei), image, _nuclei(_list(nuclei, who), image.shape, who)))
        if not pairs:
            raise DataError(f"{who}: {root} has neither images/ and masks/ nor folders with images/ and masks/ in "
                            f"them; it holds {_content(root)}. Give the folder that holds them, e.g. stage1_train.")
    if not all(is_grey(pair.image) for pair in pairs):
        pairs = [pair._replace(image=np.repeat(pair.image, 3 // pair.image.shape[-1], axis=-1)) for pair in pairs]
    return assemble(pairs, root.name, who, "instances", None, ("background", "nucleus"), None if one_file else "ids",
                     False)


def _nuclei(paths: Sequence[Path], shape: tuple[int, ...], who: str) -> Array:
    """One 0/255 file a nucleus -> (H, W) ids; the large are painted first and the small over them."""
    ids = np.zeros(shape[:2], np.int32)
    found = []
    for i, path in enumerate(paths, start=1):
        inside = read_mask(path) > 0
        if inside.shape != ids.shape:
            raise DataError(f"{who}: {path} is {size_of(inside)} and its image is {size_of(ids)}. Export it at the image's "
                            f"size.")
        if not inside.any():
            raise DataError(f"{who}: {path} holds no nucleus, only 0. Remove the file.")
        found.append((-int(inside.sum()), i, inside))
    for _, i, inside in sorted(found, key=lambda nucleus: nucleus[:2]):
        ids[inside] = i
    return ids


# Which of them is it?

FORMATS: dict[str, Callable[..., Dataset]] = {
    "folder": read_folder, "tiff": read_tiff_pair, "npz": read_npz,
    "isbi2012": read_isbi2012, "ctc": read_ctc, "dsb2018": read_dsb2018,
}
"""The names that `read_dataset` knows. Options go to the reader of that name."""


@_reader
def read_dataset(path: PathLike, format: str = "auto", **options: Any) -> Dataset:
    """Whatever lies at `path` -> Dataset; `options` go to the reader that fits.

    With format="auto", the first that fits:
        npz        a file named .npz
        tiff       a file named .tif, with the option masks="labels.tif"
        isbi2012   train-volume.tif and train-labels.tif; or image/ and label/ in a folder with "isbi" in its name
        ctc        01/ and 01_GT/ or 01_ST/ (any two digits)
        dsb2018    folders with images/ and masks/ in them; or images/ and masks/ in a folder with "dsb" in its name
        folder     images/ and masks/ and the like; pairs side by side; or the option masks="folder"

    A folder's name counts only if the options leave it to: isbi2012 takes none, and dsb2018 only kind="instances" and
    with it instances="ids", which say what it is anyway (as they do for ctc). With others, it is a plain folder that happens
    to be called so.

    ConfigError: an unknown format, or an option that its reader does not take. DataError: nothing there, or nothing fits.
    """
    path = Path(path)
    reader = _reader_for(path, format, options)
    if reader in (read_ctc, read_dsb2018) and options.get("kind") == "instances":
        del options["kind"]
        if options.get("instances") == "ids":
            del options["instances"]
    takes = _takes(reader)
    if unknown := sorted(set(options) - set(takes)):
        raise ConfigError(f"read_dataset: {reader.__name__}, which reads {path}, has no option {', '.join(unknown)}. "
                          f"It takes {', '.join(takes) or 'none'}.")
    if reader is read_tiff_pair and "masks" not in options:
        raise ConfigError(f"read_dataset: {path} is a TIFF without its masks. Give a TIFF of as many pages as "
                          f"masks=... (command line: --masks FILE).")
    return reader(path, **options)


@_reader
def options_taken(path: PathLike, format: str = "auto", **options: Any) -> list[str]:
    """Names of the options that `read_dataset` could be given besides these. Raises as it does for an unknown format or path."""
    return _takes(_reader_for(Path(path), format, options))


def _reader_for(path: Path, format: str, options: Mapping[str, Any]) -> Callable[..., Dataset]:
    if format != "auto" and format not in FORMATS:
        raise ConfigError(f"read_dataset: there is no format {format!r}. Use auto or one of {', '.join(FORMATS)}.")
    if not path.exists():
        raise DataError(f"read_dataset: there is no file or folder {path}. Check the name.")
    return FORMATS[_detect(path, options) if format == "auto" else format]


def _takes(reader: Callable[..., Dataset]) -> list[str]:
    return list(inspect.signature(reader).parameters)[1:]


def _detect(path: Path, options: Mapping[str, Any]) -> str:
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return "npz"
        if path.suffix.lower() in (".tif", ".tiff"):
            return "tiff"
        raise DataError(f"read_dataset: {path} is neither .npz nor .tif. Give a folder, an .npz file, or a multi-page "
                        f"TIFF and its masks.")
    if not path.is_dir():
        raise DataError(f"read_dataset: {path} is a pipe or a device. Give a folder or a file.")
    if "masks" in options:
        return "folder"
    names, title = {entry.name for entry in path.iterdir()}, path.resolve().name.lower()
    if {"train-volume.tif", "train-labels.tif"} <= names or (
            "isbi" in title and {"image", "label"} <= names and not options):
        return "isbi2012"
    if any(re.fullmatch(r"\d\d", name) and {f"{name}_GT", f"{name}_ST"} & names for name in names):
        return "ctc"
    if "dsb" in title and {"images", "masks"} <= names and options in (
            {}, {"kind": "instances"}, {"kind": "instances", "instances": "ids"}):
        return "dsb2018"
    if _subfolders(path, IMAGE_FOLDERS) and _subfolders(path, MASK_FOLDERS):
        return "folder"
    if any((path / name / "images").is_dir() and (path / name / "masks").is_dir() for name in names):
        return "dsb2018"
    if any(_without_suffix(file.stem) != file.stem for file in _list(path, "read_dataset", needed=False)):
        return "folder"
    raise DataError(
        f"read_dataset: {path} holds {_content(path)}, and none of these: images/ and masks/ (or image/ and label/); "
        f"pairs a.png and a_mask.png; 01/ and 01_GT/ (Cell Tracking Challenge); train-volume.tif and train-labels.tif "
        f"(ISBI 2012); folders with images/ and masks/ in them (DSB 2018). Give the folder of the images and "
        f"masks=... (command line: --masks FOLDER), or name the format (--format).")


# Finding the files

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "seg", "annotations")
_SUFFIX = re.compile(r"[_\-. ](cp_masks|masks?|labels?|seg|gt|instances?)$", re.IGNORECASE)


def _without_suffix(stem: str) -> str:
    return _SUFFIX.sub("", stem)


def _natural(path: Path) -> list[tuple[int, str]]:
    """t2 before t10: a block of neighbouring frames validates, so the order matters."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.stem)] + [(-1, path.name)]


def _folder(path: PathLike, who: str) -> Path:
    path = Path(path)
    if path.is_dir():
        return path.resolve() if path.name in ("", "..") else path
    if path.exists():
        raise DataError(f"{who}: {path} is a file, and a folder was expected.")
    raise DataError(f"{who}: there is no folder {path}. Check the name.")


def _list(folder: PathLike, who: str, needed: bool = True) -> list[Path]:
    """The image files of a folder, in natural order."""
    folder = _folder(folder, who)
    found = sorted((file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and
                    not file.name.startswith(".") and file.is_file()), key=_natural)
    if needed and not found:
        raise DataError(f"{who}: {folder} holds no image files ({', '.join(SUFFIXES)}); it holds "
                        f"{_content(folder)}.")
    return found


def _subfolders(root: Path, names: Sequence[str]) -> list[Path]:
    return [root / name for name in names if (root / name).is_dir()]


def _image_and_mask_files(images: PathLike, masks: PathLike | None, who: str) -> tuple[list[Path], list[Path], str]:
    root = _folder(images, who)
    if masks is not None:
        masks = _folder(masks, who)
        if not root.samefile(masks):
            return _list(root, who), _list(masks, who), root.parent.name if root.name in IMAGE_FOLDERS else root.name
    else:
        a, b = _subfolders(root, IMAGE_FOLDERS), _subfolders(root, MASK_FOLDERS)
        if len(a) > 1 or len(b) > 1:
            several = " and ".join(f.name + "/" for f in (a if len(a) > 1 else b))
            raise DataError(f"{who}: {root} has {several}. Say which: read_folder(images, masks) (command "
                            f"line: IMAGES --masks FOLDER).")
        if a and b:
            return _list(a[0], who), _list(b[0], who), root.name
    found = _list(root, who)
    marked = [file for file in found if _without_suffix(file.stem) != file.stem]
    if not marked:
        raise DataError(f"{who}: {root} has no images/ and masks/ in it, and none of its files is named as a mask "
                        f"(a.png and a_mask.png). Give both folders: read_folder(images, masks) (command line: IMAGES "
                        f"--masks FOLDER).")
    if len(marked) == len(found):
        raise DataError(f"{who}: {root} holds masks alone, by their names: {_some(file.name for file in marked)}. Put the image "
                        f"of a_mask.png beside it as a.png.")
    return [file for file in found if file not in marked], marked, root.name


def _match(image_files: Sequence[Path], mask_files: Sequence[Path], who: str) -> list[tuple[str, Path, Path]]:
    """Images and masks -> (name, image, mask), every file used once."""
    by_name = _by_name([(file.stem, file) for file in image_files], "image", who)
    masks = _by_name([(file.stem if file.stem in by_name else _without_suffix(file.stem), file) for file in mask_files],
                     "mask", who)
    lonely = [file.name for name, file in by_name.items() if name not in masks]
    extra = [file.name for name, file in masks.items() if name not in by_name]
    if not set(masks) & set(by_name):
        raise DataError(f"{who}: no mask belongs to any image. Images are named like {image_files[0].name}, masks like "
                        f"{mask_files[0].name}. Name a mask like its image, or add _mask.")
    if lonely:
        raise DataError(f"{who}: {len(lonely)} of {counted(len(image_files), 'image')} {_have(lonely)} no mask: {_some(lonely)}. "
                        f"Add their masks to {mask_files[0].parent}, or move these images elsewhere.")
    if extra:
        raise DataError(f"{who}: {len(extra)} of {counted(len(mask_files), 'mask')} {_have(extra)} no image: {_some(extra)}. "
                        f"Add their images to {image_files[0].parent}, or move these masks elsewhere.")
    return [(name, file, masks[name]) for name, file in by_name.items()]


def _by_name(named: Iterable[tuple[str, Path]], what: str, who: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, file in named:
        if name in found:
            raise DataError(f"{who}: {found[name]} and {file} are both the {what} {name!r}. Keep one of them.")
        found[name] = file
    return found


def _have(some: Sequence[str]) -> str:
    return "has" if len(some) == 1 else "have"


def _some(names: Iterable[str], at_most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


def _content(folder: Path) -> str:
    entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=_natural)
    return _some([e.name + "/" * e.is_dir() for e in entries]) or "nothing"


def _load_npz(path: Path, who: str) -> dict[str, Array]:
    """The arrays of an .npz file: a zip archive of .npy files. What it claims is checked before memory is taken for it."""
    if not path.is_file():
        raise DataError(f"{who}: there is no file {path}. Check the name.")
    with path.open("rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{who}: {path} is a single array. Save images and labels: np.savez(path, images=..., labels=...).")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            size, limit = sum(info.file_size for info in members.values()), 4 * pictures.MAX_PIXELS
            if size > max(limit, 4 * pictures.DENSEST * path.stat().st_size):
                raise DataError(f"{who}: {path} says that it unpacks to {size} bytes; the limit is {limit}, against files that "
                                f"unpack without end. Cut it into parts, or raise tinyunet.data.images.MAX_PIXELS if it is true.")
            return {name: _member(archive, info, f"{name} in {path}", who) for name, info in members.items()}
    except TinyUNetError:
        raise
    except Exception as error:  # OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error
        raise DataError(f"{who}: {path} is damaged or no .npz file ({short(error)}). Save it again.") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, who: str) -> Array:
    """One array of an archive."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in headers:  # 3 is for columns with names beyond Latin-1
            raise DataError(f"{who}: {where} is no plain array. Save numbers: np.savez(path, images=..., labels=...).")
        shape, _, dtype = headers[version](file)
    if dtype.hasobject:
        raise DataError(f"{who}: {where} holds pickled objects, and those can run code, so they are not loaded. Save plain "
                        f"arrays: np.savez(path, images=..., labels=...).")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > info.file_size:
        raise DataError(f"{who}: {where} says it is {dtype} {shape}, and has {info.file_size} bytes. Save it again.")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _one_of(arrays: Mapping[str, Array], names: Sequence[str], path: Path, who: str, needed: bool = True) -> Any:
    for name in names:
        if name in arrays:
            return arrays[name]
    if needed:
        raise DataError(f"{who}: {path} has no array {' or '.join(names)}; it holds {_some(arrays) or 'nothing'}. Save "
                        f"it with np.savez(path, images=..., labels=...).")
    return None


def _stack_pairs(volume: Path, labels: Path, who: str) -> list[Pair]:
    images, masks = read_stack(volume), read_mask_stack(labels)
    if len(images) != len(masks):
        raise DataError(f"{who}: {volume} has {counted(len(images), 'page')} and {labels} has {len(masks)}. They must have the "
                        f"same.")
    return [Pair(f"{volume.stem}/{t:03d}", f"page {t + 1} of {volume}", f"page {t + 1} of {labels}", image, mask)
            for t, (image, mask) in enumerate(zip(images, masks, strict=True))]
