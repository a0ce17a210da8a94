"""The checks themselves: right gradients pass, each kind of wrong one fails with a message that says how."""

import numpy as np
import pytest

from tinyunet.check import check_adjoint, check_complex_step, check_grad, numerical_grad
from tinyunet.errors import CheckError, DTypeError, ShapeError, TinyUNetError
from tinyunet.ops import (
    batch_norm_backward,
    batch_norm_forward,
    conv2d_backward,
    conv2d_forward,
    max_pool_forward,
    relu_backward,
    relu_forward,
    softmax,
)

checks = pytest.mark.parametrize("check", [check_grad, check_complex_step])


@pytest.fixture
def arguments(rng):
    """x (2, 5, 6, 3), w and b of a convolution to 4 channels; y is (2, 3, 4, 4)."""
    return {"x": rng.standard_normal((2, 5, 6, 3)), "w": rng.standard_normal((3, 3, 3, 4)), "b": rng.standard_normal(4)}


def with_changed(name, change):
    """The backward pass of the convolution with one gradient changed."""

    def backward(dy, ctx):
        gradients = dict(zip("xwb", conv2d_backward(dy, ctx), strict=True))
        return tuple({**gradients, name: change(gradients[name])}.values())

    return backward


# What passes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "limit"), [(check_grad, 1e-8), (check_complex_step, 1e-14)])
def test_right_gradients_pass_with_a_small_error(check, limit, arguments, rng):
    """The errors come back by name: below 1e-8 for differences, at rounding for the complex step."""
    errors = check(conv2d_forward, conv2d_backward, arguments, rng)
    assert list(errors) == ["x", "w", "b"]
    assert max(errors.values()) < limit


@checks
def test_one_argument_may_come_without_a_tuple(check, rng):
    """A backward pass of one argument may return its gradient alone."""
    assert list(check(relu_forward, relu_backward, {"x": 1 + rng.random((2, 3))}, rng)) == ["x"]


@checks
def test_a_number_is_an_output_too(check, rng):
    """A loss, whose y is a number, is checked like anything else."""
    check(lambda x: ((x**3).sum(), x), lambda dy, x: dy * 3 * x**2, {"x": rng.standard_normal((3, 4))}, rng)


@checks
def test_arguments_are_left_alone(check, arguments, rng):
    """The arrays are not moved; the same ones can be checked again."""
    before = {name: value.copy() for name, value in arguments.items()}
    check(conv2d_forward, conv2d_backward, arguments, rng)
    for name, value in arguments.items():
        np.testing.assert_array_equal(value, before[name])


@checks
def test_a_zero_gradient_passes_if_it_may(check, rng):
    """What does not matter has gradient zero; that passes when it is named in zero_ok, and only then."""
    forward, backward = lambda x, unused: (x**2, x), lambda dy, x: (2 * x * dy, 0 * x)
    arguments = {"x": rng.standard_normal((2, 3)), "unused": rng.standard_normal((2, 3))}
    check(forward, backward, arguments, rng, zero_ok=["unused"])
    with pytest.raises(CheckError, match=r"gradient of 'unused' is zero everywhere\. .* say zero_ok=\['unused'\]"):
        check(forward, backward, arguments, rng)


# What fails, and what is said ---------------------------------------------------------------------------------------


@checks
@pytest.mark.parametrize("name", ["x", "w", "b"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: -g, "it has the wrong sign"),
        (lambda g: g / 2, r"it equals the true one divided by 2, the number of images \(N\)"),
        (lambda g: g * 12, r"it equals the true one times 12, the number of pixels \(H W\)"),
        (lambda g: g * 24, r"it equals the true one times 24, the number of pixels of all images \(N H W\)"),
        (lambda g: g / -1.7, r"it equals the true one divided by 1\.7, and has the wrong sign"),
        (lambda g: 0 * g, "is zero everywhere. Is it computed at all"),
        (lambda g: g + 0.5, r"it equals the true one plus 0\.5 in every entry"),
    ],
    ids=["sign", "over N", "times H W", "times N H W", "factor and sign", "zero", "offset"],
)
def test_a_wrong_gradient_is_named_and_described(check, name, change, message, arguments, rng):
    """The message names the argument and says how its gradient is wrong."""
    with pytest.raises(CheckError, match=rf"{check.__name__}: the gradient of '{name}' .*{message}"):
        check(conv2d_forward, with_changed(name, change), arguments, rng)


