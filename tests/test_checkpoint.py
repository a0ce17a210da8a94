"""Checkpoints: what goes in comes out, the same content is the same bytes, and a bad file is refused in words."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import tinyunet
from tinyunet.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_checkpoint
from tinyunet.data.normalize import Normalization
from tinyunet.errors import CheckpointError, ConfigError, DataError
from tinyunet.optim import SGD, Adam
from tinyunet.shapes import MIB
from tinyunet.spec import PRESETS, UNetSpec
from tinyunet.unet import UNet

ROOT = Path(tinyunet.__file__).parents[1]
SMALL = UNetSpec(base=2, depth=1)


def stepped(spec=SMALL, kind=Adam):
    """A network and its optimizer after three steps along random gradients."""
    model = UNet(spec, rng=5)
    optimizer = kind(model, lr=0.01)
    rng = np.random.default_rng(6)
    for _ in range(3):
        for grad in model.grads().values():
            grad[...] = rng.standard_normal(grad.shape)
        optimizer.step()
    for layer in model.layers:
        for key, value in layer.buffers.items():
            layer.buffers[key] = value + rng.random(value.shape, dtype=np.float32)
    return model, optimizer


def full(model):
    """A checkpoint in which no field has its default."""
    return Checkpoint(
        model,
        Normalization("dataset", (0.1,) * model.spec.channels, (1 / 3,) * model.spec.channels),
        ("nothing", "Zelle", "膜"),
        step=3,
        best={"step": 2, "mean_iou": 1 / 3, "iou": {"nothing": None}},
        config={"lr": 0.1 + 0.2, "augment": {"flips": True}, "w0": None},
        reading={"kind": "binary", "label_map": "0:0,255:1", "partial": True},
    )


@pytest.fixture
def good(tmp_path):
    """The path of a good checkpoint, with an optimizer's state in it."""
    path = tmp_path / "good.safetensors"
    model, optimizer = stepped()
    save_checkpoint(path, full(model), optimizer)
    return path


def described(path, change):
    """Write the file's description anew, after `change` has changed it; the arrays stay."""
    arrays = load_file(path)
    about = description(path)
    about = change(about) or about
    save_file(arrays, path, metadata={"tinyunet": about if isinstance(about, str) else json.dumps(about)})


def description(path):
    """The JSON in the file's metadata, read by hand: 8 bytes of length, then the header."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["tinyunet"])


# Round trip ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        PRESETS["same_bn"].but(base=2, depth=2, channels=3, classes=3, dropout=0.25),
        PRESETS["release"].but(base=2, depth=1, classes=1),
    ],
    ids=["valid", "same_bn", "release"],
)
def test_everything_comes_back(tmp_path, spec, kind):
    """Spec, every array, normalisation, names, step, scores, settings and the optimizer's state come back as they were."""
    model, optimizer = stepped(spec, kind)
    saved = full(model)
    save_checkpoint(tmp_path / "a.safetensors", saved, optimizer)
    loaded = load_checkpoint(tmp_path / "a.safetensors")

    assert loaded.model.spec == spec
    assert not loaded.model.training
    assert loaded.model.state().keys() == model.state().keys()
    for name, array in model.state().items():
        np.testing.assert_array_equal(loaded.model.state()[name], array, strict=True)
    for what in ("normalization", "class_names", "step", "best", "config", "reading"):
        assert getattr(loaded, what) == getattr(saved, what), what
    assert loaded.optimizer.keys() == optimizer.state().keys()
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(loaded.optimizer[name], array, strict=True)


def test_a_checkpoint_from_before_masks_were_described(good):
    """A file that does not say how masks were read, as older ones, loads; nothing is known then. One that lies does not."""
    described(good, lambda about: about.pop("reading") and None)
    assert load_checkpoint(good).reading == {}
    described(good, lambda about: about.update(reading=["binary"]))
    with pytest.raises(CheckpointError, match="are not dictionaries"):
        load_checkpoint(good)


def test_a_checkpoint_predicts_with_options():
    """tile_in, max_mem and the others reach `predict`, whose errors come back."""
    saved, image = Checkpoint(UNet(SMALL)), np.random.default_rng(0).random((40, 50))
    np.testing.assert_array_equal(saved.predict(image, tile_in=20), saved.predict(image))
    np.testing.assert_allclose(saved.predict_proba(image, tile_in=20), saved.predict_proba(image), atol=1e-6)
    for function in (saved.predict, saved.predict_proba):
        with pytest.raises(ConfigError, match="max_mem of 3 MiB is too small"):
            function(image, max_mem=3)
        with pytest.raises(ConfigError, match="max_mem of 500 MiB is too small"):
            function(image, max_mem=500, reserved=400 * MIB)


