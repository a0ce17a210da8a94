"""The catalogue on an op of one's own: read it from a file, run it in a process of its own, say what is wrong.

An op is a pair of functions in one file, or a class or an object with two methods:

    def my_conv_forward(x, w, b): ...  return y, ctx        class MyConv:
    def my_conv_backward(dy, ctx): ... return dx, dw, db        def forward(self, x, w, b): ...
                                                                def backward(self, dy, ctx): ...

`CALLS` has what each subject is called with. That is the whole contract to begin with; what else the catalogue asks (any dtype,
any memory layout, refusing what does not fit) counts as properties of the kind "contract". A convolution whose forward has
no fourth argument `padding` is checked without.

The file may contain anything: it runs in a child process, what it prints goes nowhere, and a property that does not come back
is given up after a while.
"""

from __future__ import annotations

import ast
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyunet.catalogue.core import CATALOGUE, Op, Outcome, Property, check_property, require
from tinyunet.catalogue.laws import no_backward
from tinyunet.check import described, pair_of
from tinyunet.errors import CheckError, ConfigError

LIMIT = 10.0
"""Seconds that one property may take; ours take milliseconds."""

PATIENCE = 3
"""So many properties that do not come back or end the process, and the others are not tried."""


class Call(NamedTuple):
    """How an op is called, and the gradients that its backward returns."""

    forward: str
    gradients: tuple[str, ...]


CALLS = {
    "conv2d": Call("forward(x, w, b), or forward(x, w, b, padding)", ("dx", "dw", "db")),
    "conv1x1": Call("forward(x, w, b), with w of shape (1, 1, C, O)", ("dx", "dw", "db")),
    "upconv": Call("forward(x, w, b), with w of shape (2, 2, O, C)", ("dx", "dw", "db")),
    "max_pool": Call("forward(x)", ("dx",)),
    "relu": Call("forward(x)", ("dx",)),
    "batch_norm": Call("forward(x, gamma, beta, eps=1e-5)", ("dx", "dgamma", "dbeta")),
    "batch_norm_eval": Call("forward(x, gamma, beta, mean, var, eps=1e-5)", ("dx", "dgamma", "dbeta")),
    "dropout": Call("forward(x, rate, rng)", ("dx",)),
    "crop_concat": Call("forward(up, skip)", ("dup", "dskip")),
    "mirror_pad": Call("forward(x, top, bottom, left, right)", ("dx",)),
    "softmax": Call("a function of logits", ()),
    "sigmoid": Call("a function of logits", ()),
    "softmax_cross_entropy": Call("forward(logits, labels, weights=None); backward(ctx) takes no dy", ("dlogits",)),
    "sigmoid_cross_entropy": Call("forward(logits, labels, weights=None); backward(ctx) takes no dy", ("dlogits",)),
}
"""Subject -> how its op is called."""

WORDS = {
    "conv2d": ("conv2d", "conv3x3", "conv"),
    "conv1x1": ("conv1x1", "conv2d1x1", "pointwise"),
    "upconv": ("upconv", "upconv2x2", "deconv", "convtranspose", "transposedconv", "convtransposed", "transposeconv"),
    "max_pool": ("maxpool", "maxpooling", "pool", "pooling"),
    "relu": ("relu",),
    "batch_norm": ("batchnorm", "batchnormalisation", "batchnormalization", "bn", "norm"),
    "batch_norm_eval": ("batchnormeval", "bneval", "normeval"),
    "dropout": ("dropout",),
    "crop_concat": ("cropconcat", "cropandconcat", "concat", "crop"),
    "mirror_pad": ("mirrorpad", "mirror", "reflect", "pad", "padding"),
    "softmax": ("softmax",),
    "sigmoid": ("sigmoid",),
    "softmax_cross_entropy": ("softmaxcrossentropy", "crossentropy", "softmaxloss", "softmaxce", "ce", "loss"),
    "sigmoid_cross_entropy": ("sigmoidcrossentropy", "binarycrossentropy", "bce", "sigmoidloss", "sigmoidce"),
}
"""Subject -> what names of such ops have in them; the longest that fits decides."""


def guess_subject(name: str) -> str:
    """"my_conv" -> "conv2d"

    Raises ConfigError for a name that says nothing.
    """
    plain = "".join(c for c in name.lower() if c.isalnum())
    fits = [(len(word), subject) for subject, words in WORDS.items() for word in words if word in plain]
    if not fits:
        raise ConfigError(f"check: {name!r} does not say what it is. Add --as with one of: {', '.join(CALLS)}.")
    return max(fits, key=lambda fit: fit[0])[1]


def split_target(target: str) -> tuple[Path, str]:
    """"my_file.py:my_conv" -> the file, the name

    Raises ConfigError for a file that is not there or is no Python, and where the name is missing.
    """
    before, _, name = target.rpartition(":")
    path = Path(before) if name.isidentifier() and before else Path(target)
    if not path.is_file():
        raise ConfigError(f"check: there is no file {path}. Give FILE:NAME, e.g. my_file.py:my_conv.")
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"check: {path}{line} is no Python: {getattr(error, 'msg', error)}.") from error
    if path == Path(target):
        raise ConfigError(f"check: which op of {path}? Give {path}:NAME. {_names_in(tree)}")
    return path, name


