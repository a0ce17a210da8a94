"""From the numbers in masks to labels: what they may mean, and every way in which they can be wrong.

A reader gives `Pair`s, an image and its mask as stored; `assemble` makes a `Dataset` of them or says which file is wrong, what
it holds and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from tinyunet.backend import Array
from tinyunet.data.instances import components
from tinyunet.data.sample import IGNORE, Dataset, Sample, counted
from tinyunet.errors import ConfigError, DataError, shown

Kind: TypeAlias = Literal["binary", "classes", "instances"]
"""What the numbers of a mask are: background and one class; a class each; an object each."""

LabelMap: TypeAlias = Mapping[int, int | Literal["ignore"]]
"""Number in the file -> class, or "ignore" for pixels that nobody annotated."""

MANY = 32
"""More different numbers than this in the masks, and they are taken for instance ids, not classes. The number is ours."""

FEW = 8
"""More unnamed numbers than this, and nobody meant them: the mask is damaged, not the label map. The number is ours."""

LAST = 65535
"""The highest class: a network has a channel, and a data set a name, for every class up to it. The number is ours, that of
16-bit masks."""

PIECES, SHARE, AT_LEAST = 3, 1 / 3, 3
"""When the ids of a mask are no objects: at least 3 of them, and more than a third, lie in 3 or more pieces each.