def test_a_loaded_checkpoint_can_be_saved_again(good):
    """Loading and saving gives the same bytes: nothing is lost on the way, and nothing depends on the time."""
    again = good.with_name("again.safetensors")
    save_checkpoint(again, load_checkpoint(good))
    assert again.read_bytes() == good.read_bytes()


def test_same_content_same_bytes(tmp_path):
    """Two networks of one seed make one file; a weight changed in its last bit, or another step, makes another."""
    paths = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for i, path in enumerate(paths):
        model, optimizer = stepped()
        if i == 2:
            model.head.params["b"][0] = np.nextafter(model.head.params["b"][0], 1, dtype=np.float32)
        save_checkpoint(path, Checkpoint(model, step=4 if i == 3 else 3), optimizer)
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3

    for path, config in zip(paths, ({"a": 1, "b": 2}, {"b": 2, "a": 1}), strict=False):  # equal dictionaries
        save_checkpoint(path, Checkpoint(UNet(SMALL), config=config))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_arrays_in_any_memory_order(tmp_path):
    """Arrays that are not C-contiguous are stored by their values, not by their memory."""
    model = UNet(SMALL, rng=1)
    for layer in model.layers:
        for key, value in layer.params.items():
            layer.params[key] = np.asfortranarray(value)
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(model))
    save_checkpoint(tmp_path / "b.safetensors", Checkpoint(UNet(SMALL, rng=1)))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_any_safetensors_reader_can_open_it(good):
    """Arrays lie under "model." and "optimizer." by their dotted names; the rest is JSON under "tinyunet"."""
    arrays = load_file(good)
    model, optimizer = stepped()
    expected = {f"model.{n}" for n in model.state()} | {f"optimizer.{n}" for n in optimizer.state()}
    assert arrays.keys() == expected
    np.testing.assert_array_equal(arrays["model.head.w"], model.head.params["w"])
    assert description(good)["format"] == FORMAT
    assert description(good)["spec"] == SMALL.to_dict()


def test_no_optimizer_is_needed(tmp_path):
    """A network to be used, not trained on, is saved and loaded without an optimizer, and predicts the same."""
    model = UNet(SMALL, rng=2)
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(model))
    loaded = load_checkpoint(str(tmp_path / "a.safetensors"))
    assert loaded.optimizer == {}
    image = np.random.default_rng(0).integers(0, 255, (13, 17), dtype=np.uint8)
    proba = Checkpoint(model).predict_proba(image)
    np.testing.assert_array_equal(loaded.predict_proba(image), proba)
    np.testing.assert_array_equal(loaded.predict(image), proba.argmax(-1))


def test_prediction_uses_the_stored_normalisation(tmp_path):
    """A checkpoint normalises as in training: the same network with another normalisation answers otherwise."""
    image = np.random.default_rng(0).integers(0, 255, (13, 17), dtype=np.uint8)
    one = Checkpoint(UNet(SMALL, rng=2), Normalization("dataset", (100.0,), (50.0,)))
    save_checkpoint(tmp_path / "a.safetensors", one)
    proba = load_checkpoint(tmp_path / "a.safetensors").predict_proba(image)
    np.testing.assert_array_equal(proba, one.predict_proba(image))
    assert np.abs(proba - Checkpoint(one.model).predict_proba(image)).max() > 1e-3


# Bad files -----------------------------------------------------------------------------------------------------------


