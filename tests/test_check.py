"""The checks themselves: right gradients pass, each kind of wrong one fails with a message that says how."""

import numpy as np
import pytest

from tinyunet.check import check_adjoint, check_complex_step, check_grad
from tinyunet.errors import CheckError, DTypeError, TinyUNetError
from tinyunet.ops import conv2d_backward, conv2d_forward, relu_backward, relu_forward, softmax

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
        (lambda g: g / 2, "it is 2 times too small, the number of images"),
        (lambda g: g * 12, "it is 12 times too large, the number of pixels"),
        (lambda g: g * 24, "it is 24 times too large, the number of pixels of all images"),
        (lambda g: g / -1.7, r"it is 1\.7 times too small and has the wrong sign"),
        (lambda g: 0 * g, "is zero everywhere. Is it computed at all"),
        (lambda g: g + 1, "entries looked at are off"),
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
    with pytest.raises(CheckError, match=r"gradient of 'x' is wrong: it is 2 times too small\. Along"):
        check(lambda x: (x**2, x), lambda dy, x: x * dy, {"x": rng.standard_normal((3, 4))}, rng)


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

    with pytest.raises(CheckError, match=r"gradient of 'x' is wrong: .*of its 10000 entries|entries looked at"):
        check(lambda x: (x**2, x), backward, {"x": rng.standard_normal((100, 100))}, rng)


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
    with pytest.raises(CheckError, match=r"cannot judge 'x', a kink is near: .* with eps = 1e-05 and .* with half of it"):
        check_grad(relu_forward, relu_backward, x, rng)
    check_grad(relu_forward, relu_backward, x, rng, eps=1e-8, rtol=1e-6)
    check_complex_step(relu_forward, relu_backward, x, rng)


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


def test_an_adjoint_goes_the_other_way(rng):
    """Shapes that do not match are reported as such."""
    a = rng.standard_normal((4, 6))
    with pytest.raises(CheckError, match=r"forward makes \(4,\) of \(6,\) and backward makes \(4,\) of \(4,\)"):
        check_adjoint(lambda x: a @ x, lambda y: y, rng.standard_normal(6), rng.standard_normal(4))


def test_a_failed_check_is_an_assertion():
    """pytest shows it as a failed test, and it is one of tinyunet's own errors."""
    assert issubclass(CheckError, AssertionError)
    assert issubclass(CheckError, TinyUNetError)
