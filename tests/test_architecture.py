"""Imports go one way: every module is held to a table of what it may import, and `import tinyunet` needs NumPy alone."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tinyunet

ROOT = Path(tinyunet.__file__).parent

# What each part may import of tinyunet, directly. A part is a module, or a package with all its modules, which may import
# one another. A new module fails the test until it is entered here: a moment to think about where it belongs.
ALLOWED = {
    "errors": "",
    "spec": "errors",
    "shapes": "errors spec",
    "backend": "errors",
    "files": "errors",
    "signals": "",
    "parallel": "errors backend",
    "ladder": "errors backend",
    "cuda": "errors backend files ladder",
    "rungs": "errors backend parallel ladder cuda",
    "ops": "errors backend parallel ladder cuda rungs shapes",
    "init": "backend",
    "layers": "errors backend ops init",
    "unet": "errors backend spec shapes ops layers",
    "exchange": "errors backend ops layers unet",
    "optim": "errors backend parallel cuda",
    "planner": "backend parallel files spec shapes ladder rungs",
    "bugs": "errors ladder",  # by name it reaches every module, to change the code in it
    "check": "errors backend ladder ops layers",
    "data": "errors backend files ops",
    "metrics": "errors backend data",
    "inference": "errors backend parallel spec shapes ops unet data",
    "evaluation": "backend unet data metrics inference",
    "checkpoint": "errors backend files spec shapes unet optim data metrics inference evaluation",
    "probe": "backend layers unet",
    "plot": "errors backend files spec shapes cuda ops unet data metrics profile",
    "profile": "errors backend parallel ladder spec shapes layers unet optim data train_config train",
    "train_config": "errors optim data inference",
    "run_folder": "errors files unet data checkpoint train_config",
    "train": "errors backend parallel signals shapes ops unet optim data metrics inference evaluation checkpoint "
    "train_config run_folder",
    "config": "errors files spec data train_config",
    "demo": "errors files spec shapes unet data metrics inference checkpoint plot train_config train config",
    "catalogue": "errors backend files ladder cuda rungs spec shapes init ops layers unet optim bugs check "
    "data metrics inference evaluation checkpoint plot train_config train",
    "course": "errors backend files ladder rungs spec shapes init ops layers unet probe optim cuda check bugs catalogue "
    "data metrics inference plot train_config train",  # exercises are about any of these
    "tinyunet": "errors parallel ladder cuda spec shapes ops unet exchange optim "  # public names
    "check data metrics inference evaluation checkpoint plot train_config train",
    "cli": "tinyunet errors backend parallel cuda ladder planner profile files signals spec shapes unet check "
    "data metrics inference evaluation checkpoint plot train_config train config demo bugs catalogue course",
    "__main__": "cli",
}

# Which parts may import which library. NumPy and the standard library are free to all.
LIBRARIES = {
    "cupy": "backend",
    "scipy": "data metrics inference catalogue planner plot",
    "threadpoolctl": "parallel",
    "PIL": "data course",
    "matplotlib": "plot course",
    "safetensors": "checkpoint",
    "IPython": "course",
    "typer": "cli",
    "rich": "cli",
}


def part_of(dotted):
    """The part that a module belongs to: "tinyunet.ops.conv" -> "ops"; the package itself is "tinyunet"."""
    return dotted.removeprefix("tinyunet.").split(".")[0]


MODULES = {
    ".".join(("tinyunet", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
every_module = pytest.mark.parametrize("module", MODULES)


def imports(node):
    """Every module that an import statement anywhere under a node names; `from tinyunet import ops` names tinyunet.ops."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            if child.module == "tinyunet":
                yield from (f"tinyunet.{alias.name}" for alias in child.names)
            else:
                yield child.module


@cache
def parse(module):
    """The syntax tree of a module."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@every_module
def test_a_module_imports_what_its_part_may(module):
    """Imports within tinyunet, also those inside functions and for types, follow the table."""
    part = part_of(module)
    assert part in ALLOWED, f"{module} is new: enter {part!r} in the table of tests/test_architecture.py"
    used = {part_of(name) for name in imports(parse(module)) if name.split(".")[0] == "tinyunet"} - {part}
    assert used <= set(ALLOWED[part].split()), f"{module} may not import {sorted(used - set(ALLOWED[part].split()))}"


def test_the_table_has_no_cycle():
    """The table is an order: something can be read first, and everything after what it builds on."""
    order = list(TopologicalSorter({part: set(row.split()) for part, row in ALLOWED.items()}).static_order())
    assert order.index("errors") < order.index("ops") < order.index("layers") < order.index("unet") < order.index("train")
    assert set(order) == set(ALLOWED)


@every_module
def test_a_module_uses_the_libraries_of_its_part(module):
    """CuPy only in backend, Matplotlib only in plot, and so on; a library that is not in the table is not used."""
    part = part_of(module)
    for name in {name.split(".")[0] for name in imports(parse(module))} - {"tinyunet", "numpy"} - set(sys.stdlib_module_names):
        assert part in LIBRARIES.get(name, "").split(), f"{module} may not import {name}"


@every_module
def test_only_the_command_line_prints(module):
    """A library leaves standard output alone."""
    calls = [node for node in ast.walk(parse(module)) if isinstance(node, ast.Call)]
    printed = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not printed or part_of(module) == "cli"


def run(code):
    """Run code in a new interpreter, with warnings as errors; fails with its traceback."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_in_numpy_alone():
    """After `import tinyunet`, no other library is loaded."""
    loaded = run(f"import sys, tinyunet; print(*(set({[*LIBRARIES, 'hypothesis', 'pytest']}) & set(sys.modules)))")
    assert loaded.split() == []


def test_the_network_learns_where_only_numpy_is_installed():
    """With all other libraries made impossible to import, every module but the command line loads and a network takes a step."""
    modules = [m for m in MODULES if part_of(m) not in ("cli", "__main__")]
    run(f"""
import importlib, sys
for name in {list(LIBRARIES)}:
    sys.modules[name] = None
for name in {modules}:
    importlib.import_module(name)
import numpy as np
import tinyunet as tu
model = tu.UNet(tu.UNetSpec(base=2, depth=1))
y = model.forward(np.zeros((1, 20, 20, 1), np.float32))
loss, ctx = tu.ops.softmax_cross_entropy_forward(y, np.zeros(y.shape[:3], int))
model.backward(tu.ops.softmax_cross_entropy_backward(ctx))
tu.SGD(model).step()
""")


def test_public_names_exist():
    """Everything in `__all__` is there, and every name that is imported for users is in it."""
    assert all(hasattr(tinyunet, name) for name in tinyunet.__all__)
    assert len(set(tinyunet.__all__)) == len(tinyunet.__all__)
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    names = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(tinyunet.__all__) - {"__version__"}
