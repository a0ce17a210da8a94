"""The catalogue on an op of one's own: read it from a file, run it in a process of its own, say what is wrong.

An op is a pair of functions in one file, or a class or an object with two methods:

    def my_conv_forward(x, w, b): ...  return y, ctx        class MyConv:
    def my_conv_backward(dy, ctx): ... return dx, dw, db        def forward(self, x, w, b): ...
                                                                def backward(self, dy, ctx): ...

`CALLS` has what each subject is called with. That is the whole contract to begin with; what else the catalogue asks (any dtype,
any memory layout, refusing what does not fit) counts as properties of the kind "contract". A convolution whose forward has
no fourth argument `padding` is checked without.

The file runs in a child process: what Python prints there is kept beside the outcome of each property, and a property that does
not come back is given up after a while, with all processes that it has started. That guards against mistakes and against nothing
else. The file is run with all rights of whoever calls this: it can read, write and delete what they can, and change the checks
themselves. So it is no sandbox, and no grader for people who cheat.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from difflib import get_close_matches
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyunet.catalogue.conv import paddings
from tinyunet.catalogue.core import CATALOGUE, OPS, Draw, Op, Property, check_property, no_backward, require
from tinyunet.catalogue.laws import told
from tinyunet.check import described, pair_of
from tinyunet.errors import CheckError, ConfigError

LIMIT = 10.0
"""Seconds that one property may take; ours take milliseconds."""

PATIENCE = 3
"""So many properties that do not come back or end the process, and the others are not tried."""


KEPT = 2000
"""So many characters of what a property prints are kept."""


class OwnOutcome(NamedTuple):
    """What came of one property of an op of one's own: it holds, `error` says why not, or `skipped` why it was not asked for."""

    property: Property
    error: str = ""
    skipped: str = ""
    output: str = ""  # what the op printed meanwhile, its first KEPT characters
    seconds: float = 0.0
    rung: str = ""  # an op of one's own stands on no ladder


class Call(NamedTuple):
    """How an op is called, the gradients that its backward returns, and what else one has to know."""

    forward: str
    gradients: tuple[str, ...]
    note: str = ""

    @property
    def backward(self) -> str:
        """ "backward(dy, ctx) -> dx", "" for a plain function"""
        dy = "" if self.gradients == ("dlogits",) else "dy, "
        return f"backward({dy}ctx) -> {', '.join(self.gradients)}" if self.gradients else ""


OF_LOSSES = ("backward(ctx) takes no dy: a loss is where it begins. E, the loss, is the mean of -w log p_label over the M pixels "
             "whose label is not -1 (ignored); weights=None stands for ones.")  # fmt: skip

CALLS = {
    "conv2d": Call("forward(x, w, b), or forward(x, w, b, padding)", ("dx", "dw", "db")),
    "conv2d_float32": Call("forward(x, w, b), or forward(x, w, b, padding)", ("dx", "dw", "db"), "Everything is float32 here."),
    "conv1x1": Call("forward(x, w, b), with w of shape (1, 1, C, O)", ("dx", "dw", "db")),
    "upconv": Call("forward(x, w, b), with w of shape (2, 2, O, C)", ("dx", "dw", "db")),
    "max_pool": Call("forward(x)", ("dx",)),
    "relu": Call("forward(x)", ("dx",)),
    "batch_norm": Call("forward(x, gamma, beta, eps=1e-5)", ("dx", "dgamma", "dbeta")),
    "batch_norm_eval": Call("forward(x, gamma, beta, mean, var, eps=1e-5)", ("dx", "dgamma", "dbeta")),
    "dropout": Call("forward(x, rate, rng)", ("dx",)),
    "crop_concat": Call("forward(up, skip)", ("dup", "dskip")),
    "mirror_pad": Call("forward(x, top, bottom, left, right)", ("dx",)),
    "softmax": Call("softmax(logits) -> p", ()),
    "sigmoid": Call("sigmoid(logits) -> p", ()),
    "softmax_cross_entropy": Call("forward(logits, labels, weights=None)", ("dlogits",), OF_LOSSES),
    "sigmoid_cross_entropy": Call("forward(logits, labels, weights=None)", ("dlogits",), OF_LOSSES),
}
"""Subject -> how its op is called."""

WORDS = {
    "conv2d": ("conv2d", "conv3x3", "conv"),
    "conv2d_float32": ("conv2dfloat32", "convfloat32", "winograd"),
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
    "sigmoid_cross_entropy": ("sigmoidcrossentropy", "binarycrossentropy", "bce", "bceloss", "sigmoidloss", "sigmoidce"),
}
"""Subject -> what names of such ops have in them; the longest that fits decides."""

SHORT = 3
"""Up to so many letters a word must stand by itself: "trace" is no cross entropy, "subnet" no batch norm."""


