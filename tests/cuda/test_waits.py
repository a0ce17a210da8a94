"""How often a step of training waits for the GPU, seen on a CuPy without one.

A GPU computes while Python prepares what comes next. Whoever asks for a value, be it to look at a label, waits for all that is
under way, and then the GPU waits for Python.
"""

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.ops.loss import softmax_cross_entropy_forward
from tinyunet.train import _all_finite


class Nothing:
    """A kernel that computes nothing, at once."""

    num_regs, max_dynamic_shared_size_bytes = 32, 0

    def __call__(self, grid, block, args, shared_mem):
        """Leaves its results as they are."""


@pytest.mark.parametrize("kind", [tu.SGD, tu.Adam])
def test_a_step_waits_for_the_loss_alone(kind, fake_cupy, monkeypatch, rng):
    """Twice: for the range and number of the labels together, and for the energy; forward, backward and update never wait."""
    monkeypatch.setattr(fake_cupy.RawModule, "get_function", lambda module, name: Nothing())
    model = tu.UNet(tu.preset("same_bn", base=2, depth=1, dropout=0.5), rng=1).to("cuda")
    optimizer = kind(model, weight_decay=1e-3)
    x = fake_cupy.asarray(rng.standard_normal((1, 8, 8, 1), np.float32))
    labels = fake_cupy.asarray(rng.integers(-1, 2, (1, 8, 8)))
    weights = fake_cupy.asarray(rng.uniform(0, 2, (1, 8, 8)).astype(np.float32))
    waits = [fake_cupy.waits]

    def waited():
        waits.append(fake_cupy.waits)
        return waits[-1] - waits[-2]

    with np.errstate(all="ignore"):  # of whatever lies in the results
        logits = model.forward(x)
        assert waited() == 0
        _, dlogits = tu.energy(logits, labels, weights)
        assert waited() == 2
        model.backward(dlogits)
        optimizer.step()
        model.zero_grad()
        assert waited() == 0
    assert _all_finite([fake_cupy.zeros(3), fake_cupy.ones(4)])
    assert waited() == 1


def test_labels_that_are_no_classes_are_named_by_their_range(fake_cupy):
    """The same words as for labels of the host."""
    logits, labels = np.zeros((1, 2, 2, 3), np.float32), np.array([[[0, -2], [1, 3]]])
    for xp in (np, fake_cupy):
        with pytest.raises(tu.errors.DataError, match=r"labels run from -2 to 3, but there are classes 0 to 2"):
            softmax_cross_entropy_forward(xp.asarray(logits), xp.asarray(labels))
