"""Targets that read checkpoints, settings and the command line."""

import atexit
import contextlib
import io
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hostile import EDGES, Target, World, mutations, spoiled, u32
from hypothesis import assume
from hypothesis import strategies as st

from tinyunet import cli
from tinyunet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tinyunet.config import DataConfig, RunConfig, read_tables, write_config
from tinyunet.data.augment import Augment
from tinyunet.data.images import write_image, write_labels
from tinyunet.data.normalize import Normalization
from tinyunet.optim import Adam
from tinyunet.spec import UNetSpec
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

# Checkpoints ---------------------------------------------------------------------------------------------------------

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 3, 13, 1000, 10**9, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "1", "valid",
    "x" * 5000,
    "\u0000", [], [1], ["a", "b"], [[]], {}, {"a": 1}, [None] * 50, "\ud800", [1e400], {"mode": "image"}, -(10**400),
)  # fmt: skip


@cache
def good_checkpoint() -> bytes:
    """A small one with an optimizer's state in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        model = UNet(UNetSpec(base=2, depth=1, norm="batch"), rng=1)
        about = Checkpoint(model, Normalization("dataset", (100.0,), (50.0,)), step=3, best={"step": 2, "mean_iou": 0.5},
                           config=TrainConfig().to_dict())  # fmt: skip
        save_checkpoint(path, about, Adam(model))
        return path.read_bytes()


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """-> header, arrays"""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


ABOUT = ("format", "spec", "normalization", "class_names", "step", "best", "config", "reading", "data", "tail")
SPEC = ("channels", "classes", "base", "depth", "padding", "norm", "dropout", "relu_after_up", "last_up_halves", "stride")
checkpoint_cases = st.tuples(
    st.sampled_from(["bytes", "bytes", "header bytes", "about", "about", "about", "spec", "spec", "normalization", "config",
        "array",
                     "array", "length", "deep", "values", "other", "large header", "twice"]),
    u32, u32, u32, st.just([]) | mutations,
)  # fmt: skip
DTYPES = (
    "BOOL",
    "U8",
    "I8",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "U32",
    "F32",
    "F64",
    "I64",
    "U64",
    "F8_E5M2",
    "F8_E4M3",
    "C64",
    "F4",
    "X",
    "",
)


def changed_checkpoint(what: str, a: int, b: int, c: int, changes: list[Any]) -> bytes:
    data = good_checkpoint()
    header, body = split(data)
    names = [name for name in header if name != "__metadata__"]
    about = json.loads(header["__metadata__"]["tinyunet"])
    junk = JUNK[b % len(JUNK)]
    match what:
        case "bytes":
            return spoiled(data, changes or [("flip", a, b)])
        case "header bytes":
            return spoiled(data[: len(data) - len(body)], changes or [("set", a, b)]) + body
        case "about" | "spec" | "normalization" | "config":
            table = about if what == "about" else about[what]
            keys = {
                "about": ABOUT,
                "spec": SPEC,
                "normalization": ("mode", "mean", "std", "x"),
                "config": tuple(about["config"]),
            }[what]
            for n in range(1 + c % 2):
                key = keys[(a >> 8 * n) % len(keys)]
                if b >> 31:
                    table.pop(key, None)
                else:
                    table[key] = JUNK[(b >> 8 * n) % len(JUNK)]
            header["__metadata__"]["tinyunet"] = json.dumps(about)
        case "array":
            name, entry = names[a % len(names)], header[names[a % len(names)]]
            match b % 8:
                case 0:
                    del header[name]
                case 1:
                    header[f"model.{'x' * (c % 300)}"] = header.pop(name)
                case 2:
                    entry["dtype"] = DTYPES[c % len(DTYPES)]
                case 3:
                    entry["shape"] = [[EDGES[c % 16], EDGES[c // 16 % 16]], [], entry["shape"][::-1], [2**63], [-1], [0], "x"][
                        c % 7
                    ]
                case 4:
                    entry["data_offsets"] = [EDGES[c % 16], EDGES[c // 16 % 16]]
                case 5:  # another type in as many bytes as it needs
                    kind = ("float16", "float64", "int32", "bool", "complex64", "uint64")[c % 6]
                    return with_arrays(lambda arrays: arrays.update({name: np.ones(arrays[name].shape, kind)}))
                case 6:
                    shape = ((), (0,), (1,) * 9, (3, 3, 1, 2), (2, 2))[c % 5]
                    return with_arrays(lambda arrays: arrays.update({name: np.ones(shape, np.float32)}))
                case 7:
                    return with_arrays(lambda arrays: arrays.update({"optimizer." + "x" * (c % 9): np.ones(3, np.int8)}))
        case "values":  # weights that are no numbers, variances below zero
            value = (np.nan, np.inf, -np.inf, 1e38, -1.0, 0.0)[b % 6]
            return with_arrays(lambda arrays: arrays[names[a % len(names)]].fill(value))
        case "length":
            return struct.pack("<Q", (EDGES[a % 16], len(data), 2**40, 2**63, 2**64 - 1)[b % 5]) + data[8:]
        case "deep":
            deep = (b'{"a":' * 50_000, b"[" * 50_000, b'{"__metadata__":' * 999)[a % 3]
            if b % 2:
                header["__metadata__"]["tinyunet"] = deep.decode()
                return joined(header, body)
            return joined(deep, body)
        case "other":
            header["__metadata__"] = (None, {}, {"format": "pt"}, {"tinyunet": junk}, junk, {"tinyunet": json.dumps(junk)})[a % 6]
        case "large header":
            header["__metadata__"]["x"] = "y" * 1_000_000
        case "twice":
            text = json.dumps(header)
            return joined((text[:-1] + ", " + text[1:]).encode(), body)
    return spoiled(joined(header, body), changes)


def with_arrays(change: Any) -> bytes:
    from safetensors.numpy import load, save

    data = good_checkpoint()
    arrays = {name: array.copy() for name, array in load(data).items()}
    change(arrays)
    return save(arrays, metadata=split(data)[0]["__metadata__"])


def play_checkpoint(world: World, case: Any) -> None:
    path = world.folder / "best.safetensors"
    path.write_bytes(changed_checkpoint(*case))
    loaded = world.call((path,), load_checkpoint, path)
    if loaded is None:
        return
    image = np.random.default_rng(1).integers(0, 256, (20, 20), np.uint8)
    with np.errstate(all="ignore"):  # large weights overflow, which is no damage of the file
        y = world.call((path, "image"), loaded.predict, image)
    if y is not None:
        assert y.shape == (20, 20)
        assert y.max() < max(loaded.model.spec.classes, 2)
    assert loaded.min_size >= 0
    again = world.folder / "again.safetensors"
    world.call((again,), save_checkpoint, again, loaded)
    assert load_checkpoint(again).step == loaded.step
    assert sorted(p.name for p in world.folder.iterdir()) == ["again.safetensors", "best.safetensors"]


# Settings ------------------------------------------------------------------------------------------------------------

NAMES = {
    "data": tuple(DataConfig.__dataclass_fields__),
    "network": ("preset", "channels", "classes", "base", "depth", "padding", "norm", "dropout", "relu_after_up",
        "last_up_halves"),
    "train": tuple(TrainConfig.__dataclass_fields__), "augment": tuple(Augment.__dataclass_fields__),
}  # fmt: skip
VALUES = (
    "1", "0", "-1", "2", "3", "1000", "1e9", "10000000000", "1" + "0" * 400, "1" + "0" * 5000, "0.5", "-0.0", "1e308", "1e999",
    "nan",
    "-inf", "true", "false", '""', '"x"', '"valid"', '"none"', '"\\u0000"', "'''a\nb'''", "[]", "[1]", '["a", "b"]',
    '["a", 1]', "{}",
    "{a = 1}", "1979-05-27", "07:32:00", "0x10", "0b1", "+99", "1_000", '"' + "x" * 9000 + '"', "[" * 30 + "]" * 30,
    "[" * 5000, '"paper"',
    '"same_bn"', '"sgd"', '"0:0,255:1"', '"binary"', '"instances"', '"../../x"', '"/dev/zero"', '"\\ud800"', '"\U0001f9a0"',
    "]", "=",
    '["background", "cell"]', '"batch"', '"cosine"', '"balance"', '"random"',
)  # fmt: skip
FITTING = ("1", "2", "4", "0.25", "0", "true", "false", "-1", "1e9", "1000000000", "nan", "inf")
RAW = (
    b"\xff\xfe[\0t\0", b"\xef\xbb\xbf[train]\nsteps = 1\n", b"[train]\nsteps = 1\n\0", b"\xc3\x28 = 1\n", b"a" * 2_000_000,
        b"[" * 100_000,
    b"a." * 2000 + b"b = 1", b"[train]\n" * 2, b"[[train]]\n[[train]]\n", b"train.steps = 1\ntrain.steps = 2\n", b"", b"# only\n",
    b"x = " + b"{a = " * 3000, b"PK\x03\x04", b'[data]\npath = "' + b"\\" * 9 + b'"\n', b"[train.augment]\nflips = true\n",
    b"x = [" + b"1," * 30_000 + b"]\n", b"[data]\r\npath = \"a\"\r\n",
)  # fmt: skip
lines = st.lists(
    st.sampled_from(sorted(NAMES)).flatmap(
        lambda table: st.tuples(
            st.just(table),
            st.sampled_from([*NAMES[table]] * 4 + ["stepz", "", "a.b", '"steps"', "ä"]),
            st.sampled_from(FITTING) | st.sampled_from(VALUES),
        )
    ),
    max_size=4,
    unique_by=lambda line: line[:2],
)
config_cases = st.tuples(
    lines,
    st.one_of(st.none(), st.none(), st.none(), st.sampled_from(RAW)),
    st.just([]) | st.just([]) | mutations,
    st.sampled_from(["file"] * 9 + ["folder", "missing", "loop", "device", "long name"]),
)


def play_config(world: World, case: Any) -> None:
    found, raw, changes, where = case
    path = world.folder / ("run.toml" if where != "long name" else "x" * 300)
    if where == "file":
        text = "".join(f"[{table}]\n" + "".join(f"{key} = {value}\n" for name, key, value in found if name == table)
                       for table in NAMES if any(name == table for name, _, _ in found))  # fmt: skip
        path.write_bytes(spoiled(raw if raw is not None else text.encode(), changes))
    elif where == "folder":
        path.mkdir()
    elif where == "loop":
        path.symlink_to(path.name)
    elif where == "device":
        path.symlink_to("/dev/zero")
    tables = world.call((path,), read_tables, path)
    if tables is None:
        return
    run = RunConfig.from_tables(tables)
    world.call(("UNetSpec", "preset"), run.network.spec)
    again = world.folder / "again.toml"

    def write_and_read() -> None:
        write_config(again, run)
        back = RunConfig.from_tables(read_tables(again))
        assert repr((back.network, back.train)) == repr((run.network, run.train))  # repr: NaN is NaN

    world.call(("TOML", again), write_and_read)


# Command line --------------------------------------------------------------------------------------------------------


@cache
def stage() -> Path:
    """A folder with images, masks, a checkpoint and things that are none of these; made once."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-stage-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = np.random.default_rng(1)
    for name in ("images", "masks"):
        (folder / "cells" / name).mkdir(parents=True)
    for i in range(3):
        labels = np.zeros((24, 24), np.uint8)
        labels[4:12, 3 + i : 15] = labels[16:20, 4:9] = 1
        write_image(folder / "cells" / "images" / f"{i}.png", rng.integers(0, 256, (24, 24), np.uint8))
        write_labels(folder / "cells" / "masks" / f"{i}.png", labels)
    (folder / "empty").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxxxx")
    (folder / "text.txt").write_text("hello")
    (folder / "run.toml").write_text('[data]\npath = "cells"\n[network]\nbase = 2\ndepth = 1\n[train]\nsteps = 1\ntile = 20\n')
    (folder / "broken.toml").write_text("[train\n")
    (folder / "best.safetensors").write_bytes(good_checkpoint())
    (folder / "broken.safetensors").write_bytes(good_checkpoint()[:300])
    np.savez(folder / "cells.npz", images=rng.integers(0, 256, (3, 24, 24), np.uint8), labels=np.tile(labels, (3, 1, 1)))
    with contextlib.chdir(folder):  # what is imported when first used is no case's time
        assert run_command(["train", "--config", "run.toml", "--out", "run"]) == (0, "")
    return folder


