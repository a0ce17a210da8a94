"""Data sets arrive whole and in order, and a wrong mask is refused in one line that says what to do."""

import io
import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from tinyunet.data.images import read_mask, write_image, write_labels
from tinyunet.data.readers import (
    options_taken,
    parse_label_map,
    read_ctc,
    read_dataset,
    read_dsb2018,
    read_folder,
    read_isbi2012,
    read_npz,
    read_tiff_pair,
)
from tinyunet.data.sample import IGNORE, Dataset, Sample, describe
from tinyunet.data.splits import block_split, random_split
from tinyunet.errors import ConfigError, DataError, TinyUNetError

TWO = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]], np.uint8)  # two pieces of foreground
IDS = np.array([[0, 3, 3, 7], [0, 0, 0, 0], [0, 0, 9, 9]], np.uint8)  # three objects, 3 and 7 touch


def folder(root, masks, images=None, sub=("images", "masks")):
    """A folder of pairs: name -> mask, and name -> image (else grey noise of the mask's size)."""
    a, b = root / sub[0], root / sub[1]
    a.mkdir(parents=True, exist_ok=True)
    b.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for name, mask in masks.items():
        write_labels(b / f"{name}.png", mask)
        write_image(a / f"{name}.png", rng.integers(0, 256, mask.shape).astype(np.uint8))
    for name, image in (images or {}).items():
        write_image(a / f"{name}.png", image)
    return root


def message(read, *args, error=DataError, **options):
    """The text of the error that a call must raise."""
    with pytest.raises(error) as caught:
        read(*args, **options)
    assert isinstance(caught.value, TinyUNetError)
    return str(caught.value)


# Folders: what is read

def test_binary(tmp_path):
    """0 and 1 need no map: labels int32, images as stored, two classes, no instances."""
    data = read_folder(folder(tmp_path / "mine", {"a": TWO, "b": 1 - TWO}))
    assert (len(data), data.name, data.class_names) == (2, "mine", ("background", "cell"))
    sample = data[0]
    assert (sample.name, sample.instances, sample.partial) == ("a", None, False)
    assert (sample.image.shape, sample.image.dtype, sample.labels.dtype) == ((3, 4, 1), np.uint8, np.int32)
    np.testing.assert_array_equal(sample.labels, TWO)


def test_label_map(tmp_path):
    """A map gives the numbers their meaning; "ignore" becomes IGNORE."""
    mask = TWO * 255
    mask[1, 1] = 128
    data = read_folder(folder(tmp_path, {"a": mask}), label_map={0: 0, 255: 1, 128: "ignore"})
    expected = TWO.astype(int)
    expected[1, 1] = IGNORE
    np.testing.assert_array_equal(data[0].labels, expected)


def test_map_is_applied_at_once(tmp_path):
    """A map that swaps two classes swaps them: no number is translated twice."""
    data = read_folder(folder(tmp_path, {"a": TWO}), label_map={0: 1, 1: 0})
    np.testing.assert_array_equal(data[0].labels, 1 - TWO)


def test_classes(tmp_path):
    """0..K-1 over all masks are K classes; a map or names may add classes that do not occur."""
    root = folder(tmp_path, {"a": TWO, "b": TWO * 2})
    assert read_folder(root, kind="classes").class_names == ("background", "class 1", "class 2")
    assert read_folder(root, kind="classes", class_names=("sky", "cell", "dirt", "dust")).class_names[3] == "dust"
    data = read_folder(root, kind="classes", label_map={0: 0, 1: 3, 2: "ignore"})
    assert len(data.class_names) == 4
    assert set(np.unique(data[1].labels)) == {0, IGNORE}


def test_instances(tmp_path):
    """Instance masks: ids as stored, class 1 wherever there is one."""
    ids = IDS.astype(np.uint16) * 300
    data = read_folder(folder(tmp_path, {"a": ids}), kind="instances")
    np.testing.assert_array_equal(data[0].instances, ids)
    np.testing.assert_array_equal(data[0].labels, ids > 0)
    assert data[0].instances.dtype == np.int32


def test_instances_with_unknown_pixels(tmp_path):
    """For instances a map may name unknown pixels and background; the other numbers stay objects."""
    data = read_folder(folder(tmp_path, {"a": IDS}), kind="instances", label_map={9: "ignore", 7: 0})
    np.testing.assert_array_equal(data[0].instances, np.where(IDS == 3, 3, 0))
    np.testing.assert_array_equal(data[0].labels, np.select([IDS == 3, IDS == 9], [1, IGNORE], 0))


@pytest.mark.parametrize("options", [
    {"kind": "binary", "label_map": {0: 0, 255: 1}}, {"kind": "instances"}, {"kind": "instances", "label_map": {0: 0, 255: 1}}])
def test_components_when_asked(tmp_path, options):
    """Connected pieces of the foreground become objects, diagonal neighbours two of them."""
    mask = np.array([[255, 0, 0], [0, 255, 255], [0, 0, 0]], np.uint8)
    data = read_folder(folder(tmp_path, {"a": mask}), instances="components", **options)
    np.testing.assert_array_equal(data[0].instances, [[1, 0, 0], [0, 2, 2], [0, 0, 0]])
    np.testing.assert_array_equal(data[0].labels, mask > 0)


def test_partial(tmp_path):
    """Partly annotated: what has no label is unknown, not background."""
    data = read_folder(folder(tmp_path, {"a": IDS}), kind="instances", partial=True)
    np.testing.assert_array_equal(data[0].labels, np.where(IDS > 0, 1, IGNORE))
    np.testing.assert_array_equal(data[0].instances, IDS)
    assert data[0].partial


@pytest.mark.parametrize("suffix", ["", "_mask", "_masks", "_label", "_seg", "_cp_masks", "-gt", "_Mask"])
def test_mask_names(tmp_path, suffix):
    """A mask may carry a suffix; the sample is named after its image."""
    root = folder(tmp_path, {"a_1": TWO}, sub=("image", "label"))
    (root / "label" / "a_1.png").rename(root / "label" / f"a_1{suffix}.png")
    assert [sample.name for sample in read_folder(root)] == ["a_1"]


def test_image_named_like_a_mask(tmp_path):
    """An image whose own name ends in _label keeps its whole name."""
    data = read_folder(folder(tmp_path, {"a": TWO, "a_label": 1 - TWO}))
    assert [sample.name for sample in data] == ["a", "a_label"]
    np.testing.assert_array_equal(data[1].labels, 1 - TWO)


def test_natural_order(tmp_path):
    """t2 comes before t10: neighbours in time stay neighbours."""
    data = read_folder(folder(tmp_path, {f"t{t}": TWO for t in (10, 2, 1, 30, 9)}))
    assert [sample.name for sample in data] == ["t1", "t2", "t9", "t10", "t30"]


