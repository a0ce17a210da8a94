"""What a planted bug is, and how it gets into running code and out again."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from tinyunet import ladder
from tinyunet.errors import ConfigError


class Edit(NamedTuple):
    """One replacement in the source of one function, method, property or module constant."""

    where: str  # "tinyunet.ops.pool:max_pool_backward", "tinyunet.layers:BatchNorm.forward"
    old: str  # occurs exactly once there
    new: str


class Bug(NamedTuple):
    """A small change that makes something wrong. Most bugs need one edit; one that is to hide from a gradient check may need
    a second, so that backward is wrong in the same way as forward."""

    name: str
    subjects: tuple[str, ...]  # of the catalogue, whose properties are expected to see it
    says: str  # what is wrong and how it shows, in one sentence
    edits: tuple[Edit, ...]
    shipped: str = ""  # threads of projects that had it: "owner/repo#1, owner/repo PR#2, in like manner"
    known: str = ""  # where else it is known from: a paper, a definition, a habit
    differentiable: bool = False  # whether it lies in what a forward or a backward pass computes

    @property
    def where(self) -> str:
        """The place of the first edit."""
        return self.edits[0].where

    @property
    def rungs(self) -> dict[str, str]:
        """The rungs of the ladder that the bug is in, {} if it is in none: {"conv3x3": "taps"}."""
        module, _, function = self.where.partition(":")
        package, _, name = module.rpartition(".")
        if package != "tinyunet.rungs":
            return {}
        return {"upconv2x2" if name == "gemm" or function.startswith("upconv") else "conv3x3": name}

    @property
    def note(self) -> str:
        """What planting does besides: "It is in the rung conv3x3='taps', which planting picks." "" if it is in no rung."""
        module = self.where.partition(":")[0]
        return "".join(f"It is in the rung {op}={name!r}, which planting picks{RUNGS.get(module, '')}."
                       for op, name in self.rungs.items())  # fmt: skip


RUNGS = {
    "tinyunet.rungs.loops": ": loops in Python, a hundred times slower, so take small images",
    "tinyunet.rungs.winograd1d": "; it takes float32 alone",
    "tinyunet.rungs.winograd": "; it takes float32 alone",
}
"""What one has to know of a rung that is picked because a bug is in it."""

WITH_BACKWARD = frozenset((
    "conv2d", "conv2d_float32", "conv1x1", "upconv", "max_pool", "relu", "batch_norm", "batch_norm_eval", "batch_norm_layer",
    "dropout", "crop_concat", "mirror_pad", "softmax_cross_entropy", "sigmoid_cross_entropy", "unet",
))  # fmt: skip
"""Subjects of the catalogue that have a backward pass."""

BUGS: dict[str, Bug] = {}
"""name -> bug"""


def bug(
    name: str,
    subjects: str,
    says: str,
    *edits: Edit,
    shipped: str = "",
    known: str = "",
    differentiable: bool | None = None,
) -> None:
    """Enter a bug. Several subjects are separated by spaces; it is differentiable if the first is, unless told otherwise."""
    if name in BUGS:
        raise ConfigError(f"bugs: there are two bugs called {name!r}. Rename one.")
    of = tuple(subjects.split())
    BUGS[name] = Bug(name, of, says, edits, shipped, known, of[0] in WITH_BACKWARD if differentiable is None else differentiable)


@contextmanager
def plant(name: str) -> Iterator[Bug]:
    """Inside the `with` block, tinyunet has this bug; after it, also after an exception, it has not.

        with plant("relu_on_logits"):
            model.forward(x)

    Functions keep their identity and get other code, so that everyone who imported them by name sees the bug.

    A bug in a rung of the ladder also picks this rung by hand, or it would not be seen: `Bug.rungs` says which, `Bug.note` what
    that means. Some are in "loops", which is a hundred times slower than what runs usually.

    Not for threads: whatever else runs in this process has the bug too.

    Raises ConfigError for a name that does not exist, and if the source is not what the bug was written for.
    """
    bug = _bug(name)
    with ExitStack() as undo:
        for where, edits in _by_place(bug).items():
            undo.enter_context(_swapped(bug, where, edits))
        undo.enter_context(ladder.rung(**bug.rungs))
        undo.callback(empty_caches)
        empty_caches()
        yield bug


def diff(name: str) -> str:
    """A bug as a unified diff, with the names and line numbers of the real files.

    Of a bug in a rung, a line in front says that `plant` picks this rung, and what that means; `patch` reads over it.

    Raises ConfigError for a name that does not exist.
    """
    bug = _bug(name)
    files: dict[ModuleType, list[tuple[Place, list[Edit]]]] = {}
    for where, edits in _by_place(bug).items():
        place = find(where)
        files.setdefault(place.module, []).append((place, edits))
    shown = [f"# {bug.note}"] if bug.note else []
    for module, changes in files.items():
        before = inspect.getsource(module).splitlines()
        after = before.copy()
        for place, edits in sorted(changes, key=lambda change: -change[0].line):  # from the end, so that lines keep their numbers
            last = place.line - 1 + len(place.source.splitlines())
            after[place.line - 1 : last] = _edited(bug, place.source, edits).splitlines()
        file = module.__name__.replace(".", "/") + ".py"
        shown += difflib.unified_diff(before, after, f"a/{file}", f"b/{file}", lineterm="", n=2)
    return "\n".join(shown) + "\n"


class Place(NamedTuple):
    """Where a bug goes."""

    module: ModuleType
    target: Any  # the function under all decorators; None for a constant
    source: str  # as in the file, with its indentation
    line: int


def _bug(name: str) -> Bug:
    if name not in BUGS:
        near = difflib.get_close_matches(name, BUGS, 3) or list(BUGS)[:3]
        raise ConfigError(f"there is no bug {name!r}. There are {len(BUGS)} in tinyunet.bugs.BUGS, e.g. {', '.join(near)}.")
    return BUGS[name]


def _by_place(bug: Bug) -> dict[str, list[Edit]]:
    places: dict[str, list[Edit]] = {}
    for edit in bug.edits:
        places.setdefault(edit.where, []).append(edit)
    return places


def find(where: str) -> Place:
    """The function or constant that an edit names."""
    module_name, _, path = where.partition(":")
    module = importlib.import_module(module_name)
    found: Any = module
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    while hasattr(found, "__wrapped__"):  # by a decorator, or as a class method
        found = found.__wrapped__
    if not isinstance(found, FunctionType):
        return _constant(module, path)
    try:
        lines, line = inspect.getsourcelines(found)
    except OSError as error:
        raise ConfigError(f"{where}: there is no source to change ({error}). Is a bug planted there already?") from None
    return Place(module, found, "".join(lines), line)


def empty_caches() -> None:
    """Nothing that was computed with a bug, or without it, is remembered beyond its time."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "tinyunet":
            for value in list(vars(module).values()):
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()