PATHS = (
    "cells",
    "cells",
    "cells/images",
    "cells/images/0.png",
    "cells.npz",
    "empty",
    "loop",
    "broken.png",
    "text.txt",
    "nowhere",
    "",
    ".",
    "a\0b",
    "x" * 300,
    "best.safetensors",
    "broken.safetensors",
    "run.toml",
    "\udcff",
    "a\nb",
    "[red]",
    "/dev/null",
    "/dev/zero", "pipe",
    "loop/x",
    "text.txt/x",
)
WORDS = (
    "",
    "x",
    "none",
    "valid",
    "same",
    "batch",
    "sgd",
    "adam",
    "binary",
    "instances",
    "classes",
    "0:0,1:1",
    "0:0,255:1",
    "a,b",
    "mirror4",
    "dihedral8",
    "rotate7",
    "png",
    "tif",
    "\0",
    "[b]",
    "x" * 2000,
    "ä",
    "auto",
    "folder",
    "npz",
    "paper",
    "same_bn",
    "cosine",
    "balance",
    "components",
    "ids",
    "GT",
    "--",
    "-h",
    "0x1",
)
NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "3",
    "16",
    "24",
    "13",
    "1000",
    "1000000000",
    "1" + "0" * 30,
    "1e9",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e-300",
    "x",
    "",
    "99999999999999999999999999",
    "1" * 5000,
)
OPTIONS = {
    "train": {
        "paths": ("--out", "--config", "--masks", "--val-data", "--val-masks"),
        "words": ("--format", "--kind", "--label-map", "--class-names", "--instances", "--preset", "--padding", "--norm",
            "--optimizer",
                  "--schedule", "--weight-map", "--balance", "--normalization", "--split", "--sequence", "--source"),
        "numbers": ("--channels", "--classes", "--base", "--depth", "--dropout", "--batch", "--tile", "--lr", "--momentum",
                    "--weight-decay", "--warmup", "--w0", "--sigma", "--border", "--validate-every", "--save-every", "--min-size",
                    "--max-mem", "--seed", "--shift", "--rotation", "--scale", "--elastic", "--grid", "--gain", "--offset",
                    "--gamma",
                    "--order", "--val"),
        "flags": ("--resume", "--partial", "--drop-alpha", "--no-augment", "--augment", "--flips", "--relu-after-up", "--bogus"),
    },
    "predict": {
        "paths": ("--out",), "words": ("--suffix", "--average"), "numbers": ("--min-size", "--max-mem", "--tile-in"),
        "flags": ("--proba", "--no-labels", "--no-instances", "--overwrite", "--bogus"),
    },
    "evaluate": {
        "paths": ("--masks", "--json"),
        "words": ("--format", "--kind", "--label-map", "--class-names", "--instances", "--sequence", "--source", "--average"),
        "numbers": ("--min-size", "--max-mem", "--tile-in"), "flags": ("--partial", "--drop-alpha", "--em", "--each", "--bogus"),
    },
    "shapes": {
        "paths": (), "words": ("--preset", "--padding", "--norm"),
        "numbers": ("--channels", "--classes", "--base", "--depth"), "flags": ("--bogus",),
    },
    "demo": {"paths": (), "words": ("--kind",), "numbers": ("--seed",), "flags": ("--quick", "--bogus")},
}  # fmt: skip


