"""`tinyunet check`: right ops of one's own pass, wrong ones are told how they are wrong, and none harms the table."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from tinyunet import cli
from tinyunet.catalogue import CATALOGUE, OPS, Op, Property, check_property, properties
from tinyunet.catalogue.conv import paddings
from tinyunet.catalogue.laws import told
from tinyunet.catalogue.own import CALLS, KEPT, WORDS, answer_all, check_file, guess_subject, load_op, split_target
from tinyunet.cli.check import KINDS
from tinyunet.errors import CheckError, ConfigError

RIGHT = '''
import numpy as np

print("a line that must not come out")


def my_conv_forward(x, w, b):
    if x.ndim != 4 or x.dtype.kind not in "fc":
        raise ValueError(f"x is {x.dtype} of shape {x.shape}, expected floats (N, H, W, C)")
    if w.shape[2] != x.shape[3] or b.shape != w.shape[3:] or min(x.shape[1:3]) < 3:
        raise ValueError(f"x {x.shape}, w {w.shape} and b {b.shape} do not go together")
    rows, cols = x.shape[1] - 2, x.shape[2] - 2
    y = np.zeros((x.shape[0], rows, cols, w.shape[3]), x.dtype) + b
    for r in range(3):
        for s in range(3):
            y += x[:, r : r + rows, s : s + cols] @ w[r, s]
    return y, (x, w)


def my_conv_backward(dy, ctx):
    x, w = ctx
    rows, cols = x.shape[1] - 2, x.shape[2] - 2
    if dy.shape != (x.shape[0], rows, cols, w.shape[3]):
        raise ValueError(f"dy has shape {dy.shape}")
    dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, x.dtype)
    for r in range(3):
        for s in range(3):
            window = np.s_[:, r : r + rows, s : s + cols]
            dx[window] += dy @ w[r, s].T
            dw[r, s] = np.tensordot(x[window], dy, ((0, 1, 2), (0, 1, 2)))
    return dx, dw, dy.sum(axis=(0, 1, 2))
'''

OTHERS = '''
import os
import sys
import helper
import numpy as np


class Relu:
    def forward(self, x):
        self.y = np.maximum(x, 0)
        return self.y, None

    def backward(self, dy, ctx):
        dy[self.y <= 0] = 0
        return dy


a_relu = Relu()


def softmax(a):
    e = np.exp(a)
    return e / e.sum(axis=-1, keepdims=True)


def forever_pool_forward(x):
    while True:
        pass


def forever_pool_backward(dy, ctx):
    return dy


def leave_pool_forward(x):
    sys.exit(3)


def leave_pool_backward(dy, ctx):
    return dy


def die_pool_forward(x):
    os._exit(7)


def die_pool_backward(dy, ctx):
    return dy


def bare_pool_forward(x):
    return x[:, ::2, ::2]


def bare_pool_backward(dy, ctx):
    return dy


def one_sided_forward(x):
    return x, x


class NeedsMuch:
    def __init__(self, size):
        self.size = size


def sum_relu_forward(x):
    return x.sum(), x


def sum_relu_backward(dy, ctx):
    return dy


def last_pool_forward(x):
    n, h, w, c = x.shape
    four = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)
    return four.max(axis=-1), four


def last_pool_backward(dy, four):
    n, h, w, c, _ = four.shape
    dx = np.zeros(four.shape, dy.dtype)
    np.put_along_axis(dx, 3 - four[..., ::-1].argmax(axis=-1)[..., None], dy[..., None], axis=-1)
    return dx.reshape(n, h, w, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, c)


def loud_pool_forward(x):
    for i in range(5):
        print("line", i)
    return x[99], x


def loud_pool_backward(dy, ctx):
    return dy


def real_conv_forward(x, w, b):
    y = np.zeros((x.shape[0], x.shape[1] - 2, x.shape[2] - 2, w.shape[3]))
    y += b
    return y, x


def real_conv_backward(dy, ctx):
    return dy, dy, dy


def loss_forward(logits, labels, weights=None):
    return np.float32(1), logits


def loss_backward(dy, ctx):
    return dy


def scalar_relu_forward(x):
    return "y", x


def scalar_relu_backward(dy, ctx):
    return None
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with ops of a student's own: a right convolution, others, and files that fail."""
    files = {
        "right.py": RIGHT,
        "others.py": OTHERS,
        "helper.py": "",
        "fails.py": "import numpy as np\n\n1 / 0\n",
        "leaves.py": "import sys\n\nsys.exit(4)\n",
        "broken.py": "def my_conv_forward(x:\n    pass\n",
        "empty.py": "",
    }
    wrong = {  # what is changed of the right one
        "flipped": ("@ w[r, s]\n", "@ w[2 - r, 2 - s]\n"),
        "transposed": ("@ w[r, s]\n", "@ w[s, r]\n"),
        "no_bias": ("x.dtype) + b", "x.dtype)"),
        "rolled": ("    y = np.zeros", "    x = np.concatenate((0 * x[:, :1], x[:, :-1]), axis=1)\n    y = np.zeros"),
        "half": ("x.dtype) + b", "x.dtype) + b / 2"),
        "over_n": ("return dx, dw, dy", "return dx, dw / len(x), dy"),
        "mean": ("dy.sum(axis=(0, 1, 2))", "dy.mean(axis=(0, 1, 2))"),
        "minus": ("+= dy @", "-= dy @"),
        "casts": ("w.shape[3]), x.dtype) + b", "w.shape[3])) + b"),
        "swapped": ("return dx, dw, dy.sum(axis=(0, 1, 2))", "return dw, dx, dy.sum(axis=(0, 1, 2))"),
        "two": ("return dx, dw, dy.sum(axis=(0, 1, 2))", "return dx, dw"),
    }
    for name, (before, after) in wrong.items():
        assert before in RIGHT
        files[f"{name}.py"] = RIGHT.replace(before, after)
    for name, text in files.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def main(monkeypatch, capsys):
    """The command in this process. -> exit code, stdout, stderr"""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tinyunet", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def some(subject, *names):
    """Properties of a subject by name."""
    return [prop for prop in properties([subject]) if prop.name in names]