def _constant(module: ModuleType, name: str) -> Place:
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
            return Place(module, None, "\n".join(lines), node.lineno)
    raise ConfigError(f"{module.__name__}:{name} is neither a function nor a constant of the module.")


def _edited(bug: Bug, source: str, edits: list[Edit]) -> str:
    for edit in edits:
        if (count := source.count(edit.old)) != 1:
            raise ConfigError(
                f"bug {bug.name!r}: {edit.old!r} occurs {count} times in {edit.where}, expected once. The code has "
                "changed: write the bug anew for what stands there now."
            )
        source = source.replace(edit.old, edit.new)
    return source


@contextmanager
def _swapped(bug: Bug, where: str, edits: list[Edit]) -> Iterator[None]:
    """One function or constant with its edits."""
    place = find(where)
    source, name = _edited(bug, place.source, edits), where.rpartition(":")[2]
    target = place.target
    if target is None:  # those who imported a constant by name keep the value that it had
        kept = getattr(place.module, name)
        scope: dict[str, Any] = {}
        exec(source, vars(place.module), scope)
        setattr(place.module, name, scope[name])
        try:
            yield
        finally:
            setattr(place.module, name, kept)
        return
    wrong = _compiled(bug, source, target)
    right = target.__code__, target.__defaults__, target.__kwdefaults__
    target.__code__, target.__defaults__, target.__kwdefaults__ = wrong.__code__, wrong.__defaults__, wrong.__kwdefaults__
    try:
        yield
    finally:
        target.__code__, target.__defaults__, target.__kwdefaults__ = right


def _compiled(bug: Bug, source: str, target: FunctionType) -> FunctionType:
    """The function of this source, in the namespace of the function whose place it takes.

    Code can be exchanged only for code with the same free variables: a method that calls super() has one, its class. So the
    function is compiled inside another one that has these variables.
    """
    function = ast.parse(textwrap.dedent(source)).body[0]
    assert isinstance(function, ast.FunctionDef)
    function.decorator_list = []  # they stay where they are, around the function whose code is exchanged
    free = target.__code__.co_freevars
    outer = ast.parse(f"def outer({', '.join(free)}): return {function.name}")
    outer.body[0].body.insert(0, function)  # type: ignore[attr-defined]
    lazy = annotations.compiler_flag  # as every file of tinyunet asks for: annotations are not evaluated
    code = compile(ast.fix_missing_locations(outer), f"<planted bug {bug.name}>", "exec", lazy, dont_inherit=True)
    scope: dict[str, Any] = {}
    exec(code, target.__globals__, scope)
    wrong: FunctionType = scope["outer"](*free)
    return wrong
