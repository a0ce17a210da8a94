"""Augmentation: exact copies when off, known moves by hand, one field for image and labels, and how it draws."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tinyunet.data.augment import Augment, augment_tile, bicubic_matrix, elastic_field
from tinyunet.data.sample import IGNORE
from tinyunet.errors import ConfigError, DTypeError, ShapeError

STILL = Augment.none()
MOVES = replace(Augment(), gain=0, offset=0, gamma=0)  # geometry only: grey values stay
seeds = st.integers(0, 2**32 - 1)


class Chosen:
    """Stands in for a generator and returns what a test wants drawn: zero, unless named."""

    NAMES = ("shift_y", "shift_x", "rotation", "scale", "flip_y", "flip_x", "gain", "offset", "gamma")

    def __init__(self, nodes=None, **drawn):
        self.u = np.array([float(drawn.pop(name, 0)) for name in self.NAMES])
        self.nodes = nodes
        assert not drawn

    def uniform(self, low, high, size):
        assert (low, high, size) == (-1, 1, 9)
        return self.u

    def standard_normal(self, shape):
        return np.zeros(shape) if self.nodes is None else self.nodes


def image_of(shape, seed=0, dtype=np.uint8, channels=1):
    return np.random.default_rng(seed).integers(0, 200, (*shape, channels)).astype(dtype)


def ramp(shape):
    """An image whose two channels are the row and the column of each pixel, so that a tile shows where it was read."""
    return np.stack(np.indices(shape), axis=-1).astype(np.float32)


def mirror(i, n):
    """Where a mirror at both edges shows pixel i, step by step: at the edge pixel the direction turns."""
    position, step = 0, 1 if i >= 0 else -1
    for _ in range(abs(i)):
        if n == 1:
            return 0
        if not 0 <= position + step < n:
            step = -step
        position += step
    return position


def by_loops(a, center, size, out_size):
    """The centre of a tile without augmentation, pixel by pixel."""
    margin = [(n - m) // 2 for n, m in zip(size, out_size, strict=True)]
    first = [c - n // 2 + m for c, n, m in zip(center, size, margin, strict=True)]
    return np.array([[a[mirror(first[0] + i, a.shape[0]), mirror(first[1] + j, a.shape[1])]
                      for j in range(out_size[1])] for i in range(out_size[0])])


# --- off: exact copies ------------------------------------------------------------------------------------------------


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 8), st.integers(1, 8)),
       st.tuples(st.integers(0, 6), st.integers(0, 6)), st.tuples(st.integers(-20, 20), st.integers(-20, 20)), seeds)
def test_off_is_an_exact_mirrored_copy(shape, out_size, margin, center, seed):
    """Any image, any tile, also far outside and larger than the image: equal to a loop that walks between the edges."""
    rng = np.random.default_rng(seed)
    image, labels = image_of(shape, seed, np.uint16, 2), rng.integers(-1, 4, shape)
    weights = rng.random(shape, dtype=np.float32)
    in_size = tuple(n + 2 * m for n, m in zip(out_size, margin, strict=True))
    x, y, w = augment_tile(image, labels, weights, center, in_size, out_size, STILL, rng)
    np.testing.assert_array_equal(x, by_loops(image, center, in_size, in_size))
    np.testing.assert_array_equal(y, by_loops(labels, center, in_size, out_size))
    np.testing.assert_array_equal(w, by_loops(weights, center, in_size, out_size))


@pytest.mark.parametrize("shift", [(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)])
def test_a_tile_that_pokes_out_by_one_pixel(rng, shift):
    """The last tile that fits and the first that does not, at every edge."""
    image = image_of((10, 13))
    center = (5 + shift[0], 6 + shift[1])
    x = augment_tile(image, image[:, :, 0], None, center, (10, 13), (10, 13), STILL, rng).image
    np.testing.assert_array_equal(x, by_loops(image, center, (10, 13), (10, 13)))


@pytest.mark.parametrize("settings", [STILL, replace(STILL, shift=1), replace(STILL, shift=1, order=3)])
def test_the_mirror_does_not_repeat_the_edge(settings):
    """Beyond 0 1 2 3 comes 2, not 3: numpy's "reflect", not "symmetric", with and without interpolation."""
    image = np.array([[[0], [1], [2], [3]]], np.uint8)
    x = augment_tile(image, image[:, :, 0], None, (0, 2), (1, 12), (1, 12), settings, Chosen()).image
    np.testing.assert_allclose(x[0, :, 0], np.pad([0, 1, 2, 3], 4, mode="reflect"), atol=1e-5)


