"""The kernels on a GPU beside PyTorch on the same arrays, in one process; writes results/gpu-NAME.json as it goes.

    python benchmarks/gpu.py                      all sections, each in a hundred and fifty seconds at most
    python benchmarks/gpu.py --section layers     one of them; the others' results stay in the file
    bash benchmarks/gpu_all.sh                    the tests that need a GPU first

Sections run in processes of their own: a kernel that goes wrong takes its process along, and no other section.

PyTorch is measured in three ways, for its defaults are not its best: (a) as it comes, NCHW and TF32; (b) tuned, channels_last,
cudnn.benchmark and TF32; (c) as (b), but float32 throughout. Times are medians by CUDA events over runs of many launches, which
rotate over several sets of arrays, together larger than the L2 cache. Of kernels it is the GPU's own time: it is held up until
Python has asked for a whole run. Of steps it is the time that passes. Errors are ||y - exact|| / ||exact|| against float64.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import RESULTS, machine

import tinyunet as tu
from tinyunet import backend, cuda, ops
from tinyunet.backend import Array
from tinyunet.catalogue.kernels import check_kernel, kernel_names
from tinyunet.cuda import conv3x3, conv3x3_gradients, upconv2x2

SPEC, BATCHES = tu.PAPER.but(dropout=0.0), (1, 8)
"""Without dropout, which we draw on the host for the sake of equal seeds, and PyTorch on the GPU."""

SECTIONS = ("checks", "maps", "upconvs", "steps", "ladder", "layers")
"""The longest last: where time is short, it is what it has not come to that is missing, and not all of another."""

LIMIT = 150
"""Seconds that a section may take: then it is ended, and what it has measured is kept."""

HOLD = """
extern "C" __global__ void hold(long long clocks) {
  for (const long long began = clock64(); clock64() - began < clocks;) {}
}
"""
CLOCK = 2e9
"""Clocks a second, at least as many as a GPU has: so it is held up too long, if anything."""

BASELINES = {"torch a": (False, True, False), "torch b": (True, True, True), "torch c": (True, False, True)}
"""channels_last, TF32 allowed, cudnn.benchmark"""

PRODUCTS = ("06_pipelined", "08_mma_tf32_pipe", "08_mma_3xtf32_pipe")
LADDER_LAYERS = ("down.1.conv2", "down.3.conv2", "up.2.conv1")
"""Few channels and many pixels, the reverse, and between them."""

DIRECTIONS = ("forward", "grad_x", "grad_w")


class Layer(NamedTuple):
    """A convolution of the network."""

    name: str
    kind: str
    height: int  # of its input
    width: int
    c_in: int
    c_out: int

    @property
    def gflop(self) -> float:
        """Of one direction, for one image: two for every multiply-add."""
        taps, pixels = (9, (self.height - 2) * (self.width - 2)) if self.kind == "conv3x3" else (4, self.height * self.width)
        return 2e-9 * taps * pixels * self.c_in * self.c_out


def layers_of(kind: str, size: int, base: int = 64) -> list[Layer]:
    """All layers of a kind in the paper's network, for images of size x size pixels."""
    return [Layer(step.layer.name, step.layer.kind, *step.in_size, step.layer.c_in, step.layer.c_out)
            for step in tu.shapes.trace(SPEC.but(base=base), size) if step.layer.kind == kind]  # fmt: skip


