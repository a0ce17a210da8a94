"""Every property of every op, on every rung, with geometry from Hypothesis; and every one of them seen to fail on a wrong op."""

from functools import wraps

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyunet import ladder
from tinyunet.catalogue import LADDERS, OPS, Op, check_property, properties, rungs_of
from tinyunet.catalogue import norm as norm_properties
from tinyunet.catalogue.laws import LAWS
from tinyunet.layers import BatchNorm

SUBJECTS = (*OPS, "batch_norm_layer")
EVERY = [pytest.param(prop, rung, id=f"{prop.subject}-{prop.name}{'-' * bool(rung)}{rung}")
         for subject in SUBJECTS for rung in rungs_of(subject) for prop in properties([subject])]  # fmt: skip


@pytest.mark.parametrize(("prop", "rung"), EVERY)
@settings(max_examples=6)
@given(data=st.data())
def test_our_op_keeps_the_property(prop, rung, drawn_from, data):
    """The property holds, whatever the geometry and the values, on the rung."""
    with ladder.rung(**({LADDERS[prop.subject]: rung} if rung else {})):
        prop.run(OPS.get(prop.subject), drawn_from(data))


# Every property has been seen to fail -------------------------------------------------------------------------------


def changed(change_y=lambda y, args: y, change_g=lambda g, k, dy, args: g):
    """What makes a wrong op of a right one: y and every gradient, the k-th, go through a function."""

    def make(op):
        @wraps(op.forward)
        def forward(*args):
            result = op.forward(*args)
            if not isinstance(result, tuple):  # probabilities
                return change_y(result, args)
            return change_y(result[0], args), (result[1], args)

        def backward(*given):
            ctx, args = given[-1]
            gradients = op.backward(*given[:-1], ctx)
            if isinstance(gradients, tuple):
                return tuple(change_g(g, k, given[0], args) for k, g in enumerate(gradients))
            return change_g(gradients, 0, given[0], args)

        return Op(forward, backward)

    return make


def when(condition):
    """Off by a thousandth for some first arguments, right for all others."""
    return changed(lambda y, args: y * 1.001 if condition(args[0]) else y)


def forgiving(op):
    """Refuses nothing."""

    def forgive(function):
        @wraps(function)
        def call(*args):
            try:
                return function(*args)
            except (ValueError, TypeError):
                return np.zeros(1), None

        return call

    return Op(forgive(op.forward), forgive(op.backward))


def counting(op):
    """Remembers how often it was called, in both directions."""
    calls = [0]

    @wraps(op.forward)
    def forward(*args):
        calls[0] += 1
        y, ctx = op.forward(*args)
        return y * (1 + 1e-6 * calls[0]), ctx

    def backward(*given):
        calls[0] += 1
        gradients = op.backward(*given)
        return tuple(g * calls[0] for g in gradients) if isinstance(gradients, tuple) else gradients * calls[0]

    return Op(forward, backward)


def leaning_on_y(op):
    """Remembers y itself instead of a copy."""

    @wraps(op.forward)
    def forward(*args):
        y, ctx = op.forward(*args)
        return y, (y, ctx)

    def backward(dy, remembered):
        y, ctx = remembered
        gradients = op.backward(dy, ctx)
        return tuple(g + 0 * y.sum() for g in gradients) if isinstance(gradients, tuple) else gradients + 0 * y.sum()

    return Op(forward, backward)


def scribbling(k):
    """Writes into its k-th argument."""

    def scribble(y, args):
        args[k][...] += 1
        return y

    return changed(scribble)


def rows(y):
    """The number of each row, to be added to a map."""
    return np.arange(y.shape[1])[:, None, None]


def haunted(op):
    """Adds a little of what it gave before."""
    last = [np.zeros(1)]

    def haunt(y, args):
        y = y + 1e-6 * last[0].flat[0]
        last[0] = y
        return y

    return changed(haunt)(op)


def coarse(y, args):
    """float32 done in float16."""
    return np.asarray(y).astype(np.float16).astype(args[0].dtype) if args[0].dtype == np.float32 else y


def no_nan(y, args=()):
    """Hides what is not finite."""
    return np.nan_to_num(y, nan=0.0, posinf=0.0, neginf=0.0)


