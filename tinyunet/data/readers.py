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
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.images import (
    SUFFIXES,
    image_array,
    mask_array,
    read_image,
    read_mask,
    read_mask_stack,
    read_stack,
)
from tinyunet.data.sample import IGNORE, Dataset, Sample
from tinyunet.errors import ConfigError, DataError

__all__ = ["FORMATS", "Kind", "LabelMap", "parse_label_map", "read_ctc", "read_dataset", "read_dsb2018", "read_folder",
           "read_isbi2012", "read_npz", "read_tiff_pair"]

PathLike: TypeAlias = str | os.PathLike[str]
Kind: TypeAlias = Literal["binary", "classes", "instances"]
"""What the numbers of a mask are: background and one class; a class each; an object each."""

LabelMap: TypeAlias = Mapping[int, int | Literal["ignore"]]
"""Number in the file -> class, or "ignore" for pixels that nobody annotated."""

MANY = 32
"""More different numbers than this in the masks, and they are taken for instance ids, not classes. The number is ours."""


# Data sets of your own

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
                    objects become one.
    partial         some objects carry no annotation: what is unlabelled is then unknown, and becomes `IGNORE`.
    drop_alpha      read images that are partly transparent as if they were not.

    DataError, naming the files: a partner missing, two files for one name, sizes that differ, numbers that have no meaning,
    lossy or fractional masks, images of different channels or depth, no foreground in any mask.
    """
    who = "read_folder"
    image_files, mask_files, name = _image_and_mask_files(images, masks, who)
    pairs = (_Pair(stem, str(image), str(mask), read_image(image, drop_alpha=drop_alpha), read_mask(mask))
             for stem, image, mask in _match(image_files, mask_files, who))
    return _assemble(pairs, name, who, kind, label_map, class_names, instances, partial)


def read_tiff_pair(
    images: PathLike, masks: PathLike, *, kind: Kind = "binary", label_map: LabelMap | None = None,
    class_names: Sequence[str] | None = None, instances: Literal["ids", "components"] | None = None,
    partial: bool = False,
) -> Dataset:
    """Two multi-page TIFFs, page t of one belonging to page t of the other -> Dataset. Options as for `read_folder`.

    DataError: as for `read_folder`; different numbers of pages.
    """
    who = "read_tiff_pair"
    return _assemble(_stack_pairs(Path(images), Path(masks), who), Path(images).stem, who, kind, label_map, class_names,
                     instances, partial)


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
                          f'labels hold. Use kind="binary" or "classes", without the option instances.')
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
    pairs = (_Pair(f"{n:03d}" if names is None else str(names[n]), f"image {n} of {path}", f"mask {n} of {path}",
                   image_array(image[n], f"image {n} of {path}", who),
                   mask_array(labels[n], f"mask {n} of {path}", who),
                   None if ids is None else mask_array(ids[n], f"instances {n} of {path}", who))
             for n in range(len(image)))
    return _assemble(pairs, path.stem, who, kind, label_map, class_names, instances, partial)


# Data sets of the field

def read_isbi2012(root: PathLike) -> Dataset:
    """The training slices of the ISBI 2012 EM challenge -> Dataset: membrane 0, cell interior 1.

    root holds image/ and label/ (or images/ and labels/) with one PNG a slice, or the challenge's own train-volume.tif and
    train-labels.tif. In the files 0 is membrane and 255 interior. Instances are the 4-connected components of the interior,
    as the challenge counts them. The labels of the challenge's test slices are secret.

    DataError: neither layout found, or as for `read_folder`.
    """
    who, root = "read_isbi2012", _folder(root, "read_isbi2012")
    volume, labels = root / "train-volume.tif", root / "train-labels.tif"
    pairs: Iterable[_Pair]
    if volume.is_file() and labels.is_file():
        pairs = _stack_pairs(volume, labels, who)
    elif found := next(((root / a, root / b) for a, b in (("image", "label"), ("images", "labels"))
                        if (root / a).is_dir() and (root / b).is_dir()), None):
        pairs = (_Pair(stem, str(image), str(mask), read_image(image), read_mask(mask))
                 for stem, image, mask in _match(_list(found[0], who), _list(found[1], who), who))
    else:
        raise DataError(f"{who}: {root} has neither image/ and label/ nor train-volume.tif and train-labels.tif; it "
                        f"holds {_content(root)}. Give the folder that holds them.")
    return _assemble(pairs, root.name, who, "binary", {0: 0, 255: 1}, ("membrane", "cell"), "components", False)


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
    return _assemble((_Pair(name, str(frame), str(mask), read_image(frame), read_mask(mask))
                      for name, frame, mask in pairs), root.name, who, "instances", None, None, "ids", partial)


def read_dsb2018(root: PathLike) -> Dataset:
    """Nuclei of the Data Science Bowl 2018 -> Dataset; kind is "instances".

    root holds one folder an image, each with images/ID.png and masks/*.png, one file a nucleus (the layout of stage1_train);
    or images/ and masks/ with instance ids, one file an image.
    Nuclei get the ids 1, 2, ... in the order of their file names. A pixel that two of them claim goes to the smaller one,
    so that none disappears under another. The originals are RGBA, most of them grey: if all are, one channel is kept.

    DataError: neither layout found, an empty nucleus, or as for `read_folder`.
    """
    who, root = "read_dsb2018", _folder(root, "read_dsb2018")
    pairs: list[_Pair] = []
    one_file = (root / "images").is_dir() and (root / "masks").is_dir()
    if one_file:
        pairs = [_Pair(stem, str(image), str(mask), read_image(image), read_mask(mask))
                 for stem, image, mask in _match(_list(root / "images", who), _list(root / "masks", who), who)]
    else:
        for folder in sorted((f for f in root.iterdir() if (f / "images").is_dir()), key=_natural):
            found, nuclei = _list(folder / "images", who), folder / "masks"
            if len(found) != 1:
                raise DataError(f"{who}: {folder / 'images'} holds {len(found)} images, and the layout has one. Move "
                                f"the others to folders of their own.")
            if not nuclei.is_dir():
                raise DataError(f"{who}: {folder} has no masks/ beside images/. Is it the test part? Read the training "
                                f"part.")
            image = read_image(found[0])
            pairs.append(_Pair(folder.name, str(found[0]), str(nuclei), image, _nuclei(_list(nuclei, who), image.shape, who)))
        if not pairs:
            raise DataError(f"{who}: {root} has neither images/ and masks/ nor folders with images/ and masks/ in "
                            f"them; it holds {_content(root)}. Give the folder that holds them, e.g. stage1_train.")
    if all((pair.image == pair.image[..., :1]).all() for pair in pairs):
        pairs = [pair._replace(image=np.ascontiguousarray(pair.image[..., :1])) for pair in pairs]
    else:
        pairs = [pair._replace(image=np.repeat(pair.image, 3 // pair.image.shape[-1], axis=-1)) for pair in pairs]
    return _assemble(pairs, root.name, who, "instances", None, ("background", "nucleus"), None if one_file else "ids",
                     False)


def _nuclei(paths: Sequence[Path], shape: tuple[int, ...], who: str) -> Array:
    """One 0/255 file a nucleus -> (H, W) ids; the large are painted first and the small over them."""
    ids = np.zeros(shape[:2], np.int32)
    found = []
    for i, path in enumerate(paths, start=1):
        inside = read_mask(path) > 0
        if inside.shape != ids.shape:
            raise DataError(f"{who}: {path} is {_size(inside)} and its image is {_size(ids)}. Export it at the image's "
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


def read_dataset(path: PathLike, format: str = "auto", **options: Any) -> Dataset:
    """Whatever lies at `path` -> Dataset; `options` go to the reader that fits.

    With format="auto", the first that fits:
        npz        a file named .npz
        tiff       a file named .tif, with the option masks="labels.tif"
        isbi2012   train-volume.tif and train-labels.tif; or image/ and label/ in a folder with "isbi" in its name
        ctc        01/ and 01_GT/ or 01_ST/ (any two digits)
        dsb2018    folders with images/ and masks/ in them; or images/ and masks/ in a folder with "dsb" in its name
        folder     images/ and masks/ and the like; pairs side by side; or the option masks="folder"

    ConfigError: an unknown format, or an option that its reader does not take. DataError: nothing there, or nothing fits.
    """
    path = Path(path)
    if format != "auto" and format not in FORMATS:
        raise ConfigError(f"read_dataset: there is no format {format!r}. Use auto or one of {', '.join(FORMATS)}.")
    if not path.exists():
        raise DataError(f"read_dataset: there is no file or folder {path}. Check the name.")
    reader = FORMATS[_detect(path, options) if format == "auto" else format]
    takes = list(inspect.signature(reader).parameters)[1:]
    if unknown := sorted(set(options) - set(takes)):
        raise ConfigError(f"read_dataset: {reader.__name__}, which reads {path}, has no option {', '.join(unknown)}. "
                          f"It takes {', '.join(takes) or 'none'}.")
    if reader is read_tiff_pair and "masks" not in options:
        raise ConfigError(f"read_dataset: {path} is a TIFF without its masks. Give the option masks, a TIFF of as many "
                          f"pages.")
    return reader(path, **options)


def _detect(path: Path, options: Mapping[str, Any]) -> str:
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return "npz"
        if path.suffix.lower() in (".tif", ".tiff"):
            return "tiff"
        raise DataError(f"read_dataset: {path} is neither .npz nor .tif. Give a folder, an .npz file, or a multi-page "
                        f"TIFF and its masks.")
    if "masks" in options:
        return "folder"
    names, title = {entry.name for entry in path.iterdir()}, path.resolve().name.lower()
    if {"train-volume.tif", "train-labels.tif"} <= names or ("isbi" in title and {"image", "label"} <= names):
        return "isbi2012"
    if any(re.fullmatch(r"\d\d", name) and {f"{name}_GT", f"{name}_ST"} & names for name in names):
        return "ctc"
    if "dsb" in title and {"images", "masks"} <= names:
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
        f"(ISBI 2012); folders with images/ and masks/ in them (DSB 2018). Give two folders, images and masks, or name "
        f"the format.")


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
            raise DataError(f"{who}: {root} has {several}. Say which: read_folder(images, masks).")
        if a and b:
            return _list(a[0], who), _list(b[0], who), root.name
    found = _list(root, who)
    marked = [file for file in found if _without_suffix(file.stem) != file.stem]
    if not marked:
        raise DataError(f"{who}: {root} has no images/ and masks/ in it, and none of its files is named as a mask "
                        f"(a.png and a_mask.png). Give both folders: read_folder(images, masks).")
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
        raise DataError(f"{who}: {len(lonely)} of {len(image_files)} images have no mask: {_some(lonely)}. Add their "
                        f"masks to {mask_files[0].parent}, or move these images elsewhere.")
    if extra:
        raise DataError(f"{who}: {len(extra)} of {len(mask_files)} masks have no image: {_some(extra)}. Add their "
                        f"images to {image_files[0].parent}, or move these masks elsewhere.")
    return [(name, file, masks[name]) for name, file in by_name.items()]


def _by_name(named: Iterable[tuple[str, Path]], what: str, who: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, file in named:
        if name in found:
            raise DataError(f"{who}: {found[name]} and {file} are both the {what} {name!r}. Keep one of them.")
        found[name] = file
    return found


def _some(names: Iterable[str], at_most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


def _content(folder: Path) -> str:
    entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=_natural)
    return _some([e.name + "/" * e.is_dir() for e in entries]) or "nothing"


def _size(a: Array) -> str:
    return f"{a.shape[0]}x{a.shape[1]}"


def _load_npz(path: Path, who: str) -> dict[str, Array]:
    if not path.is_file():
        raise DataError(f"{who}: there is no file {path}. Check the name.")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.ndarray):
                return {name: archive[name] for name in archive.files}
    except Exception as error:  # OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error
        if "allow_pickle" in str(error):
            raise DataError(f"{who}: {path} holds pickled objects (or is no .npz file), and those can run code, so "
                            f"they are not loaded. Save plain arrays: np.savez(path, images=..., "
                            f"labels=...).") from error
        raise DataError(f"{who}: {path} is damaged or no .npz file ({error}). Save it again.") from error
    raise DataError(f"{who}: {path} is a single array. Save images and labels: np.savez(path, images=..., labels=...).")


def _one_of(arrays: Mapping[str, Array], names: Sequence[str], path: Path, who: str, needed: bool = True) -> Any:
    for name in names:
        if name in arrays:
            return arrays[name]
    if needed:
        raise DataError(f"{who}: {path} has no array {' or '.join(names)}; it holds {_some(arrays) or 'nothing'}. Save "
                        f"it with np.savez(path, images=..., labels=...).")
    return None


# From numbers in masks to labels

class _Pair(NamedTuple):
    """One image and its mask as read; the two texts say where they come from, for errors."""

    name: str
    image_at: str
    mask_at: str
    image: Array                 # (H, W, C)
    mask: Array                  # (H, W) integers as stored
    instances: Array | None = None  # (H, W) integers, where the file has them beside the labels


def _stack_pairs(volume: Path, labels: Path, who: str) -> list[_Pair]:
    images, masks = read_stack(volume), read_mask_stack(labels)
    if len(images) != len(masks):
        raise DataError(f"{who}: {volume} has {len(images)} pages and {labels} has {len(masks)}. They must have the "
                        f"same.")
    return [_Pair(f"{volume.stem}/{t:03d}", f"page {t + 1} of {volume}", f"page {t + 1} of {labels}", image, mask)
            for t, (image, mask) in enumerate(zip(images, masks, strict=True))]


def parse_label_map(text: str) -> dict[int, int | Literal["ignore"]]:
    """"0:0,255:1,128:ignore" -> {0: 0, 255: 1, 128: "ignore"}: a label map as written on a command line.

    ConfigError: anything else.
    """
    out: dict[int, int | Literal["ignore"]] = {}
    for item in text.split(","):
        found = re.fullmatch(r"\s*(-?\d+)\s*:\s*(\d+|ignore)\s*", item)
        if found is None:
            raise ConfigError(f"label map: {item.strip()!r} in {text!r} is not VALUE:CLASS. Write it like 0:0,255:1 or "
                              f"0:0,1:1,255:ignore.")
        value = int(found[1])
        if value in out:
            raise ConfigError(f"label map: {text!r} names {value} twice. Keep one.")
        out[value] = "ignore" if found[2] == "ignore" else int(found[2])
    return out


def _assemble(pairs: Iterable[_Pair], name: str, who: str, kind: Kind, label_map: LabelMap | None,
              class_names: Sequence[str] | None, instances: str | None, partial: bool) -> Dataset:
    """Pairs -> Dataset, checked one by one and then against each other."""
    _check_options(who, kind, label_map, class_names, instances)
    pairs = list(pairs)
    if not pairs:
        raise DataError(f"{who}: {name} holds no images.")
    _check_sizes(pairs, who)
    values = [_values(pair.mask) for pair in pairs]
    if kind == "instances":
        _check_ids(pairs, values, label_map or {}, instances, who)
        meaning = {v: 1 if v else 0 for seen in values for v in seen} | _codes(label_map)
        classes = 2
    else:
        _check_classes(pairs, values, kind, label_map, class_names, who)
        meaning = {v: v for seen in values for v in seen} if label_map is None else _codes(label_map)
        classes = len(class_names) if class_names else max(*meaning.values(), 1) + 1
    samples = []
    for pair, seen in zip(pairs, values, strict=True):
        labels = _translate(pair.mask, {v: meaning[v] for v in seen})
        ids = None if pair.instances is None else pair.instances.astype(np.int32)
        if instances == "components":
            ids = _components(labels > 0)
        elif kind == "instances":
            ids = np.where(labels > 0, pair.mask, 0).astype(np.int32)
        if partial:
            labels[labels == 0] = IGNORE
        samples.append(Sample(pair.name, pair.image, labels, ids, partial))
    if not any((sample.labels > 0).any() for sample in samples):
        raise DataError(f"{who}: none of the {len(samples)} masks has a foreground pixel; {pairs[0].mask_at} holds "
                        f"{_listed(values[0])}. Were the masks divided by 255, or is label_map wrong?")
    default = ("background", "cell") if classes == 2 else ("background", *(f"class {k}" for k in range(1, classes)))
    return Dataset(tuple(samples), tuple(class_names or default), name)


def _check_options(who: str, kind: str, label_map: LabelMap | None, class_names: Sequence[str] | None,
                   instances: str | None) -> None:
    if kind not in ("binary", "classes", "instances"):
        raise ConfigError(f'{who}: kind {kind!r} is none of "binary", "classes", "instances". See read_folder.')
    if instances not in (None, "ids", "components"):
        raise ConfigError(f'{who}: instances {instances!r} is neither "ids" nor "components". See read_folder.')
    if instances == "components" and kind == "classes":
        raise ConfigError(f'{who}: instances="components" needs one foreground class. Use kind="binary" or "instances".')
    if instances == "ids" and kind != "instances":
        raise ConfigError(f'{who}: instances="ids" says that masks hold ids, kind="{kind}" that they hold classes. Use '
                          f'kind="instances".')
    if class_names is not None and (len(class_names) < 2 or (kind != "classes" and len(class_names) != 2)):
        raise ConfigError(f'{who}: class_names has {len(class_names)} names and kind="{kind}" needs '
                          f'{"at least 2" if kind == "classes" else "2"}, background first.')
    if label_map is None:
        return
    if not label_map:
        raise ConfigError(f"{who}: label_map is empty. Name every number that the masks hold, e.g. {{0: 0, 255: 1}}.")
    limit = len(class_names) if class_names else 2 if kind == "binary" or instances == "components" else None
    for value, label in label_map.items():
        if not isinstance(value, int) or not (label == "ignore" or (isinstance(label, int) and label >= 0)):
            raise ConfigError(f'{who}: label_map says {value!r}: {label!r}. It maps integers to classes 0, 1, ... or '
                              f'to "ignore".')
        if kind == "instances" and instances != "components" and label not in (0, "ignore"):
            raise ConfigError(f'{who}: label_map says {value}: {label}, and in instance masks every number is an '
                              f'object. Map to 0 or "ignore" only; or take pieces as objects with instances="components".')
        if limit is not None and label != "ignore" and label >= limit:
            remedy = "Name every class in class_names" if kind == "classes" else 'Use kind="classes"'
            raise ConfigError(f"{who}: label_map says {value}: {label}, and there are {limit} classes, from 0 "
                              f"on. {remedy}.")


def _check_sizes(pairs: Sequence[_Pair], who: str) -> None:
    first = pairs[0]
    for pair in pairs:
        if pair.mask.shape != pair.image.shape[:2]:
            raise DataError(f"{who}: {pair.mask_at} is {_size(pair.mask)} and its image {pair.image_at} is "
                            f"{_size(pair.image)}. Export the mask at the image's size, without interpolation.")
        if pair.image.shape[-1] != first.image.shape[-1]:
            raise DataError(f"{who}: {pair.image_at} has {_channels(pair.image)} and {first.image_at} has "
                            f"{_channels(first.image)}. Save all as grey or all as RGB.")
        if pair.image.dtype != first.image.dtype:
            raise DataError(f"{who}: {pair.image_at} is {pair.image.dtype} and {first.image_at} is "
                            f"{first.image.dtype}. Save all with the same depth.")


def _check_classes(pairs: Sequence[_Pair], values: Sequence[list[int]], kind: str, label_map: LabelMap | None,
                   class_names: Sequence[str] | None, who: str) -> None:
    """Every number must be a class, by itself or through label_map."""
    union = sorted({v for seen in values for v in seen})
    if label_map is not None:
        for pair, seen in zip(pairs, values, strict=True):
            if unnamed := [v for v in seen if v not in label_map]:
                raise DataError(f'{who}: {pair.mask_at} holds {_listed(seen)}, and label_map does not name '
                                f'{_listed(unnamed)}. Add {unnamed[0]}: CLASS or {unnamed[0]}: "ignore" to it.')
        return
    if kind == "binary" or class_names:
        count = len(class_names or (0, 1))
        legal, takes = range(count), f'kind="{kind}" takes ' + ("0 and 1" if count == 2 else f"0 to {count - 1}, one a name")
    else:
        legal, takes = range(len(union) if len(union) <= MANY else 0), 'kind="classes" takes 0 to K-1 with none left out'
    for pair, seen in zip(pairs, values, strict=True):
        if any(v not in legal for v in seen):
            raise DataError(f"{who}: {pair.mask_at} holds {_listed(seen)}, and {takes}. {_remedy(union, kind)}")


def _remedy(union: list[int], kind: str) -> str:
    """What to do about numbers that are no classes."""
    if len(union) > MANY:
        return (f'The masks hold {len(union)} different numbers: if every object has its own, use kind="instances"; if '
                f'they were resized with interpolation or saved as JPEG on the way, export them again.')
    suggested = _suggest(union, kind)
    option = ",".join(f"{v}:{label}" for v, label in suggested.items())
    other = ' Or use kind="classes", or kind="instances" if every object has its own number.' \
        if kind == "binary" and len(union) > 2 else ""
    return f"Say what they mean, e.g. label_map={suggested} (command line: --label-map {option}).{other}"


def _suggest(union: list[int], kind: str) -> dict[int, int | str]:
    """A label map to start from: the lowest is background, the others follow; -1 and a 255 behind 0..K-1 mean ignore."""
    ignored = [v for v in union if v < 0]
    kept = [v for v in union if v >= 0]
    if len(kept) > 2 and kept == [*range(len(kept) - 1), 255]:
        ignored.append(kept.pop())
    if kept and kept[0] != 0 and len(kept) == 1:
        kept = [0, *kept]  # a mask that is all foreground: the others will have background
    highest = 1 if kind == "binary" else len(kept)
    return {v: min(k, highest) for k, v in enumerate(kept)} | dict.fromkeys(ignored, "ignore")


def _check_ids(pairs: Sequence[_Pair], values: Sequence[list[int]], label_map: LabelMap, instances: str | None,
               who: str) -> None:
    """Every number must be an object; a plain foreground mask is none of them, unless asked for its components."""
    ids = [[v for v in seen if v and v not in label_map] for seen in values]
    for pair, seen in zip(pairs, ids, strict=True):
        if seen and (seen[0] < 0 or seen[-1] >= 2**31):
            odd = seen[0] if seen[0] < 0 else seen[-1]
            raise DataError(f'{who}: {pair.mask_at} holds {odd}, which is no instance id (1 to {2**31 - 1}). Say that '
                            f'it is unknown, label_map={{{odd}: "ignore"}}, or background, {{{odd}: 0}}.')
        if instances == "components" and len(seen) > 1:
            raise DataError(f'{who}: {pair.mask_at} holds {_listed(seen)}: it has ids already, and '
                            f'instances="components" would melt touching objects into one. Leave that option out.')
    if instances is not None or any(len(seen) > 1 for seen in ids):
        return
    for pair, seen in zip(pairs, ids, strict=True):
        if seen and (seen[0] == 255 or (pieces := int(_components(pair.mask == seen[0]).max())) > 1):
            what = "255" if seen[0] == 255 else f"{seen[0]}, in {pieces} pieces"
            raise DataError(f'{who}: no mask holds more than one id; {pair.mask_at} holds {what}, as a foreground mask '
                            f'does. To take each connected piece for an object, use read_folder with '
                            f'instances="components"; if these are ids, with instances="ids".')


def _codes(label_map: LabelMap | None) -> dict[int, int]:
    return {v: IGNORE if label == "ignore" else label for v, label in (label_map or {}).items()}


def _values(mask: Array) -> list[int]:
    """The different numbers in a mask, sorted; by rows, so that a 20000 x 20000 mask is not sorted as a whole."""
    return [int(v) for v in np.unique(np.concatenate([np.unique(row) for row in mask]))]


def _translate(mask: Array, meaning: Mapping[int, int]) -> Array:
    """Every number replaced by its class: (H, W) any integers -> (H, W) int32."""
    keys = np.array(sorted(meaning), mask.dtype)
    codes = np.array([meaning[int(v)] for v in keys], np.int32)
    labels = np.empty(mask.shape, np.int32)
    for row, stored in zip(labels, mask, strict=True):
        row[:] = codes[np.searchsorted(keys, stored)]
    return labels


def _components(foreground: Array) -> Array:
    """bool (H, W) -> int32 (H, W): 4-connected pieces, numbered from 1."""
    from scipy import ndimage

    labelled: Array = ndimage.label(foreground)[0]
    return labelled.astype(np.int32)


def _listed(values: Sequence[int], at_most: int = 8) -> str:
    if len(values) <= at_most:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[:at_most - 1]))}, ... {values[-1]} ({len(values)} different numbers)"


def _channels(image: Array) -> str:
    return f"{image.shape[-1]} channel{'s' * (image.shape[-1] != 1)}"