class Bench:
    """A section at work: the GPU, PyTorch if it is there, and what was found so far."""

    def __init__(self, path: Path, size: int, base: int, repeats: int) -> None:
        self.xp, self.path, self.size, self.base, self.repeats = backend.cupy(), path, size, base, repeats
        self.rng = np.random.default_rng(0)
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.problems: list[str] = []
        self.l2 = self.xp.cuda.Device().attributes.get("L2CacheSize", 2**26)
        self.normals = self.xp.asarray(self.rng.standard_normal(2**22 + 1, dtype=np.float32))
        self.hold = self.xp.RawKernel(HOLD, "hold")
        try:
            import torch
        except ImportError:
            self.torch: Any = None
            self.problems.append("PyTorch is not installed: nothing to compare with")
        else:
            self.torch = torch

    def draw(self, *shape: int) -> Array:
        """Normal values on the GPU. Never zeros, which hide mistakes and run faster.

        They are four million, over and over, from another one on each time: to draw gigabytes takes longer than to measure.
        """
        first, n = int(self.rng.integers(self.normals.size)), math.prod(shape)
        return self.normals[(first + self.xp.arange(n)) % self.normals.size].reshape(shape)

    def milliseconds(self, call: Callable[..., Any], *sets: tuple[Any, ...], ahead: bool = True) -> float:
        """Median over samples of the time of one call, which rotates over the sets of arguments.

        With `ahead` the GPU begins when Python has asked for all calls of a sample: a small layer takes it less time than to ask
        for it takes Python.
        """
        event, elapsed = self.xp.cuda.Event, self.xp.cuda.get_elapsed_time

        def sample(calls: int, hold: float = 0.0) -> tuple[float, float]:
            """Milliseconds of one call, and seconds that it took to ask for all."""
            began, ended = event(), event()
            if hold:
                self.hold((1,), (1,), (np.int64(hold * CLOCK),))
            began.record()
            start = time.perf_counter()
            for k in range(calls):
                call(*sets[k % len(sets)])
            ended.record()
            asked = time.perf_counter() - start
            ended.synchronize()
            return float(elapsed(began, ended)) / calls, asked

        for _ in range(2):  # compiles, loads, and fills the pools of memory
            sample(len(sets))
        ms, asked = sample(len(sets))
        calls = max(len(sets), min(200, math.ceil(4 / max(ms, 1e-3))))  # about four milliseconds a sample
        hold = min(0.1, 1.5 * asked * calls / len(sets)) if ahead else 0.0
        return statistics.median(sample(calls, hold)[0] for _ in range(self.repeats))

    def sets(self, bytes_each: int) -> int:
        """How many sets of arrays are together twice as large as the L2 cache: 2 to 8."""
        return min(8, max(2, math.ceil(2 * self.l2 / max(bytes_each, 1))))

    @contextmanager
    def reported(self, what: str) -> Iterator[None]:
        """What fails inside is written down, and the rest goes on."""
        try:
            yield
        except Exception as error:
            self.problems.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")

    @contextmanager
    def baseline(self, name: str) -> Iterator[bool]:
        """PyTorch set up for one of the baselines; -> whether its arrays are channels_last."""
        last, tf32, benchmark = BASELINES[name]
        cudnn = self.torch.backends.cudnn
        cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark
        self.torch.backends.cuda.matmul.allow_tf32 = tf32
        yield last

    def nchw(self, a: Array, channels_last: bool) -> Any:
        """(N, H, W, C) as PyTorch has it: the same memory where it is channels_last, else a copy."""
        t = self.torch.from_dlpack(a).permute(0, 3, 1, 2)
        return t if channels_last else t.contiguous()

    def kernel_of(self, w: Array, channels_last: bool) -> Any:
        """(K, K, C, O) -> (O, C, K, K), and (2, 2, O, C) of an up-convolution -> (C, O, 2, 2)"""
        order = self.torch.channels_last if channels_last else self.torch.contiguous_format
        return self.torch.from_dlpack(w).permute(3, 2, 0, 1).contiguous(memory_format=order)

    def save(self, section: str, rows: Any) -> None:
        """Put the rows of a section into the file, so that they are kept whatever comes next."""
        self.found[section] = rows
        problems = {**self.found.get("problems", {}), section: self.problems}
        self.found = {**self.found, "machine": about(self.xp, self.torch), "problems": problems}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".new")  # the process may be ended at any time, and half a file is none
        whole.write_text(json.dumps(self.found, indent=1) + "\n")
        whole.replace(self.path)