An object is one piece, or a few where another crosses it. Interpolation and JPEG invent numbers along the outline of every
object, and the grey values of a photograph lie everywhere: such a number lies in many places. Pieces are 8-connected, so that
thin diagonal cells stay whole. The numbers are ours: in fluorescence, phase contrast, DIC and electron microscopy at most 4 %
of the ids of a mask had 3 pieces; of the same masks after JPEG or resizing with interpolation nearly always more than 60 %.
instances="ids" accepts any.
"""


DAMAGED = "resized with interpolation or saved as JPEG on the way"


class Pair(NamedTuple):
    """One image and its mask as read; the two texts say where they come from, for errors."""

    name: str
    image_at: str
    mask_at: str
    image: Array                 # (H, W, C)
    mask: Array                  # (H, W) integers as stored
    instances: Array | None = None  # (H, W) integers, where the file has them beside the labels


def parse_label_map(text: str) -> dict[int, int | Literal["ignore"]]:
    """"0:0,255:1,128:ignore" -> {0: 0, 255: 1, 128: "ignore"}: a label map as written on a command line.

    ConfigError: anything else.
    """
    out: dict[int, int | Literal["ignore"]] = {}
    for item in text.split(","):
        found = re.fullmatch(r"\s*(-?\d{1,19})\s*:\s*(\d{1,19}|ignore)\s*", item)  # 64 bits
        if found is None:
            raise ConfigError(f"label map: {shown(item.strip())} in {shown(text)} is not VALUE:CLASS. Write it like 0:0,255:1 "
                              f"or 0:0,1:1,255:ignore.")
        value = int(found[1])
        if value in out:
            raise ConfigError(f"label map: {shown(text)} names {value} twice. Keep one.")
        out[value] = "ignore" if found[2] == "ignore" else int(found[2])
    return out


def label_map_text(label_map: LabelMap) -> str:
    """The inverse of `parse_label_map`."""
    return ",".join(f"{value}:{meaning}" for value, meaning in label_map.items())


def assemble(pairs: Iterable[Pair], name: str, who: str, kind: Kind, label_map: LabelMap | None,
              class_names: Sequence[str] | None, instances: str | None, partial: bool) -> Dataset:
    """Pairs -> Dataset, checked one by one and then against each other."""
    _check_options(who, kind, label_map, class_names, instances)
    pairs = list(pairs)
    if not pairs:
        raise DataError(f"{who}: {name} holds no images.")
    pairs = _grey_once(pairs)
    names: set[str] = set()
    for pair in pairs:
        if pair.name in names:
            raise DataError(f"{who}: two images are called {pair.name!r}. Give every image a name of its own.")
        names.add(pair.name)
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
            ids = components(labels > 0)
        elif kind == "instances":
            ids = np.where(labels > 0, pair.mask, 0).astype(np.int32)
        if partial:
            labels[labels == 0] = IGNORE
        samples.append(Sample(pair.name, pair.image, labels, ids, partial))
    if not any((sample.labels > 0).any() for sample in samples):
        none = "the mask has no" if len(samples) == 1 else f"none of the {len(samples)} masks has a"
        raise DataError(f"{who}: {none} foreground pixel; {pairs[0].mask_at} holds "
                        f"{_listed(values[0])}. Were the masks divided by 255, or is label_map wrong?")
    told = {"kind": kind, "label_map": label_map and label_map_text(label_map), "instances": instances, "partial": partial}
    reading = {name: value for name, value in told.items() if value}
    return Dataset(tuple(samples), tuple(class_names or default_names(classes)), name, reading)


def default_names(classes: int) -> tuple[str, ...]:
    """What classes are called where nobody named them, background first; a network of one class has that and background."""
    return ("background", "cell") if classes <= 2 else ("background", *(f"class {k}" for k in range(1, classes)))


def _grey_once(pairs: list[Pair]) -> list[Pair]:
    """One channel of each, if all images are grey, be they saved as RGB or not; as they are, if one of them is coloured."""
    if any(pair.image.shape[-1] not in (1, 3) or not is_grey(pair.image) for pair in pairs):
        return pairs
    return [pair._replace(image=np.ascontiguousarray(pair.image[..., :1])) for pair in pairs]


def is_grey(image: Array) -> bool:
    """(H, W, C) -> whether all channels are equal."""
    return all(np.array_equal(image[..., 0], image[..., c]) for c in range(1, image.shape[-1]))


def option(name: str, value: object, typed: str | None = None) -> str:
    """An option as it is written in Python and on the command line, for remedies."""
    written = f'"{value}"' if isinstance(value, str) else repr(value)
    return f"{name}={written} (command line: --{name.replace('_', '-')} {value if typed is None else typed})"


def _check_options(who: str, kind: str, label_map: LabelMap | None, class_names: Sequence[str] | None,
                   instances: str | None) -> None:
    if kind not in ("binary", "classes", "instances"):
        raise ConfigError(f'{who}: kind {kind!r} is none of "binary", "classes", "instances". See read_folder.')
    if instances not in (None, "ids", "components"):
        raise ConfigError(f'{who}: instances {instances!r} is neither "ids" nor "components". See read_folder.')
    if instances == "components" and kind == "classes":
        raise ConfigError(f'{who}: instances="components" needs one foreground class. Use kind="binary" or '
                          f'"instances" (command line: --kind).')
    if instances == "ids" and kind != "instances":
        raise ConfigError(f'{who}: instances="ids" says that masks hold ids, kind="{kind}" that they hold classes. Use '
                          f'{option("kind", "instances")}.')
    if class_names is not None and (len(class_names) < 2 or (kind != "classes" and len(class_names) != 2)):
        raise ConfigError(f'{who}: class_names has {counted(len(class_names), "name")} and kind="{kind}" needs '
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
        if label != "ignore" and label > LAST:
            raise ConfigError(f"{who}: label_map says {value}: {label}, and classes end at {LAST}. Number them 0, 1, 2, ...")
        if kind == "instances" and instances != "components" and label not in (0, "ignore"):
            raise ConfigError(f'{who}: label_map says {value}: {label}, and in instance masks every number is an '
                              f'object. Map to 0 or "ignore" only; or take pieces as objects with '
                              f'{option("instances", "components")}.')
        if limit is not None and label != "ignore" and label >= limit:
            remedy = "Name every class in class_names (command line: --class-names)" if kind == "classes" else \
                f"Use {option('kind', 'classes')}"
            raise ConfigError(f"{who}: label_map says {value}: {label}, and there are {limit} classes, from 0 "
                              f"on. {remedy}.")


def _check_sizes(pairs: Sequence[Pair], who: str) -> None:
    first = pairs[0]
    for pair in pairs:
        if pair.mask.shape != pair.image.shape[:2]:
            raise DataError(f"{who}: {pair.mask_at} is {size_of(pair.mask)} and its image {pair.image_at} is "
                            f"{size_of(pair.image)}. Export the mask at the image's size, without interpolation.")
        if pair.image.shape[-1] != first.image.shape[-1]:
            raise DataError(f"{who}: {pair.image_at} has {_channels(pair.image)} and {first.image_at} has "
                            f"{_channels(first.image)}. Save all as grey or all as RGB.")
        if pair.image.dtype != first.image.dtype:
            raise DataError(f"{who}: {pair.image_at} is {pair.image.dtype} and {first.image_at} is "
                            f"{first.image.dtype}. Save all with the same depth.")


def _check_classes(pairs: Sequence[Pair], values: Sequence[list[int]], kind: str, label_map: LabelMap | None,
                   class_names: Sequence[str] | None, who: str) -> None:
    """Every number must be a class, by itself or through label_map."""
    union = sorted({v for seen in values for v in seen})
    if label_map is not None:
        for pair, seen in zip(pairs, values, strict=True):
            unnamed = [v for v in seen if v not in label_map]
            if len(unnamed) > FEW:
                raise DataError(f"{who}: {pair.mask_at} holds {_listed(seen)}, and label_map does not name {len(unnamed)} of "
                                f"them. If every object has its own number, use {option('kind', 'instances')}; if the mask "
                                f"was {DAMAGED}, export it again from its source.")
            if unnamed:
                raise DataError(f'{who}: {pair.mask_at} holds {_listed(seen)}, and label_map does not name '
                                f'{_listed(unnamed)}. Add {unnamed[0]}: CLASS or {unnamed[0]}: "ignore" to it (command line: '
                                f'{unnamed[0]}:CLASS or {unnamed[0]}:ignore).')
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
        return (f'The masks hold {len(union)} different numbers: if every object has its own, use '
                f'{option("kind", "instances")}; if they were {DAMAGED}, export them again from their source.')
    suggested = _suggest(union, kind)
    typed = ",".join(f"{v}:{label}" for v, label in suggested.items())
    other = f" Or use {option('kind', 'classes')}, or {option('kind', 'instances')} if every object has its own number." \
        if kind == "binary" and len(union) > 2 else ""
    return f"Say what they mean, e.g. {option('label_map', suggested, typed)}.{other}"


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


def _check_ids(pairs: Sequence[Pair], values: Sequence[list[int]], label_map: LabelMap, instances: str | None,
               who: str) -> None:
    """Every number must be an object; a plain foreground mask is none of them, unless asked for its components."""
    ids = [[v for v in seen if v and v not in label_map] for seen in values]
    for pair, seen in zip(pairs, ids, strict=True):
        if seen and (seen[0] < 0 or seen[-1] >= 2**31):
            odd = seen[0] if seen[0] < 0 else seen[-1]
            raise DataError(f'{who}: {pair.mask_at} holds {odd}, which is no instance id (1 to {2**31 - 1}). Say that '
                            f'it is unknown, {option("label_map", {odd: "ignore"}, f"{odd}:ignore")}, or '
                            f'background, {{{odd}: 0}}.')
        if instances != "ids":
            _check_pieces(pair, seen, who)
        if instances == "components" and len(seen) > 1:
            raise DataError(f'{who}: {pair.mask_at} holds {_listed(seen)}: it has ids already, and '
                            f'instances="components" would melt touching objects into one. Leave that option out.')
    if instances is not None or any(len(seen) > 1 for seen in ids):
        return
    for pair, seen in zip(pairs, ids, strict=True):
        if seen and (seen[0] == 255 or (pieces := int(components(pair.mask == seen[0]).max())) > 1):
            what = "255" if seen[0] == 255 else f"{seen[0]}, in {pieces} pieces"
            raise DataError(f'{who}: no mask holds more than one id; {pair.mask_at} holds {what}, as a foreground mask '
                            f'does. To take each connected piece for an object, use {option("instances", "components")}; if '
                            f'these are ids, {option("instances", "ids")}.')


def _check_pieces(pair: Pair, ids: Sequence[int], who: str) -> None:
    """Ids that lie in many pieces are grey values, see `PIECES`."""
    from scipy import ndimage

    if len(ids) < AT_LEAST:
        return
    numbered = _translate(pair.mask, dict.fromkeys(_values(pair.mask), 0) | {v: i for i, v in enumerate(ids, start=1)})
    pieces = [ndimage.label(numbered[box] == i, np.ones((3, 3)))[1] for i, box in enumerate(ndimage.find_objects(numbered), 1)]
    scattered = sum(n >= PIECES for n in pieces)
    if scattered >= AT_LEAST and scattered > SHARE * len(ids):
        worst = int(np.argmax(pieces))
        raise DataError(f'{who}: {pair.mask_at} holds {len(ids)} ids, and {scattered} of them lie in {PIECES} or more separate '
                        f'pieces each (id {ids[worst]} in {pieces[worst]}), as grey values do and objects do not. Was the mask '
                        f'{DAMAGED}? Export it again from its source, as PNG or 16-bit TIFF. Are the folders of images and '
                        f'masks swapped? Swap them. If these are ids, say so with {option("instances", "ids")}.')


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


def _listed(values: Sequence[int], at_most: int = 8) -> str:
    if len(values) <= at_most:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[:at_most - 1]))}, ... {values[-1]} ({len(values)} different numbers)"


def _channels(image: Array) -> str:
    return counted(image.shape[-1], "channel")


def size_of(a: Array) -> str:
    return f"{a.shape[0]}x{a.shape[1]}"
