"""Measuring a network on annotated images, with networks whose answer is known beforehand."""

import numpy as np
import pytest

from tinyunet import evaluation
from tinyunet.checkpoint import Checkpoint
from tinyunet.data.instances import INSTANCE_BYTES
from tinyunet.data.normalize import Normalization
from tinyunet.data.sample import IGNORE, Dataset, Sample
from tinyunet.errors import ShapeError
from tinyunet.evaluation import evaluate, image_for, measure
from tinyunet.metrics import total
from tinyunet.spec import UNetSpec
from tinyunet.unet import UNet

SMALL = UNetSpec(base=2, depth=1)


def cells():
    """Three label images of 22 x 26 pixels with two cells that touch and one by itself."""
    samples = []
    for i in range(3):
        instances = np.zeros((22, 26), np.int32)
        instances[3:11, 3:9], instances[3:11, 9:15], instances[14:20, 4 + i : 11 + i] = 1, 2, 3
        samples.append(painted((instances > 0).astype(np.int32), instances, f"image {i}"))
    return samples


def threshold(at):
    """A network that calls a pixel a cell where its grey value exceeds a threshold; it looks at no neighbour."""
    model = UNet(SMALL)
    for array in model.params().values():
        array[...] = 0
    params = model.params()
    for name, c_in in (("down.0.conv1", 0), ("down.0.conv2", 0), ("up.0.conv1", 2), ("up.0.conv2", 0)):
        params[f"{name}.w"][1, 1, c_in, 0] = 1
    params["head.w"][0, 0, 0, 1] = 1
    params["head.b"][1] = -at
    return model


def painted(labels, instances=None, name="painted"):
    """An image in which cells are 200 and all else is 0."""
    return Sample(name, (200 * (labels > 0))[..., None].astype(np.uint8), labels, instances)


def test_a_perfect_network_scores_one():
    """Every measure of a perfect segmentation is perfect, over all images; the network trains on afterwards."""
    data = [painted((s.instances > 1).astype(np.int32), np.where(s.instances > 1, s.instances, 0)) for s in cells()]
    model = threshold(100)
    scores = evaluate(model, data, Normalization("none"))
    assert scores.mean_iou == scores.mean_dice == scores.seg == 1
    assert scores.pixel_error == 0
    assert scores.confusion.sum() == 3 * 22 * 26
    assert len(scores.seg_scores) == 6
    assert scores.class_names == ("background", "cell")
    assert model.training


def test_a_constant_network_scores_what_the_images_hold():
    """A network that calls everything background has its IoU there, 0 for cells, and finds no object."""
    sample = cells()[0]
    share = (sample.labels == 0).mean()
    scores = evaluate(threshold(1000), [painted(sample.labels, sample.instances)], Normalization("none"))
    np.testing.assert_allclose(scores.iou, [share, 0])
    assert scores.pixel_error == pytest.approx(1 - share)
    assert scores.seg == 0


def test_unknown_pixels_do_not_count():
    """Pixels labelled IGNORE are not scored: a network wrong only there is perfect."""
    labels = cells()[0].labels
    image = painted(labels).image
    unknown = np.where(labels == 1, IGNORE, labels)
    unknown[16, 6] = 1
    scores = evaluate(threshold(100), [Sample("a", image, unknown)], Normalization("none"))
    assert scores.pixel_error == 0
    assert scores.confusion.sum() == (unknown >= 0).sum()


def test_small_objects_can_be_left_out():
    """min_size removes predicted specks before objects are compared: a cell of 4 pixels is then not found."""
    instances = np.zeros((20, 20), np.int32)
    instances[2:9, 2:9], instances[15:17, 15:17] = 1, 2
    data = [painted((instances > 0).astype(np.int32), instances)]
    for min_size, expected in ((0, 1), (4, 1), (5, 0.5)):
        assert evaluate(threshold(100), data, Normalization("none"), min_size=min_size).seg == expected


