"""Settings of a run: TOML and back, defaults, and errors that say which name or value is wrong, and where."""

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyunet as tu
from tinyunet.config import (
    _TABLES,
    DataConfig,
    NetworkConfig,
    RunConfig,
    _names,
    put,
    read_tables,
    to_toml,
    write_config,
)
from tinyunet.data.augment import Augment
from tinyunet.errors import ConfigError, DataError
from tinyunet.spec import PAPER, RELEASE, SAME_BN
from tinyunet.train_config import TrainConfig

texts = st.text(st.characters(codec="utf-8"))
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
keys = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1)
flat_tables = st.dictionaries(keys, st.dictionaries(keys, scalars | st.lists(scalars)))


@given(flat_tables)
def test_tomllib_reads_back_what_was_written(tables):
    """Any flat tables of texts, numbers, booleans and lists survive, with their types."""
    back = tomllib.loads(to_toml(tables))
    assert back == tables
    kinds = [[type(value) for value in table.values()] for table in tables.values()]
    assert [[type(value) for value in table.values()] for table in back.values()] == kinds


def test_toml_nan_and_numbers_that_python_writes_with_an_exponent():
    """Small, large and undefined numbers are TOML too."""
    numbers = {"small": 1e-07, "large": 1e22, "minus": -0.5, "never": float("-inf")}
    back = tomllib.loads(to_toml({"t": {**numbers, "nan": float("nan")}}))["t"]
    assert math.isnan(back.pop("nan"))
    assert back == numbers


@pytest.mark.parametrize(("value", "says"), [({"a": 1}, "of type dict cannot be written"), ("a\udc80", "no valid Unicode")])
def test_toml_refuses_what_it_cannot_say(value, says):
    """A nested table and a broken file name are refused by name."""
    with pytest.raises(ConfigError, match=says):
        to_toml({"t": {"key": value}})


run_configs = st.builds(
    RunConfig,
    st.builds(
        DataConfig, path=texts, kind=st.sampled_from([None, "binary", "instances"]),
        class_names=st.tuples(texts, texts) | st.just(()),
        partial=st.booleans(), val=st.floats(0, 1), split=st.sampled_from(["block", "random"]), val_data=st.none() | texts,
    ),
    st.builds(
        NetworkConfig, preset=st.sampled_from(["paper", "release", "same_bn"]), channels=st.none() | st.integers(1, 4),
        base=st.integers(1, 64), norm=st.sampled_from([None, "none", "batch"]), dropout=st.none() | st.floats(0, 0.9),
    ),
    st.builds(
        TrainConfig, steps=st.integers(1, 10**6), lr=st.floats(1e-9, 1), w0=st.none() | st.floats(0, 100),
        optimizer=st.sampled_from(["adam", "sgd"]), augment=st.builds(Augment, flips=st.booleans(), elastic=st.floats(0, 30)),
    ),
)  # fmt: skip


@given(run_configs)
def test_settings_survive_the_way_through_toml(config):
    """Every setting, also those that are None, comes back as it was."""
    assert RunConfig.from_tables(tomllib.loads(to_toml(config.to_tables()))) == config


def test_a_file_is_read_as_it_was_written(tmp_path):
    """write_config and read_tables are inverse, but that paths have become absolute."""
    config = RunConfig(DataConfig("cells", val_data="more/cells"), NetworkConfig(base=8), TrainConfig(steps=7))
    write_config(tmp_path / "config.toml", config)
    back = RunConfig.from_tables(read_tables(tmp_path / "config.toml"))
    assert back.data.path.endswith("/cells")
    assert back.data.val_data.endswith("more/cells")
    assert (back.network, back.train) == (config.network, config.train)