@given(st.tuples(st.integers(1, 12), st.integers(1, 12)), st.tuples(st.integers(1, 15), st.integers(1, 15)), seeds)
def test_no_displacement_is_the_identity(shape, size, seed):
    """Everything switched on but every draw zero: linear interpolation gives the copy, bit for bit; cubic nearly."""
    rng = np.random.default_rng(seed)
    image, labels, weights = image_of(shape, seed), rng.integers(-1, 3, shape), rng.random(shape, dtype=np.float32)
    center = tuple(rng.integers(-3, 12, 2).tolist())
    still = augment_tile(image, labels, weights, center, size, size, STILL, rng)
    moved = augment_tile(image, labels, weights, center, size, size, MOVES, Chosen())
    for a, b in zip(moved, still, strict=True):
        np.testing.assert_array_equal(a, b)
    cubic = augment_tile(image, labels, weights, center, size, size, replace(MOVES, order=3), Chosen())
    np.testing.assert_allclose(cubic.image, still.image, atol=1e-3)


@pytest.mark.parametrize("settings", [STILL, Augment(), Augment(order=3)])
def test_results_are_fresh_and_arguments_untouched(rng, settings):
    """float32, int32, float32, C-contiguous, sharing no memory with what came in, which is as it was."""
    arguments = ramp((20, 30)), rng.integers(0, 2, (20, 30)).astype(np.int32), np.ones((20, 30), np.float32)
    before = [a.copy() for a in arguments]
    tile = augment_tile(*arguments, (9, 12), (12, 14), (8, 6), settings, rng)
    assert [a.dtype for a in tile] == [np.float32, np.int32, np.float32]
    assert [a.shape for a in tile] == [(12, 14, 2), (8, 6), (8, 6)]
    for a, given_, was in zip(tile, arguments, before, strict=True):
        assert a.flags.c_contiguous
        assert not np.shares_memory(a, given_)
        np.testing.assert_array_equal(given_, was)


# --- moves by hand ----------------------------------------------------------------------------------------------------


def moved(image, rng, settings, center=(30, 34), in_size=(15, 12), out_size=(9, 8)):
    """A tile of the image, with the position of every pixel as its label."""
    index = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2])
    return augment_tile(image, index, None, center, in_size, out_size, settings, rng)


def test_shift_reads_elsewhere():
    """A shift of (+3, -2) pixels is the tile around another centre."""
    image = image_of((60, 70))
    a = moved(image, Chosen(shift_y=0.3, shift_x=-0.2), replace(STILL, shift=10))
    b = moved(image, Chosen(), STILL, center=(33, 32))
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.labels, b.labels)


@pytest.mark.parametrize(("quarter", "drawn"), [(1, 0.5), (-1, -0.5), (2, 1.0)])
@pytest.mark.parametrize("size", [14, 15])
def test_quarter_turns_are_rot90(quarter, drawn, size):
    """+90, -90 and 180 degrees equal np.rot90 of the tile, for odd and even sizes."""
    image = image_of((60, 70), channels=2)
    still = moved(image, Chosen(), STILL, in_size=(size, size), out_size=(size - 6, size - 6))
    turned = moved(image, Chosen(rotation=drawn), replace(STILL, rotation=180), in_size=(size, size),
                   out_size=(size - 6, size - 6))
    np.testing.assert_allclose(turned.image, np.rot90(still.image, quarter), atol=1e-4)
    np.testing.assert_array_equal(turned.labels, np.rot90(still.labels, quarter))


@pytest.mark.parametrize(("draw", "axis"), [("flip_y", 0), ("flip_x", 1)])
def test_flips_are_np_flip(draw, axis):
    """A negative draw mirrors the tile along that axis, a positive one leaves it."""
    image, settings = image_of((60, 70)), replace(STILL, flips=True)
    still = moved(image, Chosen(), STILL)
    for drawn, expected in ((-0.5, lambda a: np.flip(a, axis)), (0.5, lambda a: a)):
        tile = moved(image, Chosen(**{draw: drawn}), settings)
        np.testing.assert_array_equal(tile.image, expected(still.image))
        np.testing.assert_array_equal(tile.labels, expected(still.labels))


