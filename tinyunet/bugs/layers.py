"""Bugs of what stands between the convolutions: pooling, ReLU, batch norm, dropout, joining, padding, initial weights, loss."""

from tinyunet.bugs.core import Edit, bug

# Max-pooling

bug(
    "ties_to_all", "max_pool",
    "Of equal pixels each gets the whole gradient, up to four times too much: ties of zeros behind a ReLU do no harm, as no "
    "gradient passes there, but ties of positive values do, in flat parts of an image.",
    Edit("tinyunet.ops.pool:max_pool_forward", "MaxPoolContext(winner, ",
         "MaxPoolContext(array_module(x).stack([x[:, a::2, b::2] == y for a, b in WINDOW]), "),
    Edit("tinyunet.ops.pool:max_pool_backward", "dy, ctx.winner.shape, ", "dy, ctx.winner.shape[1:], "),
    Edit("tinyunet.ops.pool:max_pool_backward", "over_rows(formula, dy, ctx.winner, dx)", "formula(dy, ctx.winner, dx)"),
    Edit("tinyunet.ops.pool:max_pool_backward", "winner == place", "winner[place]"),
    shipped="riccardoandreoni0/CNN-from-scratch#1, the code quoted there",
)
bug(
    "ties_to_the_last", "max_pool",
    "Of equal pixels the last wins instead of the first: as good a rule as ours, but two back ends that differ in it give two "
    "different networks.",
    Edit("tinyunet.ops.pool:_larger", "b.real <= a.real", "b.real < a.real"),
)
bug(
    "pool_starts_from_zero", "max_pool",
    "The maximum starts from 0, forward and backward alike: behind a ReLU nothing shows, before one all negative values are "
    "lost.",
    Edit("tinyunet.ops.pool:max_pool_forward", "return y, MaxPoolContext(winner, x.dtype)",
         "winner[y.real < 0] = len(WINDOW)\n    return y * ~(y.real < 0), MaxPoolContext(winner, x.dtype)"),
)
bug(
    "pool_gradient_misplaced", "max_pool",
    "The gradient has the right shape and sum and goes to the wrong pixel of each window: the network still learns.",
    Edit("tinyunet.ops.pool:max_pool_backward", "winner == place", "winner == len(WINDOW) - 1 - place"),
    shipped="HIPS/autograd PR#245, right shape and wrong content, in like manner",
)
bug(
    "pool_hides_nan", "max_pool",
    "A NaN loses every comparison and disappears: an overflow further up goes unnoticed until much later.",
    Edit("tinyunet.ops.pool:_larger", "~(b.real <= a.real) & (a == a)", "(b.real > a.real) | (a != a)"),
    Edit("tinyunet.ops.pool:_larger", "xp.maximum(a, b)", "xp.fmax(a, b)"),
)
bug(
    "odd_row_dropped", "max_pool",
    "An odd last row or column is silently dropped: everything that comes after is shifted against its skip.",
    Edit("tinyunet.ops.pool:max_pool_forward", "if height % 2 or width % 2:",
         "x = x[:, : height - height % 2, : width - width % 2]\n    if x.shape[1] % 2:"),
    shipped="milesial/Pytorch-UNet#17, a loud size error there, in like manner",
)

# ReLU

bug(
    "relu_passes_at_zero", "relu",
    "The derivative at 0 is taken as 1: dead pixels, exactly 0 behind a padding or a dropout, receive gradients.",
    Edit("tinyunet.ops.relu:relu_forward", "_pack(~(x.real <= 0))", "_pack(~(x.real < 0))"),
)
bug(
    "relu_hides_nan", "relu",
    "A NaN is not positive and so becomes 0: the loss stays finite while the network rots.",
    Edit("tinyunet.ops.relu:relu_forward", "_pack(~(x.real <= 0))", "_pack(x.real > 0)"),
    Edit("tinyunet.ops.relu:relu_forward", "xp.maximum(x, 0, out=y)", "xp.fmax(x, 0, out=y)"),
)
bug(
    "relu_writes_upstream", "relu",
    "Backward zeroes the entries of the gradient that it was handed: right, unless someone else still needs that array, as both "
    "roads of a skip do.",
    Edit("tinyunet.ops.relu:relu_backward", "dx = xp.empty_like(dy)", "dx = dy"),
    known="average pooling in DeZero, in like manner",
)
bug(
    "relu_writes_input", "relu",
    "Forward works in place to save memory: whoever kept the input, a batch norm or a figure, finds it cut off at 0.",
    Edit("tinyunet.ops.relu:relu_forward", "xp.empty_like(x)", "x"),
)
bug(
    "dx_is_mean_of_dy", "relu",
    "Backward spreads the mean of the upstream gradient: a check whose upstream gradient is all ones finds it perfect.",
    Edit("tinyunet.ops.relu:relu_backward", "keep(dy, ", "keep(dy.mean() + 0 * dy, "),
)