def test_paths_count_from_the_folder_of_the_file(tmp_path, monkeypatch):
    """A file that says path = "cells" means the cells beside it, wherever it is used from."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "run.toml").write_text('[data]\npath = "cells"\nmasks = "/abs"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    data = read_tables("there/run.toml")["data"]
    assert (data["path"], data["masks"]) == ("there/cells", "/abs")


def test_an_empty_file_gives_the_defaults(tmp_path):
    """Everything has a default: a small network for a laptop."""
    (tmp_path / "run.toml").write_text("", encoding="utf-8")
    config = RunConfig.from_tables(read_tables(tmp_path / "run.toml"))
    assert config == RunConfig()
    assert config.network.spec() == PAPER.but(base=16, depth=3)


def test_options_win_over_the_file_and_the_file_over_defaults():
    """put changes single settings, each in its own table, and leaves the tables that it was given alone."""
    tables = {"train": {"steps": 5, "lr": 0.1}}
    config = RunConfig.from_tables(put(tables, {"steps": 9, "path": "x", "base": 4, "elastic": 0.0}))
    assert (config.train.steps, config.train.lr, config.train.batch) == (9, 0.1, 1)
    assert (config.data.path, config.network.base, config.train.augment.elastic) == ("x", 4, 0.0)
    assert tables == {"train": {"steps": 5, "lr": 0.1}}
    with pytest.raises(ConfigError, match="there is no setting 'stepz'"):
        put({}, {"stepz": 9})


def test_no_two_tables_share_a_name():
    """An option belongs to one table only; `put` relies on it."""
    names = [name for kind in _TABLES.values() for name in _names(kind)]
    assert len(names) == len(set(names))


def test_network_presets_and_changes():
    """None is the preset's choice; "none" is no norm; classes and channels come from the data unless given."""
    assert NetworkConfig(base=64, depth=4).spec() == PAPER
    assert NetworkConfig("release", base=64, depth=4).spec() == RELEASE
    assert NetworkConfig("same_bn", base=64, depth=4).spec(3, 5) == SAME_BN.but(channels=3, classes=5)
    one = NetworkConfig("same_bn", norm="none", classes=1)
    assert one.spec(3, 2) == SAME_BN.but(base=16, depth=3, norm=None, channels=3, classes=1)
    spec = RELEASE.but(base=2, channels=3)
    assert NetworkConfig().filled(spec).spec() == spec
    assert None not in vars(NetworkConfig().filled(spec)).values()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[train]\nstepz = 3", r"run.toml: \[train\] has no setting 'stepz'. It has: steps, batch, tile, "),
        ("[trian]\nsteps = 3", r"run.toml: there is no table \[trian\]. There are: data, network, train, augment."),
        ("train = 3", r"run.toml: train = 3 is no table. Write \[train\]"),
        ("[train]\naugment = 3", r"\[train\] has no setting 'augment'"),
        ('[train]\nsteps = "3"', r"run.toml: \[train\] steps is '3'. Give a whole number."),
        ("[train]\nsteps = true", r"\[train\] steps is True. Give a whole number."),
        ("[train]\nsteps = 0", "TrainConfig: steps is 0. Give a whole number of at least 1."),
        ('[train]\nlr = "fast"', r"\[train\] lr is 'fast'. Give a number."),
        ('[train]\noptimizer = "adamw"', r"\[train\] optimizer is 'adamw'. Choose one of: adam, sgd."),
        ("[augment]\nflips = 1", r"\[augment\] flips is 1. Give true or false."),
        ("[data]\npath = 3", r"\[data\] path is 3. Give a text in quotes."),
        ('[data]\nclass_names = "a,b"', r"\[data\] class_names is 'a,b'. Give a list of texts"),
        ("[train]\nsteps = ", "run.toml: not a TOML file"),
    ],
)
def test_errors_name_the_file_the_setting_and_the_remedy(tmp_path, text, says):
    """What is wrong in a file is said with its table, its name, and what would be right."""
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        read_tables(tmp_path / "run.toml")


def test_a_missing_file_is_said(tmp_path):
    """No traceback for a wrong file name."""
    with pytest.raises(ConfigError, match=r"nothing.toml: the configuration cannot be read"):
        read_tables(tmp_path / "nothing.toml")


def test_a_whole_number_serves_where_a_number_is_asked_for():
    """TOML's `lr = 1` is Python's 1.0."""
    lr = RunConfig.from_tables({"train": {"lr": 1}}).train.lr
    assert (lr, type(lr)) == (1.0, float)


@pytest.fixture
def folder(tmp_path, rng):
    """Ten tiny images with masks of 0 and 255 in a folder."""
    for name in ("images", "masks"):
        (tmp_path / "cells" / name).mkdir(parents=True)
    for i in range(10):
        labels = np.zeros((8, 8), np.uint8)
        labels[2:5, i % 4 : 5] = 255
        tu.data.images.write_image(tmp_path / "cells" / "images" / f"{i}.png", rng.integers(0, 256, (8, 8), np.uint8))
        tu.write_labels(tmp_path / "cells" / "masks" / f"{i}.png", labels)
    return tmp_path / "cells"


def names(data):
    return [sample.name for sample in data]