def test_side_by_side_and_two_folders(tmp_path):
    """a.png and a_mask.png in one folder, or two folders given by hand; hidden and other files are passed over."""
    write_image(tmp_path / "a.png", TWO)
    write_labels(tmp_path / "a_mask.tif", TWO)
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    (tmp_path / "notes.txt").touch()
    assert len(read_folder(tmp_path)) == len(read_folder(tmp_path, tmp_path)) == 1
    root = folder(tmp_path / "set", {"a": TWO})
    assert read_folder(root / "images", root / "masks").name == "set"


def test_palette_masks(tmp_path):
    """A palette mask is read as indices, whatever its colours."""
    root = folder(tmp_path, {"a": TWO})
    im = Image.fromarray(TWO, "L").convert("P")
    im.putdata(TWO.ravel().tolist())
    im.putpalette([200, 0, 0, 0, 90, 255])
    im.save(root / "masks" / "a.png")
    np.testing.assert_array_equal(read_folder(root)[0].labels, TWO)


# Folders: what is refused

def test_0_255(tmp_path):
    """0 and 255 are refused with the file, the numbers, and the map to give, in Python and on the command line."""
    root = folder(tmp_path, {"a": TWO, "b": TWO * 255})
    for kind in ("binary", "classes"):
        text = message(read_folder, folder(tmp_path / kind, {"b": TWO * 255}), kind=kind)
        assert "b.png holds 0, 255, and kind=" in text
        assert "label_map={0: 0, 255: 1} (command line: --label-map 0:0,255:1)." in text
    assert message(read_folder, folder(tmp_path / "binary", {})) == (
        f'read_folder: {tmp_path}/binary/masks/b.png holds 0, 255, and kind="binary" takes 0 and 1. Say what they mean, e.g. '
        f"label_map={{0: 0, 255: 1}} (command line: --label-map 0:0,255:1).")
    assert 'b.png holds 0, 255, and kind="binary" takes 0 and 1' in message(read_folder, root)
    assert "b.png holds 255" in message(read_folder, folder(tmp_path / "full", {"b": np.full((2, 2), 255)}))
    assert "--label-map 0:0,255:1)" in message(read_folder, tmp_path / "full")


@pytest.mark.parametrize(("numbers", "kind", "suggested"), [
    ([0, 100, 200], "classes", "0:0,100:1,200:2"), ([0, 1, 2, 255], "classes", "0:0,1:1,2:2,255:ignore"),
    ([0, 1, 255], "binary", "0:0,1:1,255:ignore"), ([0, 50, 60], "binary", "0:0,50:1,60:1"), ([1, 2], "classes", "1:0,2:1"),
    ([0, 1, 3], "classes", "0:0,1:1,3:2")])
def test_suggested_map(tmp_path, numbers, kind, suggested):
    """The suggested map names every number, and reads the data when it is given."""
    root = folder(tmp_path, {"a": np.array([numbers])})
    assert f"(command line: --label-map {suggested})" in message(read_folder, root, kind=kind)
    assert len(read_folder(root, kind=kind, label_map=parse_label_map(suggested))) == 1


def test_negative_numbers(tmp_path):
    """-1 in a signed TIFF is suggested as unknown."""
    root = folder(tmp_path, {"a": TWO})
    (root / "masks" / "a.png").unlink()
    Image.fromarray(TWO.astype(np.int32) - 1).save(root / "masks" / "a.tif")
    assert '{0: 0, -1: "ignore"}'.replace('"', "'") in message(read_folder, root)
    assert set(np.unique(read_folder(root, label_map={0: 1, -1: "ignore"})[0].labels)) == {IGNORE, 1}
    assert ("holds -1, which is no instance id (1 to 2147483647). Say that it is unknown, "
            "label_map={-1: 'ignore'} (command line: --label-map -1:ignore), or "
            "background, {-1: 0}.") in message(read_folder, root, kind="instances")


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_instance_masks_given_as_classes(tmp_path, kind):
    """Hundreds of numbers are not classes: the hint is kind="instances"."""
    root = folder(tmp_path, {"a": np.arange(300).reshape(20, 15)})
    text = message(read_folder, root, kind=kind)
    assert "a.png holds 0, 1, 2, 3, 4, 5, 6, ... 299 (300 different numbers)" in text
    assert 'if every object has its own, use kind="instances"' in text
    assert len(read_folder(root, kind="instances")) == 1


def test_few_ids_given_as_binary(tmp_path):
    """A handful of numbers under kind="binary": classes and instances are both named."""
    assert message(read_folder, folder(tmp_path, {"a": IDS})).endswith(
        ' Or use kind="classes" (command line: --kind classes), or kind="instances" (command line: --kind instances) if every '
        'object has its own number.')


def test_foreground_given_as_instances(tmp_path):
    """A foreground mask is no instance mask; components are taken only when asked for. One object alone is fine."""
    root = folder(tmp_path / "a", {"a": TWO * 255})
    assert message(read_folder, root, kind="instances") == (
        f"read_folder: no mask holds more than one id; {root}/masks/a.png holds 255, as a foreground mask does. To take each "
        f'connected piece for an object, use instances="components" (command line: --instances components); if these are ids, '
        f'instances="ids" (command line: --instances ids).')
    assert "a.png holds 1, in 2 pieces, as a" in message(read_folder, folder(tmp_path / "b", {"a": TWO}), kind="instances")
    assert read_folder(root, kind="instances", instances="ids")[0].instances.max() == 255
    assert read_folder(folder(tmp_path / "c", {"a": np.array([[0, 1]])}), kind="instances")
    root = folder(tmp_path / "d", {"a": IDS})
    assert 'it has ids already, and instances="components" would melt touching objects into one.' in message(
        read_folder, root, kind="instances", instances="components")