def guess_subject(name: str) -> str:
    """"my_conv" -> "conv2d"

    Raises ConfigError for a name that says nothing.
    """
    parts = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
    plain = "".join(parts)
    fits = [(len(word), subject) for subject, words in WORDS.items() for word in words
            if (word in parts if len(word) <= SHORT else word in plain)]  # fmt: skip
    if not fits:
        near = get_close_matches(name.lower(), CALLS, 1)
        hint = f"Did you mean --as {near[0]}? There are" if near else "Add --as with one of"
        raise ConfigError(f"check: {name!r} does not say what it is. {hint}: {', '.join(CALLS)}.")
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
    except SyntaxError as error:
        code = f" in {error.text.strip()!r}" if error.text else ""
        raise ConfigError(f"check: {path}, line {error.lineno}: SyntaxError: {error.msg}{code}.") from error
    except ValueError as error:
        raise ConfigError(f"check: {path} is no Python: {error}.") from error
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
        where = _line_of(error, path)
        place = f" ({where})" if where else ""
        raise ConfigError(f"check: {path} cannot be run: {type(error).__name__}: {error}{place}.") from error
    name = name.removesuffix("_forward").removesuffix("_backward")
    one = getattr(module, name, None)
    if not CALLS[subject].gradients:  # a plain function
        if not callable(one):
            raise ConfigError(f"check: {path} has no function {name}.")
        return op_of(subject, one, None, path)
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
    return op_of(subject, found[0], found[1], path)


def op_of(
    subject: str, forward: Callable[..., Any] | None, backward: Callable[..., Any] | None, path: Path | None = None
) -> Op:
    """Two functions as an op whose mistakes are told with the line that they come from, in a file or a cell of a notebook.

    Without a forward, ours takes its place. Without a backward, properties that call one are skipped.
    """
    call = CALLS[subject]
    if forward is None:
        first = OPS[subject].forward
    else:
        first = _located(forward, path, call.forward)
        first = _checked_forward(first) if call.gradients else first
    if not call.gradients:
        return Op(first, no_backward)
    return Op(first, _missing if backward is None else _checked_backward(_located(backward, path, call.backward), call.gradients))


class _MissingError(BaseException):
    """There is no backward. No Exception, so that no property takes it for an answer of the op."""


def _missing(*_: Any) -> Any:
    raise _MissingError


