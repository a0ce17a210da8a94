"""Arrays that a GPU does not take like others: those that begin anywhere, and those with more values than 32 bits count.

It moves 16 bytes only from multiples of 16, and is lost to a process that tries others.
"""

import numpy as np
import pytest

from tinyunet.cuda import norm
from tinyunet.cuda.vectors import ints
from tinyunet.errors import ConfigError


@pytest.fixture
def launches(fake_cupy, monkeypatch):
    """Kernels by name with their arguments, instead of running."""
    seen = []
    monkeypatch.setattr(norm.runtime, "run", lambda file, name, grid, block, args, shared=0: seen.append((name, args)))
    return seen


@pytest.mark.parametrize("moved", ["gamma", "beta", "inv_std", "mean"])
def test_a_parameter_cut_out_of_others_is_read_value_by_value(moved, fake_cupy, launches, rng):
    """Each of the four of batch norm, in all kernels that read it as vectors."""
    x, dy = (fake_cupy.asarray(rng.standard_normal((1, 4, 4, 8), np.float32)) for _ in range(2))
    flat = fake_cupy.asarray(rng.standard_normal(9, np.float32))
    parts = {name: flat[1:] if name == moved else flat[:8] for name in ("gamma", "beta", "inv_std", "mean")}
    norm.relu_backward(dy, x, parts["gamma"], parts["beta"], parts["inv_std"], parts["mean"])
    reading = [name for name, args in launches if any(a is parts[moved] for a in args)]
    assert reading == ["norm_sums<float, true>", "norm_dx<float, true>"]
    launches.clear()
    norm.relu_backward(dy, x, *[flat[:8]] * 4)
    assert [name for name, _ in launches if name.startswith("norm")] == ["norm_sums<float4, true>", "norm_dx<float4, true>"]


def test_sizes_beyond_32_bits_are_refused():
    """Before a launch, with the number and what to do; the largest that fits does."""
    assert ints(2**31 - 1, 0) == [2**31 - 1, 0]
    with pytest.raises(ConfigError, match=r"32 bits, and an array has 2147483648 values\. Use smaller tiles or batches"):
        ints(3, 2**31)