# One's own op -------------------------------------------------------------------------------------------------------


def test_a_right_convolution_passes(folder, main):
    """Every property of a valid convolution without padding holds; exit code 0; what the file prints does not come out."""
    code, out, err = main("right.py:my_conv")
    assert (code, err) == (0, "")
    assert "my_conv of right.py as conv2d: forward(x, w, b), or forward(x, w, b, padding) -> y, ctx; backward(dy, ctx) -> " in out
    rules = sum(prop.kind == "contract" for prop in CATALOGUE["conv2d"])
    maths = len(CATALOGUE["conv2d"]) - rules - 2
    assert f"the mathematics holds ({maths} of {maths}); the house rules hold ({rules} of {rules}); 2 skipped (5 draws" in out
    assert "skipped  conv2d.same_is_valid_of_the_zero_padded_image: forward takes no fourth argument padding" in out
    assert "skipped  conv2d.a_large_map: it is about the strips in which ours works" in out
    assert "a line that must not come out" not in out
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    ("file", "prop", "said"),
    [
        ("flipped", "conv2d.forward_is_the_formula", r"expected .*\. It equals that of the kernel turned by 180 degrees\."),
        ("transposed", "conv2d.forward_is_scipys_correlation", r"It equals that of the transposed kernel\."),
        pytest.param("no_bias", "conv2d.forward_is_the_formula",
                     r"It equals that of the convolution without the bias\.", marks=pytest.mark.slow),
        pytest.param("rolled", "conv2d.forward_is_the_formula",
                     r"It equals that of an image shifted down by one pixel\.", marks=pytest.mark.slow),
        pytest.param("half", "conv2d.forward_is_the_formula",
                     r"y with padding='valid' is -?[\d.e-]+ at \[.*\], expected -?[\d.e-]+\.\n", marks=pytest.mark.slow),
        pytest.param("over_n", "conv2d.gradient_by_differences",
                     r"gradient of 'w' is wrong: it equals the true one divided by \d,", marks=pytest.mark.slow),
        pytest.param("mean", "conv2d.the_bias_is_added_and_its_gradient_is_a_sum",
                     r"db is -?[\d.e-]+ at \[.*\], expected", marks=pytest.mark.slow),
        ("minus", "conv2d.gradient_by_differences", r"the gradient of 'x' is wrong: it has the wrong sign"),
        ("casts", "conv2d.the_dtype_survives", r"y is float64 for float32 arguments"),
        ("swapped", "conv2d.shapes_of_the_results", r"dx has shape \(3, 3, .*\), x itself \(.*\)\. They must be equal"),
        ("two", "conv2d.shapes_of_the_results", r"backward returned a tuple of 2, expected dx, dw, db"),
    ],
)
def test_a_wrong_convolution_is_told_how(file, prop, said, folder, main):
    """The property that fails, its law, and what is wrong; exit code 1."""
    code, out, _ = main(f"{file}.py:my_conv", "--only", prop)
    assert code == 1
    assert re.search(rf"{re.escape(prop)} \(\w+\)\n    should   .*\n    but      .*{said}", out), out
    assert re.search(r"the mathematics does not hold \(0 of 1\)|1 house rule of 1 does not", out)
    assert "Go step by step" not in out