def flipped(op):
    """A true convolution: wrong together with its backward pass."""

    @wraps(op.forward)
    def forward(x, w, b, *padding):
        return op.forward(x, w[::-1, ::-1], b, *padding)

    def backward(dy, ctx):
        dx, dw, db = op.backward(dy, ctx)
        return dx, dw[::-1, ::-1].copy(), db

    return Op(forward, backward)


def inverse(op):
    """An up-convolution that the convolution of stride 2 undoes."""

    def forward(x, w, b):
        y, ctx = op.forward(x, w, b)
        n, height, width, c = x.shape
        blocks = (x @ np.linalg.pinv(w.reshape(-1, c))).reshape(n, height, width, 2, 2, -1)
        return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(y.shape), ctx

    return Op(forward, op.backward)


def per_image(op):
    """Statistics of each image by itself."""

    def forward(x, *rest):
        return np.concatenate([op.forward(one[None], *rest)[0] for one in x]), op.forward(x, *rest)[1]

    return Op(forward, op.backward)


def one_seed(op):
    """Dropout that does not look at the generator."""
    return Op(lambda x, rate, rng: op.forward(x, rate, np.random.default_rng(0)), op.backward)


def cancelling(y, args):
    """The variance as mean(x^2) - mean(x)^2."""
    x, gamma, beta, *_ = args
    mean = x.mean(axis=(0, 1, 2))
    return gamma * (x - mean) / np.sqrt(np.abs((x * x).mean(axis=(0, 1, 2)) - mean * mean) + np.float32(1e-5)) + beta


off = changed(lambda y, args: y * 1.001, lambda g, k, dy, args: g * 1.001)
wrong_dx = changed(change_g=lambda g, k, dy, args: g * (1.001 if k == 0 else 1))
row_dependent = changed(lambda y, args: y + 1e-6 * rows(y), lambda g, k, dy, args: g * (1 + 1e-6 * rows(g)) if g.ndim == 4 else g)
channels_mixed = changed(lambda y, args: y + 1e-6 * y.mean(axis=-1, keepdims=True))
channel_dependent = changed(lambda y, args: y * (1 + 1e-6 * np.arange(y.shape[-1])))
biased_by_logits = changed(lambda y, args: y + 1e-6 * args[0].sum())

WRONG_LAWS = {
    "gradient_by_differences": wrong_dx,
    "gradient_by_complex_step": changed(change_g=lambda g, k, dy, args: g * (1 + 1e-9)),
    "backward_is_linear_in_dy": changed(change_g=lambda g, k, dy, args: g + 1e-3),
    "backward_is_the_adjoint": changed(change_g=lambda g, k, dy, args: g * (1 + 1e-9)),
    "linear_where_it_should_be": changed(lambda y, args: y + 1e-6 * y * y),
    "images_do_not_mix": changed(lambda y, args: y + 1e-6 * y.mean(axis=0)),
    "an_empty_batch_is_fine": changed(lambda y, args: y + 0 * y[0]),
    "shapes_of_the_results": changed(change_g=lambda g, k, dy, args: g[None]),
    "the_dtype_survives": changed(lambda y, args: np.float64(y), lambda g, k, dy, args: g.astype(np.float64)),
    "float32_is_float64_rounded": changed(coarse),
    "arguments_are_left_alone": scribbling(0),
    "results_are_fresh": changed(change_g=lambda g, k, dy, args: np.asfortranarray(g)),
    "what_is_remembered_is_safe": leaning_on_y,
    "backward_can_be_repeated": counting,
    "forward_can_be_repeated": counting,
    "any_memory_layout": when(lambda x: not x.flags.c_contiguous),
    "read_only_arrays": when(lambda x: not x.flags.writeable),
    "broadcast_arrays": when(lambda x: 0 in x.strides),
    "hard_values_stay_finite": changed(lambda y, args: y + np.inf if np.abs(args[0]).max() >= 1e4 else y),
    "a_nan_is_not_hidden": changed(no_nan),
    "an_infinity_is_not_hidden": changed(no_nan),
    "a_nan_stays_in_its_image": changed(lambda y, args: y * np.nan if np.isnan(y).any() else y),
    "a_nan_in_dy_is_not_hidden": changed(change_g=lambda g, k, dy, args: no_nan(g)),
    "a_nan_in_a_parameter_is_not_hidden": changed(no_nan),
    "a_dy_of_another_shape_is_refused": forgiving,
    "an_image_of_bytes_is_refused": forgiving,
}  # fmt: skip