def cells(size=96):
    """Instance ids: a ring, a line that is 8-connected only, one cell cut in three by another, and discs."""
    y, x = np.mgrid[:size, :size]
    ids = np.zeros((size, size), np.uint8)
    ids[(abs(y - 10) < 2) & (x > 2)] = 50
    ids[(x % 30 == 20) & (y < 20)] = 70  # 50 lies in four pieces now, and 70 in three columns
    for i in range(9):
        ids[np.hypot(y - 35 - 22 * (i // 3), x - 15 - 30 * (i % 3)) < 9] = 90 + 18 * i
    ids[y == x + 20] = 20
    return ids


def resized(mask, factor=1.5):
    size = [int(n * factor) for n in mask.shape[::-1]]
    return np.rint(np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))).astype(np.uint8)


def jpeg(mask, quality):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


DAMAGE = {
    "ids resized": resized,
    "foreground resized": lambda ids: resized(np.where(ids > 0, 255, 0)),
    "ids as JPEG": lambda ids: jpeg(ids, 90),
    "foreground as JPEG": lambda ids: jpeg(np.where(ids > 0, 255, 0).astype(np.uint8), 75),
    "swapped": lambda ids: np.random.default_rng(1).normal(100 + 0.2 * ids, 20).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_ids_that_are_grey_values(tmp_path, damage):
    """Instance masks after interpolation or JPEG, and photographs, are refused by their scattered ids; whole ones pass."""
    assert len(read_folder(folder(tmp_path / "good", {"a": cells()}), kind="instances")) == 1
    root = folder(tmp_path / "bad", {"a": cells(), "b": DAMAGE[damage](cells())})
    for options in ({}, {"instances": "components"}, {"label_map": {0: 0}}):
        if "instances" in options:
            (root / "images" / "a.png").unlink()
            (root / "masks" / "a.png").unlink()
        text = message(read_folder, root, kind="instances", **options)
        assert text.startswith(f"read_folder: {root}/masks/b.png holds ")
        assert "separate pieces each (id " in text
    assert len(read_folder(root, kind="instances", instances="ids")) == 1


def test_ids_that_are_grey_values_in_words(tmp_path):
    """The refusal counts the ids and the pieces, and names every remedy."""
    mask = np.zeros((9, 9), np.uint8)
    mask[::2, ::2] = [[1, 2, 3, 4, 5]] * 5  # five ids of five pieces each
    mask[8, 8] = 4
    mask[7, 8] = 4
    root = folder(tmp_path, {"a": mask})
    assert message(read_folder, root, kind="instances") == (
        f"read_folder: {root}/masks/a.png holds 5 ids, and 5 of them lie in 3 or more separate pieces each (id 4 in 6), as grey "
        f"values do and objects do not. Was the mask resized with interpolation or saved as JPEG on the way? Export it again "
        f"from its source, as PNG or 16-bit TIFF. Are the folders of images and masks swapped? Swap them. If these are ids, say "
        f'so with instances="ids" (command line: --instances ids).')


def test_unnamed_numbers(tmp_path):
    """A number that the map does not name is refused, not taken for background."""
    root = folder(tmp_path, {"a": np.array([[0, 255, 7]])})
    assert message(read_folder, root, label_map={0: 0, 255: 1}) == (
        f"read_folder: {root}/masks/a.png holds 0, 7, 255, and label_map does not name 7. Add 7: CLASS or 7: \"ignore\" to "
        f"it (command line: 7:CLASS or 7:ignore).")


def test_many_unnamed_numbers(tmp_path):
    """Seventy numbers that the map does not name are a damaged mask: nobody is told to name them."""
    root = folder(tmp_path, {"a": np.arange(72).reshape(8, 9)})
    assert message(read_folder, root, label_map={0: 0, 71: 1}) == (
        f"read_folder: {root}/masks/a.png holds 0, 1, 2, 3, 4, 5, 6, ... 71 (72 different numbers), and label_map does not name "
        f'70 of them. If every object has its own number, use kind="instances" (command line: --kind instances); if the mask was '
        f"resized with interpolation or saved as JPEG on the way, export it again from its source.")


def test_more_labels_than_names(tmp_path):
    """A label beyond the named classes is refused."""
    root = folder(tmp_path, {"a": np.array([[0, 1, 3]])})
    assert 'a.png holds 0, 1, 3, and kind="classes" takes 0 to 2, one a name.' in message(
        read_folder, root, kind="classes", class_names=("a", "b", "c"))
    assert message(read_folder, root, kind="classes", class_names=("a", "b", "c"), label_map={0: 0, 1: 1, 3: 3},
                   error=ConfigError) == (
        "read_folder: label_map says 3: 3, and there are 3 classes, from 0 on. Name every class in class_names (command line: "
        "--class-names).")


def test_nothing_in_the_foreground(tmp_path):
    """Masks that were divided by 255 as integers are all 0: refused."""
    root = folder(tmp_path, {"a": TWO * 0, "b": TWO * 0})
    assert message(read_folder, root) == (
        f"read_folder: none of the 2 masks has a foreground pixel; {root}/masks/a.png holds 0. Were the masks divided by 255, or "
        f"is label_map wrong?")


def test_one_empty_mask_is_fine(tmp_path):
    """An image without any cell belongs to a data set that has cells."""
    assert len(read_folder(folder(tmp_path, {"a": TWO * 0, "b": TWO}))) == 2


def test_sizes(tmp_path):
    """A mask of another size is refused with both sizes."""
    root = folder(tmp_path, {"a": np.ones((256, 255), int)}, {"a": np.zeros((512, 510), np.uint8)})
    assert message(read_folder, root) == (
        f"read_folder: {root}/masks/a.png is 256x255 and its image {root}/images/a.png is 512x510. Export the mask at the "
        f"image's size, without interpolation.")


def test_lossy_and_fractional_masks(tmp_path):
    """JPEG and fractional masks are refused by name."""
    root = folder(tmp_path, {"a": TWO})
    (root / "masks" / "a.png").unlink()
    Image.fromarray(TWO).save(root / "masks" / "a.jpg")
    assert f"{root}/masks/a.jpg is JPEG, which changes values" in message(read_folder, root)
    (root / "masks" / "a.jpg").unlink()
    Image.fromarray(TWO.astype(np.float32) / 255).save(root / "masks" / "a.tif")
    assert f"{root}/masks/a.tif holds 0.00392157, and a mask holds integers" in message(read_folder, root)


def test_partners(tmp_path):
    """Images without masks and masks without images are listed."""
    root = folder(tmp_path, {f"{i}": TWO for i in range(9)})
    for i in range(1, 8):
        (root / "masks" / f"{i}.png").unlink()
    assert message(read_folder, root) == (
        f"read_folder: 7 of 9 images have no mask: 1.png, 2.png, 3.png, 4.png, 5.png and 2 more. Add their masks to "
        f"{root}/masks, or move these images elsewhere.")
    for i in range(1, 9):
        (root / "images" / f"{i}.png").unlink()
    assert message(read_folder, root) == (
        f"read_folder: 1 of 2 masks has no image: 8.png. Add their images to {root}/images, or move these masks elsewhere.")
    (root / "masks" / "0.png").unlink()
    assert message(read_folder, root) == (
        "read_folder: no mask belongs to any image. Images are named like 0.png, masks like 8.png. Name a mask like its image, "
        "or add _mask.")


def test_two_files_for_one_name(tmp_path):
    """a.png and a.tif, as images or as masks, are refused."""
    root = folder(tmp_path, {"a": TWO})
    write_labels(root / "masks" / "a_mask.tif", TWO)
    assert message(read_folder, root) == (
        f"read_folder: {root}/masks/a.png and {root}/masks/a_mask.tif are both the mask 'a'. Keep one of them.")
    write_image(root / "images" / "a.tif", TWO)
    assert message(read_folder, root) == (
        f"read_folder: {root}/images/a.png and {root}/images/a.tif are both the image 'a'. Keep one of them.")


def test_mixed_images(tmp_path):
    """Grey with RGB, or 8 bits with 16, are refused with both files."""
    grey = np.zeros((3, 4), np.uint8)
    root = folder(tmp_path / "x", {"a": TWO, "b": TWO}, {"a": grey, "b": np.stack([grey, grey, TWO], -1)})
    assert message(read_folder, root) == (
        f"read_folder: {root}/images/b.png has 3 channels and {root}/images/a.png has 1 channel. Save all as grey or all as RGB.")
    root = folder(tmp_path / "y", {"a": TWO, "b": TWO}, {"a": grey, "b": grey.astype(np.uint16)})
    assert message(read_folder, root) == (
        f"read_folder: {root}/images/b.png is uint16 and {root}/images/a.png is uint8. Save all with the same depth.")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_saved_as_rgb(tmp_path, rng, dtype):
    """Three equal channels in all images are one; if one image is coloured, all stay RGB; two channels are not RGB."""
    images = np.repeat(rng.integers(0, 256, (2, 3, 4, 1)), 3, axis=-1).astype(dtype)
    path = tmp_path / "a.npz"
    np.savez(path, images=images, labels=[TWO, TWO])
    for sample, image in zip(read_npz(path), images, strict=True):
        np.testing.assert_array_equal(sample.image, image[..., :1])
        assert (sample.image.dtype, sample.image.flags.c_contiguous) == (dtype, True)
    for channel in range(3):
        coloured = images.copy()
        coloured[1, 0, 0, channel] += 1
        np.savez(path, images=coloured, labels=[TWO, TWO])
        np.testing.assert_array_equal([sample.image for sample in read_npz(path)], coloured)
    np.savez(path, images=images[..., :2], labels=[TWO, TWO])
    assert read_npz(path)[0].image.shape == (3, 4, 2)
    rgb = images[0].astype(np.uint8)
    root = folder(tmp_path / "mine", {"a": TWO, "b": TWO}, {"a": rgb, "b": rgb[..., 0]})  # grey in two ways
    assert {sample.image.shape for sample in read_folder(root)} == {(3, 4, 1)}


def test_folders_that_are_not_there(tmp_path):
    """No folder, a file, an empty folder, no pairs, too many candidates: each is said."""
    assert message(read_folder, tmp_path / "no") == f"read_folder: there is no folder {tmp_path / 'no'}. Check the name."
    (tmp_path / "file").touch()
    assert message(read_folder, tmp_path / "file") == (
        f"read_folder: {tmp_path / 'file'} is a file, and a folder was expected.")
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "masks").mkdir()
    assert message(read_folder, tmp_path / "set") == (
        f"read_folder: {tmp_path}/set/images holds no image files (.png, .tif, .tiff, .jpg, .jpeg, .bmp, .gif, .webp); it holds "
        f"nothing.")
    (tmp_path / "set" / "labels").mkdir()
    assert message(read_folder, tmp_path / "set") == (
        f"read_folder: {tmp_path / 'set'} has masks/ and labels/. Say which: read_folder(images, masks) (command line: "
        f"IMAGES --masks FOLDER).")
    write_image(tmp_path / "a.png", TWO)
    assert message(read_folder, tmp_path) == (
        f"read_folder: {tmp_path} has no images/ and masks/ in it, and none of its files is named as a mask (a.png and "
        f"a_mask.png). Give both folders: read_folder(images, masks) (command line: IMAGES --masks FOLDER).")


@pytest.mark.parametrize(("options", "text"), [
    ({"kind": "multi"}, """kind 'multi' is none of "binary", "classes", "instances". See read_folder."""),
    ({"instances": "pieces"}, """instances 'pieces' is neither "ids" nor "components". See read_folder."""),
    ({"kind": "classes", "instances": "components"},
     'instances="components" needs one foreground class. Use kind="binary" or "instances" (command line: --kind).'),
    ({"instances": "ids"},
     'instances="ids" says that masks hold ids, kind="binary" that they hold classes. Use kind="instances" (command line: '
     '--kind instances).'),
    ({"class_names": ("a", "b", "c")}, 'class_names has 3 names and kind="binary" needs 2, background first.'),
    ({"kind": "classes", "class_names": ("a",)},
     'class_names has 1 name and kind="classes" needs at least 2, background first.'),
    ({"label_map": {}}, "label_map is empty. Name every number that the masks hold, e.g. {0: 0, 255: 1}."),
    ({"label_map": {"0": 0}}, """label_map says '0': 0. It maps integers to classes 0, 1, ... or to "ignore"."""),
    ({"label_map": {0: -1}}, """label_map says 0: -1. It maps integers to classes 0, 1, ... or to "ignore"."""),
    ({"label_map": {0: 0, 9: 2}}, 'label_map says 9: 2, and there are 2 classes, from 0 on. Use kind="classes" (command line: '
     '--kind classes).'),
    ({"kind": "instances", "label_map": {9: 1}},
     'label_map says 9: 1, and in instance masks every number is an object. Map to 0 or "ignore" only; or take pieces as '
     'objects with instances="components" (command line: --instances components).')])
def test_options(tmp_path, options, text):
    """Options that make no sense are refused by name."""
    assert message(read_folder, folder(tmp_path, {"a": TWO}), error=ConfigError, **options) == f"read_folder: {text}"


def test_a_set_of_no_images(tmp_path):
    """Arrays of length 0 are a data set without images, and said to be."""
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 8, 8), np.uint8), labels=np.zeros((0, 8, 8), np.uint8))
    assert message(read_npz, tmp_path / "none.npz") == "read_npz: none holds no images."