def test_one_can_go_step_by_step(folder, main):
    """Properties of one kind, or single ones, with another seed and number of draws; what is not asked for is not run."""
    code, out, _ = main("minus.py:my_conv", "--kind", "gradient", "--kind", "adjoint", "--draws", 1)
    assert code == 1
    assert re.findall(r"^(\w+) +\d+ +\d+ +\d", out, re.MULTILINE) == ["gradient", "adjoint", "all"]
    code, out, _ = main("minus.py:my_conv", "--only", "forward_is_the_formula", "--kind", "reference", "--draws", 2, "--seed", 3)
    assert code == 0
    assert "the mathematics holds (1 of 1) (2 draws each, seed 3)" in out
    code, out, _ = main("minus.py:my_conv", "--draws", 1)
    assert code == 1
    assert out.index("Go step by step: --kind reference for forward") < out.index("conv2d.gradient_by_differences (gradient)")


def test_a_class_that_spoils_dy_is_told(folder, main):
    """A class with two methods, imported next to a module of its own folder: right in its values, wrong in its manners."""
    code, out, _ = main("others.py:Relu")
    assert code == 0
    assert "Relu of others.py as relu: forward(x) -> y, ctx; backward(dy, ctx) -> dx" in out
    assert re.search(r"the mathematics holds \((\d+) of \1\); \d+ house rules of \d+ do not", out)
    assert out.index("House rules:") < out.index("relu.arguments_are_left_alone")
    assert "step by step" not in out
    assert "relu.arguments_are_left_alone (contract)" in out
    assert "dx shares memory with dy: writing to one changes the other" in out
    assert not re.search(r"relu\.\w+ \((reference|gradient|invariance|convention)\)", out)
    assert main("others.py:Relu", "--kind", "contract")[0] == 1
    assert main("others.py:a_relu", "--as", "ReLU", "--only", "forward_and_backward_are_the_formula")[0] == 0


def test_a_plain_function_can_be_checked(folder, main):
    """Softmax has no backward pass; without the shift it overflows, and that is said."""
    code, out, _ = main("others.py:softmax", "--draws", 10)
    assert code == 1
    assert "FloatingPointError: overflow encountered in exp (others.py, line 22; called with a (2, 3, 4, " in out
    assert "the mathematics does not hold (1 of 2)" in out


def test_failures_with_the_same_words_are_told_once(folder, main):
    """A forward without a context fails everything in the same way: one paragraph, with the names of some others."""
    code, out, _ = main("others.py:bare_pool")
    assert code == 1
    maths, rules = out.split("House rules:")
    assert maths.count("forward returned an array, expected the pair (y, ctx)") == 1
    assert rules.count("forward returned an array, expected the pair (y, ctx)") == 1
    assert re.search(r"    as in    (\w+, ){4}\w+ and \d+ more\n", out)


def test_an_op_that_hangs_is_given_up(folder, main):
    """Three properties that do not come back are enough; the others are not tried, and the table comes all the same."""
    code, out, _ = main("others.py:forever_pool", "--limit", 0.3)
    assert code == 1
    assert "it does not come back within 0.3 s: slow, or never ends? Give it more time with --limit 3." in out
    assert "not tried, since 3 others went as badly" in out
    assert re.search(rf"all +{len(CATALOGUE['max_pool'])} +0 ", out)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups on this system")