@checks
def test_a_factor_is_given_for_arrays_that_are_no_images(check, rng):
    """Where there are no images and pixels to count, the message gives the number alone."""
    with pytest.raises(CheckError, match=r"gradient of 'x' is wrong: it equals the true one divided by 2\. Along"):
        check(lambda x: (x**2, x), lambda dy, x: x * dy, {"x": rng.standard_normal((3, 4))}, rng)


@checks
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.transpose(1, 0, 2, 3), "it equals the true one with axes 0 and 1 swapped, as if transposed"),
        (lambda g: g[::-1, ::-1], "it equals the true one turned round along axes 0, 1"),
        (lambda g: g[:, ::-1], "it equals the true one turned round along axis 1"),
        (lambda g: g * [1, 2, -3, 1], r"it equals the true one times a factor for each channel \(1, 2, -3, 1\)"),
        (lambda g: g + np.array([1, 2, -3, 1]), r"its error is the same in all entries of a channel \(in the first, 1\)"),
        (abs, r"of its 108 entries have the wrong sign, the first at \["),
        (lambda g: g * (np.arange(3) < 2)[:, None, None, None], r"36 of .* where axis 0 is 2\. Where it is wrong it is zero"),
        (lambda g: g + (np.indices(g.shape)[1] == 0) * g**2, r"3[56] of .* where axis 1 is 0, the worst at \["),
        (lambda g: g + np.sin(np.arange(108).reshape(g.shape)), r"of 108 entries looked at are off, the worst at \["),
        (lambda g: g + 1e-6 * np.sin(np.arange(108).reshape(g.shape)), r"it is off by 1\.0e-06 at most: a cast to float32"),
    ],
    ids=["transposed", "flipped", "mirrored", "times by channel", "plus by channel", "absolute", "part zero", "part wrong", "all",
         "small"],
)
def test_how_a_gradient_relates_to_the_true_one_is_said(check, change, message, arguments, rng):
    """A gradient of few entries is compared with the true one: the simplest relation between the two is named."""
    with pytest.raises(CheckError, match=rf"the gradient of 'w' is wrong: .*{message}"):
        check(conv2d_forward, with_changed("w", change), arguments, rng)


@checks
def test_one_entry_a_channel_has_no_pattern(check, rng):
    """Where each channel has one entry, an error in it is no pattern, and the entries are told as they are."""
    x = {"x": rng.standard_normal((1, 1, 4))}
    with pytest.raises(CheckError, match=r"'x' is wrong: 2 of 4 entries looked at are off, all of them where axis 2 is 0 or 3,"):
        check(lambda x: (x**2, x), lambda dy, x: 2 * dy * x * [3, 1, 1, -2], x, rng)


@checks
def test_gradients_that_come_back_in_another_order_are_named(check, rng):
    """Two arguments of one shape whose gradients are swapped: the message says whose gradient it is."""
    arguments = {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal((2, 3))}
    with pytest.raises(CheckError, match=r"gradient of 'a' is wrong: it equals the true gradient of 'b'\. Gradients come"):
        check(lambda a, b: (a**2 * b, (a, b)), lambda dy, ab: (dy * ab[0] ** 2, 2 * dy * ab[0] * ab[1]), arguments, rng)


@checks
def test_a_missing_term_of_batch_norm_is_recognised(check, rng):
    """Without the road through the mean, dx is off by one number a channel; without gamma, by a factor a channel."""
    arguments = {"x": rng.standard_normal((2, 3, 4, 2)), "gamma": rng.uniform(1, 2, 2), "beta": rng.standard_normal(2)}

    def no_mean(dy, ctx):
        dx, dgamma, dbeta = batch_norm_backward(dy, ctx)
        return dx + ctx.gamma * ctx.inv_std * dbeta / 24, dgamma, dbeta

    def no_gamma(dy, ctx):
        dx, dgamma, dbeta = batch_norm_backward(dy, ctx)
        return dx / ctx.gamma, dgamma, dbeta

    with pytest.raises(CheckError, match=r"'x' is wrong: its error is the same .* A term that was summed .* is missing"):
        check(batch_norm_forward, no_mean, arguments, rng)
    with pytest.raises(CheckError, match=r"'x' is wrong: it equals the true one times a factor for each channel"):
        check(batch_norm_forward, no_gamma, arguments, rng)