def test_parse_label_map():
    """The command line's form of a label map; anything else is refused."""
    assert parse_label_map("0:0, 255:1,-1:ignore") == {0: 0, 255: 1, -1: "ignore"}
    assert message(parse_label_map, "0:0,x", error=ConfigError) == (
        "label map: 'x' in '0:0,x' is not VALUE:CLASS. Write it like 0:0,255:1 or 0:0,1:1,255:ignore.")
    assert message(parse_label_map, "0:0,0:1", error=ConfigError) == "label map: '0:0,0:1' names 0 twice. Keep one."


# Stacks and arrays

def stack(path, pages):
    first, *rest = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=rest)
    return path


def test_tiff_pair(tmp_path, rng):
    """Page t of one stack belongs to page t of the other; different lengths are refused."""
    images = rng.integers(0, 65536, (3, 5, 6)).astype(np.uint16)
    masks = rng.integers(0, 2, (3, 5, 6)).astype(np.uint8)
    a, b = stack(tmp_path / "a.tif", images), stack(tmp_path / "b.tif", masks)
    data = read_tiff_pair(a, b)
    assert [sample.name for sample in data] == ["a/000", "a/001", "a/002"]
    np.testing.assert_array_equal([sample.image[..., 0] for sample in data], images)
    np.testing.assert_array_equal([sample.labels for sample in data], masks)
    assert "page 2 of" in message(read_tiff_pair, a, stack(tmp_path / "d.tif", [masks[0], masks[1] * 9, masks[2]]))
    c = stack(tmp_path / "c.tif", masks[:2])
    assert message(read_tiff_pair, a, c) == f"read_tiff_pair: {a} has 3 pages and {c} has 2. They must have the same."


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_npz(tmp_path, rng, channels):
    """Arrays of images and labels, with ids and names beside them; float64 images become float32."""
    images, labels = rng.random((2, 4, 5, *channels)), rng.integers(0, 2, (2, 4, 5))
    path = tmp_path / "a.npz"
    np.savez(path, images=images, labels=labels, instances=labels * 7, names=["x", "y"])
    data = read_npz(path)
    assert [sample.name for sample in data] == ["x", "y"]
    np.testing.assert_array_equal(data[1].image, images[1].astype(np.float32).reshape(4, 5, -1))
    np.testing.assert_array_equal(data[1].labels, labels[1])
    np.testing.assert_array_equal(data[1].instances, labels[1] * 7)
    assert (data[0].labels.dtype, data[0].instances.dtype, data[0].image.dtype) == (np.int32, np.int32, np.float32)
    np.savez(path, image=images[0], mask=labels[0])
    np.testing.assert_array_equal(read_npz(path)[0].labels, labels[0])