def test_class_names_of_scores():
    """Names come from the argument, else from the data set, else from the number of classes."""
    data = Dataset((painted(cells()[0].labels),), ("nothing", "Zelle"))
    assert evaluate(threshold(100), data).class_names == ("nothing", "Zelle")
    assert evaluate(threshold(100), data, class_names=("a", "b")).class_names == ("a", "b")
    assert evaluate(UNet(SMALL.but(classes=4)), list(data)).class_names == ("background", "class 1", "class 2", "class 3")
    assert evaluate(UNet(SMALL.but(classes=1)), list(data)).class_names == ("background", "cell")


def test_image_by_image_and_together():
    """`measure` gives every image with its labels and scores; `evaluate` is the total of them."""
    data = cells()
    one_by_one = list(measure(threshold(100), data, Normalization("none")))
    assert [one.name for one in one_by_one] == ["image 0", "image 1", "image 2"]
    for one, sample in zip(one_by_one, data, strict=True):
        np.testing.assert_array_equal(one.labels, sample.labels)
    together = evaluate(threshold(100), data, Normalization("none"))
    assert total(one.scores for one in one_by_one).as_dict() == together.as_dict()
    assert together.seg < 1  # two cells that touch are one object


def test_the_checkpoint_knows_normalisation_names_and_size():
    """`Checkpoint.evaluate` is `evaluate` with what the training used; another min_size may be given."""
    instances = np.zeros((20, 20), np.int32)
    instances[2:9, 2:9], instances[15:17, 15:17] = 1, 2
    data = [painted((instances > 0).astype(np.int32), instances)]
    saved = Checkpoint(threshold(50), Normalization("dataset", (100.0,), (1.0,)), ("a", "b"), config={"min_size": 5})
    assert saved.evaluate(data).as_dict() == evaluate(
        saved.model, data, saved.normalization, class_names=("a", "b"), min_size=5
    ).as_dict()  # fmt: skip
    assert saved.evaluate(data).seg == 0.5
    assert saved.evaluate(data, min_size=4, tile_in=18).seg == 1
    assert saved.evaluate(data).mean_iou == 1
    assert evaluate(saved.model, data).mean_iou < 1  # by another normalisation


def test_options_reach_prediction(monkeypatch):
    """tile_in, max_mem and the like go on to `predict`, with memory for objects where there are any."""
    seen = []

    def watched(model, image, normalization, **options):
        seen.append(options)
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(evaluation, "predict", watched)
    with_objects, without = cells()[0], painted(cells()[0].labels)
    evaluate(UNet(SMALL), [with_objects, without], tile_in=20, average="mirror4")
    asked = {"tile_in": 20, "average": "mirror4"}
    assert seen == [{**asked, "reserved": 22 * 26 * INSTANCE_BYTES}, {**asked, "reserved": 0}]
    evaluate(UNet(SMALL), [with_objects, without], reserved=7)
    assert [options["reserved"] for options in seen[2:]] == [22 * 26 * INSTANCE_BYTES + 7, 7]


@pytest.mark.parametrize(("stored", "takes"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_grey_and_colour(stored, takes):
    """A data set of grey images saved as colour is read as one channel; each network gets as many as it takes."""
    image = np.repeat(cells()[0].image, stored, -1)
    fitted = image_for(UNet(SMALL.but(channels=takes)), Sample("a", image, cells()[0].labels))
    np.testing.assert_array_equal(fitted, np.repeat(cells()[0].image, takes, -1))


def test_colour_is_no_grey():
    """The image is named with its channels and those of the network."""
    image = np.zeros((22, 26, 3), np.uint8)
    image[0, 0, 0] = 1
    with pytest.raises(ShapeError, match="evaluate: image a has 3 channels, the network takes 1"):
        evaluate(UNet(SMALL), [Sample("a", image, np.zeros((22, 26), np.int32))])