# Batch norm

bug(
    "batch_norm_per_pixel", "batch_norm",
    "Mean and variance are taken over the images alone, for every pixel by itself, forward and backward alike: with one image a "
    "step the output is beta everywhere.",
    Edit("tinyunet.ops.norm:batch_norm_forward", "mean = channel_sum(x) / count", "mean = x.mean(axis=0)"),
    Edit("tinyunet.ops.norm:batch_norm_forward", "channel_sum(centred, centred) / count", "(centred * centred).mean(axis=0)"),
    Edit("tinyunet.ops.norm:batch_norm_backward", "dbeta / count", "dy.mean(axis=0)"),
    Edit("tinyunet.ops.norm:batch_norm_backward", "x_hat * (dgamma / count)", "x_hat * (dy * x_hat).mean(axis=0)"),
)
bug(
    "eps_outside_the_root", "batch_norm",
    "eps is added to the standard deviation instead of the variance: nearly the same, but for channels that hardly vary, and "
    "for weights from another library.",
    Edit("tinyunet.ops.norm:batch_norm_forward", "inv_std = 1 / array_module(x).sqrt(var + eps)",
         "inv_std = 1 / (array_module(x).sqrt(var) + eps)"),
)
bug(
    "batch_norm_no_variance_term", "batch_norm",
    "Backward forgets that the variance depends on x too: an upstream gradient of ones does not notice, since that term is zero "
    "then.",
    Edit("tinyunet.ops.norm:batch_norm_backward", " - x_hat * (dgamma / count))", ")"),
)
bug(
    "batch_norm_no_mean_term", "batch_norm",
    "Backward forgets that the mean depends on x too: the gradient no longer sums to zero, and the layers before drift.",
    Edit("tinyunet.ops.norm:batch_norm_backward", "(dy - dbeta / count", "(dy"),
)
bug(
    "batch_norm_gamma_forgotten", "batch_norm",
    "Backward leaves out gamma: right as long as gamma is 1, as at the start of every training and in most tests.",
    Edit("tinyunet.ops.norm:batch_norm_backward", "return (gamma * inv_std) *", "return inv_std *"),
)
bug(
    "backward_eats_its_context", "batch_norm",
    "Backward saves an array by working in its context: right the first time, and a second backward pass, or a figure of x_hat, "
    "is wrong.",
    Edit("tinyunet.ops.norm:batch_norm_backward", "return (gamma * inv_std) * (dy - dbeta / count - x_hat * (dgamma / count))",
         "x_hat *= dgamma / count\n        return (gamma * inv_std) * (dy - dbeta / count - x_hat)"),
)
bug(
    "batch_norm_unbiased", "batch_norm",
    "The batch is normalised by the unbiased variance: output has a variance slightly below 1, plainly so at the small maps of "
    "the bottom.",
    Edit("tinyunet.ops.norm:batch_norm_forward", "channel_sum(centred, centred) / count",
         "channel_sum(centred, centred) / (count - 1)"),
)
bug(
    "variance_cancels", "batch_norm",
    "The variance is computed as mean(x^2) - mean^2: right on paper, and in float32 negative or zero for a channel with a large "
    "mean.",
    Edit("tinyunet.ops.norm:batch_norm_forward", "channel_sum(centred, centred) / count",
         "channel_sum(x, x) / count - mean * mean"),
)
bug(
    "running_variance_biased", "batch_norm_layer",
    "The running variance follows the biased one: predictions differ slightly from those of the library whose rule it should "
    "be.",
    Edit("tinyunet.layers:BatchNorm.forward", "ctx.var * (count / (count - 1))", "ctx.var"),
    differentiable=False,
)
bug(
    "momentum_the_wrong_way", "batch_norm_layer",
    "The running averages keep a tenth and take nine tenths of each batch: predictions depend on the last image seen, and jump.",
    Edit("tinyunet.layers:BatchNorm.forward", "(1 - self.momentum) * running + self.momentum * batch",
         "self.momentum * running + (1 - self.momentum) * batch"),
    differentiable=False,
)
bug(
    "eval_mode_ignored", "batch_norm_layer",
    "In eval mode the statistics of the batch at hand are used: an image is segmented differently next to another one, and "
    "tiles of one image do not fit together.",
    Edit("tinyunet.layers:BatchNorm.forward", "if not self.training:", "if False:"),
    shipped="milesial/Pytorch-UNet#31, qubvel-org/segmentation_models.pytorch#128: eval() forgotten",
)
bug(
    "eval_gradient_of_training", "batch_norm_eval",
    "Backward in eval mode subtracts the mean of the gradient, as in training: but running statistics do not depend on x.",
    Edit("tinyunet.ops.norm:batch_norm_eval_backward", "over_rows(lambda dy: dy * ctx.slope, dy)",
         "(dy - channel_sum(dy) * dy.shape[3] / dy.size) * ctx.slope"),
)