def _located(function: Callable[..., Any], path: Path | None, how: str) -> Callable[..., Any]:
    """The function, whose exceptions say the line they come from, or how it is called, and what it was called with."""
    name = getattr(function, "__name__", type(function).__name__)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    path = path or Path(code.co_filename if code else name)

    @wraps(function)  # keeps the signature, which says whether there is a padding
    def located(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except SystemExit as end:
            raise CheckError(f"{name} ends Python with sys.exit({end.code})") from end
        except Exception as error:
            where = _line_of(error, path) or f"{path.name if path.exists() else name}, where it must fit {how}"
            error.add_note(f"{where}; called with {_shapes(function, arguments)}")
            if isinstance(error, TypeError) and any(map(np.iscomplexobj, arguments)):
                error.add_note("The arguments are complex here, for the complex step: allocate with np.zeros(shape, x.dtype)")
            raise

    return located


def _line_of(error: BaseException, path: Path) -> str:
    """ "my_file.py, line 5": the innermost line of the file, or of another in its folder, that an exception passed through; of a
    cell, which is no file, "my_forward, line 5 of its cell" """
    found, frame = "", error.__traceback__
    while frame is not None:
        file = Path(frame.tb_frame.f_code.co_filename)
        if file.exists() and file.resolve().parent == path.resolve().parent:
            found = f"{file.name}, line {frame.tb_lineno}"
        elif file == path:
            found = f"{frame.tb_frame.f_code.co_name}, line {frame.tb_lineno} of its cell"
        frame = frame.tb_next
    return found


def _shapes(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """ "x (1, 5, 5, 2) float64, w (3, 3, 2, 4) float64": arguments by the names that the function gives them"""
    names = [*inspect.signature(function).parameters][: len(arguments)]
    names += [f"argument {k + 1}" for k in range(len(names), len(arguments))]
    shown = (f"{name} {value.shape} {value.dtype}" if isinstance(value, np.ndarray) else
             f"{name}={value!r}" if isinstance(value, int | float | str | None) else f"{name}, {described(value)}"
             for name, value in zip(names, arguments, strict=True))  # fmt: skip
    return ", ".join(shown)


def _checked_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def checked(*arguments: Any) -> tuple[Any, Any]:
        y, ctx = pair_of(forward(*arguments))
        is_right = isinstance(y, np.ndarray | float | complex | np.inexact)  # inexact: a NumPy scalar, as x.sum() gives
        require(is_right, f"forward returned {described(y)} as y, expected an array")
        return y, ctx

    return checked


def _checked_backward(backward: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    @wraps(backward)
    def checked(*arguments: Any) -> Any:
        result = backward(*arguments)
        gradients = tuple(result) if isinstance(result, tuple | list) else (result,)
        require(len(gradients) == len(names), f"backward returned {described(result)}, expected {', '.join(names)}")
        for name, gradient in zip(names, gradients, strict=True):
            require(isinstance(gradient, np.ndarray), f"backward returned {described(gradient)} as {name}, expected an array")
        return gradients[0] if len(names) == 1 else gradients

    return checked


def check_file(
    path: Path, name: str, properties: Sequence[Property], *, seed: int = 0, draws: int = 5, limit: float = LIMIT
) -> Iterator[OwnOutcome]:
    """Run properties of one subject on an op in a file, in a process of its own.

    A property that says nothing of the op is skipped. One that ends the process, or does not come back within `limit` seconds,
    fails; the next has a new process.

    Raises ConfigError as `load_op` does.
    """
    left, given_up = list(properties), 0
    start = 20 + limit  # a new Python may take a while on a busy machine
    while left:
        if given_up == PATIENCE:
            yield OwnOutcome(left.pop(0), f"not tried, since {PATIENCE} others went as badly")
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
                    yield OwnOutcome(prop, child.fate(limit), seconds=limit if child.alive else 0.0)
                    break
                yield OwnOutcome(prop, *answer)


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
        if hasattr(os, "killpg"):
            assert self.process.pid is not None
            with suppress(ProcessLookupError, PermissionError):  # no session yet, or nobody left in it
                os.killpg(self.process.pid, signal.SIGKILL)  # before join: until then nobody else can get this number
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
            return f"it does not come back within {limit:g} s: slow, or never ends? Give it more time with --limit {10 * limit:g}"
        return f"it ends Python, with exit code {self.process.exitcode}"


def _serve(path: Path, name: str, subject: str, wanted: list[str], seed: int, draws: int, sender: Connection) -> None:
    """What the child does: be silent, but for the answers."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that what the file starts can be ended with it
    import tinyunet.catalogue  # noqa: F401  a new process has no properties yet

    sys.dont_write_bytecode = True
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    answer_all(path, name, subject, wanted, seed, draws, sender)


def answer_all(path: Path, name: str, subject: str, wanted: Sequence[str], seed: int, draws: int, sender: Connection) -> None:
    """Send "", or why there is no op; then (error, skipped, output, seconds) of every property."""
    try:
        with redirect_stdout(_FirstLines()) as printed, redirect_stderr(printed):
            op = load_op(path, name, subject)
    except ConfigError as refusal:
        sender.send(str(refusal))
        return
    sender.send("")
    by_name = {prop.name: prop for prop in CATALOGUE[subject]}
    for o in judged(op, [by_name[one] for one in wanted], seed=seed, draws=draws):
        sender.send((o.error, o.skipped, o.output, o.seconds))


def judged(op: Op, properties: Iterable[Property], *, seed: int = 0, draws: int = 5) -> Iterator[OwnOutcome]:
    """Run properties on an op in this process, and keep what it prints meanwhile; what says nothing of it is skipped."""
    for prop in properties:
        if why := says_nothing(prop, op):
            yield OwnOutcome(prop, skipped=why)
            continue
        try:
            with redirect_stdout(_FirstLines()) as printed, redirect_stderr(printed):
                outcome = check_property(_telling(prop), op, seed=seed, draws=draws)
        except _MissingError:
            yield OwnOutcome(prop, skipped="it needs a backward")
            continue
        yield OwnOutcome(prop, outcome.error, "", printed.getvalue(), outcome.seconds)


def says_nothing(prop: Property, op: Op) -> str:
    """Why a property is not for an op of one's own, "" if it is."""
    if (prop.subject, prop.name) == ("conv2d", "a_large_map"):
        return "it is about the strips in which ours works"  # and takes a loop over pixels in Python a minute
    if (prop.subject, prop.name) == ("conv2d", "same_is_valid_of_the_zero_padded_image") and "same" not in paddings(op):
        return "forward takes no fourth argument padding"
    return ""


def _telling(prop: Property) -> Property:
    """The property, whose error has the notes of an exception too."""

    def run(op: Op, draw: Draw) -> None:
        try:
            prop.run(op, draw)
        except Exception as failure:
            raise CheckError(told(failure)) from failure

    return prop._replace(run=run)


class _FirstLines(io.StringIO):
    """What is printed, as far as it is kept: a loop that prints must not fill the memory."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, KEPT - self.tell())])
        return len(text)