def test_npz_of_instances(tmp_path):
    """Ids alone, under either name, are an instance data set."""
    path = tmp_path / "a.npz"
    np.savez(path, images=IDS[None], instances=IDS[None])
    np.testing.assert_array_equal(read_npz(path)[0].instances, IDS)
    np.savez(path, images=IDS[None], labels=IDS[None])
    np.testing.assert_array_equal(read_npz(path, kind="instances")[0].instances, IDS)


def test_npz_refused(tmp_path):
    """Missing, damaged, pickled, incomplete and misshapen files are refused, each in its way."""
    path = tmp_path / "a.npz"
    assert message(read_npz, path) == f"read_npz: there is no file {path}. Check the name."
    np.savez(path, images=np.zeros((2, 4, 5)), labels=np.ones((2, 4, 5), int))
    path.write_bytes(path.read_bytes()[:-50])
    assert f"read_npz: {path} is damaged or no .npz file" in message(read_npz, path)
    path.write_bytes(b"")
    assert f"read_npz: {path} is damaged or no .npz file" in message(read_npz, path)
    with path.open("wb") as file:
        np.save(file, TWO)
    assert message(read_npz, path) == (
        f"read_npz: {path} is a single array. Save images and labels: np.savez(path, images=..., labels=...).")
    np.savez(path, images=np.array([TWO, "x"], object), labels=TWO[None])
    assert "pickled objects" in message(read_npz, path)
    np.savez(path, x=TWO)
    assert message(read_npz, path) == (
        f"read_npz: {path} has no array images or image; it holds x. Save it with np.savez(path, images=..., labels=...).")
    np.savez(path, images=np.zeros((2, 4, 5)), labels=np.zeros((3, 4, 5), int))
    assert message(read_npz, path) == (
        f"read_npz: {path} holds images (2, 4, 5) and labels (3, 4, 5). Give (N, H, W) or (N, H, W, C) images and (N, H, W) "
        f"labels.")
    np.savez(path, images=np.zeros((1, 4, 5)), labels=np.full((1, 4, 5), 0.5))
    assert f"read_npz: mask 0 of {path} holds 0.5, and a mask holds integers" in message(read_npz, path)
    np.savez(path, images=np.zeros((1, 3, 4)), labels=TWO[None], instances=TWO[None])
    assert "has labels and instances, so the objects are known" in message(read_npz, path, kind="instances", error=ConfigError)


# Data sets of the field

def test_isbi2012(tmp_path):
    """Both layouts: membrane 0, interior 1, 4-connected interiors as instances."""
    mask = np.array([[255, 0, 255], [0, 255, 255], [255, 0, 0]], np.uint8)
    expected = [[1, 0, 2], [0, 2, 2], [3, 0, 0]]
    root = folder(tmp_path / "png", {"00": mask, "01": mask}, sub=("image", "label"))
    stack(tmp_path / "train-volume.tif", [mask, mask])
    stack(tmp_path / "train-labels.tif", [mask, mask])
    for data in (read_isbi2012(root), read_isbi2012(tmp_path), read_dataset(tmp_path)):
        assert (len(data), data.class_names) == (2, ("membrane", "cell"))
        np.testing.assert_array_equal(data[1].labels, mask > 0)
        np.testing.assert_array_equal(data[1].instances, expected)
    assert message(read_isbi2012, root / "image") == (
        f"read_isbi2012: {root}/image has neither image/ and label/ nor train-volume.tif and train-labels.tif; it holds 00.png, "
        f"01.png. Give the folder that holds them.")


@pytest.fixture
def ctc(tmp_path, rng):
    """A sequence of four frames, two with a mask."""
    root = tmp_path / "DIC"
    (root / "01").mkdir(parents=True)
    (root / "01_GT" / "SEG").mkdir(parents=True)
    for t in range(4):
        write_image(root / "01" / f"t{t:03d}.tif", rng.integers(0, 256, (3, 4)).astype(np.uint8))
    for t in (1, 3):
        write_labels(root / "01_GT" / "SEG" / f"man_seg{t:03d}.tif", IDS.astype(np.uint16) * 100)
    return root


def test_ctc(ctc):
    """Frames with masks only, ids as stored; partial frames have unknown pixels and no background."""
    data = read_ctc(ctc)
    assert [sample.name for sample in data] == ["01/t001", "01/t003"]
    np.testing.assert_array_equal(data[0].instances, IDS.astype(int) * 100)
    np.testing.assert_array_equal(data[0].labels, IDS > 0)
    assert not data[0].partial
    assert read_dataset(ctc, sequence="01").name == "DIC"
    partial = read_ctc(ctc, partial=True)[0]
    assert partial.partial
    np.testing.assert_array_equal(partial.labels, np.where(IDS > 0, 1, IGNORE))