# Properties of single ops that an op off by a thousandth keeps, and what breaks them.
WRONG = {
    "conv2d.forward_is_the_formula": flipped,
    "conv2d.forward_is_scipys_correlation": flipped,
    "conv2d.dx_of_one_pixel_is_the_kernel": flipped,
    "conv2d.backward_is_the_transposed_matrix": wrong_dx,
    "conv2d.a_shifted_image_gives_a_shifted_map": row_dependent,
    "conv2d.channels_may_be_renamed": channel_dependent,
    "conv2d.turning_image_and_kernel_turns_the_map": row_dependent,
    "conv2d.same_is_valid_of_the_zero_padded_image": changed(lambda y, args: y * (1.001 if "same" in args else 1)),
    "conv2d.an_axis_made_by_none": when(lambda x: 0 in x.strides),
    "conv2d_float32.gradient_by_wide_differences": changed(change_g=lambda g, k, dy, args: g * 1.1),
    "conv2d_float32.backward_is_linear_in_dy": changed(change_g=lambda g, k, dy, args: g + np.float32(0.1)),
    "conv2d_float32.backward_is_the_adjoint": changed(change_g=lambda g, k, dy, args: g * 1.1),
    "conv2d_float32.linear_where_it_should_be": changed(lambda y, args: y + y * y / 100),
    "conv2d_float32.images_do_not_mix": changed(lambda y, args: y + y.mean(axis=0) / 100),
    "conv2d_float32.what_was_computed_before_does_not_matter": haunted,
    "conv2d_float32.float32_stays_float32": changed(lambda y, args: y.astype(np.float64)),
    "upconv.it_is_the_adjoint_of_the_convolution_of_stride_2": flipped,
    "upconv.it_is_not_the_inverse": inverse,
    "upconv.blocks_are_disjoint": changed(lambda y, args: y + 1e-6 * np.roll(y, 1, axis=1)),
    "upconv.a_shifted_image_gives_a_map_shifted_twice_as_far": row_dependent,
    "upconv.channels_may_be_renamed": channel_dependent,
    "upconv.an_axis_made_by_none": when(lambda x: 0 in x.strides),
    "max_pool.negative_values_stay_negative": changed(lambda y, args: np.maximum(y, 0)),
    "max_pool.the_winner_moves_with_its_value": row_dependent,
    "max_pool.channels_do_not_compete": channels_mixed,
    "batch_norm.dx_avoids_the_directions_that_were_taken_out": changed(change_g=lambda g, k, dy, args: g + 1e-6),
    "batch_norm.the_order_of_images_and_pixels_does_not_matter": row_dependent,
    "batch_norm.the_whole_batch_counts": per_image,
    "batch_norm.channels_do_not_mix": channels_mixed,
    "batch_norm.a_large_offset_loses_little_in_float32": changed(cancelling),
    "batch_norm_eval.it_folds_into_a_scale_and_a_shift": changed(lambda y, args: y * (1 + 1e-6 * rows(y))),
    "dropout.the_mean_is_kept": changed(lambda y, args: y * (1 - args[1])),
    "dropout.each_value_is_dropped_by_itself": changed(lambda y, args: np.where(y[:1, :1, :1], args[0] / (1 - args[1]), 0)),
    "dropout.the_generator_decides": one_seed,
    "crop_concat.the_skip_gets_its_gradient": changed(change_g=lambda g, k, dy, args: g * (k == 0)),
    "softmax.softmax_sees_differences_only": biased_by_logits,
    "softmax_cross_entropy.a_shift_of_all_logits_of_a_pixel_changes_nothing": biased_by_logits,
    "softmax_cross_entropy.the_gradient_sums_to_zero": changed(change_g=lambda g, k, dy, args: g + 1e-6),
    "softmax_cross_entropy.classes_may_be_renamed": changed(lambda y, args: y + 1e-6 * args[0][..., 0].sum()),
    "sigmoid_cross_entropy.the_classes_may_be_swapped": biased_by_logits,
}  # fmt: skip
WRONG_LOSSES = {
    "a_nan_in_a_logit_is_not_hidden": changed(no_nan),
    "linear_in_the_weights": changed(lambda y, args: y / args[2].mean()),
    "no_weights_are_weights_of_one": changed(lambda y, args: y * (1.001 if len(args) == 2 else 1)),
    "a_pixel_of_weight_zero_has_no_influence": biased_by_logits,
    "an_ignored_pixel_does_not_count": changed(lambda y, args: y * (args[1] >= 0).mean()),
    "weights_of_ignored_pixels_are_not_looked_at": changed(lambda y, args: y + 0 * args[2].sum()),
    "no_annotated_pixel_costs_nothing": changed(lambda y, args: y if (args[1] >= 0).any() else y / np.float64(0)),
    "a_duplicated_batch_costs_the_same": changed(lambda y, args: y * len(args[0])),
    "images_add_up": changed(lambda y, args: y * len(args[0])),
    "a_weight_of_two_is_a_pixel_given_twice": changed(lambda y, args: y / args[2].mean()),
    "any_integer_labels": changed(lambda y, args: y * (1.001 if args[1].dtype == np.uint8 else 1)),
    "labels_and_weights_are_left_alone": scribbling(1),
    "one_logit_a_pixel": forgiving,
}