def test_scale_magnifies_about_the_middle():
    """Factor 2: neighbours in the tile are half a pixel apart in the image, and the middle stays."""
    x = moved(ramp((60, 70)), Chosen(scale=1), replace(STILL, scale=1), in_size=(15, 13), out_size=(3, 3)).image
    np.testing.assert_allclose(x[:, 0, 0], 30 + (np.arange(15) - 7) / 2)
    np.testing.assert_allclose(x[0, :, 1], 34 + (np.arange(13) - 6) / 2)


def test_rotation_and_scale_keep_distances_and_angles():
    """Any angle: steps along rows and columns stay perpendicular and equally long, and turn counterclockwise."""
    x = moved(ramp((90, 90)), Chosen(rotation=1), replace(STILL, rotation=30), center=(45, 45)).image
    down, right = x[5, 5] - x[4, 5], x[5, 6] - x[5, 5]
    np.testing.assert_allclose(down, [np.cos(np.pi / 6), -np.sin(np.pi / 6)], atol=1e-5)
    np.testing.assert_allclose(right, [np.sin(np.pi / 6), np.cos(np.pi / 6)], atol=1e-5)


def test_elastic_displacement_is_the_field(rng):
    """The tile is read at its own position plus elastic_field, rows by the first component, columns by the second."""
    nodes = rng.standard_normal((2, 3, 3))
    x = moved(ramp((120, 130)), Chosen(nodes), replace(STILL, elastic=6), center=(60, 64), in_size=(40, 33),
              out_size=(2, 1)).image
    own = ramp((120, 130))[40:80, 48:81]
    field = elastic_field((40, 33), Chosen(nodes), std=6)
    np.testing.assert_allclose(x - own, np.moveaxis(field, 0, -1), atol=1e-4)
    assert abs(field).max() > 3


# --- one field for image, labels and weights --------------------------------------------------------------------------


@given(seeds, st.booleans())
def test_image_labels_and_weights_share_the_field(seed, cubic):
    """On a ramp, every label and weight was read where the image says: the same place, and the centre of the tile."""
    shape = (150, 170)
    at = ramp(shape)
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    settings = replace(MOVES, shift=4, elastic=3, order=3 if cubic else 1)
    x, y, w = augment_tile(at, index, at[:, :, 1], (75, 85), (52, 44), (20, 28), settings, np.random.default_rng(seed))
    centre = x[16:36, 8:36]
    np.testing.assert_allclose(w, centre[:, :, 1], atol=1e-3)
    read = np.stack(np.divmod(y, shape[1]), axis=-1)
    assert abs(read - centre).max() <= 0.5 + 1e-3  # the nearest pixel
    assert len(np.unique(y)) > 400  # something was read