@checks
def test_what_is_no_pair_of_passes(check, rng):
    """A forward pass without a context, and a gradient that is no array, are named as what they are."""
    x = {"x": rng.standard_normal((2, 3))}
    with pytest.raises(CheckError, match=r"forward returned an array, expected the pair \(y, ctx\)"):
        check(lambda x: x**2, lambda dy, ctx: dy, x, rng)
    with pytest.raises(CheckError, match=r"gradient of 'x' is a NoneType, expected an array of \(2, 3\)"):
        check(lambda x: (x**2, x), lambda dy, ctx: None, x, rng)


@checks
def test_a_wrong_entry_is_found(check, rng):
    """Of a small argument every entry is looked at, and the wrong one is given with both values."""

    def backward(dy, x):
        dx = 2 * x * dy
        dx[1, 2] = 100
        return dx

    with pytest.raises(CheckError, match=r"1 of 12 entries looked at are off, the worst at \[1, 2\]: backward gives 100"):
        check(lambda x: (x**2, x), backward, {"x": rng.standard_normal((3, 4))}, rng)


@checks
def test_one_wrong_entry_among_many_fails(check, rng):
    """A single entry off by one among ten thousand is not lost."""

    def backward(dy, x):
        dx = 2 * x * dy
        dx[50, 50] += 1
        return dx

    with pytest.raises(CheckError, match=r"'x' is wrong: few of its 10000 entries are off, and none of the 50 looked at"):
        check(lambda x: (x**2, x), backward, {"x": rng.standard_normal((100, 100))}, rng)


@checks
def test_some_entries_of_a_large_gradient_are_looked_at(check, rng):
    """Of ten thousand entries fifty are looked at, and the worst of them is given."""
    with pytest.raises(CheckError, match=r"50 of 50 entries looked at are off, the worst at \[\d+, \d+\]: backward gives"):
        check(lambda x: (x**2, x), lambda dy, x: 2 * dy * x + dy * np.sin(7 * x), {"x": rng.standard_normal((100, 100))}, rng)


@checks
def test_a_backward_pass_of_zeros_fails_for_softmax(check, rng):
    """With dy = ones it would pass, as softmax sums to one; and a zero that is allowed must be a zero."""
    arguments = {"x": rng.standard_normal((2, 5))}
    with pytest.raises(CheckError, match="zero everywhere"):
        check(lambda x: (softmax(x), x), lambda dy, x: 0 * dy, arguments, rng)
    with pytest.raises(CheckError, match="it is zero everywhere, and should not be"):
        check(lambda x: (softmax(x), x), lambda dy, x: 0 * dy, arguments, rng, zero_ok=["x"])


@checks
def test_a_small_mistake_fails(check, arguments, rng):
    """An error of one part in a million is found."""
    with pytest.raises(CheckError, match="gradient of 'w' is wrong"):
        check(conv2d_forward, with_changed("w", lambda g: g * (1 + 1e-6)), arguments, rng)


@checks
def test_a_gradient_that_is_not_finite(check, arguments, rng):
    """A NaN in a gradient fails by name."""
    with pytest.raises(CheckError, match="gradient of 'b' is not finite"):
        check(conv2d_forward, with_changed("b", lambda g: g * np.nan), arguments, rng)


@checks
def test_gradients_in_the_wrong_order_or_number(check, arguments, rng):
    """The number and the shapes of the gradients are compared first."""
    with pytest.raises(CheckError, match=r"returned 2 gradients for 3 arguments \(x, w, b\)"):
        check(conv2d_forward, lambda dy, ctx: conv2d_backward(dy, ctx)[:2], arguments, rng)
    with pytest.raises(CheckError, match=r"gradient of 'x' has shape \(4,\), 'x' itself \(2, 5, 6, 3\)"):
        check(conv2d_forward, lambda dy, ctx: conv2d_backward(dy, ctx)[::-1], arguments, rng)