def test_data_are_read_and_split(folder):
    """A block at the end validates; drawn at random it depends on the seed alone; 0 leaves all to train on."""
    data = DataConfig(str(folder), label_map="0:0,255:1", val=0.3)
    train, val = data.read_split()
    assert (names(train), names(val)) == (list("0123456"), list("789"))
    assert {int(v) for sample in train for v in np.unique(sample.labels)} == {0, 1}
    drawn = DataConfig(str(folder), label_map="0:0,255:1", val=0.3, split="random")
    assert names(drawn.read_split(1)[1]) == names(drawn.read_split(1)[1]) != names(drawn.read_split(2)[1])
    everything, nothing = DataConfig(str(folder), label_map="0:0,255:1", val=0).read_split()
    assert (len(everything), len(nothing)) == (10, 0)


def test_images_of_their_own_validate(folder):
    """val_data are read as the others are, and none of the training images is held back."""
    train, val = DataConfig(str(folder), label_map="0:0,255:1", val_data=str(folder)).read_split()
    assert (len(train), len(val)) == (10, 10)
    three = DataConfig(str(folder), kind="classes", label_map="0:0,255:1", val_data=str(folder), class_names=("a", "b", "c"))
    assert three.read_split()[1].class_names == ("a", "b", "c")


def test_validation_images_with_a_class_too_many(tmp_path, folder):
    """A class that training never shows is refused, not ignored."""
    images, labels = np.zeros((1, 8, 8), np.uint8), np.array([[[0, 1, 2, 2]] * 4], np.uint8)
    np.savez(tmp_path / "val.npz", images=images[:, :4, :4], labels=labels)
    np.savez(tmp_path / "train.npz", images=images[:, :4, :4], labels=np.minimum(labels, 1))
    data = DataConfig(str(tmp_path / "train.npz"), kind="classes", val_data=str(tmp_path / "val.npz"))
    with pytest.raises(DataError, match=r"val.npz has 3 classes, the training images 2"):
        data.read_split()


def test_no_data_at_all():
    """Without a path there is nothing to read."""
    with pytest.raises(ConfigError, match="no images are named"):
        DataConfig().read()


# Hostile files (found by tests/fuzz)


def refused(path):
    """The text with which a file is refused."""
    with pytest.raises(ConfigError) as caught:
        read_tables(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x = " + b"[" * 50_000, "not a TOML file (maximum recursion depth exceeded"),
        (b"[train]\nsteps = " + b"9" * 5000, "not a TOML file (Exceeds the limit"),
        (b"\xff\xfe", "not a TOML file ('utf-8' codec can't decode"),
        (b"#" * (2**20 + 1), "1048577 bytes are no configuration; the limit is 1048576. Is it the right file?"),
        (b"[train]\nlr = 1" + b"0" * 400, "[train] lr is 1000"),
        (b"[train]\nlr = 1" + b"0" * 400, " .... Give a number of at most 64 bits."),
        (b"[train]\nsteps = 0x" + b"f" * 5000, "[train] steps is a number without end. Give a number of at most 64 bits."),
        (b'[data]\npath = "a\\u0000b"', r"[data] path is 'a\x00b', with a null character in it. Leave that out."),
        (b"[train]\nsteps = 0", "TrainConfig: steps is 0. Give a whole number of at least 1."),
        (b"[augment]\nshift = -1", "Augment: shift -1.0"),
    ],
)
def test_hostile_files_are_refused_by_name(tmp_path, content, says):
    """Nesting and numbers without end, other encodings, large files: one short line that begins with the file."""
    (tmp_path / "run.toml").write_bytes(content)
    text = refused(tmp_path / "run.toml")
    assert text.startswith(f"{tmp_path}/run.toml: ")
    assert says in text
    assert len(text) < 700


def test_long_values_are_cut(tmp_path):
    """A message quotes no more of a file than a person would read."""
    for text in ('steps = "{}"', '"{}" = 1', 'optimizer = "{}"'):
        (tmp_path / "run.toml").write_text("[train]\n" + text.format("x" * 9000), encoding="utf-8")
        assert "xxx ..." in (said := refused(tmp_path / "run.toml"))
        assert len(said) < 800


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no device without end on this system")
def test_a_device_is_no_configuration(tmp_path):
    """Of a device one could read for ever, and a folder holds no settings."""
    for path in (Path("/dev/zero"), tmp_path):
        assert refused(path) == f"{path}: no file. Give a TOML file, e.g. the config.toml of a run."
