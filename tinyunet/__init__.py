"""tinyunet: U-Net from scratch, to be read, taught and used.

    import numpy as np
    import tinyunet as tu

    data = tu.synthetic("dic", n=16, size=256, rng=np.random.default_rng(0))
    train, val = tu.block_split(data, 0.25)
    model = tu.UNet(tu.preset("paper", base=16, depth=3))
    for record in tu.fit(model, train, val, tu.TrainConfig(steps=300)):
        print(record.step, record.loss)
    labels = tu.predict(model, val[0].image)

Importing needs NumPy alone; SciPy, Matplotlib, Pillow and safetensors load when something uses them.
"""

from tinyunet import check, cuda, data, errors, ladder, metrics, ops, optim, plot, shapes
from tinyunet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tinyunet.data.augment import Augment
from tinyunet.data.images import read_image, write_labels
from tinyunet.data.normalize import Normalization
from tinyunet.data.readers import read_dataset
from tinyunet.data.sample import IGNORE, Dataset, Sample
from tinyunet.data.splits import block_split, random_split
from tinyunet.data.synthetic import synthetic
from tinyunet.data.weight_map import WeightMap, weight_map
from tinyunet.errors import TinyUNetError
from tinyunet.evaluation import evaluate
from tinyunet.exchange import from_keras, from_torch, to_keras, to_torch
from tinyunet.inference import instances_of, predict, predict_proba, predict_tiles
from tinyunet.ladder import rung
from tinyunet.optim import SGD, Adam
from tinyunet.parallel import threads
from tinyunet.spec import PAPER, RELEASE, SAME_BN, UNetSpec, preset
from tinyunet.train import StepRecord, energy, fit
from tinyunet.train_config import TrainConfig
from tinyunet.unet import UNet

__version__ = "0.1.0"

__all__ = [
    "IGNORE",
    "PAPER",
    "RELEASE",
    "SAME_BN",
    "SGD",
    "Adam",
    "Augment",
    "Checkpoint",
    "Dataset",
    "Normalization",
    "Sample",
    "StepRecord",
    "TinyUNetError",
    "TrainConfig",
    "UNet",
    "UNetSpec",
    "WeightMap",
    "__version__",
    "block_split",
    "check",
    "cuda",
    "data",
    "energy",
    "errors",
    "evaluate",
    "fit",
    "from_keras",
    "from_torch",
    "instances_of",
    "ladder",
    "load_checkpoint",
    "metrics",
    "ops",
    "optim",
    "plot",
    "predict",
    "predict_proba",
    "predict_tiles",
    "preset",
    "random_split",
    "read_dataset",
    "read_image",
    "rung",
    "save_checkpoint",
    "shapes",
    "synthetic",
    "threads",
    "to_keras",
    "to_torch",
    "weight_map",
    "write_labels",
]