def wrong_op(prop):
    """An op that breaks one property."""
    if "refused" in prop.name:
        return forgiving
    return WRONG.get(f"{prop.subject}.{prop.name}") or {**WRONG_LAWS, **WRONG_LOSSES}.get(prop.name, off)


OF_OPS = [pytest.param(prop, id=f"{prop.subject}-{prop.name}") for prop in properties(OPS)]


@pytest.mark.parametrize("prop", OF_OPS)
def test_a_wrong_op_breaks_the_property(prop):
    """The property fails on an op that is wrong in the way it looks for, and says so; it holds on ours."""
    with np.errstate(all="ignore"):
        outcome = check_property(prop, wrong_op(prop)(OPS[prop.subject]), draws=10)
    assert outcome.error
    assert not check_property(prop, OPS[prop.subject], draws=2).error


def test_the_tables_of_wrong_ops_name_what_exists():
    """Every law and every property in the tables is in the catalogue."""
    names = {f"{p.subject}.{p.name}" for p in properties(OPS)}
    assert set(WRONG) <= names
    assert set(WRONG_LAWS) == set(LAWS)
    assert set(WRONG_LOSSES) <= {p.name for p in properties(["sigmoid_cross_entropy"])}


# The layer of batch norm --------------------------------------------------------------------------------------------


class OtherMomentum(BatchNorm):
    """r <- momentum r + (1 - momentum) s, as in Keras."""

    def forward(self, x):
        self.momentum = 1 - self.momentum
        y = super().forward(x)
        self.momentum = 1 - self.momentum
        return y


class UsesRunning(BatchNorm):
    """Normalises with the running statistics in training too, but goes on following the batches."""

    def forward(self, x):
        super().forward(x)
        training, self.training = self.training, False
        y = super().forward(x)
        self.training = training
        return y


class FollowsInEval(BatchNorm):
    """Goes on following the batches in eval mode."""

    def forward(self, x):
        training, self.training = self.training, True
        super().forward(x)
        self.training = training
        return super().forward(x)


class ForgetsTheMode(BatchNorm):
    """Goes back through the running statistics whatever forward did."""

    def backward(self, dy):
        training, self.training = self.training, False
        super().forward(np.zeros_like(dy))
        self.training = training
        return super().backward(dy)


class Overwrites(BatchNorm):
    """A second backward replaces the gradients of the first."""

    def backward(self, dy):
        for gradient in self.grads.values():
            gradient[...] = 0
        return super().backward(dy)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("running_statistics_follow_the_batches", OtherMomentum),
        ("training_does_not_use_the_running_statistics", UsesRunning),
        ("prediction_uses_the_running_statistics_and_leaves_them_alone", FollowsInEval),
        ("backward_goes_with_the_mode_of_forward", ForgetsTheMode),
        ("gradients_of_parameters_add_up", Overwrites),
    ],
)
def test_a_wrong_layer_breaks_the_property(name, wrong, monkeypatch):
    """The property fails on a layer that is wrong in the way it looks for."""
    prop = next(p for p in properties(["batch_norm_layer"]) if p.name == name)
    monkeypatch.setattr(norm_properties, "BatchNorm", wrong)
    assert "expected" in check_property(prop).error