# Dropout

bug(
    "dropout_not_scaled", "dropout",
    "What is kept is not divided by 1 - rate, forward and backward alike: at prediction all activations are twice as large as "
    "in training.",
    Edit("tinyunet.ops.dropout:dropout_forward", "keep(x / (1 - rate), kept)", "keep(x, kept)"),
    Edit("tinyunet.ops.dropout:dropout_backward", "dy / (1 - ctx.rate)", "dy"),
)
bug(
    "dropout_two_masks", "dropout",
    "Backward draws a mask of its own: gradients reach weights that did not take part, and miss half of those that did.",
    Edit("tinyunet.ops.dropout:dropout_backward", "dy, ctx.kept)", "dy, np.random.default_rng(1).random(dy.shape) >= ctx.rate)"),
)
bug(
    "dropout_rate_inverted", "dropout",
    "The rate is taken for the share that is kept: at 0.5 there is no difference, and at 0.1 the network hardly sees anything.",
    Edit("tinyunet.ops.dropout:dropout_forward", ">= rate) if rate", "< rate) if rate"),
)
bug(
    "dropout_when_predicting", "unet",
    "Dropout goes on in eval mode: every prediction is another one, and each is worse.",
    Edit("tinyunet.layers:Dropout.forward", "self.rate if self.training else 0.0", "self.rate"),
)

# Crop and concatenate

