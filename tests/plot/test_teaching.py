"""Figures of the course: the numbers in them are those of the ops, each has a text alternative, and misfits are refused."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import tinyunet as tu
from tinyunet import ops, plot
from tinyunet.errors import ConfigError, ShapeError
from tinyunet.ops.pad import mirror_index
from tinyunet.probe import influence
from tinyunet.shapes import margin, receptive_field


def said(figure):
    """Every text that a figure shows, joined."""
    return "\n".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text())


def result(figure):
    """The number that the last words of a figure end with."""
    return float(re.findall(r"= (-?[\d.e+-]+)", said(figure))[-1])


def boxes(figure):
    """Frames without fill that are drawn on maps: (x, y, width, height)."""
    return {(r.get_x(), r.get_y(), r.get_width(), r.get_height())
            for ax in figure.axes for r in ax.patches if isinstance(r, Rectangle) and not r.get_fill()}  # fmt: skip


# One pixel's arithmetic ----------------------------------------------------------------------------------------------


@pytest.fixture
def conv(rng):
    """x, w, b, and a dy, of a convolution with four channels in and five out."""
    shapes = ((2, 6, 7, 4), (3, 3, 4, 5), (5,), (2, 4, 5, 5))
    return [rng.integers(-3, 4, shape).astype(float) for shape in shapes]


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_convolution_pixel_is_that_of_the_op(conv, padding):
    """Forward, at a pixel whose window reaches over the edge with same padding; all channels are in the sum."""
    x, w, b, _ = conv
    y, _ = ops.conv2d_forward(x, w, b, padding)
    figure = plot.conv_pixel(x, w, b, (1, 0, 4, 2), padding)
    assert result(figure) == y[1, 0, 4, 2]
    assert ("x[0:3, 4:7]" if padding == "valid" else "x around (0, 4)") in said(figure)
    assert f"corner at {(0, 4) if padding == 'valid' else (-1, 3)}" in plot.description(figure)
    assert "(and 1 more c)" in said(figure)
    assert f"The pixel is {y[1, 0, 4, 2]:.3g}." in plot.description(figure)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("at", [(1, 0, 0, 3), (0, 3, 4, 1), (0, 5, 6, 0)])
def test_a_convolution_gradient_is_that_of_the_op(conv, padding, at, rng):
    """Backward, at a corner and inside."""
    x, w, b, dy = conv
    y, ctx = ops.conv2d_forward(x, w, b, padding)
    dy = rng.integers(-3, 4, y.shape).astype(float)
    dx, _, _ = ops.conv2d_backward(dy, ctx)
    assert result(plot.conv_pixel_backward(dy, w, at, padding)) == dx[at]


def test_an_upconvolution_pixel_and_its_gradient_are_those_of_the_op(rng):
    """Forward at an odd row and an even column; backward at the pixel that painted it."""
    x, w, b = (rng.integers(-3, 4, shape).astype(float) for shape in ((2, 3, 4, 2), (2, 2, 5, 2), (5,)))
    y, ctx = ops.upconv_forward(x, w, b)
    dy = rng.integers(-3, 4, y.shape).astype(float)
    dx, _, _ = ops.upconv_backward(dy, ctx)
    assert result(plot.upconv_pixel(x, w, b, (1, 5, 2, 3))) == y[1, 5, 2, 3]
    assert result(plot.upconv_pixel_backward(dy, w, (1, 2, 1, 1))) == dx[1, 2, 1, 1]


def test_a_pooling_pixel_marks_the_winner():
    """The first of equal values wins, and the gradient goes there."""
    x = np.array([[1.0, 7.0], [7.0, 2.0]]).reshape(1, 2, 2, 1)
    assert result(plot.pool_pixel(x, (0, 0, 0, 0))) == 7
    back = plot.pool_pixel(x, (0, 0, 0, 0), dy=2.5)
    assert "dx: 0 2.5; 0 0." in plot.description(back)
    assert "row 0, column 1" in plot.description(back)


def test_a_batch_norm_pixel_and_its_gradient_are_those_of_the_op(rng):
    """The last number is y, or dx with its three parts; each line follows from the one above."""
    x, dy = rng.standard_normal((2, 2, 3, 4, 2))
    gamma, beta, at = np.array([2.0, 3.0]), np.array([0.5, -1.0]), (1, 2, 1, 1)
    y, ctx = ops.batch_norm_forward(x, gamma, beta)
    dx, _, _ = ops.batch_norm_backward(dy, ctx)
    assert result(plot.norm_pixel(x, gamma, beta, at)) == pytest.approx(y[at], rel=1e-2)
    assert result(plot.norm_pixel(x, gamma, beta, at, dy)) == pytest.approx(dx[at], rel=1e-2)
    words = said(plot.norm_pixel(x, gamma, beta, at))
    steps = [float(v) for v in re.findall(r"^= (-?[\d.e+-]+)$", words, re.M)]
    by = [float(v) for v in re.findall(r"^[-/×+] (-?[\d.e+-]+)$", words, re.M)]
    assert [line[0] for line in re.findall(r"^[-+] .*$", words, re.M)] == ["-" if x[..., 1].mean() > 0 else "+", "-"]
    by[0], by[3] = x[..., 1].mean(), beta[1]
    follow = [steps[0] - by[0], steps[1] / by[1], steps[2] * by[2], steps[3] + by[3]]
    assert follow == pytest.approx(steps[1:], rel=0.02, abs=0.02)


def test_a_loss_pixel_is_that_of_the_op(rng):
    """Its loss, and M times its gradient; pixels that nobody annotated are not counted, and have neither."""
    logits, labels = rng.standard_normal((1, 2, 3, 3)), np.array([[[0, 1, 2], [2, 1, ops.loss.IGNORE]]])
    weights, at = np.full(labels.shape, 2.0), (0, 1, 0)
    _, ctx = ops.softmax_cross_entropy_forward(logits, labels, weights)
    gradient = 5 * ops.softmax_cross_entropy_backward(ctx)[at]
    figure = plot.loss_pixel(logits, labels, at, weights)
    alone, _ = ops.softmax_cross_entropy_forward(logits[:, 1:, :1], labels[:, 1:, :1], weights[:, 1:, :1])
    assert result(figure) == pytest.approx(alone, rel=1e-2)
    assert "M × gradient: " + "; ".join(f"{g:.2g}" for g in gradient) in plot.description(figure)
    assert "M is 5 pixels" in plot.description(figure)
    with pytest.raises(ShapeError, match=r"^loss_pixel: nobody annotated pixel \(0, 1, 2\), its label is -1\. Choose another\."):
        plot.loss_pixel(logits, labels, (0, 1, 2), weights)


@pytest.mark.parametrize("at", [(0, 4, 0, 0), (0, -1, 0, 0)])
def test_a_pixel_that_is_not_there_is_refused(conv, at):
    """Beyond the output, and negative."""
    x, w, b, _ = conv
    with pytest.raises(ShapeError, match=r"^conv_pixel: there is no pixel"):
        plot.conv_pixel(x, w, b, at)


# Maps ----------------------------------------------------------------------------------------------------------------


def test_maps_are_to_scale_and_hold_the_channels(rng):
    """A map of half the side is drawn half as large; values are those of the image asked for."""
    seen = {"a": rng.random((2, 8, 12, 3)), "b": rng.standard_normal((2, 4, 6, 20))}
    figure = plot.maps(seen, n=1, channels=5)
    assert len(figure.axes) == 3 + 5
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), seen["a"][1, ..., 2])
    inches = [ax.get_position().width * figure.get_figwidth() for ax in (figure.axes[0], figure.axes[3])]
    tall = [ax.get_position().height * figure.get_figheight() for ax in (figure.axes[0], figure.axes[3])]
    assert inches[0] == pytest.approx(2 * inches[1])
    assert tall[0] / inches[0] == pytest.approx(8 / 12)
    assert figure.axes[0].images[0].get_clim()[0] == 0
    low, high = figure.axes[3].images[0].get_clim()
    assert low == -high
    assert "a 8×12×3" in plot.description(figure)


def test_filters_are_shown_by_output_channel(rng):
    """A picture for each pair of channels, up to the limits; one scale for all kernels of an output, symmetric about 0."""
    w = rng.standard_normal((3, 3, 4, 6))
    figure = plot.filters(w, inputs=2, outputs=5)
    assert len(figure.axes) == 10
    np.testing.assert_array_equal(figure.axes[7].images[0].get_array(), w[:, :, 1, 2])
    clims = [ax.images[0].get_clim() for ax in figure.axes]
    assert clims[:5] == clims[5:]
    assert [high / np.abs(w[..., o]).max() for o, (low, high) in enumerate(clims[:5])] == pytest.approx([2.2] * 5)
    assert all(low == -high for low, high in clims)


def test_filters_with_room_show_their_numbers_and_names():
    """Nine numbers a kernel; those that are small beside another kernel's too. Large sets go without."""
    w = np.concatenate([np.full((3, 3, 1, 1), 1 / 9), np.arange(-4.0, 5).reshape(3, 3, 1, 1)], axis=3)
    w[0, 0, 0, 0] = -1e-5
    figure = plot.filters(w, titles=["mean"])
    assert [ax.get_title() for ax in figure.axes] == ["mean", "o = 1"]
    assert [[t.get_text() for t in ax.texts] for ax in figure.axes] == [["0", *["0.11"] * 8], [str(v) for v in range(-4, 5)]]
    assert not any(ax.texts for ax in plot.filters(np.ones((3, 3, 1, 16))).axes)