def test_ctc_refused(ctc):
    """A missing sequence or frame and 3-D masks are refused."""
    assert message(read_ctc, ctc, "01", "ST") == (
        f'read_ctc: there is no folder {ctc}/01_ST/SEG; {ctc} holds 01/, 01_GT/. Give the folder of the set, a sequence ("01") '
        f'and a source ("GT" or "ST").')
    (ctc / "01" / "t003.tif").unlink()
    assert message(read_ctc, ctc) == (
        f"read_ctc: {ctc}/01_GT/SEG/man_seg003.tif has no frame: there is no {ctc}/01/t003.tif. Unpack the sequence again, or "
        f"remove the mask.")
    (ctc / "01_GT" / "SEG" / "man_seg003.tif").rename(ctc / "01_GT" / "SEG" / "man_seg_000_012.tif")
    assert "is not named man_segNNN.tif. Masks of 3-D sets" in message(read_ctc, ctc)


@pytest.fixture
def dsb(tmp_path):
    """Two images in the original layout: RGBA, one file a nucleus, two of them overlapping."""
    root = tmp_path / "stage1_train"
    for name in ("aa", "bb"):
        (root / name / "images").mkdir(parents=True)
        (root / name / "masks").mkdir()
        image = np.full((3, 4, 4), 255, np.uint8)
        image[..., :3] = np.arange(12).reshape(3, 4, 1)
        Image.fromarray(image).save(root / name / "images" / f"{name}.png")
    small, large = np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)
    small[1, 1], large[:2, :3] = 255, 255
    write_labels(root / "aa" / "masks" / "m1.png", small)
    write_labels(root / "aa" / "masks" / "m2.png", large)
    write_labels(root / "bb" / "masks" / "m1.png", large)
    write_labels(root / "bb" / "masks" / "m2.png", small)
    return root


def test_dsb2018(dsb):
    """One file a nucleus: ids by name, the smaller on top whatever the order, grey RGBA as one channel."""
    for data in (read_dsb2018(dsb), read_dataset(dsb)):
        assert [sample.name for sample in data] == ["aa", "bb"]
        np.testing.assert_array_equal(data[0].instances, [[2, 2, 2, 0], [2, 1, 2, 0], [0, 0, 0, 0]])
        np.testing.assert_array_equal(data[1].instances, [[1, 1, 1, 0], [1, 2, 1, 0], [0, 0, 0, 0]])
        np.testing.assert_array_equal(data[0].image[..., 0], np.arange(12).reshape(3, 4))
        assert data[0].image.shape == (3, 4, 1)
        assert data.class_names == ("background", "nucleus")


def test_dsb2018_with_a_coloured_image(dsb):
    """If one image is coloured, all get three channels."""
    image = np.zeros((3, 4, 3), np.uint8)
    image[..., 0] = 9
    write_image(dsb / "bb" / "images" / "bb.png", image)
    data = read_dsb2018(dsb)
    assert [sample.image.shape[-1] for sample in data] == [3, 3]
    np.testing.assert_array_equal(data[1].image, image)


def test_dsb2018_with_ids(tmp_path):
    """images/ and masks/ with instance ids."""
    np.testing.assert_array_equal(read_dsb2018(folder(tmp_path, {"a": IDS}))[0].instances, IDS)


def test_dsb2018_refused(dsb):
    """An empty nucleus, one of another size, two images, no masks, no layout: each is refused."""
    write_labels(dsb / "aa" / "masks" / "m3.png", np.zeros((3, 4), int))
    assert message(read_dsb2018, dsb) == (
        f"read_dsb2018: {dsb}/aa/masks/m3.png holds no nucleus, only 0. Remove the file.")
    write_labels(dsb / "aa" / "masks" / "m3.png", np.ones((3, 5), int))
    assert message(read_dsb2018, dsb) == (
        f"read_dsb2018: {dsb}/aa/masks/m3.png is 3x5 and its image is 3x4. Export it at the image's size.")
    shutil.rmtree(dsb / "aa" / "masks")
    assert message(read_dsb2018, dsb) == (
        f"read_dsb2018: {dsb}/aa has no masks/ beside images/. Is it the test part? Read the training part.")
    write_image(dsb / "aa" / "images" / "more.png", TWO)
    assert message(read_dsb2018, dsb) == (
        f"read_dsb2018: {dsb}/aa/images holds 2 images, and the layout has one. Move the others to folders of their own.")
    assert message(read_dsb2018, dsb / "bb" / "masks") == (
        f"read_dsb2018: {dsb}/bb/masks has neither images/ and masks/ nor folders with images/ and masks/ in them; it holds "
        f"m1.png, m2.png. Give the folder that holds them, e.g. stage1_train.")


# Any of them

def test_read_dataset(tmp_path):
    """The layout is found by looking, or named."""
    root = folder(tmp_path / "mine", {"a": TWO})
    assert read_dataset(root)[0].name == "a"
    assert read_dataset(root, "folder", class_names=("no", "yes")).class_names == ("no", "yes")
    assert read_dataset(root / "images", masks=root / "masks").name == "mine"
    np.savez(tmp_path / "a.npz", images=TWO[None], labels=TWO[None])
    assert read_dataset(tmp_path / "a.npz").name == "a"
    stack(tmp_path / "x.tif", [TWO, TWO])
    assert len(read_dataset(tmp_path / "x.tif", masks=tmp_path / "x.tif")) == 2
    side = tmp_path / "side"
    side.mkdir()
    write_image(side / "a.png", TWO)
    write_labels(side / "a_mask.png", TWO)
    assert len(read_dataset(side)) == 1
    isbi = folder(tmp_path / "isbi2012", {"a": TWO * 255}, sub=("image", "label"))
    assert read_dataset(isbi).class_names[0] == "membrane"
    dsb = folder(tmp_path / "dsb2018", {"a": IDS})
    assert read_dataset(dsb).class_names[1] == "nucleus"


def test_read_dataset_refused(tmp_path):
    """Nothing there, nothing that fits, an unknown format or option: each says what would do."""
    missing = tmp_path / "no"
    assert message(read_dataset, missing) == f"read_dataset: there is no file or folder {missing}. Check the name."
    (tmp_path / "set1").mkdir()
    assert message(read_dataset, tmp_path) == (
        f"read_dataset: {tmp_path} holds set1/, and none of these: images/ and masks/ (or image/ and label/); pairs a.png and "
        f"a_mask.png; 01/ and 01_GT/ (Cell Tracking Challenge); train-volume.tif and train-labels.tif (ISBI 2012); folders with "
        f"images/ and masks/ in them (DSB 2018). Give the folder of the images and masks=... (command line: "
        f"--masks FOLDER), or name the format (--format).")
    assert message(read_dataset, tmp_path, "coco", error=ConfigError) == (
        "read_dataset: there is no format 'coco'. Use auto or one of folder, tiff, npz, isbi2012, ctc, dsb2018.")
    root = folder(tmp_path / "mine", {"a": TWO})
    assert message(read_dataset, root, sequence="01", error=ConfigError) == (
        f"read_dataset: read_folder, which reads {root}, has no option sequence. It takes masks, kind, label_map, class_names, "
        f"instances, partial, drop_alpha.")
    path = write_image(tmp_path / "a.tif", TWO)
    assert message(read_dataset, path, error=ConfigError) == (
        f"read_dataset: {path} is a TIFF without its masks. Give a TIFF of as many pages as masks=... (command line: "
        f"--masks FILE).")
    path = write_image(tmp_path / "a.png", TWO)
    assert message(read_dataset, path) == (
        f"read_dataset: {path} is neither .npz nor .tif. Give a folder, an .npz file, or a multi-page TIFF and its masks.")


