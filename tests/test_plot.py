"""Figures: their artists carry the true numbers, they save whole with a text alternative, and wrong arrays are refused."""

import subprocess
import sys
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from tinyunet import plot
from tinyunet.data.sample import IGNORE
from tinyunet.errors import ConfigError, DataError, ShapeError
from tinyunet.metrics import Scores
from tinyunet.plot.base import MIXED
from tinyunet.plot.images import _mixed_up
from tinyunet.shapes import legal_size, trace
from tinyunet.spec import PAPER, RELEASE, SAME_BN, UNetSpec
from tinyunet.train import StepRecord

NAN = float("nan")


@pytest.fixture
def cells():
    """12 x 16 pixels with two objects that touch and one by itself; ids are not consecutive."""
    ids = np.zeros((12, 16), np.int32)
    ids[2:6, 2:5], ids[2:6, 5:9], ids[8:11, 11:14] = 4, 7, 2
    return ids


@pytest.fixture
def image(rng):
    """A 12 x 16 image of 16-bit noise."""
    return rng.integers(0, 4000, (12, 16)).astype(np.uint16)


@pytest.fixture
def row(image, cells):
    """A row for `results`; the prediction misses one object (9 px) and invents a pixel; a corner of the truth is unknown."""
    truth = cells.copy()
    truth[0, 0] = IGNORE
    prediction = np.where(cells == 2, 0, cells)
    prediction[11, 0] = 9
    return plot.Row(image, truth, np.full(cells.shape, 0.25), prediction, 1.0 + (cells > 0), "cells", 0.5, 0.625)


@pytest.fixture
def figures(image, cells, row):
    """One figure of every kind."""
    half = np.full(cells.shape, 0.5)
    records = [{"step": i, "loss": 1 / i, "lr": 0.1} for i in (1, 2, 3)]
    return {
        "overlay": plot.overlay(image, cells, cells, "both"),
        "errors": plot.errors(image, cells, cells),
        "results": plot.results([row], "A title"),
        "weight_map": plot.weight_map(image, cells, half, half, half, half),
        "training_curves": plot.training_curves(records),
        "draw_unet": plot.draw_unet(UNetSpec(base=2, depth=1), 18),
    }


def texts(figure):
    """Every text that a figure shows."""
    return {t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()}


def lightness(color):
    """CIE L* of a colour: what a grey print keeps."""
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(color))
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


# Saving -------------------------------------------------------------------------------------------------------------