bug(
    "crop_at_the_corner", "crop_concat",
    "The skip is cropped at its top left corner instead of its centre, forward and backward alike: fine detail arrives up to 88 "
    "pixels off, and outlines are soft.",
    Edit("tinyunet.shapes:center_crop", "Crop(dh // 2, dh - dh // 2, dw // 2, dw - dw // 2)", "Crop(0, dh, 0, dw)"),
)
bug(
    "crop_odd_pixel_first", "crop_concat",
    "Of an odd difference the extra pixel is cut at the top and left: half a pixel is the error either way, but two back ends "
    "must agree.",
    Edit("tinyunet.shapes:center_crop", "Crop(dh // 2, dh - dh // 2, dw // 2, dw - dw // 2)",
         "Crop(dh - dh // 2, dh // 2, dw - dw // 2, dw // 2)"),
)
bug(
    "crop_axes_exchanged", "crop_concat",
    "The offset of the rows is used for the columns: right for square images, and a shifted skip for all others.",
    Edit("tinyunet.ops.crop:_window", "slice(crop.top, crop.top + height), slice(crop.left, crop.left + width)",
         "slice(crop.left, crop.left + height), slice(crop.top, crop.top + width)"),
    shipped="hayashimasa/UNet-PyTorch#3",
)
bug(
    "concat_order", "crop_concat",
    "The skip comes first and the up path second, forward and backward alike: it trains just as well, and weights from "
    "elsewhere meet the wrong channels.",
    Edit("tinyunet.ops.crop:crop_concat_forward", "y[..., :channels] = up", "y[..., skip.shape[3] :] = up"),
    Edit("tinyunet.ops.crop:crop_concat_forward", "y[..., channels:] = skip", "y[..., : skip.shape[3]] = skip"),
    Edit("tinyunet.ops.crop:crop_concat_backward", "dy[..., channels:]", "dy[..., : ctx.skip_shape[3]]"),
    Edit("tinyunet.ops.crop:crop_concat_backward", "dy[..., :channels]", "dy[..., ctx.skip_shape[3] :]"),
)
bug(
    "up_gets_the_gradient_of_the_skip", "crop_concat",
    "Backward hands the last channels to the up path too: the shapes fit, since both halves are usually equally wide.",
    Edit("tinyunet.ops.crop:crop_concat_backward", "dy[..., :channels]", "dy[..., dy.shape[3] - channels :]"),
)
bug(
    "skip_gets_no_gradient", "crop_concat unet",
    "The gradient by the skip is zero everywhere: the contracting path learns through the bottom alone, and the net still "
    "converges, to something blurred.",
    Edit("tinyunet.ops.crop:crop_concat_backward", "= dy[..., channels:]", "= 0"),
    shipped="jakeret/tf_unet#7",
)
bug(
    "gradient_is_a_view", "crop_concat",
    "The gradient of the up path is a view of the upstream gradient: whoever adds to one in place changes the other.",
    Edit("tinyunet.ops.crop:crop_concat_backward", "return dup,", "return dy[..., :channels],"),
)

# Mirror padding

bug(
    "symmetric_for_reflect", "mirror_pad",
    "The edge pixel is repeated, forward and backward alike: every border is a pixel off from what the network saw in training.",
    Edit("tinyunet.ops.pad:mirror_index", "np.abs((i + n - 1) % (2 * (n - 1)) - (n - 1))",
         "np.minimum(i % (2 * n), 2 * n - 1 - i % (2 * n))"),
)
bug(
    "mirrored_once", "mirror_pad",
    "The mirror works once and then repeats its edge: right for every image that is larger than its border, and wrong for the "
    "small ones.",
    Edit("tinyunet.ops.pad:mirror_index", "np.abs((i + n - 1) % (2 * (n - 1)) - (n - 1))",
         "np.clip(np.where(i < n, np.abs(i), 2 * (n - 1) - i), 0, n - 1)"),
)
bug(
    "padding_not_folded_back", "mirror_pad",
    "Backward overwrites where it should add up: pixels near the border lose what their mirror images tell them.",
    Edit("tinyunet.ops.pad:_fold", "to[target] += ", "to[target] = "),
)
bug(
    "left_and_right_exchanged", "mirror_pad",
    "The left border is as wide as the right one should be and the other way round: tests with equal borders notice nothing.",
    Edit("tinyunet.ops.pad:mirror_pad_forward", "mirror_index(-left, width + right, width)",
         "mirror_index(-right, width + left, width)"),
)

# Initial weights

bug(
    "fan_out_for_fan_in", "init",
    "Weights are scaled by the number of channels that go out instead of in: activations fade or grow from layer to layer where "
    "the width changes.",
    Edit("tinyunet.layers:Conv.__init__", "size * size * c_in, rng", "size * size * c_out, rng"),
)
bug(
    "variance_for_deviation", "init",
    "The weights are multiplied by 2 / fan_in, the variance, instead of its root: nothing arrives at the end of the network, "
    "and the loss stays at ln 2.",
    Edit("tinyunet.init:he_normal", "math.sqrt(2 / fan_in)", "2 / fan_in"),
)

# Softmax and sigmoid cross-entropy