@pytest.mark.parametrize(("title", "sub"), [("my_dsb_cells", ("images", "masks")), ("my_isbi_cells", ("image", "label"))])
def test_a_folder_that_is_only_called_so(tmp_path, title, sub):
    """Folders of one's own, named after a challenge, take the options of a plain folder."""
    root = folder(tmp_path / title, {"a": IDS}, sub=sub)
    np.testing.assert_array_equal(read_dataset(root, kind="instances")[0].instances, IDS)
    assert len(read_dataset(root, kind="classes", label_map={0: 0, 3: 1, 7: 2, 9: 3}).class_names) == 4
    assert read_dataset(root, kind="instances", class_names=("no", "yes")).class_names[1] == "yes"


def test_kind_said_twice(dsb, ctc):
    """kind="instances" is allowed where the data are instances anyway; another kind is not."""
    assert len(read_dataset(dsb, kind="instances")) == len(read_dataset(ctc, kind="instances")) == 2
    assert message(read_dataset, dsb, kind="binary", error=ConfigError) == (
        f"read_dataset: read_dsb2018, which reads {dsb}, has no option kind. It takes none.")


# In one line

def test_describe():
    """Images, objects, their sizes and the share of the foreground among known pixels, on one line."""
    image, ids = np.zeros((10, 10, 1), np.uint8), np.zeros((10, 10), np.int32)
    ids[0, :4], ids[5, :8], ids[9, 0] = 300, 7, 2
    labels = (ids > 0).astype(np.int32)
    one = Sample("a", image, labels, ids)
    assert describe(Dataset((one,))) == "1 image, 3 objects, median 4 px, smallest 1 px; foreground 13 %"
    assert describe(Dataset((one, one))) == "2 images, 6 objects, median 4 px, smallest 1 px; foreground 13 %"
    assert describe(Dataset((Sample("a", image, labels),))) == "1 image; foreground 13 %"
    classes = labels.copy()
    classes[5, :8], classes[6:8] = 2, IGNORE
    assert describe(Dataset((Sample("a", image, classes),), ("rest", "cell", "dirt"))) == (
        "1 image; cell 6 %, dirt 10 %, unknown 20 %")
    assert describe(Dataset((Sample("a", image, labels * 0, ids * 0),))) == "1 image, 0 objects; foreground 0 %"
    assert describe(Dataset((one,))[:0]) == "0 images"


# Real images

@pytest.mark.slow
def test_real_ids_are_objects(real_data, tmp_path):
    """No real instance mask is taken for grey values, under the check that only instances="ids" turns off."""
    stems = []
    for i, file in enumerate(sorted(file for pattern in ("dsb2018/masks/*", "t98g/*/instances_ids.png", "*/0?_?T/SEG/*.tif")
                                    for file in real_data.glob(pattern))):
        mask = read_mask(file)
        write_labels(tmp_path / f"{i}_mask.png", mask)
        write_image(tmp_path / f"{i}.png", np.zeros(mask.shape, np.uint8))
        stems.append(file)
    assert len(stems) > 100
    assert len(read_folder(tmp_path, kind="instances")) == len(stems)
    assert len(read_npz(real_data / "dsb2018" / "tiny32_256.npz", kind="instances")) == 32


def test_real_isbi2012(real_data):
    """24 slices of 512x512, interiors as instances, found by the look of the folder."""
    data = read_dataset(real_data / "isbi2012_em")
    assert (len(data), data[0].image.shape, data[0].image.dtype) == (24, (512, 512, 1), np.uint8)
    assert [sample.name for sample in data] == [f"{i:02d}" for i in range(24)]
    assert all(0.7 < sample.labels.mean() < 0.85 for sample in data)  # interior is most of the tissue
    assert all(50 < sample.instances.max() < 400 for sample in data)
    assert "--label-map 0:0,255:1" in message(read_folder, real_data / "isbi2012_em")


def test_real_ctc(real_data):
    """U373 and HeLa: manual and computed references, 16-bit LZW and deflate TIFFs."""
    u373 = read_ctc(real_data / "phc_c2dh_u373", "02")
    assert (len(u373), u373[0].image.shape) == (9, (520, 696, 1))
    assert {len(np.unique(sample.instances)) for sample in u373} <= set(range(3, 12))
    manual, computed = (read_ctc(real_data / "dic_c2dh_hela", "01", source) for source in ("GT", "ST"))
    assert len(manual) < len(computed)
    by_name = {sample.name: sample for sample in computed}
    for sample in manual:  # the manual one lacks some cells; those that it has are in both
        assert by_name[sample.name].labels[sample.labels > 0].mean() > 0.9


def test_real_dsb2018(real_data):
    """Both layouts and the .npz; the original layout loses no nucleus and counts one a file."""
    assert len(read_dsb2018(real_data / "dsb2018")) == 80
    root = real_data / "dsb2018" / "stage1_layout"
    for sample in read_dsb2018(root):
        assert sample.image.shape == (256, 256, 1)
        nuclei = len(list((root / sample.name / "masks").iterdir()))
        assert sample.instances.max() == nuclei == len(np.unique(sample.instances)) - 1
    data = read_npz(real_data / "dsb2018" / "tiny32_256.npz", kind="instances")
    assert len(data) == 32
    assert 'use kind="instances"' in message(read_dataset, real_data / "dsb2018" / "tiny32_256.npz")