def test_every_figure_is_saved_with_its_description(figures, tmp_path):
    """PNG carries the text as "Description", SVG as <title>; the picture can be read and nothing else is left in the folder."""
    for name, figure in figures.items():
        assert isinstance(figure, Figure)
        text = plot.description(figure)
        assert len(text) > 40
        png = plot.save(figure, tmp_path / f"{name}.png", dpi=50)
        with Image.open(png) as picture:
            assert picture.text["Description"] == text
            np.testing.assert_allclose(picture.size, 50 * figure.get_size_inches(), atol=1.01)
            assert len(np.unique(np.asarray(picture))) > 10
        assert f"<title>{text}</title>" in plot.save(figure, tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 2 * len(figures)


def test_pdf_has_the_description_as_its_title(figures, tmp_path):
    """A PDF starts as PDFs do and its document information holds the text."""
    data = plot.save(figures["errors"], str(tmp_path / "figure.PDF")).read_bytes()
    assert data.startswith(b"%PDF-")
    assert b"/Title (Errors of a segmentation of 12x16 pixels" in data


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_bytes(cells, tmp_path, kind):
    """Two figures of the same arrays, saved one after the other, are equal files."""
    first, second = (plot.save(plot.overlay(cells, cells), tmp_path / f"{i}.{kind}").read_bytes() for i in range(2))
    assert first == second


def test_a_failed_save_keeps_the_old_file(figures, tmp_path, monkeypatch):
    """When drawing fails midway, the file is as it was, and no part of a new one lies beside it."""
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fails(self, file, **kwargs):
        """Write a part and give up."""
        file.write_bytes(b"half")
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(RuntimeError, match="disk on fire"):
        plot.save(figures["overlay"], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_file_types_are_refused(figures, tmp_path):
    """A type that keeps no text alternative is refused with those that do."""
    with pytest.raises(ConfigError) as error:
        plot.save(figures["overlay"], tmp_path / "figure.jpg")
    assert str(error.value) == "save: cannot write a figure as 'figure.jpg'. Choose one of: .png, .svg, .pdf."


def test_matplotlib_is_loaded_late_and_pyplot_never():
    """Importing the module does not import Matplotlib; drawing does not import pyplot."""
    code = """
import sys
import numpy as np
from tinyunet import UNetSpec, plot
assert "matplotlib" not in sys.modules
a = np.eye(8)
plot.overlay(a, a), plot.errors(a, a, a), plot.results([plot.Row(a, a, a, a, a)]), plot.weight_map(a, a, a, a, a, a)
plot.training_curves([{"step": 1, "loss": 1.0}]), plot.draw_unet(UNetSpec(base=2, depth=1), 18)
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Images, outlines, errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (np.array([[0, 255], [255, 0]], np.uint8), [[0, 1], [1, 0]]),
        (np.array([[0, 65535], [65535, 0]], np.uint16)[..., None], [[0, 1], [1, 0]]),
        (np.array([[-2.0, np.nan], [2.0, np.inf]]), [[0, 0], [1, 1]]),
        (np.full((2, 2), 7.0), [[0, 0], [0, 0]]),
        (np.full((2, 2), np.nan), [[0, 0], [0, 0]]),
        (np.array([[False, True], [True, False]]), [[0, 1], [1, 0]]),
    ],
    ids=["uint8", "uint16", "not finite", "constant", "nothing", "bool"],
)
def test_images_are_shown_from_their_darkest_to_their_brightest(image, shown):
    """Any dtype spans black to white; a constant image is black; what is not finite does not spoil the rest."""
    figure = plot.overlay(image, np.zeros((2, 2), int))
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), shown)
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_colour_images_stay_coloured(rng):
    """An (H, W, 3) image is shown with its three channels."""
    shown = plot.overlay(rng.random((5, 6, 3)), np.zeros((5, 6), int)).axes[0].images[0].get_array()
    assert shown.shape == (5, 6, 3)
    assert np.ptp(shown, axis=2).max() > 0.1


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_outlines_run_between_all_unlike_pixels_and_nowhere_else(h, w, seed):
    """Cut into unit steps, the lines are exactly the edges between pixels that differ; unknown pixels are background."""
    ids = np.random.default_rng(seed).integers(-1, 3, (h, w))
    at = {(y, x): max(ids[y, x], 0) for y, x in product(range(h), range(w))}
    wanted = set()
    for y, x in product(range(-1, h + 1), range(-1, w + 1)):
        if at.get((y, x), 0) != at.get((y, x + 1), 0):
            wanted.add(((x + 0.5, y - 0.5), (x + 0.5, y + 0.5)))
        if at.get((y, x), 0) != at.get((y + 1, x), 0):
            wanted.add(((x - 0.5, y + 0.5), (x + 0.5, y + 0.5)))
    lines = [c for c in plot.overlay(np.zeros((h, w)), ids).axes[0].collections if c.get_label() == "_prediction"]
    for collection in lines:
        found = []
        for (x0, y0), (x1, y1) in collection.get_segments():
            assert x0 == x1 or y0 == y1
            n = round(abs(x1 - x0) + abs(y1 - y0))
            steps = [(x0 + (x1 - x0) * k / n, y0 + (y1 - y0) * k / n) for k in range(n + 1)]
            found += pairwise(steps)
        assert len(found) == len(set(found))
        assert set(found) == wanted


def test_outlines_show_on_dark_and_on_bright(image, cells):
    """Each outline has a wider casing of the opposite lightness beneath; truth and prediction differ in lightness."""
    figure = plot.overlay(image, np.roll(cells, 1), cells, "over")
    lines = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert [c.get_label() for c in lines] == ["_truth", "_truth", "_prediction", "_prediction"]
    cores = []
    for casing, core in (lines[:2], lines[2:]):
        assert casing.get_linewidth()[0] > core.get_linewidth()[0] + 0.8
        light, other = (lightness(c.get_color()[0][:3]) for c in (core, casing))
        assert abs(light - other) > 45
        cores.append(light)
    assert abs(cores[0] - cores[1]) > 35
    assert {t.get_text() for t in figure.axes[0].get_legend().get_texts()} == {"truth", "prediction"}
    assert figure.axes[0].get_title() == "over"
    assert "12x16 pixels with the outlines of 3 labelled objects" in plot.description(figure)


def test_errors_are_counted_and_coloured(image, row):
    """Pixels carry the colour of their kind; the legend and the description count them; unknown pixels are no errors."""
    figure = plot.errors(np.full((12, 16, 1), 5), row.prediction, row.truth)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    kinds = {"hit": (3, 3), "invented": (11, 0), "missed": (9, 12), "unknown": (0, 0), "background": (0, 8)}
    for kind, (y, x) in kinds.items():
        np.testing.assert_allclose(shown[y, x], np.multiply(0.9, to_rgb(plot.ERRORS[kind])))
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels == ["hit 28 px", "invented 1 px", "missed 9 px", "unknown 1 px", "background 153 px"]
    assert "28 hit, 1 invented, 9 missed, 1 unknown, 153 background" in plot.description(figure)


def test_errors_stay_apart_in_grey():
    """Whatever the image below, background is lighter than a hit, a hit than an invented pixel, that than a missed one."""
    order = [plot.ERRORS[k] for k in ("background", "hit", "invented", "missed")]
    for lighter, darker in pairwise(order):
        assert lightness(np.multiply(0.9, to_rgb(lighter))) > lightness(darker) + 4


def test_wrong_shapes_are_refused(image, cells):
    """The error names the function, the array, its shape and the image's size."""
    with pytest.raises(ShapeError) as error:
        plot.overlay(image, cells[:, 1:])
    assert str(error.value) == (
        "overlay: labels of shape (12, 15) does not match the image of 12x16 pixels. Give one value per pixel (H, W); "
        "a network with valid convolutions returns less, `predict` does not."
    )
    with pytest.raises(ShapeError) as error:
        plot.errors(np.zeros((1, 12, 16, 1)), cells, cells)
    assert str(error.value) == (
        "errors: an image of shape (1, 12, 16, 1) cannot be shown. Give one of (H, W), (H, W, 1) or (H, W, 3)."
    )
    with pytest.raises(ShapeError, match=r"^errors: prediction of shape \(16, 12\)"):
        plot.errors(image, cells.T, cells)
    with pytest.raises(ShapeError, match=r"^overlay: truth of shape \(1, 12, 16\)"):
        plot.overlay(image, cells, cells[None])
    with pytest.raises(ShapeError, match=r"an image of shape \(0, 4\) cannot be shown"):
        plot.overlay(np.zeros((0, 4)), np.zeros((0, 4)))


# Results ------------------------------------------------------------------------------------------------------------


def test_results_show_each_array_of_a_row(row):
    """Six panels with the row's arrays, column names, scores, the share of wrong pixels, and two colour bars."""
    figure = plot.results([row], "Held out")
    columns = ("image", "truth", "weight", "probability", "prediction", "errors")
    panels = dict(zip(columns, figure.axes[:6], strict=True))
    np.testing.assert_array_equal(panels["weight"].images[0].get_array(), row.weights)
    np.testing.assert_array_equal(panels["probability"].images[0].get_array(), row.probability)
    assert panels["probability"].images[0].get_clim() == (0, 1)
    assert panels["image"].get_title(loc="left") == "cells  12×16 px"
    assert panels["prediction"].get_title(loc="left") == "IoU 0.500, SEG 0.625"
    assert panels["errors"].get_title(loc="left") == f"{10 / 191:.1%} of pixels wrong"
    assert {"Held out", "image", "truth", "loss weight", "probability", "prediction", "errors"} <= texts(figure)
    assert {"weight (square-root scale)", "probability of foreground", "hit", "invented", "missed", "unknown"} <= texts(figure)
    assert "cells: IoU 0.500, SEG 0.625" in plot.description(figure)


def test_rows_share_their_colour_scale(row):
    """Weights of all rows are mapped by one scale from 0 to the largest of all."""
    strong = row._replace(weights=row.weights * 6)
    figure = plot.results([row, strong, row._replace(weights=None)])
    scales = [ax.images[0].norm for ax in figure.axes if ax.images and ax.images[0].get_cmap().name == "magma"]
    assert len(scales) == 2
    assert all((s.vmin, s.vmax) == (0, 12) for s in scales)


def test_results_leave_out_what_is_not_given(row):
    """Without weights there is no such column; without scores no number; without unknown pixels no such colour."""
    bare = plot.Row(row.image, np.maximum(row.truth, 0), row.probability, row.prediction)
    figure = plot.results([bare])
    assert not {"loss weight", "unknown", "weight (square-root scale)"} & texts(figure)
    assert not [t for t in texts(figure) if "IoU" in t or "SEG" in t]
    assert "loss weight" in texts(plot.results([row, bare]))


def test_panels_are_in_proportion(row):
    """Every panel has the aspect of its image and the same width in inches."""
    tall = plot.Row(*(np.zeros((30, 10)) for _ in range(4)))
    figure = plot.results([row, tall], side=1.5)
    for i, ax in enumerate(figure.axes[:11]):
        w, h = ax.get_position().size * figure.get_size_inches()
        assert (w, h) == (pytest.approx(1.5), pytest.approx(1.5 * (12 / 16 if i < 6 else 3)))


def test_each_object_has_one_colour_and_neighbours_differ(cells):
    """Up to nine objects all differ; one object is one colour; background is dark."""
    shown = plot.results([plot.Row(cells, cells, cells > 0, cells)]).axes[1].images[0].get_array()
    colors = {i: {tuple(c) for c in shown[cells == i]} for i in (0, 2, 4, 7)}
    assert all(len(c) == 1 for c in colors.values())
    assert len(set.union(*colors.values())) == 4
    assert lightness(colors[0].pop()) < 15


def test_many_objects_repeat_colours_far_apart():
    """In a grid of 9 x 9 objects, no object has the colour of one beside it."""
    ids = np.kron(np.arange(1, 82).reshape(9, 9), np.ones((3, 3), int))
    shown = plot.results([plot.Row(ids, ids, ids > 0, ids)]).axes[1].images[0].get_array()[1::3, 1::3]
    assert np.abs(np.diff(shown, axis=0)).max(axis=2).min() > 0.05
    assert np.abs(np.diff(shown, axis=1)).max(axis=2).min() > 0.05


def mixed_up(prediction, truth):
    """Ids that are merged, and those that are split, for ids written as rows of one image."""
    found = _mixed_up(np.array(prediction), np.array(truth))
    return found["merged"].tolist(), found["split"].tolist()


def test_objects_that_are_merged_or_split():
    """More than half of two true objects in one predicted, or of two predicted in one true; a half does not count."""
    assert mixed_up([[7, 7, 7, 7, 0, 0]], [[1, 1, 2, 2, 0, 3]]) == ([7], [])
    assert mixed_up([[1, 1, 2, 2, 0, 3]], [[7, 7, 7, 7, 0, 0]]) == ([], [1, 2])
    assert mixed_up([[7, 7, 7, 0, 8, 8]], [[1, 1, 2, 2, 3, 3]]) == ([], [])  # half of 2 is in 7, and not more
    assert mixed_up([[7, 7, 7, 7, 7, 7]], [[1, 1, IGNORE, IGNORE, 2, 2]]) == ([7], [])  # half of 7 is in neither: no matter
    assert mixed_up([[0, 0]], [[1, 2]]) == mixed_up([[1, 2]], [[0, 0]]) == mixed_up([[0, 5]], [[5, 0]]) == ([], [])
    assert mixed_up([[1, 1, 1, 1, 2, 3]], [[4, 4, 5, 5, 5, 5]]) == ([], [2, 3])
    # 1 holds 7, 8 and 9, and is itself a piece of 7, as 2 is: what is both counts as merged.
    assert mixed_up([[1] * 9 + [2] * 2], [[7] * 5 + [8] + [9] * 3 + [7] * 2]) == ([1], [2])


def test_results_mark_merged_and_split_objects():
    """Broad outlines in a colour of their own, named in a legend, counted in the description; nothing where all is right."""
    truth = np.zeros((12, 16), int)
    truth[1:5, 1:4], truth[1:5, 4:7], truth[7:11, 8:15] = 1, 2, 3
    prediction = truth.copy()
    prediction[truth == 2], prediction[7:11, 11:15] = 1, 4
    image = np.zeros((12, 16))
    figure = plot.results([plot.Row(image, truth, truth > 0, prediction, name="cells")])
    assert {"predicted object", "merged: several as one", "split: one as several"} <= set(texts(figure))
    assert "cells: 1 merged, 2 split" in plot.description(figure)
    lines = {line.get_label(): line for line in figure.axes[3].collections if line.get_linewidths()[0] == 1.4}
    assert lines.keys() == {"_merged", "_split"}
    for name, line in lines.items():
        assert to_hex(line.get_colors()[0]) == MIXED[name[1:]].lower()
    ends = np.concatenate(lines["_merged"].get_segments())
    np.testing.assert_array_equal([ends.min(0), ends.max(0)], [[0.5, 0.5], [6.5, 4.5]])
    sound = plot.results([plot.Row(image, truth, truth > 0, truth)])
    assert not {text for text in texts(sound) if "merged" in text or "split" in text}
    assert "merged" not in plot.description(sound)


def test_results_refuse_wrong_rows(row):
    """No rows, or an array that does not fit its row: the error names the row."""
    with pytest.raises(DataError) as error:
        plot.results([])
    assert str(error.value) == "results: there are no rows to show. Give at least one Row."
    for name in ("truth", "probability", "prediction", "weights"):
        with pytest.raises(ShapeError, match=rf"^results: row 1: {name} of shape \(3, 3\) does not match the image of 12x16"):
            plot.results([row, row._replace(**{name: np.zeros((3, 3))})])


# Weight maps --------------------------------------------------------------------------------------------------------


def test_weight_map_shows_its_parts_with_units(image, cells, rng):
    """Distances share one scale in px, infinite ones are masked; border term and weight have bars of their own."""
    d1, d2 = rng.uniform(0, 5, cells.shape), rng.uniform(5, 9, cells.shape)
    d2[0] = np.inf
    border, w = rng.uniform(0, 10, cells.shape), rng.uniform(0, 12, cells.shape)
    figure = plot.weight_map(image, cells, d1, d2, border, w)
    shown = [ax.images[0] for ax in figure.axes[1:5]]
    for drawn, given_array in zip(shown, (d1, d2, border, w), strict=True):
        np.testing.assert_array_equal(drawn.get_array().filled(np.inf), given_array)
    assert shown[1].get_array().mask.sum() == 16
    largest = max(d1.max(), d2[1:].max())
    assert [s.get_clim() for s in shown] == [(0, largest), (0, largest), (0, border.max()), (0, w.max())]
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "12×16 px, 3 cells", "", "", "", "", "distance (px)", "distance (px)", "border term", "weight (square-root scale)"
    ]  # fmt: skip
    assert f"border term up to {border.max():.2f}, the weight up to {w.max():.2f}" in plot.description(figure)


def test_weight_map_without_any_cell(image, tmp_path):
    """No cell: every distance is infinite, every weight 0 or 1, and the figure is still made and saved."""
    far, none = np.full((12, 16), np.inf), np.zeros((12, 16))
    figure = plot.weight_map(image, none.astype(int), far, far, none, none)
    assert plot.save(figure, tmp_path / "none.png", dpi=40).stat().st_size > 0
    assert "12×16 px, 0 cells" in texts(figure)


def test_weight_map_refuses_wrong_shapes(image, cells):
    """The error names the array."""
    good = {name: np.ones(cells.shape) for name in ("d1", "d2", "border", "weights")}
    for name in good:
        with pytest.raises(ShapeError, match=rf"^weight_map: {name} of shape \(2, 2\)"):
            plot.weight_map(image, cells, **{**good, name: np.ones((2, 2))})


# Training -----------------------------------------------------------------------------------------------------------


def records_of(n, every=3):
    """Records as `read_log` gives them, validated every third step."""
    return [
        {"step": float(i), "loss": 2.0 + np.sin(i), "lr": 0.1 / i, "seconds": 0.5,
         "val_iou": 0.1 * (i % 7) if i % every == 0 else NAN, "val_seg": 0.05 * (i % 7) if i % every == 0 else NAN}
        for i in range(1, n + 1)
    ]  # fmt: skip


def test_curves_show_the_records():
    """Raw loss and its mean, learning rate and scores against the step; units and the best scores in words."""
    records = records_of(20)
    figure = plot.training_curves(records, smooth=4)
    loss, lr, scores = figure.axes
    raw, mean = (line.get_xydata() for line in loss.lines)
    np.testing.assert_array_equal(raw, [(r["step"], r["loss"]) for r in records])
    expected = [np.mean([r["loss"] for r in records[max(0, i - 3) : i + 1]]) for i in range(20)]
    np.testing.assert_allclose(mean[:, 1], expected)
    np.testing.assert_array_equal(lr.lines[0].get_ydata(), [r["lr"] for r in records])
    lines = {line.get_label(): line for line in scores.lines}
    for name, key, best in (("IoU", "val_iou", 0.6), ("SEG", "val_seg", 0.3)):
        line = lines[f"{name}, best {best:.3f} at step 6"]
        np.testing.assert_array_equal(line.get_xydata(), [(r["step"], r[key]) for r in records if r["step"] % 3 == 0])
    styles = {(line.get_linestyle(), line.get_marker()) for line in lines.values() if "best" in line.get_label()}
    assert len(styles) == 2
    assert (loss.get_ylabel(), lr.get_ylabel(), scores.get_ylabel(), scores.get_xlabel()) == (
        "loss", "learning rate", "validation score", "step"
    )  # fmt: skip
    assert loss.get_title(loc="left") == "20 steps in 10.0 s"
    assert "best validation IoU 0.600, best validation SEG 0.300" in plot.description(figure)


def test_curves_of_a_short_run_without_validation(tmp_path):
    """Without scores there are two panels; one record is enough; no warning when it is saved."""
    figure = plot.training_curves(records_of(1, every=2))
    assert len(figure.axes) == 2
    assert len(figure.axes[0].lines) == 1
    assert plot.save(figure, tmp_path / "one.png", dpi=40).exists()


@pytest.mark.parametrize(("steps", "window"), [(9, 1), (10, 2), (60, 12), (140, 20), (1000, 20), (2000, 40)])
def test_the_mean_of_the_loss_is_one_of_many_steps(steps, window):
    """A fifth of a short run, 20 steps of a longer one, a fiftieth of a long one; a mean of one step is not drawn."""
    labels = [line.get_label() for line in plot.training_curves(records_of(steps)).axes[0].lines]
    assert labels == ["each step", f"mean of the last {window}"][: 1 + (window > 1)]


def test_curves_take_the_records_of_fit():
    """Step records with scores are drawn as their log would be."""
    scores = Scores(np.array([[50, 10], [10, 30]]), np.array([0.5, 0.75]))
    records = [StepRecord(i, 0.5, 0.01, 90.0, 0.1, ("a",), scores if i == 2 else None) for i in (1, 2, 3)]
    figure = plot.training_curves(records)
    labels = {line.get_label() for line in figure.axes[2].lines}
    assert {f"IoU, best {scores.mean_iou:.3f} at step 2", "SEG, best 0.625 at step 2"} <= labels
    assert figure.axes[0].get_title(loc="left") == "3 steps in 4.5 min"


def test_loss_scale_and_unknown_losses():
    """A loss that falls by more than 20 times gets a logarithmic axis; unknown losses leave a gap and do not spoil the mean."""
    falling = [{"step": i, "loss": 10.0**-i, "lr": None} for i in range(1, 5)]
    assert plot.training_curves(falling).axes[0].get_yscale() == "log"
    assert plot.training_curves([*falling, {"step": 5, "loss": 0.0}]).axes[0].get_yscale() == "linear"
    gap = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": NAN}, {"step": 3, "loss": 2.0}, {"step": 4, "loss": float("inf")}]
    mean = plot.training_curves(gap, smooth=2).axes[0].lines[1].get_ydata()
    np.testing.assert_array_equal(mean, [1, 1, 2, 2])


def test_curves_refuse_what_cannot_be_drawn():
    """No records, records without a loss, a mean over nothing."""
    with pytest.raises(DataError) as error:
        plot.training_curves([])
    assert str(error.value) == "training_curves: there are no records to draw. Train at least one step."
    with pytest.raises(DataError) as error:
        plot.training_curves([{"step": 1}, {"step": 2}])
    assert str(error.value) == "training_curves: none of 2 records has a loss. Give the records of `fit` or of `read_log`."
    with pytest.raises(ConfigError) as error:
        plot.training_curves(records_of(3), smooth=0)
    assert str(error.value) == "training_curves: smooth is 0. Give a number of records of at least 1."


def test_read_log(tmp_path):
    """Cells become floats, empty ones NaN; the line that is just being written is left out."""
    path = tmp_path / "log.csv"
    path.write_bytes(b'step,loss,val_iou,"val_predicted_cell, round"\r\n1,0.75,,\r\n2,5e-1,0.25,0.125\r\n3,0.')
    log = plot.read_log(path)
    np.testing.assert_equal(log, [
        {"step": 1, "loss": 0.75, "val_iou": NAN, "val_predicted_cell, round": NAN},
        {"step": 2, "loss": 0.5, "val_iou": 0.25, "val_predicted_cell, round": 0.125},
    ])  # fmt: skip
    assert plot.training_curves(log).axes[2].lines[0].get_label() == "IoU, best 0.250 at step 2"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", " holds no header line. Give the CSV log of a training run."),
        ("step,loss\n1,0.5\n2\n", ", line 3 has 1 cells, the header 2. Repair or remove the line."),
        ("step,loss\n1,much\n", ", line 2: loss is 'much', not a number. Repair or remove the line."),
    ],
)
def test_read_log_refuses_what_is_no_log(tmp_path, content, text):
    """The error names the file, the line, the column and the cell."""
    path = tmp_path / "log.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as error:
        plot.read_log(path)
    assert str(error.value) == f"read_log: {path}{text}"