def about(xp: Any, torch: Any) -> dict[str, Any]:
    """The machine, its GPU, and the versions."""
    runtime = xp.cuda.runtime
    properties = runtime.getDeviceProperties(runtime.getDevice())
    return {**machine(), "gpu": properties["name"].decode(), "cuda": runtime.runtimeGetVersion(), "cupy": xp.__version__,
            "torch": torch.__version__ if torch is not None else None}  # fmt: skip


# The sections --------------------------------------------------------------------------------------------------------


def checks(bench: Bench) -> None:
    """Every kernel against float64, before anything is timed."""
    rows = []
    for op, rung in kernel_names():
        outcome = check_kernel(op, rung, "cuda")
        rows.append({"op": op, "rung": rung, "ok": outcome.ok, "error": min(outcome.error * outcome.bound, 1e9)})
        bench.problems += [f"{op} {rung}: {problem[:300]}" for problem in outcome.problems]
        bench.save("checks", rows)


def maps(bench: Bench) -> None:
    """Operations that do little with much: their bandwidth beside that of a copy."""
    xp, rows = bench.xp, []
    side = bench.size - 4
    shape = (4, side, side, bench.base)
    n = bench.sets(4 * math.prod(shape))
    xs, dys = [bench.draw(*shape) for _ in range(n)], [bench.draw(*shape) for _ in range(n)]
    half = [bench.draw(shape[0], side // 2, side // 2, bench.base) for _ in range(n)]
    gamma, beta = bench.draw(bench.base), bench.draw(bench.base)
    small = [x[:, 4:-4, 4:-4].copy() for x in xs]
    mib = 4 * math.prod(shape) / 2**20
    relus = [ops.relu_forward(x)[1] for x in xs]
    pools = [ops.max_pool_forward(x)[1] for x in xs]
    norms = [ops.batch_norm_forward(x, gamma, beta)[1] for x in xs]
    joined = [ops.crop_concat_forward(s, x)[0] for s, x in zip(small, xs, strict=True)]
    crops = ops.crop_concat_forward(small[0], xs[0])[1]
    labels = xp.asarray(bench.rng.integers(0, 2, shape[:3]).astype(np.int32))
    w, b = bench.draw(1, 1, bench.base, 2), bench.draw(2)
    inner = 4 * math.prod(small[0].shape) / 2**20
    # what it is, the call, its arguments, and MiB that must be read and written
    table: list[tuple[str, Callable[..., Any], list[tuple[Any, ...]], float]] = [
        ("copy", lambda x, y: xp.copyto(y, x), list(zip(xs, dys, strict=True)), 2 * mib),
        ("relu forward", ops.relu_forward, [(x,) for x in xs], 2.25 * mib),
        ("relu backward", ops.relu_backward, list(zip(dys, relus, strict=True)), 2.25 * mib),
        ("max_pool forward", ops.max_pool_forward, [(x,) for x in xs], (1 + 5 / 16) * mib),
        ("max_pool backward", ops.max_pool_backward, list(zip(half, pools, strict=True)), (1 + 5 / 16) * mib),
        ("batch_norm forward", lambda x: ops.batch_norm_forward(x, gamma, beta), [(x,) for x in xs], 4 * mib),
        ("batch_norm backward", ops.batch_norm_backward, list(zip(dys, norms, strict=True)), 5 * mib),
        ("crop_concat forward", ops.crop_concat_forward, list(zip(small, xs, strict=True)), 4 * inner),
        ("crop_concat backward", lambda dy: ops.crop_concat_backward(dy, crops), [(dy,) for dy in joined], 3 * inner + mib),
        ("channel sum", ops.contract.channel_sum, [(x,) for x in xs], mib),
        ("head and loss", lambda x: cuda.head.loss(x, w, b, labels), [(x,) for x in xs], 2 * mib),
    ]  # fmt: skip
    for name, call, arguments, moved in table:
        with bench.reported(name):
            ms = bench.milliseconds(call, *arguments)
            rows.append({"op": name, "ms": ms, "gb_s": moved * 2**20 / ms * 1e-6})
            bench.save("maps", rows)


def exact(bench: Bench, layer: Layer, x: Array, w: Array, dy: Array) -> dict[str, Array]:
    """All three directions in float64, by CuPy's matrix products."""
    x64, w64, dy64 = (a.astype("float64") for a in (x, w, dy))
    if layer.kind == "conv3x3":
        return {"forward": tu.rungs.taps.forward(x64, w64, 0), "grad_x": tu.rungs.taps.grad_x(dy64, w64, 0),
                "grad_w": tu.rungs.taps.grad_w(x64, dy64, 3, 0)}  # fmt: skip
    return {"forward": tu.rungs.gemm.forward(x64, w64), "grad_x": tu.rungs.gemm.grad_x(dy64, w64),
            "grad_w": tu.rungs.gemm.grad_w(x64, dy64)}  # fmt: skip


def off(bench: Bench, found: Array, truth: Array) -> float:
    """||found - truth|| / ||truth||, computed on the GPU"""
    norm = bench.xp.linalg.norm
    return float(norm((found.astype("float64") - truth).ravel()) / norm(truth.ravel()))


def arrays(bench: Bench, layer: Layer, n: int) -> list[tuple[Array, Array, Array]]:
    """Sets of x, w and dy."""
    if layer.kind == "conv3x3":
        out, kernel = (layer.height - 2, layer.width - 2), (3, 3, layer.c_in, layer.c_out)
    else:
        out, kernel = (2 * layer.height, 2 * layer.width), (2, 2, layer.c_out, layer.c_in)
    pixels = layer.height * layer.width * layer.c_in + math.prod(out) * layer.c_out
    return [(bench.draw(n, layer.height, layer.width, layer.c_in), bench.draw(*kernel), bench.draw(n, *out, layer.c_out))
            for _ in range(bench.sets(4 * n * pixels))]  # fmt: skip


def our_calls(layer: Layer, name: str) -> dict[str, Callable[..., Array]]:
    """The directions of a rung, as functions of x, w and dy."""
    if layer.kind == "upconv":
        return {"forward": lambda x, w, dy: upconv2x2.forward(name, x, w),
                "grad_x": lambda x, w, dy: upconv2x2.grad_x(name, dy, w),
                "grad_w": lambda x, w, dy: upconv2x2.grad_w(name, x, dy)}  # fmt: skip
    with tu.rung(conv3x3=conv3x3.FIRST_LAYER if layer.c_in <= 4 and name in PRODUCTS else name):
        probe = backend.cupy().empty((1, 3, 3, layer.c_in), "float32")
        rung = tu.ladder.pick("conv3x3", probe, backend.cupy().empty((3, 3, layer.c_in, layer.c_out), "float32"))
    return {"forward": lambda x, w, dy: rung.forward(x, w, 0), "grad_x": lambda x, w, dy: rung.grad_x(dy, w, 0),
            "grad_w": lambda x, w, dy: rung.grad_w(x, dy, 3, 0)}  # fmt: skip


def their_calls(bench: Bench, layer: Layer) -> dict[str, Callable[..., Any]]:
    """The directions in PyTorch, as functions of x, w and dy."""
    aten = bench.torch.ops.aten
    up = layer.kind == "upconv"
    stride, rest = ([2, 2] if up else [1, 1]), ([0, 0], [1, 1], up, [0, 0], 1)

    def backward(x: Any, w: Any, dy: Any, wanted: list[bool]) -> Any:
        return aten.convolution_backward(dy, x, w, None, stride, *rest, wanted)

    return {"forward": lambda x, w, dy: aten.convolution(x, w, None, stride, *rest),
            "grad_x": lambda x, w, dy: backward(x, w, dy, [True, False, False])[0],
            "grad_w": lambda x, w, dy: backward(x, w, dy, [False, True, False])[1]}  # fmt: skip


def measured(bench: Bench, section: str, rows: list[Any], layer: Layer, n: int, names: tuple[str, ...],
             directions: tuple[str, ...] = DIRECTIONS) -> None:  # fmt: skip
    """Ours and PyTorch's, in all directions of a layer: rows of time and error."""
    ours = arrays(bench, layer, n)
    truth = exact(bench, layer, *ours[0])
    row = {"layer": layer.name, "n": n, "gflop": n * layer.gflop}
    for name in names:
        for direction in directions:
            with bench.reported(f"{name} {direction}, {layer.name}, N={n}"):
                call = our_calls(layer, name)[direction]
                error = off(bench, call(*ours[0]), truth[direction])
                ms = bench.milliseconds(call, *ours)
                rows.append({**row, "direction": direction, "name": name, "ms": ms, "error": error})
    for baseline in BASELINES if bench.torch is not None else ():
        with bench.baseline(baseline) as last:
            theirs = [(bench.nchw(x, last), bench.kernel_of(w, last), bench.nchw(dy, last)) for x, w, dy in ours]
            for direction in directions:
                with bench.reported(f"{baseline} {direction}, {layer.name}, N={n}"):
                    call = their_calls(bench, layer)[direction]
                    result = call(*theirs[0])
                    axes = (2, 3, 1, 0) if direction == "grad_w" else (0, 2, 3, 1)  # back to our layout
                    back = bench.xp.from_dlpack(result.permute(*axes).contiguous())
                    error = off(bench, back, truth[direction])
                    ms = bench.milliseconds(call, *theirs)
                    rows.append({**row, "direction": direction, "name": baseline, "ms": ms, "error": error})
    bench.save(section, rows)


def ladder(bench: Bench) -> None:
    """Every rung, also the slow ones, on three layers: what each step brought."""
    rows: list[Any] = []
    for layer in layers_of("conv3x3", bench.size, bench.base):
        if layer.name in LADDER_LAYERS:
            measured(bench, "ladder", rows, layer, 1, tuple(conv3x3.RUNGS), ("forward",))
            for name in conv3x3_gradients.GRAD_W:
                with bench.reported(f"{name}, {layer.name}"):
                    sets = arrays(bench, layer, 1)
                    ms = bench.milliseconds(lambda x, w, dy, name=name: conv3x3_gradients.grad_w(name, x, dy, 0), *sets)
                    row = {"layer": layer.name, "n": 1, "gflop": layer.gflop}
                    rows.append({**row, "direction": "grad_w", "name": name, "ms": ms})
            bench.save("ladder", rows)


def layers(bench: Bench) -> None:
    """The kernels that run by default, on all 3x3 convolutions of the paper's network."""
    rows: list[Any] = []
    for n in BATCHES:
        for layer in layers_of("conv3x3", bench.size, bench.base):
            with bench.reported(f"{layer.name}, N={n}"):
                measured(bench, "layers", rows, layer, n, PRODUCTS)


def upconvs(bench: Bench) -> None:
    """All rungs on all up-convolutions."""
    rows: list[Any] = []
    for layer in layers_of("upconv", bench.size, bench.base):
        with bench.reported(layer.name):
            measured(bench, "upconvs", rows, layer, 1, tuple(upconv2x2.RUNGS))


def steps(bench: Bench) -> None:
    """A whole step of training: forward, loss, backward, SGD with momentum."""
    rows: list[Any] = []
    for n in BATCHES:
        model = tu.UNet(SPEC.but(base=bench.base), rng=0).to("cuda")
        optimizer = tu.SGD(model, lr=1e-9)  # next to nothing: random images teach nothing
        out = tu.shapes.output_size(model.spec, bench.size)
        x, labels = bench.draw(n, bench.size, bench.size, 1), bench.xp.asarray(bench.rng.integers(0, 2, (n, out, out)))

        def step(model: Any = model, optimizer: Any = optimizer, x: Array = x, labels: Array = labels) -> None:
            _, dlogits = tu.energy(model.forward(x), labels, None)
            model.backward(dlogits)
            optimizer.step()
            model.zero_grad()

        for precision in ("fp32", "tf32", "3xtf32"):
            with bench.reported(f"step in {precision}, N={n}"), cuda.precision(precision):
                rows.append({"n": n, "name": precision, "ms": bench.milliseconds(step, (), ahead=False)})
                bench.save("steps", rows)
        for baseline in BASELINES if bench.torch is not None else ():
            with bench.reported(f"step of {baseline}, N={n}"), bench.baseline(baseline) as last:
                theirs = torch_step(bench, model, bench.nchw(x, last), bench.torch.from_dlpack(labels), last)
                rows.append({"n": n, "name": baseline, "ms": bench.milliseconds(theirs, (), ahead=False)})
                bench.save("steps", rows)


def torch_step(bench: Bench, model: tu.UNet, x: Any, labels: Any, channels_last: bool) -> Callable[[], None]:
    """The same step in PyTorch, from the same weights: its functions, autograd, and its own SGD."""
    torch, order = bench.torch, bench.torch.channels_last if channels_last else bench.torch.contiguous_format
    p: dict[str, Any] = {}
    for name, array in model.params().items():
        t = torch.from_dlpack(array)
        p[name] = (t.permute(3, 2, 0, 1).contiguous(memory_format=order) if t.ndim == 4 else t.clone()).requires_grad_()
    optimizer = torch.optim.SGD(p.values(), lr=1e-9, momentum=0.99)
    f = torch.nn.functional
    depth = model.spec.depth

    def double(name: str, x: Any) -> Any:
        for i in (1, 2):
            x = f.relu(f.conv2d(x, p[f"{name}.conv{i}.w"], p[f"{name}.conv{i}.b"]), inplace=True)
        return x

    def step() -> None:
        y, skips = x, []
        for k in range(depth):
            skips.append(double(f"down.{k}", y))
            y = f.max_pool2d(skips[-1], 2)
        y = double("bottom", y)
        for k in reversed(range(depth)):
            y = f.conv_transpose2d(y, p[f"up.{k}.upconv.w"], p[f"up.{k}.upconv.b"], stride=2)
            skip = skips.pop()
            top, left = (skip.shape[2] - y.shape[2]) // 2, (skip.shape[3] - y.shape[3]) // 2
            y = torch.cat((y, skip[:, :, top : top + y.shape[2], left : left + y.shape[3]]), 1)
            y = double(f"up.{k}", y)
        loss = f.cross_entropy(f.conv2d(y, p["head.w"], p["head.b"]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


# -----------------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=SECTIONS, help="run this one, in this process")
    parser.add_argument("--size", type=int, default=572, help="side of the images in pixels")
    parser.add_argument("--base", type=int, default=64, help="channels of the first level")
    parser.add_argument("--repeats", type=int, default=11, help="samples of every time")
    parser.add_argument("--seconds", type=float, default=math.inf, help="for all sections; what comes too late is left out")
    parser.add_argument("--out", type=Path, help="the file (default results/gpu-NAME.json)")
    args = parser.parse_args(arguments)
    _, where = backend.choose("cuda")
    name = "-".join(where.partition(", ")[2].lower().split())
    path = args.out or RESULTS / f"gpu-{name}.json"
    if args.section is not None:
        globals()[args.section](Bench(path, args.size, args.base, args.repeats))
        return 0
    failed, end = 0, time.monotonic() + args.seconds
    for section in SECTIONS:
        command = [sys.executable, __file__, "--section", section, "--size", str(args.size), "--base", str(args.base),
                   "--repeats", str(args.repeats), "--out", str(path)]  # fmt: skip
        try:
            code = subprocess.run(command, check=False, timeout=max(0, min(LIMIT, end - time.monotonic()))).returncode
        except subprocess.TimeoutExpired:
            code = 124
        failed += code != 0
        ended = {0: "done", 124: "out of time; what it measured before is kept"}
        print(f"{section}: {ended.get(code, f'ended with {code}; what it measured before is kept')}", flush=True)
    for section, problems in json.loads(path.read_text())["problems"].items() if path.exists() else ():
        for problem in problems:
            print(f"{section}: {problem}")
    print(f"written to {path}; the tables: python benchmarks/gpu_tables.py {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