def test_maps_say_what_their_colours_and_channels_are():
    """The words of the colour scales that occur, and titles above the channels of the layer that has some."""
    seen = {"x": np.ones((1, 4, 4, 1)), "y": -np.ones((1, 4, 4, 2))}
    figure = plot.maps(seen, titles={"y": ["mean", "edges"]})
    assert [ax.get_title() for ax in figure.axes] == ["", "mean", "edges"]
    assert "The channels of y: mean, edges." in plot.description(figure)
    assert "blue above 0, white at 0, orange below; grey from black, 0, to white, the largest value; each row" in said(figure)
    assert "orange" not in said(plot.maps({"x": seen["x"]}))
    assert "by itself" not in said(plot.maps({"x": seen["x"]}))


def test_numbers_and_maps_have_the_same_colours():
    """Blue is positive, orange negative, in grids of numbers and in maps."""
    numbers = np.array([[-3.0, 3], [0, 0]]).reshape(1, 2, 2, 1)
    grids = [p.get_facecolor() for p in plot.pool_pixel(numbers, (0, 0, 0, 0)).axes[0].patches]
    image = plot.maps({"x": np.array([[-3.0, 3]]).reshape(1, 1, 2, 1)}).axes[0].images[0]
    for (red, _, blue, _), (r, _, b, _) in zip(grids[:2], image.cmap(image.norm([-2.0, 2.0])), strict=True):
        assert (red > blue) == (r > b)
        assert abs(r - b) > 0.3