def refused(path):
    """The text with which loading a file is refused, which begins with the file's name."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_missing_file(tmp_path):
    """No such file: the text says which files training writes."""
    assert "there is no such checkpoint. Training writes best.safetensors" in refused(tmp_path / "none.safetensors")
    assert "there is no such checkpoint" in refused(tmp_path)  # a folder


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\0" * 64, b"\xff" * 64, b"{}", b"PK\x03\x04" + b"x" * 999])
def test_files_of_another_kind(tmp_path, content):
    """An empty file, a few bytes, and other formats are no readable safetensors files."""
    (tmp_path / "x.safetensors").write_bytes(content)
    assert "not a readable safetensors file" in refused(tmp_path / "x.safetensors")


def test_random_bytes(tmp_path, rng):
    """Nor are random bytes."""
    for n in (1, 8, 100, 10_000):
        (tmp_path / "x.safetensors").write_bytes(rng.bytes(n))
        assert "not a readable safetensors file" in refused(tmp_path / "x.safetensors")


def test_truncated_files(good):
    """A download that stopped early, at any place: refused with the question whether it is complete."""
    content = good.read_bytes()
    for n in {*range(0, len(content), max(1, len(content) // 40)), 7, 8, 9, len(content) - 1}:
        good.write_bytes(content[:n])
        assert "Is it complete?" in refused(good)


def test_a_file_that_goes_on(good):
    """Bytes after the end do not belong to a checkpoint."""
    good.write_bytes(good.read_bytes() + b"x")
    assert "not a readable safetensors file" in refused(good)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_another_programs_file(tmp_path, metadata):
    """A safetensors file without our description is told apart from a damaged one."""
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "x.safetensors", metadata=metadata)
    assert "a safetensors file, but not one of tinyunet" in refused(tmp_path / "x.safetensors")


def test_a_newer_format(good):
    """A file of a later version asks to upgrade, and names both numbers."""
    described(good, lambda about: about.update(format=FORMAT + 1))
    assert f"written by a newer tinyunet (format {FORMAT + 1}, known {FORMAT}). Upgrade." in refused(good)


BROKEN = {
    "no JSON": lambda about: "{'single': quotes}",
    "half JSON": lambda about: json.dumps(about)[:-20],
    "nested without end": lambda about: "[" * 100_000,
    "a list": lambda about: "[]",
    "a number": lambda about: "7",
    "null": lambda about: "null",
    "format missing": lambda about: about.pop("format") and None,
    "format a text": lambda about: about.update(format="1"),
    "spec missing": lambda about: about.pop("spec") and None,
    "spec a list": lambda about: about.update(spec=[1]),
    "spec unknown name": lambda about: about["spec"].update(stride=2),
    "spec impossible": lambda about: about["spec"].update(depth=-1),
    "spec a fraction": lambda about: about["spec"].update(base=2.5),
    "spec dropout a text": lambda about: about["spec"].update(dropout="half"),
    "normalization missing": lambda about: about.pop("normalization") and None,
    "normalization unknown": lambda about: about["normalization"].update(mode="x"),
    "normalization std 0": lambda about: about["normalization"].update(std=[0.0]),
    "normalization texts": lambda about: about["normalization"].update(mean=["a"]),
    "names missing": lambda about: about.pop("class_names") and None,
    "names null": lambda about: about.update(class_names=None),
    "names numbers": lambda about: about.update(class_names=[1, 2]),
    "step missing": lambda about: about.pop("step") and None,
    "step a text": lambda about: about.update(step="many"),
    "step infinite": lambda about: about.update(step=float("inf")),
    "step below 0": lambda about: about.update(step=-1),
    "step a fraction": lambda about: about.update(step=2.5),
    "step true": lambda about: about.update(step=True),
    "min_size a text": lambda about: about["config"].update(min_size="x"),
    "min_size below 0": lambda about: about["config"].update(min_size=-1),
    "best a number": lambda about: about.update(best=3),
    "best missing": lambda about: about.pop("best") and None,
    "config a list": lambda about: about.update(config=[]),
    "config missing": lambda about: about.pop("config") and None,
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_damaged_descriptions(good, change):
    """Whatever is wrong with the description, the answer is a CheckpointError that names the file."""
    described(good, change)
    assert "the description in this checkpoint is damaged (" in refused(good)


@pytest.mark.parametrize("claim", [{"base": 64}, {"base": 10**6, "depth": 12}, {"channels": 10**30}, {"depth": 4}])
def test_a_spec_that_claims_too_much(good, claim):
    """A spec with more parameters than the file holds is refused before memory is taken for them."""
    described(good, lambda about: about["spec"].update(claim))
    assert "the file holds fewer" in refused(good)


def rewritten(path, change):
    """Write the file's arrays anew, after `change` has changed them; the description stays."""
    arrays, about = load_file(path), description(path)
    change(arrays)
    save_file(arrays, path, metadata={"tinyunet": json.dumps(about)})