@given(st.tuples(st.integers(1, 20), st.integers(1, 20)), seeds)
def test_linear_interpolation_and_nearest_label_by_hand(shape, seed):
    """Every pixel from its four mirrored neighbours, and the label of the nearest, in a loop over the coordinates."""
    rng = np.random.default_rng(seed)
    image, labels, weights = image_of(shape, seed), rng.integers(-1, 5, shape), rng.random(shape)
    center, size = (shape[0] // 2, shape[1] // 2), (5, 4)
    settings = Augment(shift=30, rotation=180, scale=0.5, elastic=5, gain=0, offset=0, gamma=0)
    x, y, w = augment_tile(image, labels, weights, center, size, size, settings, np.random.default_rng(seed))
    far = [c + 200 for c in center]  # the same draws on a ramp that is large enough tell where the tile was read
    at = augment_tile(ramp((401, 401)), np.zeros((401, 401), int), None, far, size, size, settings,
                      np.random.default_rng(seed)).image.astype(float) - 200
    assert abs(at).max() < 190

    def pixel(a, i, j):
        return float(a[mirror(int(i), shape[0]), mirror(int(j), shape[1])])

    for k in np.ndindex(size):
        i, j = np.floor(at[k])
        v, u = at[k] - (i, j)
        corners = ((i, j, (1 - v) * (1 - u)), (i, j + 1, (1 - v) * u), (i + 1, j, v * (1 - u)), (i + 1, j + 1, v * u))
        assert x[k][0] == pytest.approx(sum(f * pixel(image[:, :, 0], p, q) for p, q, f in corners), abs=0.05)
        assert w[k] == pytest.approx(sum(f * pixel(weights, p, q) for p, q, f in corners), abs=1e-3)
        if abs(np.array([v, u]) - 0.5).min() > 1e-3:  # no tie between two nearest pixels
            assert y[k] == pixel(labels, *np.floor(at[k] + 0.5))


@pytest.mark.parametrize("center", [(60, 66), (3, 125)], ids=["inside", "corner"])
def test_cubic_is_the_spline_of_the_whole_image(center):
    """Filtering only the surroundings of a tile gives what a spline through all pixels gives."""
    image = image_of((120, 133), dtype=np.float32)
    settings = replace(STILL, shift=5, order=3)
    x = augment_tile(image, np.zeros((120, 133), int), None, center, (20, 14), (4, 4), settings,
                     Chosen(shift_y=0.1, shift_x=-0.25)).image
    rows, cols = np.ogrid[center[0] - 10 : center[0] + 10, center[1] - 7 : center[1] + 7]
    at = np.broadcast_arrays(rows + 0.5, cols - 1.25)
    expected = ndimage.map_coordinates(image[:, :, 0].astype(float), at, order=3, mode="mirror")
    np.testing.assert_allclose(x[:, :, 0], expected, atol=1e-3)


@given(st.tuples(st.integers(1, 30), st.integers(1, 30)), seeds)
def test_labels_and_weights_stay_within_their_values(shape, seed):
    """No label appears that was not there, IGNORE included; no weight leaves the range of weights; all is finite."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([IGNORE, 0, 3, 100], shape)
    weights = rng.exponential(size=shape).astype(np.float32)
    tile = augment_tile(image_of(shape, seed), labels, weights, (0, 40), (20, 17), (20, 17), Augment(), rng)
    assert set(np.unique(tile.labels)) <= set(np.unique(labels))
    assert tile.weights.min() >= weights.min() * (1 - 1e-6)
    assert tile.weights.max() <= weights.max() * (1 + 1e-6)
    assert np.isfinite(tile.image).all()


def test_ignored_regions_stay_ignored():
    """A half that nobody annotated stays -1 in the deformed tile, and no weights mean 1 elsewhere, 0 there."""
    labels = np.zeros((80, 80), np.int8)
    labels[:, 40:] = IGNORE
    tile = augment_tile(ramp((80, 80)), labels, None, (40, 40), (60, 60), (40, 40), MOVES, np.random.default_rng(3))
    np.testing.assert_array_equal(tile.labels == IGNORE, tile.weights == 0)
    np.testing.assert_array_equal(np.unique(tile.labels), [IGNORE, 0])
    np.testing.assert_array_equal(np.unique(tile.weights), [0, 1])


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2], lambda a: a[::-1].copy()[::-1]],
                         ids=["fortran", "strided", "reversed"])
def test_memory_layout_does_not_matter(rng, layout, order):
    """Fortran order, steps and negative strides give the bytes of the plain array."""
    arrays = image_of((30, 41), channels=3), rng.integers(0, 3, (30, 41)), rng.random((30, 41), dtype=np.float32)
    for settings in (STILL, Augment(order=order)):
        a, b = (augment_tile(*arguments, (3, 20), (24, 18), (8, 6), settings, np.random.default_rng(5))
                for arguments in (arrays, [layout(a) for a in arrays]))
        assert all(p.tobytes() == q.tobytes() for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("settings", [STILL, Augment(), Augment(order=3)], ids=["off", "linear", "cubic"])
@pytest.mark.parametrize("center", [(150, 15_000), (2, 29_990)], ids=["inside", "corner"])
def test_a_large_image_is_not_copied(settings, center):
    """A tile of 64 px from 300 x 30,000 pixels takes less memory than a tenth of the uint8 image."""
    image, labels = np.zeros((300, 30_000, 1), np.uint8), np.zeros((300, 30_000), np.uint8)
    rng = np.random.default_rng(0)
    augment_tile(image, labels, None, center, (64, 64), (24, 24), settings, rng)  # imports SciPy
    tracemalloc.start()
    augment_tile(image, labels, None, center, (64, 64), (24, 24), settings, rng)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.size / 10


def test_the_far_end_of_a_wide_image_is_read_precisely():
    """Coordinates of 200,000 pixels keep their fractions."""
    image = (np.arange(200_000, dtype=np.float32) - 199_000)[None, :, None]
    x = augment_tile(image, np.zeros((1, 200_000), np.uint8), None, (0, 199_900), (1, 5), (1, 1),
                     replace(STILL, shift=1), Chosen(shift_x=0.3)).image
    np.testing.assert_allclose(x[0, :, 0], 898.3 + np.arange(5), atol=1e-4)


# --- the elastic field ------------------------------------------------------------------------------------------------


def test_displacements_have_the_stated_deviation(rng):
    """Normal with std 10 px at the nodes, 0.76 of it between two, 0.57 between four, rows and columns independent."""
    fields = np.array([elastic_field((9, 17), rng) for _ in range(4000)])  # nodes every 4 rows and 8 columns
    np.testing.assert_allclose(fields[:, :, ::4, ::8].std(0), 10, rtol=0.06)
    np.testing.assert_allclose(fields[:, :, 2::4, ::8].std(0), 7.55, rtol=0.06)
    np.testing.assert_allclose(fields[:, :, 2::4, 4::8].std(0), 5.70, rtol=0.06)
    assert abs(fields.mean(0)).max() < 0.6
    assert abs(np.corrcoef(fields[:, 0, 0, 0], fields[:, 1, 0, 0])[0, 1]) < 0.05
    assert abs(np.corrcoef(fields[:, 0, 0, 0], fields[:, 0, 0, -1])[0, 1]) < 0.05


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(2, 6), seeds)
def test_field_passes_through_its_nodes_and_stays_bounded(shape, grid, seed):
    """float32, bounded by the nodes (bicubic overshoots by less than 1.25 along each axis), all corners are nodes."""
    nodes = np.random.default_rng(seed).standard_normal((2, grid, grid))
    field = elastic_field(shape, np.random.default_rng(seed), grid, std=7)
    assert field.dtype == np.float32
    assert field.shape == (2, *shape)
    assert abs(field).max() <= 7 * abs(nodes).max() * 1.25**2
    if min(shape) > 1:
        np.testing.assert_allclose(field[:, :: shape[0] - 1, :: shape[1] - 1], 7 * nodes[:, :: grid - 1, :: grid - 1],
                                   rtol=1e-5)


@given(st.integers(1, 50), st.integers(2, 7))
def test_bicubic_weights_add_up_to_one(n, grid):
    """Equal vectors at all nodes are a plain shift; mirrored nodes are a mirrored field."""
    b = bicubic_matrix(n, grid)
    assert b.shape == (n, grid)
    np.testing.assert_allclose(b.sum(1), 1)
    np.testing.assert_allclose(b, b[::-1, ::-1], atol=1e-12)


def test_bicubic_kernel_is_that_of_keys():
    """Halfway between nodes (-1, 9, 9, -1) / 16, identity at the nodes, straight lines inside, edge node repeated."""
    b = bicubic_matrix(11, 6)  # two pixels a node
    np.testing.assert_array_equal(b[::2], np.eye(6))
    np.testing.assert_allclose(b[5], [0, -1 / 16, 9 / 16, 9 / 16, -1 / 16, 0])
    np.testing.assert_allclose(b[1], [8 / 16, 9 / 16, -1 / 16, 0, 0, 0])
    fine = bicubic_matrix(501, 6)
    np.testing.assert_allclose((fine @ np.arange(6))[100:401], np.linspace(1, 4, 301))
    steps = np.diff(fine @ np.array([0, 3, -1, 4, 1, -5]))
    assert abs(np.diff(steps)).max() < 0.003  # a continuous slope: no kink at the nodes


def test_usual_tiles_do_not_fold(rng):
    """With 10 px on tiles of 188 px neighbours keep their order: the Jacobian determinant stays positive."""
    for _ in range(50):
        dy, dx = elastic_field((188, 188), rng).astype(float)
        (yy, yx), (xy, xx) = np.gradient(dy), np.gradient(dx)
        assert ((1 + yy) * (1 + xx) - yx * xy).min() > 0


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [STILL, Augment(), Augment(elastic=0, flips=False), Augment(grid=5, order=3)])
def test_every_call_draws_the_same_numbers(settings):
    """9 uniform and 2 grid^2 normal numbers, whatever is switched on."""
    rng, expected = np.random.default_rng(7), np.random.default_rng(7)
    moved(ramp((60, 70)), rng, settings)
    expected.uniform(-1, 1, 9)
    expected.standard_normal((2, settings.grid, settings.grid))
    assert rng.bit_generator.state == expected.bit_generator.state


def test_same_seed_same_bytes():
    """Two runs agree to the last bit, and the next tile is another one."""
    image, rng = image_of((60, 70)), np.random.default_rng(7)
    a, b, c = (moved(image, r, Augment()) for r in (rng, np.random.default_rng(7), rng))
    assert all(p.tobytes() == q.tobytes() for p, q in zip(a, b, strict=True))
    assert a.image.tobytes() != c.image.tobytes()


def test_switching_one_kind_off_leaves_the_others():
    """Without elastic the same shift, turn and flips remain: what is missing is exactly the field."""
    at = ramp((200, 200))
    a, b = (moved(at, np.random.default_rng(2), s, center=(100, 100)).image for s in (MOVES, replace(MOVES, elastic=0)))
    rng = np.random.default_rng(2)
    rng.uniform(-1, 1, 9)
    np.testing.assert_allclose(a - b, np.moveaxis(elastic_field((15, 12), rng), 0, -1), atol=1e-4)


# --- grey values ------------------------------------------------------------------------------------------------------


def grey(image, settings, std=None, **drawn):
    return augment_tile(image, np.zeros(image.shape[:2], int), None, (10, 10), (20, 20), (20, 20), settings,
                        Chosen(**drawn), std=std).image


def test_gain_stretches_about_the_mean():
    """Twice the deviation is out of reach, 1.2 times is the full draw; the mean of every channel stays."""
    image = image_of((20, 20), channels=3, dtype=np.float32)
    x = grey(image, replace(STILL, gain=0.2), gain=1)
    np.testing.assert_allclose(x.mean((0, 1)), image.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(x.std((0, 1)), 1.2 * image.std((0, 1)), rtol=1e-5)


def test_offset_is_in_units_of_the_deviation():
    """Half a draw of 0.2 adds 0.1 standard deviation: of the tile by default, else of the number(s) given."""
    image, settings = image_of((20, 20), channels=2, dtype=np.float32), replace(STILL, offset=0.2)
    np.testing.assert_allclose(grey(image, settings, offset=0.5) - image,
                               np.broadcast_to(0.1 * image.std((0, 1)), image.shape), rtol=1e-4)
    np.testing.assert_allclose(grey(image, settings, std=30, offset=0.5) - image, 3, rtol=1e-4)
    shifted = grey(image, settings, std=np.array([30, 50]), offset=-0.5) - image
    np.testing.assert_allclose(shifted, np.broadcast_to([-3, -5], image.shape), rtol=1e-4)


def test_gamma_keeps_range_and_order():
    """Darkest and brightest value stay, the order too; between them the stated power."""
    image = np.linspace(50, 250, 400, dtype=np.float32).reshape(20, 20, 1)
    x = grey(image, replace(STILL, gamma=1), gamma=1)
    np.testing.assert_allclose(x, 50 + 200 * ((image - 50) / 200) ** 2, rtol=1e-5)
    x = grey(image, replace(STILL, gamma=1), gamma=-1)
    np.testing.assert_allclose(x, 50 + 200 * ((image - 50) / 200) ** 0.5, rtol=1e-5)


@given(seeds)
def test_grey_variation_commutes_with_normalisation(seed):
    """Varying a v + b gives a times the variation plus b, so it does not matter which of the two comes first."""
    settings, image = replace(STILL, gain=0.5, offset=0.5, gamma=0.5), image_of((20, 20), seed, np.float32)
    a, b = (augment_tile(v, np.zeros((20, 20), int), None, (10, 10), (20, 20), (8, 8), settings,
                         np.random.default_rng(seed)).image for v in (image, (image - 90) / 40))
    np.testing.assert_allclose((a - 90) / 40, b, atol=1e-4)


def test_a_constant_image_stays_finite():
    """No deviation and no range: nothing is divided by zero."""
    np.testing.assert_array_equal(grey(np.full((20, 20, 1), 7, np.uint8), Augment(), gain=1, offset=1, gamma=1), 7)


def test_labels_and_weights_do_not_depend_on_grey_values(rng):
    """Grey variation is for the image alone."""
    labels, weights = rng.integers(0, 3, (60, 70)), rng.random((60, 70), dtype=np.float32)
    a, b = (augment_tile(image_of((60, 70)), labels, weights, (30, 30), (24, 20), (10, 10), s, np.random.default_rng(1))
            for s in (Augment(), MOVES))
    assert (a.image != b.image).any()
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.weights, b.weights)


def test_real_nuclei_keep_their_ids(real_data):
    """On annotated images, deformed instance ids are a subset of the ids, and most nuclei are still there."""
    data = np.load(real_data / "dsb2018" / "tiny32_256.npz")
    rng = np.random.default_rng(4)
    for image, instances in zip(data["images"][:8], data["labels"][:8], strict=True):
        tile = augment_tile(image[:, :, None], instances, None, (128, 128), (256, 256), (256, 256), Augment(), rng)
        ids, kept = set(np.unique(instances)), set(np.unique(tile.labels))
        assert kept <= ids
        assert len(kept) >= 0.5 * len(ids)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(image=None, labels=None, weights=None, in_size=(8, 8), out_size=(4, 4)):
    image = np.zeros((9, 9, 1), np.uint8) if image is None else image
    labels = np.zeros((9, 9), int) if labels is None else labels
    return augment_tile(image, labels, weights, (4, 4), in_size, out_size, STILL, np.random.default_rng(0))


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: refused(image=np.zeros((9, 9))), ShapeError, r"image of shape \(9, 9\) is not \(H, W, C\).*image\[:, :, None"),
    (lambda: refused(image=np.zeros((0, 9, 1))), ShapeError, r"image of shape \(0, 9, 1\) is not"),
    (lambda: refused(image=np.zeros((9, 9, 1), np.float16)), DTypeError, "float16 cannot be sampled. Give integers or fl"),
    (lambda: refused(labels=np.zeros((9, 8), int)), ShapeError, r"labels \(9, 8\) do not fit an image of \(9, 9\) pixels"),
    (lambda: refused(weights=np.zeros((8, 9))), ShapeError, r"weights \(8, 9\) do not fit an image of \(9, 9\) pixels"),
    (lambda: refused(labels=np.zeros((9, 9))), DTypeError, "labels are float64. Give integers"),
    (lambda: refused(out_size=(4, 5)), ShapeError, r"output of \(4, 5\) pixels is not the centre of an input of \(8, 8\)"),
    (lambda: refused(out_size=(10, 4)), ShapeError, r"output of \(10, 4\) pixels is not the centre"),
    (lambda: refused(out_size=(0, 4)), ShapeError, r"output of \(0, 4\) pixels is not the centre"),
    (lambda: Augment(shift=-1), ConfigError, "Augment: shift -1 must be a number of at least 0; 0 is off"),
    (lambda: Augment(elastic=float("nan")), ConfigError, "Augment: elastic nan must be"),
    (lambda: Augment(gain=1), ConfigError, "Augment: gain 1 could invert the contrast"),
    (lambda: Augment(grid=1), ConfigError, "Augment: a grid of 1 nodes cannot bend anything"),
    (lambda: Augment(order=2), ConfigError, "Augment: order 2 is neither 1"),
    (lambda: Augment(shift="far"), ConfigError, "Augment: shift 'far' must be a number of at least 0; 0 is off"),
    (lambda: Augment(rotation=None), ConfigError, "Augment: rotation None must be a number"),
    (lambda: Augment(gamma=True), ConfigError, "Augment: gamma True must be a number"),
    (lambda: Augment(flips=1), ConfigError, "Augment: flips 1 is neither True nor False"),
    (lambda: Augment(grid=2.5), ConfigError, "Augment: grid 2.5 is not a whole number. Give e.g. 3"),
    (lambda: Augment(order="1"), ConfigError, "Augment: order '1' is not a whole number. Give e.g. 1"),
])
def test_refusals_say_what_to_do(call, error, text):
    """Each refusal names who refuses, the value, and the way out."""
    with pytest.raises(error, match=text):
        call()