def test_the_film_strip_shows_every_layer_to_scale(rng):
    """The image first, then the channel of each layer that varies most."""
    x = rng.standard_normal((1, 8, 8, 1))
    y = np.zeros((1, 4, 4, 3))
    y[0, 0, 0, 1] = 5
    figure = plot.film_strip(x, {"down.0.pool": y, "head": y}, rows=1)
    assert len(figure.axes) == 3
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), y[0, ..., 1])
    widths = [ax.get_position().width for ax in figure.axes]
    assert widths[0] == pytest.approx(2 * widths[1])
    assert [ax.get_xlabel() for ax in figure.axes] == ["8", "4", "4"]


@pytest.mark.parametrize("draw", [lambda: plot.maps({}), lambda: plot.film_strip(np.ones((4, 4)), {}), lambda: plot.crops({})])
def test_nothing_is_refused(draw):
    """An empty probe says so."""
    with pytest.raises(ShapeError, match="there is nothing to show"):
        draw()


def test_other_shapes_are_refused():
    """Maps need (N, H, W, C) and an image that is there; filters (K, K, C, O)."""
    with pytest.raises(ShapeError, match=r"^maps: a has shape \(3, 3\), expected"):
        plot.maps({"a": np.ones((3, 3))})
    with pytest.raises(ShapeError, match="with an image 2"):
        plot.maps({"a": np.ones((2, 3, 3, 1))}, n=2)
    with pytest.raises(ShapeError, match=r"^filters: w has shape \(3, 3\)"):
        plot.filters(np.ones((3, 3)))


# Geometry ------------------------------------------------------------------------------------------------------------


def test_mirror_arrows_lead_to_the_pixels_that_are_repeated(rng):
    """Each starts in the border, ends inside the box, and both pixels have one value; the map is the op's."""
    image, border = rng.random((6, 9)), 4
    figure = plot.mirror(image, border)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    padded, _ = ops.mirror_pad_forward(image[None, ..., None], border, border, border, border)
    assert np.corrcoef(shown.ravel(), padded.ravel())[0, 1] > 0.99
    arrows = figure.axes[0].texts
    assert len(arrows) == 8
    for arrow in arrows:
        (to_x, to_y), (x, y) = (tuple(map(int, p)) for p in (arrow.xy, arrow.xyann))
        assert not (border <= y < border + 6 and border <= x < border + 9)
        assert (to_y, to_x) == (mirror_index(-border, 10, 6)[y] + border, mirror_index(-border, 13, 9)[x] + border)
    with pytest.raises(ConfigError, match=r"^mirror: a border of 0 pixels"):
        plot.mirror(image, 0)