@pytest.mark.parametrize("op", ["true", "hangs"])
def test_processes_that_a_file_starts_end_with_it(op, folder, main):
    """Whether the op answers or hangs, nothing that its file has started goes on once the command is done."""
    (folder / "starts.py").write_text(
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path('pid').write_text(str(child.pid))\n"
        "def true_relu_forward(x): return x * (x > 0), x > 0\n"
        "def true_relu_backward(dy, ctx): return dy * ctx\n"
        "def hangs_relu_forward(x):\n    while True: pass\n"
        "def hangs_relu_backward(dy, ctx): return dy\n"
    )
    main(f"starts.py:{op}_relu", "--only", "relu", "--kind", "adjoint", "--kind", "convention", "--limit", "0.3")
    pid = int(Path("pid").read_text())
    deadline = time.monotonic() + 5  # a killed process is there until its new parent has looked at it
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid):
    """Whether a process goes on: a zombie does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_help_says_that_the_file_is_run(main):
    """Nobody takes the check for a sandbox."""
    _, out, _ = main("--help")
    assert "FILE is run, with all your rights. That is no sandbox and no grader for people who cheat" in " ".join(out.split())


def test_an_op_that_ends_python_harms_nobody(folder, main):
    """sys.exit is caught where it is called; a process that ends hard is replaced by another."""
    _, out, _ = main("others.py:leave_pool")
    assert "leave_pool_forward ends Python with sys.exit(3)" in out
    _, out, _ = main("others.py:die_pool", "--only", "a_nan_wins", "--only", "forward_and_backward_are_the_formula")
    assert "it ends Python, with exit code 7" in out
    assert "the mathematics does not hold (0 of 2)" in out


def test_an_exception_says_where_it_comes_from(folder, main):
    """The line of the file, and the shapes and dtypes of the arguments; for complex arguments, how to keep their dtype."""
    _, out, _ = main("others.py:loud_pool", "--only", "a_nan_wins")
    line = OTHERS.splitlines().index("    return x[99], x") + 1
    assert "IndexError: index 99 is out of bounds" in out
    assert f"(others.py, line {line}; called with x (1, 2, 2, 1) float64)" in out
    real = load_op(Path("others.py"), "real_conv", "conv2d")
    x, w, b = np.ones((1, 3, 3, 1), complex), np.ones((3, 3, 1, 1)), np.ones(1, complex)
    with pytest.raises(TypeError) as failure:
        real.forward(x, w, b)
    assert "The arguments are complex here, for the complex step: allocate with np.zeros(shape, x.dtype)" in told(failure.value)
    assert "x (1, 3, 3, 1) complex128, w (3, 3, 1, 1) float64, b (1,) complex128" in told(failure.value)


def test_what_an_op_prints_is_shown(folder, main):
    """Three lines where a property fails; all lines when asked for, where it holds too; not without end."""
    arguments = "others.py:loud_pool", "--only", "a_nan_wins"
    _, out, _ = main(*arguments)
    assert "    prints   line 0\n             line 1\n             line 2\n             ... more with --show-output\n" in out
    assert "line 4" not in out
    _, out, _ = main(*arguments, "--show-output")
    assert "max_pool.a_nan_wins prints\n    line 0\n    line 1\n    line 2\n    line 3\n    line 4\n" in out
    (folder / "endless.py").write_text("def relu_forward(x):\n    print('x' * 9999)\n\n\ndef relu_backward(dy, ctx):\n    pass\n")
    (outcome,) = check_file(Path("endless.py"), "relu", some("relu", "shapes_of_the_results"))
    assert outcome.output == "x" * KEPT


def test_well_known_mistakes_of_pooling_are_named(folder, main):
    """The last instead of the first of equal values, in the reference and in the convention."""
    code, out, _ = main("others.py:last_pool", "--kind", "reference", "--kind", "convention", "--draws", 10)
    assert code == 1
    assert out.count("It equals that of a backward pass that gives dy to the last of equal values.") == 2
    assert "\ncause?  it fails exactly as the planted bug ties_to_the_last does: " in out


def test_how_a_loss_is_called_is_said(folder, main):
    """The first lines have the convention; a backward that takes dy is told what it must fit; a NumPy scalar is a loss."""
    code, out, _ = main("others.py:loss", "--as", "softmax_cross_entropy", "--only", "the_gradient_is_p_minus_the_target")
    assert code == 1
    head = out.splitlines()
    assert head[0].endswith("forward(logits, labels, weights=None) -> y, ctx; backward(ctx) -> dlogits")
    for word in ("takes no dy", "the M pixels", "not -1 (ignored)", "weights=None stands for ones"):
        assert word in head[1]
    assert "missing 1 required positional argument: 'ctx' (others.py, where it must fit backward(ctx) -> dlogits;" in out
    assert "as y, expected an array" not in out


def test_help_has_every_signature(main):
    """How each subject is called, that a class returns the pair, and what makes the exit code."""
    code, out, _ = main("--help")
    assert code == 0
    plain = " ".join(re.sub(r"[^\w(),:;=.>-]+", " ", out).split())
    for subject, call in CALLS.items():
        assert f"{subject}: {call.forward}" in plain
    for words in ("which returns (y, ctx)", "house rules alone do not fail your op", "what your op prints"):
        assert words in plain


def test_outcomes_come_one_by_one(folder):
    """From Python the same: an outcome for every property, in order."""
    wanted = some("max_pool", "a_nan_wins", "constant_blocks_come_back", "channels_do_not_compete")
    outcomes = list(check_file(Path("others.py"), "bare_pool", wanted))
    assert [o.property for o in outcomes] == wanted
    assert all("expected the pair" in o.error for o in outcomes)
    assert list(check_file(Path("others.py"), "bare_pool", [])) == []


# Loading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.py:my_conv"], r"check: there is no file nowhere\.py\. Give FILE:NAME, e\.g\. my_file\.py:my_conv\."),
        (["my_conv"], r"check: there is no file my_conv\. Give FILE:NAME"),
        (["right.py"], r"check: which op of right\.py\? Give right\.py:NAME\. It has: my_conv\."),
        (["empty.py"], r"check: which op of empty\.py\? .* An op NAME is two functions, NAME_forward and NAME_backward\."),
        (["broken.py:my_conv"], r"check: broken\.py, line 1: SyntaxError: .*never closed in 'def my_conv_forward\(x:'\."),
        (["fails.py:my_conv"], r"check: fails\.py cannot be run: ZeroDivisionError: division by zero \(fails\.py, line 3\)\."),
        (["right.py:my_conv", "--as", "sofmax"], r"'sofmax' does not say what .* Did you mean --as softmax\? There are: conv2d,"),
        (["--only", "conv2d.nonsense"], r"no property 'conv2d\.nonsense'\. conv2d has: forward_is_the_formula, .*, an_axis_made"),
        (["--only", "conv2d.a_large_mop"], r"no property 'conv2d\.a_large_mop'\. Did you mean conv2d\.a_large_map"),
        (["right.py:thing"], r"check: 'thing' does not say what it is\. Add --as with one of: conv2d, conv2d_float32, conv1x1,"),
        (["right.py:my_conv", "--as", "weight_map"], r"check: 'weight_map' does not say what it is\."),
        (["--as", "conv2d"], r"check: --as says what an op of your own is\. For ours use --only conv2d\."),
        (["--only", "conv3d"], r"check: there is no subject and no property 'conv3d'\. Did you mean conv2d"),
        (["--only", "xyz"], r"no subject and no property 'xyz'\. Subjects: conv2d, .*\. All are in: tinyunet check --list"),
        (["--kind", "proof"], r"check: there is no kind 'proof'\. There are: reference, gradient, adjoint, invariance,"),
        (["--only", "softmax", "--kind", "adjoint"], r"check: no property is left of this --only and this --kind\."),
    ],
)
def test_what_cannot_be_checked_is_one_line(arguments, said, folder, main):
    """Exit code 2, and one line that says what came and what to do."""
    code, _, err = main(*arguments)
    assert code == 2
    assert err.startswith("error: check: ")
    assert re.search(said, " ".join(err.split())), err
    assert "Traceback" not in err


def test_a_file_that_ends_python_when_run_is_refused(folder):
    """There is no op in it, and the message gives the exit code."""
    (folder / "dies.py").write_text("import os\n\nos._exit(5)\n")
    with pytest.raises(ConfigError, match=r"check: dies\.py cannot be run: it ends Python, with exit code 5\."):
        list(check_file(Path("dies.py"), "my_conv", properties(["conv2d"])))


@pytest.mark.parametrize(
    ("file", "name", "subject", "said"),
    [
        ("fails.py", "my_conv", "conv2d", r"fails\.py cannot be run: ZeroDivisionError: .* by zero \(fails\.py, line 3\)\."),
        ("leaves.py", "my_conv", "conv2d", r"leaves\.py cannot be run: SystemExit: 4 \(leaves\.py, line 3\)\."),
        ("right.py", "your_conv", "conv2d", r"has no function your_conv_forward, and no your_conv with a method forward\."),
        ("others.py", "one_sided", "relu", r"has no function one_sided_backward, and no one_sided with a method backward\."),
        ("others.py", "NeedsMuch", "relu", r"NeedsMuch\(\) of others\.py fails: TypeError: .* Let it need no arguments\."),
        ("others.py", "sigmoid", "sigmoid", r"others\.py has no function sigmoid\."),
    ],
)
def test_what_is_no_op_is_refused(file, name, subject, said, folder):
    """Files that fail and names that are not there are told from Python as on the command line."""
    with pytest.raises(ConfigError, match=said):
        load_op(Path(file), name, subject)


def test_an_op_from_a_file_is_an_op_like_ours(folder):
    """It can be checked in this process as well, and a padding that it does not take is not asked for."""
    own = load_op(Path("right.py"), "my_conv", "conv2d")
    for op, expected in ((own, ("valid",)), (OPS["conv2d"], ("valid", "same"))):
        assert paddings(op) == expected
    for prop in some("conv2d", "gradient_by_complex_step", "same_is_valid_of_the_zero_padded_image", "a_large_map"):
        assert check_property(prop, own, draws=1).error == ""
    stride = Op(lambda x, w, b, stride=1: None, own.backward)
    assert paddings(stride) == ("valid",)


def test_the_child_answers_for_every_property(folder):
    """First that the op is there, then error, skip, output and seconds of each property; or only why it is not there."""
    receiver, sender = Pipe(duplex=False)
    answer_all(Path("others.py"), "leave_pool", "max_pool", ["a_nan_wins", "constant_blocks_come_back"], 0, 1, sender)
    assert receiver.recv() == ""
    for _ in range(2):
        error, skipped, output, seconds = receiver.recv()
        assert (skipped, output) == ("", "")
        assert error == "leave_pool_forward ends Python with sys.exit(3)"
        assert seconds < 1
    answer_all(Path("others.py"), "softmax", "softmax", ["softmax_sees_differences_only"], 0, 1, sender)
    assert (receiver.recv(), receiver.recv()[0]) == ("", "")
    answer_all(Path("fails.py"), "my_conv", "conv2d", ["a_large_map"], 0, 1, sender)
    assert receiver.recv() == "check: fails.py cannot be run: ZeroDivisionError: division by zero (fails.py, line 3)."
    answer_all(Path("right.py"), "my_conv", "conv2d", ["a_large_map"], 0, 1, sender)
    assert (receiver.recv(), receiver.recv()) == ("", ("", "it is about the strips in which ours works", "", 0.0))
    assert not receiver.poll()


def test_a_forward_that_gives_nonsense_is_named(folder):
    """y must be an array or a number, NumPy's of any precision too, and a gradient an array."""
    op = load_op(Path("others.py"), "sum_relu", "relu")
    for dtype in (np.float32, np.float64, np.longdouble, np.complex64):
        assert op.forward(np.ones(2, dtype))[0] == 2
    op = load_op(Path("others.py"), "scalar_relu_forward", "relu")
    with pytest.raises(CheckError, match=r"forward returned a str as y, expected an array"):
        op.forward(1.0)
    with pytest.raises(CheckError, match=r"backward returned a NoneType as dx, expected an array"):
        op.backward(1.0, None)