@checks
def test_dtypes(check, arguments, rng):
    """float32 arguments are refused; a forward pass that casts is found out."""
    with pytest.raises(DTypeError, match=r"'w' is float32\. Give float64"):
        check(conv2d_forward, conv2d_backward, {**arguments, "w": arguments["w"].astype(np.float32)}, rng)
    with pytest.raises(CheckError, match=r"forward made float32 of float64 arguments"):
        check(lambda x: (x.astype(np.float32), x), lambda dy, x: dy, {"x": arguments["x"]}, rng)


def test_a_cast_to_real_numbers_is_found_by_the_complex_step(rng):
    """A forward pass that drops the imaginary part cannot be judged, and the message says so."""
    with pytest.raises(CheckError, match=r"forward returned real numbers for a complex 'x'\. Something on the way casts"):
        check_complex_step(lambda x: (x.real**2, x), lambda dy, x: 2 * x * dy, {"x": rng.standard_normal((2, 3))}, rng)


def test_a_kink_is_told_from_a_wrong_gradient(rng):
    """Near the kink of ReLU differences mean nothing; the message says so and does not accuse the gradient."""
    x = {"x": rng.permutation(np.array([1e-6, -1e-6, 1, -1] * 5)).reshape(4, 5)}
    said = (
        r"cannot judge 'x', a kink is near: .* with eps = 1e-05 and .* with half of it; at \[\d, \d\], where it is -?1e-06, its "
        r"slope is .* ahead and .* behind\. Move the values away from ties"
    )
    with pytest.raises(CheckError, match=said):
        check_grad(relu_forward, relu_backward, x, rng)
    check_grad(relu_forward, relu_backward, x, rng, eps=1e-8, rtol=1e-6)
    many = {"x": np.where(np.arange(4000) == 17, 1e-7, 1.0).reshape(40, 100)}
    with pytest.raises(CheckError, match=r"cannot judge 'x', a kink is near: .* with half of it\. Move"):
        check_grad(relu_forward, relu_backward, many, rng)
    check_complex_step(relu_forward, relu_backward, x, rng)


# The whole gradient -------------------------------------------------------------------------------------------------


def test_the_whole_gradient_by_differences(arguments, rng):
    """Every entry of every argument agrees with backward to seven digits, and the arguments are left alone."""
    small = {"x": arguments["x"][:1, :3, :4], "w": arguments["w"], "b": arguments["b"]}
    y, ctx = conv2d_forward(*small.values())
    dy = rng.standard_normal(y.shape)
    found = numerical_grad(conv2d_forward, small, dy)
    assert list(found) == ["x", "w", "b"]
    for name, gradient in zip(found, conv2d_backward(dy, ctx), strict=True):
        np.testing.assert_allclose(found[name], gradient, rtol=1e-7, atol=1e-8)


def test_the_gradient_of_a_number_needs_no_dy():
    """For a loss dy is 1; strong curvature, also where the slope is zero, is not taken for a kink."""
    x = np.array([[0.0, -1.0], [2.0, 300.0]])
    np.testing.assert_allclose(numerical_grad(lambda x: ((x**2).sum(), None), {"x": x})["x"], 2 * x, rtol=1e-7, atol=1e-7)
    flat = np.array([0.0, 1e-6])
    np.testing.assert_allclose(numerical_grad(lambda x: ((x**2).sum(), None), {"x": flat})["x"], 2 * flat, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1e-6, -3e-6, 9e-6])