# The network to scale -----------------------------------------------------------------------------------------------


def boxes(figure, kind):
    """(x, y, width, height) of every face ("map") or crop rectangle ("crop"), in order, with what it is called."""
    patches = [p for p in figure.axes[0].patches if str(p.get_gid()).startswith(kind)]
    return [(p.get_gid(), *p.get_bbox().bounds) for p in patches]


@pytest.mark.parametrize(
    ("spec", "height", "width"),
    [(PAPER, 572, None), (RELEASE, 444, 892), (SAME_BN, 256, None), (UNetSpec(base=3, depth=1, channels=3, classes=1), 18, 40),
     (UNetSpec(base=8, depth=5), 380, None)],
    ids=["paper", "release", "same_bn", "depth 1", "depth 5"],
)  # fmt: skip
def test_faces_and_crops_have_the_sizes_of_the_network(spec, height, width):
    """In pixels: every map's face, and on every skip's face the rectangle of the joined map, as far inside as is cropped."""
    figure = plot.draw_unet(spec, height, width)
    steps = trace(spec, height, width)
    sizes = [steps[0].in_size, *(s.out_size for s in steps if s.layer.kind in ("conv3x3", "conv1x1", "pool", "concat"))]
    faces = boxes(figure, "map")
    np.testing.assert_allclose([(h, w) for _, _, _, w, h in faces], sizes)
    joins = [s for s in steps if s.crop and any(s.crop)]
    crops = {gid: rest for gid, *rest in boxes(figure, "crop")}
    assert list(crops) == [f"crop {s.layer.level}" for s in joins]
    for s in joins:
        x, y, w, h = crops[f"crop {s.layer.level}"]
        face_x, face_y, face_w, face_h = faces[2 + 3 * s.layer.level][1:]  # input or pooled map, conv1, conv2: the skip
        np.testing.assert_allclose((h, w), s.out_size)
        np.testing.assert_allclose((x - face_x, face_x + face_w - x - w), (s.crop.left, s.crop.right))
        np.testing.assert_allclose((face_y + face_h - y - h, y - face_y), (s.crop.top, s.crop.bottom))
    assert figure.axes[0].get_aspect() == 1