def option_of(command: str) -> st.SearchStrategy[list[str]]:
    known = OPTIONS[command]
    kinds = [st.tuples(st.sampled_from(known["flags"])).map(list)]
    for kind, values in (("paths", PATHS), ("words", WORDS), ("numbers", NUMBERS)):
        if known[kind]:
            kinds.append(st.tuples(st.sampled_from(known[kind]), st.sampled_from(values)).map(list))
    return st.one_of(*kinds)


paths = st.sampled_from(PATHS)
command_cases = st.one_of(
    st.tuples(st.just("train"), st.tuples(paths | st.just("cells")), st.lists(option_of("train"), max_size=4)),
    st.tuples(st.just("predict"), st.tuples(st.just("best.safetensors") | paths, st.just("cells/images") | paths),
              st.lists(option_of("predict"), max_size=4)),
    st.tuples(st.just("evaluate"), st.tuples(st.just("best.safetensors") | paths, st.just("cells") | paths),
              st.lists(option_of("evaluate"), max_size=4)),
    st.tuples(st.just("shapes"), st.lists(st.sampled_from(NUMBERS), max_size=2), st.lists(option_of("shapes"), max_size=4)),
    st.tuples(st.just("demo"), st.just(("--kind", "bogus")), st.lists(option_of("demo").filter(lambda o: o[0] != "--kind"),
        max_size=2)),
    st.tuples(st.sampled_from(["", "trian", "-h", "--version", "--bogus", "x" * 999, "\0"]), st.just(()), st.just([])),
)  # fmt: skip