def test_two_images_with_one_name_are_refused(tmp_path):
    """Scores are listed by name, so a second image of the same name would take the place of the first."""
    images, labels = np.zeros((2, 8, 8), np.uint8), np.ones((2, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=labels, names=["x", "x"])
    with pytest.raises(DataError, match=r"two images are called 'x'\. Give every image a name of its own"):
        read_npz(tmp_path / "a.npz")


# How masks were read

def test_how_masks_were_read_is_told(tmp_path):
    """`Dataset.reading` has the options in the words of the table [data]; parts of a data set have it too."""
    root = folder(tmp_path / "mine", dict.fromkeys("abc", 255 * TWO))
    data = read_folder(root, label_map={0: 0, 255: 1, 7: "ignore"}, instances="components", partial=True)
    told = {"kind": "binary", "label_map": "0:0,255:1,7:ignore", "instances": "components", "partial": True}
    assert data.reading == told
    assert parse_label_map(told["label_map"]) == {0: 0, 255: 1, 7: "ignore"}
    parts = [data[:1], *block_split(data, 0.5), *random_split(data, 0.5, np.random.default_rng(0))]
    assert all(part.reading == told for part in parts)
    assert read_folder(folder(tmp_path / "plain", {"a": TWO})).reading == {"kind": "binary"}
    assert Dataset(data.samples).reading == {}


def test_which_options_a_format_takes(tmp_path):
    """They depend on what lies there, or on the format's name; options that are given count in guessing, as in reading."""
    root = folder(tmp_path / "dsb", {"a": TWO})
    assert options_taken(root) == []
    assert options_taken(root, kind="instances", instances="ids") == []
    assert {"kind", "label_map", "instances", "partial"} <= set(options_taken(root, kind="binary"))
    assert options_taken(root, "ctc") == ["sequence", "source", "partial"]
    assert "there is no format 'zip'" in message(options_taken, root, "zip", error=ConfigError)


# Hostile files (found by tests/fuzz)

def npz_with(path, header, body=b""):
    """An .npz file whose array `images` has a header of one's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header + body)
        buffer = io.BytesIO()
        np.save(buffer, TWO[None])
        archive.writestr("labels.npy", buffer.getvalue())
    return path


def npy_header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(("shape", "kind"), [("(1000000000000,)", "<f4"), ("(3, 1000000, 1000000)", "|u1"), ("(-1, 4)", "|u1")])
def test_npz_that_claims_too_much(tmp_path, shape, kind):
    """A header that claims more than the file holds is refused before memory is taken for it."""
    path = npz_with(tmp_path / "x.npz", npy_header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n"))
    assert f"read_npz: images in {path} says it is {np.dtype(kind)} {shape}, and has " in message(read_npz, path)


def test_npz_that_unpacks_without_end(tmp_path, monkeypatch):
    """An archive that unpacks to more than the limit, and to hundred times its own size, is refused unread."""
    nothing = np.zeros((1, 2000, 2000), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=nothing, labels=nothing)
    monkeypatch.setattr("tinyunet.data.images.MAX_PIXELS", 1000)
    assert message(read_npz, tmp_path / "x.npz") == (
        f"read_npz: {tmp_path}/x.npz says that it unpacks to 8000256 bytes; the limit is 4000, against files that unpack without "
        "end. Cut it into parts, or raise tinyunet.data.images.MAX_PIXELS if it is true.")


@pytest.mark.parametrize(("header", "text"), [
    (b"no array at all", "x.npz is damaged or no .npz file ("),
    (b"\x93NUMPY\x03\x00" + bytes(4), "images in {path} is no plain array. Save numbers: np.savez(path, images="),
    (npy_header("[" * 5000), "x.npz is damaged or no .npz file ("),
    (npy_header("__import__('os').mkdir('evil')"), "x.npz is damaged or no .npz file (")])
def test_npz_whose_members_are_no_arrays(tmp_path, monkeypatch, header, text):
    """Members that are no arrays are refused, and never run."""
    monkeypatch.chdir(tmp_path)
    path = npz_with(tmp_path / "x.npz", header)
    assert text.format(path=path) in message(read_npz, path)
    assert list(tmp_path.iterdir()) == [path]


def test_masks_alone(tmp_path):
    """Files side by side of which every one is named like a mask."""
    write_labels(tmp_path / "a_mask.png", TWO)
    assert message(read_folder, tmp_path) == (
        f"read_folder: {tmp_path} holds masks alone, by their names: a_mask.png. Put the image of a_mask.png beside it as a.png.")


def test_names_that_the_system_refuses(tmp_path):
    """A name that is too long for the file system is an error in words, whatever the reader."""
    for read in (read_dataset, read_folder, read_npz, read_isbi2012, read_ctc, read_dsb2018):
        assert message(read, tmp_path / ("x" * 300)) == (
            f"{read.__name__}: {tmp_path}/{'x' * 300} cannot be read (File name too long). Check its name and permissions.")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_a_pipe_is_no_data(tmp_path):
    """From a pipe one would read for ever: it is refused, and passed over in a folder."""
    os.mkfifo(tmp_path / "pipe.png")
    assert message(read_dataset, tmp_path / "pipe.png") == (
        f"read_dataset: {tmp_path}/pipe.png is a pipe or a device. Give a folder or a file.")
    assert "there is no file" in message(read_npz, tmp_path / "pipe.png")
    write_image(tmp_path / "a.png", TWO)
    write_labels(tmp_path / "a_mask.png", TWO)
    assert len(read_folder(tmp_path)) == 1


def test_masks_in_half_precision(tmp_path):
    """float16 masks of whole numbers are labels like others: 2**31, which it does not know, makes no trouble."""
    np.savez(tmp_path / "x.npz", images=TWO[None], labels=TWO[None].astype(np.float16))
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz")[0].labels, TWO)


def test_npz_of_numbers_that_are_no_grey_values(tmp_path):
    """Complex numbers and texts are neither images nor masks."""
    path = tmp_path / "x.npz"
    np.savez(path, images=TWO[None].astype(complex), labels=TWO[None])
    assert message(read_npz, path) == (
        f"read_npz: image 0 of {path} is an array of complex128. An image is uint8, uint16 or float32.")
    np.savez(path, images=TWO[None], labels=TWO[None].astype(str))
    assert message(read_npz, path) == f"read_npz: mask 0 of {path} is an array of <U3. A mask holds integers."


@pytest.mark.parametrize("label", [65536, 10**9, 10**30])
def test_a_class_beyond_all_masks(tmp_path, label):
    """A class number that nobody means is refused before a name is made for every class below it."""
    root = folder(tmp_path, {"a": TWO})
    assert message(read_folder, root, kind="classes", label_map={0: 0, 1: label}, error=ConfigError) == (
        f"read_folder: label_map says 1: {label}, and classes end at 65535. Number them 0, 1, 2, ...")


def test_a_label_map_without_end():
    """Numbers that Python would not even read are no label map, and the message quotes little of them."""
    for text in ("1" * 5000 + ":0", "0:" + "1" * 5000, "x" * 5000):
        said = message(parse_label_map, text, error=ConfigError)
        assert "is not VALUE:CLASS. Write it like 0:0,255:1 or 0:0,1:1,255:ignore." in said
        assert len(said) < 600
