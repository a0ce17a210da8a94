"""What a property is, how the numbers in it are drawn, and how it is run. The properties themselves stand in the files beside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np

from tinyunet import ops
from tinyunet.errors import CheckError, ConfigError

T = TypeVar("T")

Kind = Literal["reference", "gradient", "adjoint", "invariance", "convention", "contract"]
"""reference: equals a loop or a trusted library. gradient: differences or a complex step. adjoint: <Ax, y> = <x, A'y>.
invariance: a law that holds for any values. convention: a choice that is pinned (ties, order, offsets). contract: dtype,
layout, purity, errors."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which one would mend an op."""


class Op(NamedTuple):
    """A pair under test: y, ctx = forward(...); gradients = backward(dy, ctx)."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def no_backward(*_: Any) -> Any:
    """The backward of a subject that is a plain function."""
    raise NotImplementedError("probabilities have no backward pass of their own")


OPS: dict[str, Op] = {
    "conv2d": Op(ops.conv2d_forward, ops.conv2d_backward),
    "conv2d_float32": Op(ops.conv2d_forward, ops.conv2d_backward),
    "conv1x1": Op(ops.conv2d_forward, ops.conv2d_backward),
    "upconv": Op(ops.upconv_forward, ops.upconv_backward),
    "max_pool": Op(ops.max_pool_forward, ops.max_pool_backward),
    "relu": Op(ops.relu_forward, ops.relu_backward),
    "batch_norm": Op(ops.batch_norm_forward, ops.batch_norm_backward),
    "batch_norm_eval": Op(ops.batch_norm_eval_forward, ops.batch_norm_eval_backward),
    "dropout": Op(ops.dropout_forward, ops.dropout_backward),
    "crop_concat": Op(ops.crop_concat_forward, ops.crop_concat_backward),
    "mirror_pad": Op(ops.mirror_pad_forward, ops.mirror_pad_backward),
    "softmax": Op(ops.softmax, no_backward),
    "sigmoid": Op(ops.sigmoid, no_backward),
    "softmax_cross_entropy": Op(ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward),
    "sigmoid_cross_entropy": Op(ops.sigmoid_cross_entropy_forward, ops.sigmoid_cross_entropy_backward),
}
"""Subject -> our implementation. A subject of the catalogue that is not here is no op."""


class Draw:
    """Where a property gets its geometry and its values from.

    Sizes are drawn by `integer` and `choice`; a test lets Hypothesis answer these, so that a failing case shrinks. Values come
    from `rng`, seeded by one drawn integer: well-conditioned, and the same every time.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._source = rng
        self.rng = np.random.default_rng(self.integer(0, 2**32 - 1))

    def integer(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self._source.integers(low, high, endpoint=True))

    def choice(self, options: Sequence[T]) -> T:
        """One of several."""
        return options[self.integer(0, len(options) - 1)]


class Property(NamedTuple):
    """One law of one part. `run(op, draw)` raises CheckError where it does not hold; op is None for what is no op."""

    subject: str  # "conv2d", "weight_map", ...
    name: str  # "adjoint_in_x"
    kind: Kind
    says: str  # the law in one sentence, as a student reads it
    run: Callable[[Any, Draw], None]


def order_of_mending(prop: Property) -> int:
    """Forward first, then its gradient, then the rest."""
    return KINDS.index(prop.kind)


def is_gradient_check(kind: str, name: str, *ways: str) -> bool:
    """Whether a property compares backward with how forward changes, by differences or a complex step, or some of these ways."""
    return kind == "gradient" and any(way in name for way in ways or ("differences", "complex_step"))


class Outcome(NamedTuple):
    """What came of checking one property."""

    property: Property
    rung: str  # of the ladder, "" where there is none
    error: str  # what is wrong, "" if the property holds
    seconds: float


CATALOGUE: dict[str, list[Property]] = {}
"""subject -> its properties"""


def holds(subject: str, kind: Kind) -> Callable[[Callable[[Any, Draw], None]], Callable[[Any, Draw], None]]:
    """Enter a function into the catalogue; its name is the property's, the first line of its docstring is the law."""

    def enter(run: Callable[[Any, Draw], None]) -> Callable[[Any, Draw], None]:
        properties = CATALOGUE.setdefault(subject, [])
        if not run.__doc__ or any(p.name == run.__name__ for p in properties):
            raise ConfigError(f"catalogue: {subject}.{run.__name__} needs a docstring and a name of its own.")
        properties.append(Property(subject, run.__name__, kind, run.__doc__.strip().splitlines()[0], run))
        return run

    return enter


def require(law: bool | np.bool_, message: str) -> None:
    """Raise CheckError unless a law holds. The message says what was found and what it should be."""
    if not law:
        raise CheckError(message)


def require_close(what: str, found: Any, expected: Any, *, rtol: float = 1e-12, scale: float = 0.0) -> None:
    """Raise CheckError unless two arrays agree within rtol of the largest expected value; names the worst entry.

    scale is the size of what was added up, where that may be much larger than the sum.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    require(found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}")
    if not expected.size:
        return
    gaps = np.abs(found - expected)
    scale = max(float(np.abs(expected).max()), scale) or 1.0
    if not gaps.max() <= rtol * scale:  # "not <=" so that a NaN fails
        worst = np.unravel_index(int(np.nan_to_num(gaps, nan=np.inf).argmax()), gaps.shape)
        where = f" at [{', '.join(str(int(i)) for i in worst)}]" if worst else ""
        raise CheckError(f"{what} is {found[worst]:.9g}{where}, expected {expected[worst]:.9g}")


def check_property(prop: Property, op: Op | None = None, *, rung: str = "", seed: int = 0, draws: int = 5) -> Outcome:
    """Run one property on several draws, until it fails. An exception of any kind is a failure.

    op  yours, or else ours of this subject; of a subject that is no op, what comes with tinyunet is checked in any case
    """
    op = OPS.get(prop.subject) if op is None else op
    began, error = time.perf_counter(), ""
    for k in range(draws):
        try:
            prop.run(op, Draw(np.random.default_rng((seed, k))))
        except Exception as failure:  # a planted bug may raise anything
            error = str(failure) if isinstance(failure, CheckError) else f"{type(failure).__name__}: {failure}"
            if op is None and isinstance(failure, AttributeError) and failure.obj is None and failure.name in Op._fields:
                error = f"we have no op {prop.subject!r}. Hand yours over: check_property(prop, Op(forward, backward))"
            break
    return Outcome(prop, rung, error, time.perf_counter() - began)


def properties(subjects: Iterable[str] | None = None) -> Iterator[Property]:
    """All properties of some subjects, or of all; ConfigError for a subject that there is none of."""
    for subject in CATALOGUE if subjects is None else subjects:
        if subject not in CATALOGUE:
            raise ConfigError(f"catalogue: there is no {subject!r}. There are: {', '.join(CATALOGUE)}.")
        yield from CATALOGUE[subject]
