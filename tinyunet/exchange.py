"""Weights to and from PyTorch and Keras, as plain arrays by the names and in the layout of the other framework.

    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in tu.to_torch(model).items()})
    tu.from_torch(model, theirs.state_dict())

    for v in theirs.weights:
        v.assign(tu.to_keras(model)[v.path])
    tu.from_keras(model, {v.path: keras.ops.convert_to_numpy(v) for v in theirs.weights})

Neither framework is imported. What is called w here is W there:

    convolution       PyTorch  Conv2d.weight           (O, C, K, K)   W[o,c,r,s] = w[r,s,c,o]
                      Keras    Conv2D kernel           (K, K, C, O)   W = w
    up-convolution    PyTorch  ConvTranspose2d.weight  (C, O, 2, 2)   W[c,o,a,d] = w[a,d,o,c]
                      Keras    Conv2DTranspose kernel  (2, 2, O, C)   W = w

So for both kinds PyTorch has our axes in the order (3, 2, 0, 1), and Keras has them as they are. Vectors stay the same.

    here                     PyTorch                          Keras
    down.0.conv1.w           down.0.conv1.weight              down_0_conv1/kernel
    down.0.conv1.b           down.0.conv1.bias                down_0_conv1/bias
    down.0.norm1.gamma       down.0.norm1.weight              down_0_norm1/gamma
    down.0.norm1.beta        down.0.norm1.bias                down_0_norm1/beta
    down.0.norm1.mean        down.0.norm1.running_mean        down_0_norm1/moving_mean
    down.0.norm1.var         down.0.norm1.running_var         down_0_norm1/moving_variance

The other layers are up.0.upconv, bottom.conv1, head and so on: the names of `tinyunet.shapes.layers`. A PyTorch module has them
if its levels are two ModuleLists, `down` and `up`, both counted from the top, with `bottom` and `head` beside them; a Keras model
has "_" for ".". A network that calls its layers otherwise is read with `names`.

Three things that no array tells. The order of channels behind a concatenation: here the up path comes first; for the other order
there is `skip_first`. What batch norm adds to the variance: 1e-5 here and in PyTorch, 1e-3 in Keras unless it is told otherwise;
for that there is `epsilon`. And images go in as (N, C, H, W) in PyTorch, as (N, H, W, C) in Keras and here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tinyunet.backend import Array, to_numpy
from tinyunet.errors import ConfigError, DataError, DTypeError, ShapeError
from tinyunet.layers import BatchNorm
from tinyunet.ops.norm import EPS
from tinyunet.unet import UNet


class _Framework(NamedTuple):
    """How a framework writes what we call "down.0.conv1.w"."""

    name: str
    dot: str  # what stands for the dots within the name of a layer
    slash: str  # what stands between a layer and its array
    keys: dict[str, str]  # our names of arrays -> theirs
    axes: tuple[int, ...]  # ours -> theirs: np.transpose(w, axes)

    def name_of(self, ours: str) -> str:
        """ "down.0.conv1.w" -> "down.0.conv1.weight" """
        layer, _, key = ours.rpartition(".")
        return self.layer(layer) + self.slash + self.keys[key]

    def layer(self, ours: str) -> str:
        """ "down.0.conv1" -> "down_0_conv1" """
        return ours.replace(".", self.dot)


_TORCH = _Framework(
    "PyTorch", ".", ".",
    {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"},
    (3, 2, 0, 1),
)  # fmt: skip
_KERAS = _Framework(
    "Keras", "_", "/",
    {"w": "kernel", "b": "bias", "gamma": "gamma", "beta": "beta", "mean": "moving_mean", "var": "moving_variance"},
    (0, 1, 2, 3),
)  # fmt: skip


def to_torch(model: UNet) -> dict[str, Array]:
    """W[o,c,r,s] = w[r,s,c,o]

    -> what `state_dict()` of such a module holds: copies, C-contiguous, in the dtype of the network

    `num_batches_tracked` is not among them. PyTorch's `load_state_dict` does without it, also when it is strict.
    """
    return _export(model, _TORCH)


def from_torch(
    model: UNet,
    state: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    skip_first: bool = False,
    epsilon: float = EPS,
) -> None:
    """w[r,s,c,o] = W[o,c,r,s], copied into the network

    state        arrays by the names of `to_torch`, of any floating dtype; tensors on the CPU will do
    names        their names of layers -> ours, where they differ: {"inc.double_conv.0": "down.0.conv1"}
    skip_first   their concatenation has the skip in front of the up path
    epsilon      what their batch norm adds to the variance. In eval mode the two networks then agree: what differs from our
                 1e-5 is added to the running variance

    `num_batches_tracked` is passed over. A convolution in front of batch norm may lack its bias: batch norm subtracts every
    bias, so it counts as zero.

    Raises ConfigError for arrays that are missing or unknown and for `names` of layers that are not there, ShapeError for a
    shape that differs, DTypeError for numbers that are not floating point, DataError for numbers that are not finite and
    variances of -epsilon and less; nothing is changed then.
    """
    state = {name: value for name, value in state.items() if name.rpartition(".")[2] != "num_batches_tracked"}
    _import(model, state, _TORCH, "from_torch", names, skip_first, epsilon)


def to_keras(model: UNet) -> dict[str, Array]:
    """W = w

    -> arrays by the path of a Keras variable, "down_0_conv1/kernel": copies, C-contiguous, in the dtype of the network

    Give Keras's batch norm epsilon=1e-5 and momentum=0.9, which is ours of 0.1: unless told otherwise it has 1e-3 and 0.99.
    While training it averages the biased variance, where PyTorch and we average the unbiased one.
    """
    return _export(model, _KERAS)


def from_keras(
    model: UNet,
    state: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    skip_first: bool = False,
    epsilon: float = EPS,
) -> None:
    """w = W, copied into the network

    As `from_torch`, but `state` has the names of `to_keras`, `names` reads {"conv2d": "down.0.conv1", ...}, and `epsilon` is
    1e-3 unless they said otherwise.
    """
    _import(model, state, _KERAS, "from_keras", names, skip_first, epsilon)


def _export(model: UNet, theirs: _Framework) -> dict[str, Array]:
    arrays = {theirs.name_of(name): to_numpy(a) for name, a in model.state().items()}
    return {name: (a.transpose(theirs.axes) if a.ndim == 4 else a).copy("C") for name, a in arrays.items()}


def _import(
    model: UNet,
    state: Mapping[str, Any],
    theirs: _Framework,
    who: str,
    names: Mapping[str, str] | None,
    skip_first: bool,
    epsilon: float,
) -> None:
    """Check everything, in their names and their layout, and only then change the network."""
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"{who}: epsilon is {epsilon}. Give what their batch norm adds to the variance, e.g. 1e-3 for Keras.")
    mine = model.state()
    _check_names(names or {}, [name.rpartition(theirs.slash)[0] for name in state], [n.rpartition(".")[0] for n in mine], who)
    wanted = {theirs.name_of(name): name for name in mine}
    source = _by_our_layers(state, theirs, who, names or {})
    needless = _needless_biases(model)
    advice = "Is the spec that of their network? If they call a layer otherwise, say so with names={their layer: our layer}."
    if missing := [name for name, ours in wanted.items() if name not in source and ours not in needless]:
        raise ConfigError(f"{who}: {len(missing)} of {len(wanted)} arrays are missing, first {missing[0]!r}. {advice}")
    if unknown := [given for name, given in source.items() if name not in wanted]:
        raise ConfigError(f"{who}: {len(unknown)} arrays are unknown, first {unknown[0]!r}. {advice}")
    arrays = {name: np.zeros(mine[name].shape, mine[name].dtype) for name in needless}
    for name, given in source.items():
        ours = mine[wanted[name]]
        shape = ours.transpose(theirs.axes).shape if ours.ndim == 4 else ours.shape
        array = _as_array(who, given, state[given])
        if array.shape != shape:
            raise ShapeError(f"{who}: {given} has shape {array.shape}, this network needs {shape} as {theirs.name} has it.")
        if not np.isfinite(array).all():
            raise DataError(f"{who}: {given} holds NaN or infinite values. That run has failed: take an earlier state.")
        if name.endswith(theirs.slash + theirs.keys["var"]) and not (array + epsilon > 0).all():
            raise DataError(
                f"{who}: {given} goes down to {array.min():g}, and variance + epsilon ({epsilon:g}) must be above 0. "
                "Is it a variance, and epsilon theirs?"
            )
        arrays[wanted[name]] = array.transpose(np.argsort(theirs.axes)) if array.ndim == 4 else array
    for layer in model.layers:
        if isinstance(layer, BatchNorm) and epsilon != EPS:
            arrays[f"{layer.name}.var"] = arrays[f"{layer.name}.var"] + (epsilon - EPS)
    if skip_first:
        for up in model.up:
            name = f"{up.block.layers[0].name}.w"
            arrays[name] = np.roll(arrays[name], up.upconv.params["b"].size, axis=2)  # what was last, the up path, comes first
    model.load_state(arrays)


def _as_array(who: str, name: str, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a GPU, with a gradient, or of a dtype NumPy has not
        raise DTypeError(f"{who}: {name} cannot be read as an array ({error}). Give float32 on the CPU.") from error
    if array.dtype.kind != "f":
        raise DTypeError(f"{who}: {name} is {array.dtype}, expected floating point. Are these the weights?")
    return array


def _check_names(names: Mapping[str, str], theirs: Iterable[str], ours: Iterable[str], who: str) -> None:
    """Every name in the map is that of a layer: a slip of the pen would otherwise leave a layer as it is called."""
    for which, asked, there in (("their", names.keys(), theirs), ("our", names.values(), ours)):
        layers = list(dict.fromkeys(there))
        if wrong := [name for name in asked if name not in layers]:
            known = ", ".join(layers) or "none"
            raise ConfigError(f"{who}: `names` has {wrong[0]!r} for {which} layer; there is none. There are: {known}.")


def _by_our_layers(state: Mapping[str, Any], theirs: _Framework, who: str, names: Mapping[str, str]) -> dict[str, str]:
    """The name that an array should have -> the name that it has."""
    source: dict[str, str] = {}
    for given in state:
        layer, slash, key = given.rpartition(theirs.slash)
        name = theirs.layer(names.get(layer, layer)) + slash + key
        if name in source:
            raise ConfigError(f"{who}: {source[name]!r} and {given!r} both become {name!r}. In `names`, two layers share one.")
        source[name] = given
    return source


def _needless_biases(model: UNet) -> list[str]:
    """Biases that the next layer, batch norm, subtracts."""
    return [f"{layer.name}.b" for layer, after in pairwise(model.layers) if isinstance(after, BatchNorm)]
