"""Settings of training: to plain values and back, and what cannot be."""

import json
import math

import pytest

from tinyunet.data.augment import Augment
from tinyunet.errors import ConfigError
from tinyunet.train_config import TrainConfig


def test_settings_round_trip():
    """to_dict survives JSON, and from_dict makes the same settings of it; what is not given has its default."""
    config = TrainConfig(steps=7, lr=0.1 + 0.2, w0=3.0, optimizer="sgd", augment=Augment(rotation=10.0, flips=False), seed=5)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainConfig.from_dict({}) == TrainConfig()
    assert TrainConfig.from_dict({"augment": {"shift": 3}}) == TrainConfig(augment=Augment(shift=3))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"learning_rate": 1}, r"TrainConfig has no setting 'learning_rate'\. It has: steps, batch, tile, optimizer, lr,"),
        ({"augment": {"rotate": 1}}, r"Augment has no setting 'rotate'\. It has: shift, rotation,"),
        ({"steps": 0}, r"steps is 0\. Give a whole number of at least 1"),
        ({"batch": 1.5}, r"batch is 1\.5\. Give a whole number of at least 1"),
        ({"seed": -1}, r"seed is -1\. Give a whole number of at least 0"),
        ({"tile": True}, r"tile is True\. Give a whole number"),
        ({"optimizer": "lion"}, r"optimizer 'lion' is neither 'adam' nor 'sgd'"),
        ({"weight_map": "own"}, r"weight_map 'own' is none of ronneberger2015, falk2019, balance, none"),
        ({"schedule": "linear"}, r"there is no schedule 'linear'"),
        ({"lr": 0.0}, r"TrainConfig: lr is 0\.0\. Give a positive number"),
        ({"lr": math.nan}, r"lr is nan\. Give a positive number"),
        ({"max_mem": -1.0}, r"max_mem is -1\.0\. Give a positive number"),
        ({"momentum": 1.0}, r"momentum is 1\.0\. Give at least 0 and less than 1"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1\. Give 0 or a positive number"),
        ({"border": 3}, r"border is 3\. Give an even number"),
        ({"sigma": 0.0}, r"sigma 0\.0 must be a positive number of pixels"),
        ({"weight_map": "none", "w0": 5.0}, r"w0 is 5\.0, but weight_map 'none' has no w0\. Leave w0 out, or choose .*2015'"),
        ({"weight_map": "none", "sigma": 5.0}, r"sigma is 5\.0, but weight_map 'none' has no sigma"),
        ({"weight_map": "none", "balance": "none"}, r"balance is 'none', but weight_map 'none' has no balance.*e\.g\. 'balance'"),
        ({"weight_map": "balance", "sigma": 5.0}, r"sigma is 5\.0, but weight_map 'balance' has w0 = 0.*or give w0 as well"),
        ({"normalization": "rank"}, r"mode 'rank' is none of 'image'"),
        ({"augment": {"gain": 2}}, r"gain 2 could invert the contrast"),
    ],
)
def test_impossible_settings(values, text):
    """A name that does not exist, or a value that cannot be, is refused with what there is."""
    with pytest.raises(ConfigError, match=text):
        TrainConfig.from_dict(values)