def test_words_of_the_papers_network():
    """Sizes, channels, crops, parameters and multiply-adds of 572 -> 388 stand in the drawing and in its description."""
    figure = plot.draw_unet(PAPER, 572)
    words = [t.get_text() for t in figure.axes[0].texts]
    for crop in (88, 40, 16, 4):
        assert f"crop {crop} px" in words
    assert words.count("1024") == 2
    down, up = (572, 570, 568, 284, 282, 280, 140, 138, 136, 68, 66, 64, 32, 30, 28), (56, 54, 52, 104, 102, 100, 200, 198, 196)
    assert [w for w in words if "²" in w] == [f"{n}²" for n in (*down, *up, 392, 390, 388, 388)]
    assert [w for w in words if "+" in w and w[0].isdigit()] == ["512+512", "256+256", "128+128", "64+64"]
    assert "572×572 px in, 388×388 px out     31,030,658 parameters     150.4 GMAC for one image" in words
    assert "dropout 0.5 on the last two levels down" in words
    crops = "cropped on each side by 4 px at level 3, 16 px at level 2, 40 px at level 1, 88 px at level 0."
    assert plot.description(figure).endswith(crops)


def test_words_of_other_networks():
    """Non-square sizes in full, the release's 128 + 64 channels, batch norm, no crop, kMAC and MMAC for small networks."""
    words = {t.get_text() for t in plot.draw_unet(RELEASE, 444, 892).axes[0].texts}
    assert {"444×892", "260×708", "128+64", "2×2 up-convolution, ReLU, joined with the skip"} <= words
    figure = plot.draw_unet(SAME_BN.but(classes=1), 64)
    words = {t.get_text() for t in figure.axes[0].texts}
    assert {"no crop", "3×3 convolution, batch norm, ReLU; zero padding", "1×1 convolution to 1 logit"} <= words
    assert plot.description(figure).endswith("Skips are not cropped.")
    # 80 px: 78²·36 + 76²·144 + 36²·288 + 34²·576 + 68²·32 + 66²·288 + 64²·(144 + 8) = 4,114,960
    facts = [t for n in (18, 80) for t in texts(plot.draw_unet(UNetSpec(base=4, depth=1), n)) if "MAC" in t]
    assert [f.split("     ")[2] for f in facts] == ["56.19 kMAC for one image", "4.115 MMAC for one image"]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [1, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (2, 3)), 4, 5])