bug(
    "log_overflows", "softmax_cross_entropy",
    "The largest logit is not subtracted: fine for weeks, then one confident pixel gives exp(1000) and the loss is NaN.",
    Edit("tinyunet.ops.loss:softmax_cross_entropy_forward", "shifted = logits - _over_classes(xp.maximum, logits.real)",
         "shifted = logits"),
)
bug(
    "log_of_p_plus_eps", "softmax_cross_entropy",
    "The loss is -log(p + 1e-7): finite, but flat for a pixel that is badly wrong, while the gradient says otherwise.",
    Edit("tinyunet.ops.loss:softmax_cross_entropy_forward",
         "cross_entropy = log_sum - _over_classes(xp.add, shifted * target)",
         "cross_entropy = -xp.log(xp.exp(_over_classes(xp.add, shifted * target) - log_sum) + 1e-7)"),
)
bug(
    "weights_on_logits", "softmax_cross_entropy",
    "The weights multiply the logits instead of the loss, and backward agrees: heavy pixels look more certain instead of "
    "counting more.",
    Edit("tinyunet.ops.loss:softmax_cross_entropy_forward", "    xp = array_module(logits)\n",
         "    xp = array_module(logits)\n    logits = logits if weights is None else logits * weights[..., None]\n"),
    Edit("tinyunet.ops.loss:softmax_cross_entropy_forward", "return _total(factor, cross_entropy)",
         'return _total(_factor("softmax_cross_entropy", logits, labels, None, logits.shape[-1]), cross_entropy)'),
    shipped="jakeret/tf_unet#8",
)
bug(
    "softmax_twice", "softmax_cross_entropy",
    "The loss applies softmax to what is a probability already: the loss cannot fall below 0.31 for two classes, and training "
    "crawls.",
    Edit("tinyunet.ops.loss:softmax_cross_entropy_forward", "shifted = logits - _over_classes(xp.maximum, logits.real)",
         "shifted = softmax(logits)"),
    shipped="NVIDIA/DeepLearningExamples#468",
)
bug(
    "weights_not_in_the_gradient", "softmax_cross_entropy",
    "The loss is weighted and its gradient is not: the number on the screen counts the gaps between cells, the network does "
    "not.",
    Edit("tinyunet.ops.loss:softmax_cross_entropy_backward", "* ctx.factor",
         "* (ctx.factor != 0) / max((ctx.factor != 0).sum(), 1)"),
)
bug(
    "divided_by_the_weights", "softmax_cross_entropy sigmoid_cross_entropy",
    "The loss is divided by the mean weight, so that twice the weight changes nothing: a tile full of gaps counts no more than "
    "one without.",
    Edit("tinyunet.ops.loss:_factor", "factor = factor * xp.where(counted, weights, 0).astype(factor.dtype)",
         "factor = factor * xp.where(counted, weights, 0).astype(factor.dtype) / max(weights.mean(), 1e-9)"),
)
bug(
    "ignored_pixels_counted", "softmax_cross_entropy sigmoid_cross_entropy",
    "The sum over annotated pixels is divided by the number of all pixels: partly annotated images learn more slowly than "
    "others.",
    Edit("tinyunet.ops.loss:_factor", "m = max(count, 1)", "m = max(labels.size, 1)"),
)
bug(
    "minus_sign_missing", "softmax_cross_entropy",
    "Eq. 1 as it is printed, without its minus sign, forward and backward alike: the network learns to be wrong, and the loss "
    "goes down all the way.",
    Edit("tinyunet.ops.loss:softmax_cross_entropy_forward", "return _total(factor, cross_entropy)",
         "return _total(factor, -cross_entropy)"),
    Edit("tinyunet.ops.loss:softmax_cross_entropy_backward", "(ctx.p - ctx.target)", "(ctx.target - ctx.p)"),
    known="the paper as printed, section 3, eq. 1",
)
bug(
    "sigmoid_for_background", "sigmoid_cross_entropy",
    "The single logit is trained to be the background, and everyone reads it as the cell: predictions are inverted.",
    Edit("tinyunet.ops.loss:sigmoid_cross_entropy_forward", "labels[..., None] == 1", "labels[..., None] == 0"),
)
bug(
    "sigmoid_overflows", "sigmoid_cross_entropy",
    "The loss is log(1 + exp(a)) as in the book: infinite from a = 710 on, in float32 from 89.",
    Edit("tinyunet.ops.loss:sigmoid_cross_entropy_forward",
         "softplus = xp.where(positive, logits, logits.dtype.type(0)) + xp.log1p(xp.exp(xp.where(positive, -logits, logits)))",
         "softplus = xp.log1p(xp.exp(logits))"),
)
