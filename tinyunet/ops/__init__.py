"""The mathematics, without state: each op is a pair `*_forward(x, ...) -> (y, ctx)` and `*_backward(dy, ctx) -> gradients`.

Ops are pure: they never write to an argument and never return a view of one. They take arrays of NumPy or CuPy, keep the
dtype of x, and return fresh C-contiguous arrays. `ctx` is exactly what backward needs, by name.
"""

from tinyunet.ops.conv import conv2d_backward, conv2d_forward
from tinyunet.ops.crop import crop_concat_backward, crop_concat_forward
from tinyunet.ops.dropout import dropout_backward, dropout_forward
from tinyunet.ops.loss import (
    sigmoid,
    sigmoid_cross_entropy_backward,
    sigmoid_cross_entropy_forward,
    softmax,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from tinyunet.ops.norm import (
    batch_norm_backward,
    batch_norm_eval_backward,
    batch_norm_eval_forward,
    batch_norm_forward,
)
from tinyunet.ops.pad import mirror_index, mirror_pad_backward, mirror_pad_forward
from tinyunet.ops.pool import max_pool_backward, max_pool_forward
from tinyunet.ops.relu import relu_backward, relu_forward
from tinyunet.ops.upconv import upconv_backward, upconv_forward

__all__ = [
    "batch_norm_backward",
    "batch_norm_eval_backward",
    "batch_norm_eval_forward",
    "batch_norm_forward",
    "conv2d_backward",
    "conv2d_forward",
    "crop_concat_backward",
    "crop_concat_forward",
    "dropout_backward",
    "dropout_forward",
    "max_pool_backward",
    "max_pool_forward",
    "mirror_index",
    "mirror_pad_backward",
    "mirror_pad_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid",
    "sigmoid_cross_entropy_backward",
    "sigmoid_cross_entropy_forward",
    "softmax",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "upconv_backward",
    "upconv_forward",
]
