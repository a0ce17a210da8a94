"""The drawn images: labels that keep their promises, and pictures that show what each microscope shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tinyunet.data.sample import Dataset, Sample
from tinyunet.data.synthetic import KINDS, shapes, synthetic, synthetic_image
from tinyunet.errors import ConfigError, DTypeError

sizes = st.tuples(st.integers(32, 150), st.integers(32, 150))
counts = st.none() | st.integers(1, 60)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def drawn():
    """Six images of each kind, 192 x 224."""
    return {kind: synthetic(kind, 6, (192, 224), np.random.default_rng(3)) for kind in KINDS}


def touching_pairs(instances):
    """How many pairs of ids lie side by side, with no background between them."""
    pairs = set()
    for a, b in ((instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1])):
        meet = (a > 0) & (b > 0) & (a != b)
        pairs |= {tuple(sorted(pair)) for pair in zip(a[meet].tolist(), b[meet].tolist(), strict=True)}
    return len(pairs)


def iou(guess, truth):
    return (guess & truth).sum() / (guess | truth).sum()


def best_threshold(data, target):
    """The best IoU with class `target` that one grey level, the same for all images, can reach from above or below."""
    grey = np.stack([sample.image[:, :, 0] for sample in data])
    truth = np.stack([sample.labels for sample in data]) == target
    return max(max(iou(grey >= level, truth), iou(grey < level, truth)) for level in range(257))


def grey_and_cells(data):
    for sample in data:
        yield sample.image[:, :, 0].astype(float), sample.labels == 1


# What is promised of the arrays


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_holds_named_samples(kind):
    """n samples with counted names, dtypes and shapes as documented, and the kind's two classes."""
    data = synthetic(kind, 3, (48, 70), np.random.default_rng(0))
    assert isinstance(data, Dataset)
    assert [sample.name for sample in data] == [f"{kind}-000", f"{kind}-001", f"{kind}-002"]
    assert data.name == f"synthetic-{kind}"
    assert data.class_names == (("membrane", "cell") if kind == "em" else ("background", "cell"))
    for sample in data:
        assert isinstance(sample, Sample)
        assert (sample.image.shape, sample.image.dtype) == ((48, 70, 1), np.uint8)
        assert (sample.labels.shape, sample.labels.dtype) == ((48, 70), np.int32)
        assert (sample.instances.shape, sample.instances.dtype) == ((48, 70), np.int32)
        assert not sample.partial


def test_one_number_is_a_square():
    """size 40 and size (40, 40) draw the same image, and a name can be given."""
    one = synthetic_image("dic", 40, np.random.default_rng(1), name="mine")
    two = synthetic_image("dic", (40, 40), np.random.default_rng(1))
    assert (one.name, two.name) == ("mine", "dic-000")
    assert np.array_equal(one.image, two.image)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(size=sizes, cells=counts, seed=seeds)