def run_command(arguments: list[str]) -> tuple[int, str]:
    """The command in this process -> exit code, stderr. What leaves it other than by SystemExit is a traceback for the user."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["tinyunet", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        return int(ended.code or 0), err.getvalue()
    finally:
        sys.argv = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0, err.getvalue()


def play_command(world: World, case: Any) -> None:
    command, positional, options = case
    arguments = [command, *positional, *(word for option in options for word in option)]
    defaults: list[str] = []
    if command == "train":  # what is not under test is small; what is given later wins
        defaults = ["--base", "2", "--depth", "1", "--tile", "20", "--steps", "1", "--warmup", "0", "--dropout", "0"]
    if command in ("predict", "train"):
        defaults += ["--out", str(world.folder / "out")]
    arguments = [arguments[0], *defaults, *arguments[1:]]
    written = [option[-1] for option in options if option[0] in ("--out", "--json")]
    # What lies outside this case's folder is no place to write: not even a device, for root could replace it.
    assume(not any(path.startswith("/") for path in written))
    work = world.folder / "stage"
    shutil.copytree(stage(), work, symlinks=True)
    os.mkfifo(work / "pipe")
    with contextlib.chdir(work):
        code, said = world.call((), run_command, arguments)
    assert code in (0, 1, 2), (code, said)
    if code:
        assert "Traceback" not in said
        message = " ".join(said.replace("│", " ").split())
        names = [*(Path(word).name for word in arguments if word.strip()), *(option[0] for option in options),
                 *(option[0].lstrip("-").replace("-", "_") for option in options), "COMMAND", "option", "argument", "[data]",
                 "broken.png", str(work)]  # fmt: skip
        shown = [name.encode("utf-8", "backslashreplace").decode() for name in names if name]
        world.refused(message, tuple(" ".join(name.split()) for name in shown))
    assert (work / "pipe").is_fifo(), "a pipe was replaced"
    left = list(world.folder.rglob(".*-*"))  # as atomic_write calls what is not finished
    assert not left, f"left behind: {left}"


TARGETS = (
    Target("checkpoints", checkpoint_cases, play_checkpoint, 1500,
           "safetensors: cut, flipped, lengths, types, shapes and offsets that lie, absurd specs, deep JSON, NaN weights; "
           "loaded ones predict and are saved again"),
    Target("settings", config_cases, play_config, 1200,
           "TOML: wrong types and names, huge numbers, deep nesting, invalid UTF-8, devices; accepted ones are written again"),
    Target("command line", command_cases, play_command, 500,
           "random options and values of every command, by `tinyunet.cli.main` in this process"),
)  # fmt: skip