def test_targets_are_split_at_the_last_colon(folder):
    """A path may hold colons of its own."""
    assert split_target("right.py:my_conv") == (Path("right.py"), "my_conv")
    odd = folder / "a:b"
    odd.mkdir()
    (odd / "right.py").write_text("")
    assert split_target(f"{odd}/right.py:my_conv") == (odd / "right.py", "my_conv")
    with pytest.raises(ConfigError, match=r"Give .*:NAME"):
        split_target(f"{odd}/right.py")


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("my_conv", "conv2d"), ("Conv2D", "conv2d"), ("conv_3x3_loops", "conv2d"), ("conv1x1", "conv1x1"), ("up_conv", "upconv"),
        ("ConvTranspose2d", "upconv"), ("MaxPool", "max_pool"), ("pooling", "max_pool"), ("leaky_relu", "relu"),
        ("BatchNorm", "batch_norm"), ("batch_norm_eval", "batch_norm_eval"), ("my_dropout", "dropout"),
        ("crop_and_concat", "crop_concat"), ("mirror_pad", "mirror_pad"), ("softmax", "softmax"), ("my_sigmoid", "sigmoid"),
        ("softmax_cross_entropy", "softmax_cross_entropy"), ("sigmoid_cross_entropy", "sigmoid_cross_entropy"),
        ("ReLU", "relu"), ("bn1", "batch_norm"), ("my_ce", "softmax_cross_entropy"), ("BCELoss", "sigmoid_cross_entropy"),
        ("ZeroPad2d", "mirror_pad"),
    ],
)  # fmt: skip
def test_a_name_says_what_an_op_is(name, subject):
    """The longest word that fits decides, whatever the case and the underscores."""
    assert guess_subject(name) == subject