def test_no_text_stands_on_another(depth, padding):
    """All texts lie inside the figure and apart from one another, whatever the depth, for long labels as for short ones.

    A text is of another width at each number of dots per inch: letters are set on whole dots.
    """
    spec = UNetSpec(base=64 if depth % 2 else 1, depth=depth, padding=padding, dropout=0.5, relu_after_up=True)
    figure = plot.draw_unet(spec, legal_size(spec, 1), legal_size(spec, 1500 if depth % 2 else 1))
    for dpi in (72, 90, 100):
        figure.set_dpi(dpi)
        renderer = FigureCanvasAgg(figure).get_renderer()
        extents = [(t.get_text(), t.get_window_extent(renderer)) for t in figure.axes[0].texts]
        assert len(extents) > 15
        for (a, first), (b, second) in combinations(extents, 2):
            assert not first.overlaps(second), f"{a!r} stands on {b!r}"
        faces = [p.get_window_extent(renderer) for p in figure.axes[0].patches if str(p.get_gid()).startswith("map")]
        crops = [(text, e) for text, e in extents if text.startswith(("crop", "no crop"))]
        assert len(crops) == depth
        for (text, e), face in product(crops, faces):
            assert not e.overlaps(face), f"{text!r} stands on a map"
        right, top = figure.get_size_inches() * figure.dpi
        assert all(e.x0 >= 0 and e.y0 >= 0 and e.x1 <= right and e.y1 <= top for _, e in extents)


def test_it_is_a_u():
    """Left to right the maps go down level by level and come up again; each later map lies to the right."""
    faces = boxes(plot.draw_unet(PAPER.but(base=8), 572), "map")
    levels = [int(gid.split()[-1]) for gid, *_ in faces]
    assert levels == sorted(levels[:15]) + sorted(levels[15:], reverse=True)
    middles = [{round(y + h / 2, 6) for (_, _, y, _, h), at in zip(faces, levels, strict=True) if at == k} for k in range(5)]
    assert [len(m) for m in middles] == [1] * 5
    heights = [m.pop() for m in middles]
    assert heights == sorted(heights, reverse=True)
    for (_, x, _, w, _), (gid, next_x, _, next_w, _) in pairwise(faces):
        if "conv" in gid:
            assert next_x + next_w > x + w


def test_a_size_that_does_not_fit_is_not_drawn():
    """The error is that of the size arithmetic, with the nearest sizes."""
    with pytest.raises(ShapeError, match=r"570x570 image does not fit depth 4 .* Nearest sizes that work: 556, 572"):
        plot.draw_unet(PAPER, 570)