def test_the_receptive_box_holds_the_measured_influence(rng):
    """The box is the exact one of the pixel's phase, and all influence lies in it."""
    spec = tu.preset("paper", base=4, depth=2, dropout=0)
    measured = influence(tu.UNet(spec), (60, 48), (2, 5), rng)
    figure = plot.receptive(spec, measured, (2, 5))
    reach = receptive_field(spec)
    left, top = (k + margin(spec) - reach[k % 4].before for k in (5, 2))
    assert left - 5 != top - 2  # pixels of two phases
    assert boxes(figure) == {(left - 0.5, top - 0.5, reach[1].size, reach[2].size)}
    assert "100 % of the measured influence" in plot.description(figure)
    with pytest.raises(ShapeError, match="outside the output of 20x8"):
        plot.receptive(spec, measured, (2, 8))


def test_crops_are_drawn_where_they_are_cut(rng):
    """A 10x12 skip that meets 4x6 loses three pixels on each side."""
    figure = plot.crops({"level 0": (rng.random((10, 12)), (4, 6))})
    assert boxes(figure) == {(2.5, 2.5, 6, 4)}
    assert "level 0 10x12 to 4x6, 3 pixels off the top" in plot.description(figure)


def test_the_weight_of_a_pixel_is_that_of_the_weight_map():
    """The number in the formula is the border term of `weight_map`, without the class balance."""
    ids = np.zeros((20, 24), int)
    ids[5:10, 2:8], ids[5:10, 12:18], ids[15:18, 3:20] = 1, 2, 3
    at = (7, 9)
    figure = plot.weight_at(ids, at)
    weights = tu.weight_map(ids, preset=tu.WeightMap(w0=10, sigma=5, balance="none"))
    assert result(figure) == pytest.approx(weights[at] - 1, rel=0.01)
    lengths = [np.hypot(*np.ptp(line.get_xydata(), axis=0)) for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert lengths == [2.0, 3.0]
    for bad in ((7, 3), (7, 9)):
        with pytest.raises(ConfigError, match=r"needs to be background, with two cells"):
            plot.weight_at(ids if bad == (7, 3) else ids * (ids == 1), bad)


# Health --------------------------------------------------------------------------------------------------------------


def test_bars_and_lines_carry_the_numbers():
    """Norms, shares of the skip, dead channels, and numbers over time."""
    flow = plot.gradient_flow({"head": 0.5, "up": 0.25}, {0: (3.0, 1.0), 1: (1.0, 1.0)})
    assert [bar.get_height() for bar in flow.axes[0].patches] == [0.5, 0.25]
    assert [bar.get_height() for bar in flow.axes[1].patches] == [0.75, 0.5, 0.25, 0.5]
    assert "75 % at level 0" in plot.description(flow)
    assert flow.axes[0].get_yscale() == "linear"
    assert flow.axes[0].get_ylim()[0] == 0
    wide = plot.gradient_flow({"head": 100.0, "up": 1.0}).axes[0]
    assert (wide.get_yscale(), list(wide.lines[0].get_ydata()), len(wide.patches)) == ("log", [100, 1], 0)
    assert len(plot.gradient_flow({"head": 0.5}).axes) == 1
    dead = plot.dead_units({"relu1": 0.25})
    assert dead.axes[0].patches[0].get_height() == 0.25
    time = plot.over_time({"a": [1.0, 2.0], "b": [0.1, 0.2]}, "update ratio", (1e-4, 1e-2))
    assert [list(line.get_ydata()) for line in time.axes[0].lines] == [[1, 2], [0.1, 0.2]]
    assert "a from 1 to 2" in plot.description(time)


@pytest.mark.parametrize("draw", [plot.gradient_flow, plot.dead_units, lambda v: plot.over_time(v, "x")])
def test_no_numbers_are_refused(draw):
    """With what to give."""
    with pytest.raises(ConfigError):
        draw({})


def test_every_figure_can_be_saved_with_words(conv, tmp_path):
    """A Figure with a text alternative of some length, which draws without a warning."""
    x, w, b, _ = conv
    figures = [plot.conv_pixel(x, w, b, (0, 0, 0, 0)), plot.maps({"x": x}), plot.filters(w), plot.film_strip(x, {"x": x}),
               plot.mirror(x[0, ..., 0], 3), plot.crops({"a": (x[0, ..., 0], (2, 3))}), plot.gradient_flow({"a": 1.0}),
               plot.dead_units({"a": 0.5}), plot.over_time({"a": [1.0]}, "norm"), plot.pool_pixel(x, (0, 0, 0, 0))]  # fmt: skip
    for k, figure in enumerate(figures):
        assert isinstance(figure, Figure)
        assert len(plot.description(figure)) > 20
        assert plot.save(figure, tmp_path / f"{k}.png", dpi=40).stat().st_size > 500