@pytest.mark.parametrize("name", ["my_trace", "subnet", "Subnet2", "padlock", "absorbing"])
def test_a_short_word_stands_by_itself(name):
    """Two or three letters within another word say nothing."""
    with pytest.raises(ConfigError, match=f"'{name}' does not say what it is"):
        guess_subject(name)


def test_every_op_can_be_replaced_by_ones_own():
    """Each subject with an op of ours says how it is called, and answers to its own name."""
    assert set(CALLS) == set(WORDS) == set(OPS)
    assert all(guess_subject(subject) == subject for subject in OPS)


# Ours ---------------------------------------------------------------------------------------------------------------


def test_ours_pass_on_all_rungs(main):
    """A line for each subject and rung, with numbers and the sum; exit code 0."""
    code, out, err = main("--only", "upconv", "--only", "relu", "--draws", 1)
    assert (code, err) == (0, "")
    n, m = len(CATALOGUE["upconv"]), len(CATALOGUE["relu"])
    for what, count in (("upconv +loops", n), ("upconv +gemm", n), ("relu", m), ("all", 2 * n + m)):
        assert re.search(rf"{what} +{count} +{count} +\d", out), what
    assert f"{2 * n + m} of {2 * n + m} properties hold (1 draw each, seed 0)" in out


def test_a_failure_of_ours_names_the_rung(main, monkeypatch):
    """Where the same law fails on two rungs, it is told once, with both."""

    def law(op, draw):
        raise CheckError("y is 1, expected 2")

    monkeypatch.setitem(CATALOGUE, "upconv", [Property("upconv", "law", "reference", "It holds.", law)])
    code, out, _ = main("--only", "upconv")
    assert code == 1
    said = "upconv.law on loops (reference)\n    should   It holds.\n    but      y is 1, expected 2.\n    as in    law on gemm\n"
    assert said in out
    assert "0 of 2 properties hold" in out
    assert "step by step" not in out


def test_the_list(main):
    """Every property of every subject with its kind and its law, and the rungs; nothing is run."""
    code, out, _ = main("--list")
    assert code == 0
    assert "conv2d, an op on the rungs loops, taps, im2col, strips, planes\n" in out
    assert "  convention  the_first_of_equal_values_wins: Of equal values the first in row-major order" in out
    assert f"{len(list(properties()))} properties" in out
    assert all(f"{prop.name}: {prop.says}" in out for prop in properties())
    _, out, _ = main("--list", "--only", "max_pool", "--kind", "convention")
    assert out.splitlines()[0] == "max_pool, an op"
    assert out.splitlines()[-1] == "3 properties"
    assert main("--list", "--only", "a_nan_wins")[1].splitlines()[-1] == "1 property"
    assert "1 of 1 property holds (5 draws each, seed 0)" in main("--only", "a_nan_wins")[1]


def test_kinds_are_in_the_order_of_mending():
    """Forward first, then its gradient, then the rest."""
    assert KINDS == ("reference", "gradient", "adjoint", "invariance", "convention", "contract")
    assert {prop.kind for prop in properties()} <= set(KINDS)