def _names_in(tree: ast.Module) -> str:
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    pairs = sorted(n.removesuffix("_forward") for n in names if n.endswith("_forward"))
    return f"It has: {', '.join(pairs)}." if pairs else "An op NAME is two functions, NAME_forward and NAME_backward."


def load_op(path: Path, name: str, subject: str) -> Op:
    """Run a file, and take an op out of it: NAME_forward and NAME_backward, or a class or an object NAME with both methods.

    Raises ConfigError if the file fails, or the op is not in it.
    """
    spec = importlib.util.spec_from_file_location("op_of_ones_own", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"check: {path} cannot be run: {type(error).__name__}: {error}.") from error
    name = name.removesuffix("_forward").removesuffix("_backward")
    one = getattr(module, name, None)
    if not CALLS[subject].gradients:  # a plain function
        if not callable(one):
            raise ConfigError(f"check: {path} has no function {name}.")
        return Op(one, no_backward)
    try:
        holder = one() if isinstance(one, type) else one
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"check: {name}() of {path} fails: {what}. Let it need no arguments.") from error
    found = []
    for way in ("forward", "backward"):
        function = getattr(module, f"{name}_{way}", None) or getattr(holder, way, None)
        if not callable(function):
            raise ConfigError(f"check: {path} has no function {name}_{way}, and no {name} with a method {way}.")
        found.append(function)
    return Op(_checked_forward(found[0]), _checked_backward(found[1], CALLS[subject].gradients))


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except SystemExit as end:
        raise CheckError(f"{function.__name__} ends Python with sys.exit({end.code})") from end


def _checked_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)  # keeps the signature, which says whether there is a padding
    def checked(*arguments: Any) -> tuple[Any, Any]:
        y, ctx = pair_of(_called(forward, arguments))
        require(isinstance(y, np.ndarray | float | complex), f"forward returned {described(y)} as y, expected an array")
        return y, ctx

    return checked


def _checked_backward(backward: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    @wraps(backward)
    def checked(*arguments: Any) -> Any:
        result = _called(backward, arguments)
        gradients = tuple(result) if isinstance(result, tuple | list) else (result,)
        require(len(gradients) == len(names), f"backward returned {described(result)}, expected {', '.join(names)}")
        for name, gradient in zip(names, gradients, strict=True):
            require(isinstance(gradient, np.ndarray), f"backward returned {described(gradient)} as {name}, expected an array")
        return gradients[0] if len(names) == 1 else gradients

    return checked


def check_own(
    path: Path, name: str, properties: Sequence[Property], *, seed: int = 0, draws: int = 5, limit: float = LIMIT
) -> Iterator[Outcome]:
    """Run properties of one subject on an op in a file, in a process of its own.

    A property that ends the process, or does not come back within `limit` seconds, fails; the next has a new process.

    Raises ConfigError as `load_op` does.
    """
    left, given_up = list(properties), 0
    start = 20 + limit  # a new Python may take a while on a busy machine
    while left:
        if given_up == PATIENCE:
            yield Outcome(left.pop(0), "", f"not tried, since {PATIENCE} others went as badly", 0.0)
            continue
        with _Child(path, name, left, seed, draws) as child:
            refusal = child.answer(start)
            if refusal is None:
                refusal = f"check: {path} cannot be run: {child.fate(start)}."
            if refusal:
                raise ConfigError(refusal)
            while left:
                answer = child.answer(limit)
                prop = left.pop(0)
                if answer is None:
                    given_up += 1
                    yield Outcome(prop, "", child.fate(limit), limit if child.alive else 0.0)
                    break
                yield Outcome(prop, "", *answer)


class _Child:
    """A process that runs the properties, and is gone at the end of the block."""

    def __init__(self, path: Path, name: str, properties: Sequence[Property], seed: int, draws: int) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would share our state with a stranger
        self.receiver, sender = spawn.Pipe(duplex=False)
        wanted = [prop.name for prop in properties]
        self.process = spawn.Process(
            target=_serve, args=(path, name, properties[0].subject, wanted, seed, draws, sender), daemon=True
        )
        self.process.start()
        sender.close()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.receiver.close()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def answer(self, limit: float) -> Any:
        """What it says next; None if it says nothing in time, or has ended."""
        try:
            return self.receiver.recv() if self.receiver.poll(limit) else None
        except EOFError:
            self.process.join(1)
            return None

    def fate(self, limit: float) -> str:
        if self.alive:
            return f"it does not come back within {limit:g} s; is there a loop that never ends"
        return f"it ends Python, with exit code {self.process.exitcode}"


def _serve(path: Path, name: str, subject: str, wanted: list[str], seed: int, draws: int, sender: Connection) -> None:
    """What the child does: be silent, and answer."""
    import tinyunet.catalogue  # noqa: F401  a new process has no properties yet

    sys.dont_write_bytecode = True
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    answer_all(path, name, subject, wanted, seed, draws, sender)


def answer_all(path: Path, name: str, subject: str, wanted: Sequence[str], seed: int, draws: int, sender: Connection) -> None:
    """Send "", or why there is no op; then (error, seconds) of every property."""
    try:
        op = load_op(path, name, subject)
    except ConfigError as refusal:
        sender.send(str(refusal))
        return
    sender.send("")
    by_name = {prop.name: prop for prop in CATALOGUE[subject]}
    for one in wanted:
        outcome = check_property(by_name[one], op, seed=seed, draws=draws)
        sender.send((outcome.error, outcome.seconds))