def test_a_kink_is_explained(value):
    """At a kink, or within eps of one, the message says where, and how the slopes on both sides differ."""
    x = {"x": np.array([[1.0, -1.0, value]])}
    said = (
        r"'x' has no gradient at \[0, 2\], where it is [-\de]+: with eps = 1e-05 the slope ahead is (1|0\.7) and the slope "
        r"behind 0(\.\d+)?, so a kink lies between \(a ReLU at zero"
    )
    with pytest.raises(CheckError, match=said):
        numerical_grad(relu_forward, x, np.ones((1, 3)))
    np.testing.assert_array_equal(numerical_grad(relu_forward, x, np.ones((1, 3)), kinks="nan")["x"].round(6), [[1, 0, np.nan]])


def test_ties_of_a_max_pool_are_kinks():
    """Of four equal values, and of two, those that share the maximum have no gradient; the others have zero."""
    x = {"x": np.array([[5.0, 5.0], [1.0, 2.0]]).reshape(1, 2, 2, 1)}
    found = numerical_grad(max_pool_forward, x, np.ones((1, 1, 1, 1)), kinks="nan")["x"]
    np.testing.assert_array_equal(found.ravel(), [np.nan, np.nan, 0, 0])
    with pytest.raises(CheckError, match=r"at \[0, 0, 0, 0\], where it is 5: with .* the slope ahead is 1 and .* behind 0"):
        numerical_grad(max_pool_forward, x, np.ones((1, 1, 1, 1)))


def test_what_the_whole_gradient_refuses(rng):
    """float32 arguments, and a dy of another shape than y, with what to do."""
    with pytest.raises(DTypeError, match=r"numerical_grad: 'x' is float32\. Give float64"):
        numerical_grad(relu_forward, {"x": np.ones((2, 2), np.float32)}, np.ones((2, 2)))
    with pytest.raises(ShapeError, match=r"numerical_grad: dy has shape \(\), y \(2, 2\)\. Draw dy = rng\.standard_normal"):
        numerical_grad(relu_forward, {"x": np.ones((2, 2))})


# Adjoint ------------------------------------------------------------------------------------------------------------


def test_an_adjoint_passes(rng):
    """A matrix and its transpose agree to rounding."""
    a = rng.standard_normal((4, 6))
    assert check_adjoint(lambda x: a @ x, lambda y: a.T @ y, rng.standard_normal(6), rng.standard_normal(4)) < 1e-15


def test_what_is_no_adjoint_fails(rng):
    """Another matrix, a sign, and one part in a billion are all found, with both numbers in the message."""
    a = rng.standard_normal((4, 4))
    x, y = rng.standard_normal(4), rng.standard_normal(4)
    for wrong in (a, -a.T, a.T * (1 + 1e-9), np.full((4, 4), np.nan)):
        with pytest.raises(CheckError, match=r"<Ax, y> = .* but <x, A'y> = .* Backward is not the adjoint of forward"):
            check_adjoint(lambda x: a @ x, lambda y, wrong=wrong: wrong @ y, x, y)


def test_two_maps_that_are_zero_are_no_adjoints(rng):
    """0 = 0 says nothing: zeros everywhere fail, with the way that makes them, unless they are right."""
    x, y, a = rng.standard_normal(6), rng.standard_normal(4), np.zeros((4, 6))
    with pytest.raises(CheckError, match=r"A x, which forward makes, is zero everywhere\. .* say zero_ok=True"):
        check_adjoint(lambda x: a @ x, lambda y: a.T @ y, x, y)
    with pytest.raises(CheckError, match="A'y, which backward makes, is zero everywhere"):
        check_adjoint(lambda x: a @ x + 1, lambda y: a.T @ y, x, y)
    assert check_adjoint(lambda x: a @ x, lambda y: a.T @ y, x, y, zero_ok=True) == 0


def test_an_adjoint_goes_the_other_way(rng):
    """Shapes that do not match are reported as such."""
    a = rng.standard_normal((4, 6))
    with pytest.raises(CheckError, match=r"forward makes \(4,\) of \(6,\) and backward makes \(4,\) of \(4,\)"):
        check_adjoint(lambda x: a @ x, lambda y: y, rng.standard_normal(6), rng.standard_normal(4))


def test_a_failed_check_is_an_assertion():
    """pytest shows it as a failed test, and it is one of tinyunet's own errors."""
    assert issubclass(CheckError, AssertionError)
    assert issubclass(CheckError, TinyUNetError)