ARRAYS = {
    "missing": (lambda a: a.pop("model.head.b"), "the file holds fewer"),
    "other name": (lambda a: a.update({"model.heads.b": a.pop("model.head.b")}), "1 arrays are missing, first 'head.b'"),
    "unknown": (lambda a: a.update({"model.tail.w": np.zeros(3, np.float32)}), "1 arrays are unknown, first 'tail.w'"),
    "transposed": (
        lambda a: a.update({"model.head.w": a["model.head.w"].transpose(0, 1, 3, 2).reshape(1, 1, -1)}),
        r"head.w has shape (1, 1, 4), this network needs (1, 1, 2, 2)",
    ),
    "integers": (lambda a: a.update({"model.head.w": a["model.head.w"].astype(np.int32)}), "head.w is int32"),
    "none at all": (lambda a: a.clear(), "the file holds fewer"),
}


@pytest.mark.parametrize(("change", "text"), ARRAYS.values(), ids=ARRAYS.keys())
def test_wrong_arrays(good, change, text):
    """Arrays that are missing, too many, of another shape or no floats are named."""
    rewritten(good, change)
    assert text in refused(good)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(good, value):
    """One NaN among the weights would make every pixel class 0 without a word."""
    rewritten(good, lambda arrays: arrays["model.head.b"].__setitem__(1, value))
    assert refused(good) == f"{good}: head.b holds NaN or infinite numbers. Take an earlier checkpoint, or train again."


def test_messages_stay_short(good):
    """A message quotes no more of a damaged file than a person would read."""
    described(good, lambda about: about["spec"].update(padding="x" * 9000))
    assert "xxx ...)." in (text := refused(good))
    assert len(text) < len(str(good)) + 400


def test_random_damage_never_shows_a_traceback(good, rng):
    """Bytes changed at random in the header: the file loads or is refused with CheckpointError, nothing else."""
    content = good.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    outcomes = []
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(0, header, rng.integers(1, 4)):
            damaged[place] = rng.integers(32, 127) if rng.random() < 0.7 else rng.integers(0, 256)
        good.write_bytes(damaged)
        try:
            load_checkpoint(good)
            outcomes.append("")
        except CheckpointError as error:
            outcomes.append(str(error))
    texts = [text for text in outcomes if text]
    assert len(texts) > 100
    assert all(text.startswith(f"{good}: ") for text in texts)


# Writing -------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path):
    """Saving into a missing folder is a DataError with the path."""
    with pytest.raises(DataError, match=r"missing.x\.safetensors: cannot be written.*Does the folder exist\?"):
        save_checkpoint(tmp_path / "missing" / "x.safetensors", Checkpoint(UNet(SMALL)))


def test_a_failed_save_leaves_the_old_checkpoint(good, monkeypatch):
    """An error while the arrays are written leaves the old file whole, and nothing beside it."""
    before = good.read_bytes()

    def half(arrays, path, metadata):
        Path(path).write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.numpy.save_file", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(good, Checkpoint(UNet(SMALL, rng=9)))
    assert good.read_bytes() == before
    assert list(good.parent.iterdir()) == [good]


def test_what_safetensors_cannot_write_is_said(good, monkeypatch):
    """An error of the library becomes a DataError with path, reason and a question; the old file stays."""
    before = good.read_bytes()

    def refuse(arrays, path, metadata):
        raise SafetensorError("I/O error: no space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", refuse)
    text = r"cannot be written \(I/O error: no space left on device\)\. Is there space left\?"
    with pytest.raises(DataError, match=re.escape(str(good)) + ": " + text):
        save_checkpoint(good, Checkpoint(UNet(SMALL)))
    assert good.read_bytes() == before


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tinyunet import UNet, UNetSpec
from tinyunet.checkpoint import Checkpoint, save_checkpoint
from tinyunet.errors import DataError

path = Path(sys.argv[1])
save_checkpoint(path, Checkpoint(UNet(UNetSpec(base=2, depth=1))))
before = path.read_bytes()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, len(before) + 1000))  # no file may grow beyond this
try:
    save_checkpoint(path, Checkpoint(UNet(UNetSpec(base=16, depth=2))))
except DataError as error:
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    sys.stdout.write(str(error))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system cannot limit the size of files")
def test_no_space_left(tmp_path):
    """When the operating system refuses the bytes: DataError with path and reason, and the old checkpoint stays."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.safetensors")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "x.safetensors: cannot be written (" in done.stdout
    assert "Is there space left?" in done.stdout