def test_instances_are_whole_and_counted_without_gaps(kind, size, cells, seed):
    """Any size and number of cells: ids 1..n, each one 4-connected part of 12 pixels or more, and labels = instances > 0."""
    sample = synthetic_image(kind, size, np.random.default_rng(seed), cells=cells)
    ids = np.unique(sample.instances[sample.instances > 0])
    assert sample.image.shape == (*size, 1)
    assert sample.instances.shape == sample.labels.shape == size
    assert len(ids) >= 1
    assert np.array_equal(ids, np.arange(1, len(ids) + 1))
    for i in ids:
        cell = sample.instances == i
        assert ndimage.label(cell)[1] == 1
        assert cell.sum() >= 12
    assert np.array_equal(sample.labels, sample.instances > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_every_byte(kind):
    """Same seed, same bytes; the first of three are the first of one; another seed or the next call is another image."""
    def draw(n, rng):
        return [(s.image.tobytes(), s.instances.tobytes()) for s in synthetic(kind, n, (60, 50), rng)]

    rng = np.random.default_rng(5)
    first, again = draw(3, rng), draw(3, np.random.default_rng(5))
    assert first == again
    assert draw(1, np.random.default_rng(5)) == first[:1]
    assert len({image for image, _ in [*first, *draw(1, rng), *draw(1, np.random.default_rng(6))]}) == 5


@pytest.mark.parametrize("kind", ["phase", "dic"])
def test_there_are_never_more_cells_than_asked_for(kind, rng):
    """`cells` is a ceiling where cells keep their size; asked for one, there is one; asked for more, there are more."""
    found = [int(synthetic_image(kind, 256, rng, cells=n).instances.max()) for n in (1, 4, 12)]
    assert found[0] == 1
    assert 2 <= found[1] <= 4
    assert found[1] < found[2] <= 12


def test_em_cells_shrink_as_their_number_grows(rng):
    """In `em` cells fill the plane: 20 and 80 cells cover nearly the same share, in about the number asked for."""
    few, many = (synthetic_image("em", 256, rng, cells=n) for n in (20, 80))
    assert 10 <= few.instances.max() <= 40
    assert 50 <= many.instances.max() <= 130
    assert many.labels.mean() > 0.65
    assert few.labels.mean() > 0.8


def test_cells_have_the_usual_size_unless_the_image_is_small(rng):
    """A larger image shows more cells, not larger ones; a 32 x 32 one still shows several, and what is around them."""
    def typical(size):
        found = [synthetic_image("dic", size, rng).instances for _ in range(4)]
        return np.median(np.concatenate([np.bincount(i.ravel())[1:] for i in found])), found

    (small, _), (large, _), (_, tiny) = typical(200), typical(400), typical(32)
    assert 0.7 < large / small < 1.6
    assert all(i.max() >= 2 and (i == 0).any() for i in tiny)


# What is promised of each kind


def test_em_instances_are_the_4_connected_parts_of_class_1(drawn):
    """Labelling class 1 anew finds the very same cells, not even corners join two of them, and no membrane is a mere speck."""
    for sample in drawn["em"]:
        parts, n = ndimage.label(sample.labels == 1)
        assert n == sample.instances.max()
        assert np.array_equal(parts, sample.instances)
        assert ndimage.label(sample.labels == 1, structure=np.ones((3, 3)))[1] == n
        assert touching_pairs(sample.instances) == 0
        assert np.bincount(ndimage.label(sample.labels == 0, structure=np.ones((3, 3)))[0].ravel()).min() >= 30


def test_em_membranes_are_two_to_four_pixels_wide(drawn):
    """Across or down, every membrane pixel has a neighbour; almost nothing of a membrane holds a 5 x 5 square."""
    wide = whole = 0
    for sample in drawn["em"]:
        wall = sample.labels == 0
        pair = ndimage.binary_opening(wall, np.ones((1, 2))) | ndimage.binary_opening(wall, np.ones((2, 1)))
        assert np.array_equal(pair, wall)
        wide += ndimage.binary_opening(wall, np.ones((5, 5))).sum()
        whole += wall.sum()
        assert 0.08 < wall.mean() < 0.35
    assert wide < 0.1 * whole


@pytest.mark.parametrize(("kind", "at_least"), [("dic", 4), ("phase", 0.5)])
def test_cells_touch(drawn, kind, at_least):
    """Crowded DIC cells share borders all over; of the lone phase-contrast cells some meet."""
    assert np.mean([touching_pairs(sample.instances) for sample in drawn[kind]]) >= at_least
    assert all(0.1 < sample.labels.mean() < 0.8 for sample in drawn[kind])


@pytest.mark.parametrize(("kind", "target", "limit"), [("em", 0, 0.7), ("phase", 1, 0.55), ("dic", 1, 0.7)])
def test_no_single_threshold_solves_it(drawn, kind, target, limit):
    """The best single grey level stays far below the IoU of 0.85 that a small U-Net reaches in two minutes."""
    assert best_threshold(drawn[kind], target) < limit


def test_a_threshold_is_no_better_than_guessing_in_dic(drawn):
    """Flat regions have the same grey inside and outside: the best threshold just calls nearly everything a cell."""
    everything = np.mean([sample.labels.mean() for sample in drawn["dic"]])
    assert best_threshold(drawn["dic"], 1) < everything + 0.02
    for grey, cells in grey_and_cells(drawn["dic"]):
        assert abs(grey[cells].mean() - grey[~cells].mean()) < 4
        assert grey[cells].std() > 1.5 * grey[~cells].std()


def test_em_membranes_are_dark_and_organelles_too(drawn):
    """Membranes are much darker than cells, but so are the organelles, far from any membrane."""
    for grey, cells in grey_and_cells(drawn["em"]):
        assert grey[cells].mean() > grey[~cells].mean() + 40
        deep = ndimage.gaussian_filter(grey, 1)[ndimage.distance_transform_edt(cells) > 5]
        assert np.quantile(deep, 0.01) < np.median(deep) - 45


def test_phase_cells_have_a_dark_rim_and_a_bright_halo(drawn):
    """From outside inwards: background, brighter halo, dark rim; what touches the background is the halo."""
    for grey, cells in grey_and_cells(drawn["phase"]):
        outside, inside = ndimage.distance_transform_edt(~cells), ndimage.distance_transform_edt(cells)
        far = np.median(grey[outside > 25])
        assert np.median(grey[(outside >= 2) & (outside < 5)]) > far + 2
        assert np.median(grey[(inside >= 1) & (inside < 4)]) < far - 15


def test_dic_is_lit_from_the_upper_left(drawn):
    """Rims that face the upper left are bright, those opposite are dark, and those across the light are neither."""
    for grey, cells in grey_and_cells(drawn["dic"]):
        smooth = ndimage.gaussian_filter(cells.astype(float), 2)
        slope_y, slope_x = np.gradient(smooth)
        rim = np.hypot(slope_y, slope_x) > 0.1
        facing = np.rad2deg(np.arctan2(slope_y, slope_x))  # the direction into the cell; the light comes along 45 degrees
        def along(angle, grey=grey, rim=rim, facing=facing):
            return grey[rim & (np.abs((facing - angle + 180) % 360 - 180) < 20)].mean() - 128

        assert along(45) > 10
        assert along(-135) < -10
        assert abs(along(135)) < 7
        assert abs(along(-45)) < 7


@pytest.mark.parametrize("kind", KINDS)
def test_picture_and_labels_lie_on_one_another(drawn, kind):
    """What the labels lead one to expect fits the picture best when it is not shifted, by not one pixel."""
    fits = np.zeros((5, 5))
    for grey, cells in grey_and_cells(drawn[kind]):
        mask = cells.astype(float)
        expected = {"em": mask, "phase": ndimage.gaussian_filter(mask, 8) - mask,
                    "dic": sum(np.gradient(ndimage.gaussian_filter(mask, 1)))}[kind]
        middle = grey[2:-2, 2:-2] - grey.mean()
        for dy in range(5):
            for dx in range(5):
                shifted = expected[dy:dy + middle.shape[0], dx:dx + middle.shape[1]]
                fits[dy, dx] += np.corrcoef(middle.ravel(), shifted.ravel())[0, 1]
    assert np.unravel_index(fits.argmax(), fits.shape) == (2, 2)


def test_greys_resemble_real_ones(drawn, real_data):
    """Contrast within cells and around them is within a factor of two of a real image's, for each kind."""
    from PIL import Image

    real = {
        "em": ("isbi2012_em/image/00.png", "isbi2012_em/label/00.png"),
        "phase": ("phc_c2dh_u373/01/t000.tif", "phc_c2dh_u373/01_ST/SEG/man_seg000.tif"),
        "dic": ("dic_c2dh_hela/01/t000.tif", "dic_c2dh_hela/01_ST/SEG/man_seg000.tif"),
    }
    for kind, names in real.items():
        if not all((real_data / name).is_file() for name in names):
            pytest.skip(f"no {' and '.join(names)} in {real_data}")
        image, labels = (np.asarray(Image.open(real_data / name)) for name in names)
        drawn_grey = np.stack([sample.image[:, :, 0] for sample in drawn[kind]]).astype(float)
        drawn_cells = np.stack([sample.labels for sample in drawn[kind]]) == 1
        for where_real, where_drawn in ((labels > 0, drawn_cells), (labels == 0, ~drawn_cells)):
            assert 0.5 < drawn_grey[where_drawn].std() / image[where_real].std() < 2
            assert abs(drawn_grey[where_drawn].mean() - image[where_real].mean()) < 30


# The parts


def test_noise_has_mean_zero_and_variance_one(rng):
    """At every scale, in every pixel, corners too; neighbours within the scale agree, those far beyond do not."""
    for scale in (1.5, 6.0, 40.0):
        fields = np.stack([shapes.noise(rng, (20, 31), scale) for _ in range(800)])
        assert fields.shape == (800, 20, 31)
        assert fields.dtype == np.float32
        assert np.abs(fields.mean(axis=0)).max() < 0.2
        assert np.abs(fields.var(axis=0) - 1).max() < 0.3
    near, far = (np.mean([f[10, 15] * f[10, 15 + d] for f in (shapes.noise(rng, (20, 60), 4) for _ in range(800))])
                 for d in (1, 30))
    assert near > 0.8
    assert abs(far) < 0.15


@settings(max_examples=20)
@given(seed=seeds, grow=st.sampled_from([0.0, 3.0, 100.0]), bend=st.sampled_from([0.0, 2.5]))
def test_every_pixel_belongs_to_the_cell_it_lies_deepest_in(seed, grow, bend):
    """owner, centre and edge equal a plain loop over pixels and cells, also for cells that lie half outside."""
    rng = np.random.default_rng(seed)
    shape = (23, 31)
    cells = [shapes.Cell(*rng.uniform(-5, 30, 2), shapes.ellipse(rng.uniform(2, 8), rng.uniform(1, 2), rng.uniform(0, 3)))
             for _ in range(6)]
    warp = tuple(bend * shapes.noise(rng, shape, 4) for _ in range(2))
    found = shapes.territories(shape, cells, warp, grow=grow)
    for y in range(shape[0]):
        for x in range(shape[1]):
            v = [y + warp[0][y, x] - cell.y for cell in cells]
            u = [x + warp[1][y, x] - cell.x for cell in cells]
            d = np.hypot(v, u)
            r = [np.interp(np.arctan2(v[i], u[i]), shapes.DIRECTIONS, cell.radius, period=2 * np.pi)
                 for i, cell in enumerate(cells)]
            edges = d - r
            best = int(edges.argmin())
            if edges[best] < grow - 1e-4:
                assert found.edge[y, x] == pytest.approx(edges[best], abs=1e-3)
                assert edges[found.owner[y, x] - 1] < edges[best] + 1e-3
                assert found.centre[y, x] == pytest.approx(d[found.owner[y, x] - 1], abs=1e-3)
            elif edges[best] > grow + 1e-4:
                assert found.owner[y, x] == 0


def test_borders_are_both_sides_of_a_change():
    """A pixel is on a border exactly where one of its four neighbours has another owner."""
    owner = np.random.default_rng(2).integers(0, 3, (9, 12))
    found = shapes.borders(owner)
    for y in range(9):
        for x in range(12):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            assert found[y, x] == any(owner[p] != owner[y, x] for p in around if 0 <= p[0] < 9 and 0 <= p[1] < 12)


def test_keep_largest_leaves_one_part_an_id():
    """The larger of two parts stays, parts that meet only at a corner are two, and what is too small goes altogether."""
    owner = np.array([[1, 1, 0, 2, 0],
                      [1, 1, 0, 0, 2],
                      [0, 0, 1, 0, 2],
                      [3, 0, 0, 0, 2]])
    before = owner.copy()
    assert np.array_equal(shapes.keep_largest(owner, min_area=3), [[1, 1, 0, 0, 0],
                                                                   [1, 1, 0, 0, 2],
                                                                   [0, 0, 0, 0, 2],
                                                                   [0, 0, 0, 0, 2]])
    assert np.array_equal(owner, before)


@settings(max_examples=20)
@given(seed=seeds, clump=st.booleans(), spacing=st.sampled_from([0.5, 1.0]))
def test_scattered_discs_keep_their_distance(seed, clump, spacing):
    """No two centres are closer than asked; none lies outside by more than the margin; the first is in the middle."""
    placed = shapes.scatter(np.random.default_rng(seed), (60, 90), np.linspace(4, 12, 15), spacing, clump=clump)
    assert 1 <= len(placed) <= 15
    assert 15 <= placed[0][0] <= 45
    assert 22.5 <= placed[0][1] <= 67.5
    assert placed[0][2] == 12
    for i, (y, x, r) in enumerate(placed):
        assert -0.5 * r <= y <= 60 + 0.5 * r
        assert -0.5 * r <= x <= 90 + 0.5 * r
        for v, u, s in placed[:i]:
            assert np.hypot(y - v, x - u) >= spacing * (r + s) - 1e-9


def test_an_ellipse_has_the_area_of_its_circle():
    """Whatever aspect and angle, the area is pi radius^2, and the long axis points along the angle."""
    r = shapes.ellipse(10, 1.8, 0.6)
    step = 2 * np.pi / len(r)
    assert (r**2).sum() * step / 2 == pytest.approx(100 * np.pi, rel=1e-3)
    assert abs(shapes.DIRECTIONS[r.argmax()] % np.pi - 0.6) <= step
    assert r.max() / r.min() == pytest.approx(1.8, rel=0.01)


def test_grey_is_rounded_and_clipped():
    """-3 becomes 0, 300 becomes 255, 1.6 becomes 2, and a channel axis is added."""
    assert shapes.to_uint8(np.array([[-3.0, 300.0, 1.6]])).tolist() == [[[0], [255], [2]]]


# What is refused


@pytest.mark.parametrize(("arguments", "message"), [
    (("fluo", 1, 64), r"synthetic: kind 'fluo' is not one of em, phase, dic\."),
    (("em", 0, 64), r"synthetic: n 0 is not a whole number of 1 or more\."),
    (("em", 1.5, 64), r"synthetic: n 1\.5 is not a whole number of 1 or more\."),
    (("em", 1, 31), r"synthetic: size 31 is not a whole number of 32 or more\."),
    (("dic", 1, (64, 16)), r"synthetic: size 16 is not a whole number of 32 or more\."),
    (("dic", 1, (64, 64, 1)), r"synthetic: size \(64, 64, 1\) has 3 numbers, not 2\. Give \(height, width\)"),
])
def test_impossible_requests_are_refused(arguments, message, rng):
    """The error names the argument, its value, and what would do."""
    with pytest.raises(ConfigError, match=message):
        synthetic(*arguments, rng)


def test_no_cells_are_refused(rng):
    """cells 0 is no picture to learn from."""
    with pytest.raises(ConfigError, match=r"synthetic: cells 0 is not a whole number of 1 or more\."):
        synthetic("em", 1, 64, rng, cells=0)


def test_a_seed_is_no_generator():
    """A bare seed is refused, and the message says how to make a generator."""
    with pytest.raises(DTypeError, match=r"rng is of type int, not a numpy\.random\.Generator\. Give np\.random\.default_rng"):
        synthetic("em", 1, 64, 7)
