"""Bugs of the network's wiring, of its size arithmetic, and of prediction by tiles."""

from tinyunet.bugs.core import Edit, bug

# Wiring

bug(
    "skip_gradient_not_added", "unet",
    "At the fork of each level the gradient that comes back through the skip is thrown away: the first layers learn through the "
    "bottom alone.",
    Edit("tinyunet.unet:UNet.backward", "dx += dskips.pop()", "dskips.pop()"),
    shipped="jakeret/tf_unet#7, in like manner",
)
bug(
    "skip_gradients_in_wrong_order", "unet",
    "Skip gradients come off the wrong end of the stack: an error for two levels or more, and with a single level nothing "
    "shows.",
    Edit("tinyunet.unet:UNet.backward", "dskips.pop()", "dskips.pop(0)"),
)
bug(
    "relu_on_logits", "unet",
    "The logits go through a ReLU: where both are negative the network cannot say anything, the output is grey, and training "
    "may stop at once.",
    Edit("tinyunet.unet:UNet.forward", "return self.head.forward(x)",
         "logits = self.head.forward(x)\n        return logits * (logits.real > 0)"),
    shipped="jakeret/tf_unet#191, zhixuhao/unet#148",
)
bug(
    "one_relu_for_two_places", "unet",
    "One ReLU object serves both places of a block: it remembers the second mask alone, and backward finds the wrong one or "
    "none.",
    Edit("tinyunet.unet:DoubleConv.__init__", 'self.layers.append(ReLU(f"{name}.relu{i}"))',
         'self.layers.append(next((layer for layer in self.layers if isinstance(layer, ReLU)), ReLU(f"{name}.relu{i}")))'),
)
bug(
    "stale_mask", "unet",
    "A layer keeps the first mask that it ever saw: gradients fit the first image of the training, and no other.",
    Edit("tinyunet.layers:Layer.remember", "self._ctx = ctx if self.remembering else None",
         "self._ctx = getattr(self, '_first', ctx) if self.remembering else None\n        self._first = self._ctx or ctx"),
)
bug(
    "gradients_overwritten", "unet batch_norm_layer",
    "A second backward replaces the gradients of the first: several small batches that should make up a large one are the last "
    "of them alone.",
    Edit("tinyunet.layers:Layer.accumulate", "self.grads[key] += value", "self.grads[key][...] = value"),
)
bug(
    "biases_not_zeroed", "unet training",
    "zero_grad leaves out whatever has one axis: the biases follow the sum of all gradients there ever were.",
    Edit("tinyunet.unet:UNet.zero_grad", "grad[...] = 0", "grad[...] = 0 if grad.ndim > 1 else grad"),
)
bug(
    "running_statistics_not_saved", "unet",
    "A checkpoint holds the parameters and not the running statistics: a loaded network predicts with mean 0 and variance 1.",
    Edit("tinyunet.unet:UNet.state", "{**self.params(), **buffers}", "self.params()"),
    differentiable=False,
)
bug(
    "dropout_at_the_top", "unet",
    "Dropout sits in the first level instead of the last contracting one: fine detail is lost where it matters most.",
    Edit("tinyunet.unet:Down.__init__", "dropout=level == spec.depth - 1", "dropout=level == 0"),
    differentiable=False,
)

# Size arithmetic

bug(
    "legal_sizes_for_same_padding", "unet",
    "A convolution without padding is taken to keep the size, so any multiple of 2^depth passes: what the tables promise is not "
    "what comes out.",
    Edit("tinyunet.shapes:_walk", 'shrink = 2 if spec.padding == "valid" else 0', "shrink = 0"),
    shipped="jakeret/tf_unet#39, jakeret/tf_unet#235, offsets that hold for one setting only, in like manner",
    differentiable=False,
)
bug(
    "receptive_field_off_by_one", "unet",
    "The interval ends one pixel early: the reach of 107 pixels is called 106, and whoever relies on it gets a seam.",
    Edit("tinyunet.shapes:receptive_field", "high - (i + shift))", "high - (i + shift) - 1)"),
    differentiable=False,
)
bug(
    "receptive_field_without_itself", "unet",
    "The width of the receptive field leaves out the pixel itself: 187 instead of 188.",
    Edit("tinyunet.shapes:Reach.size", "self.before + 1 + self.after", "self.before + self.after"),
    differentiable=False,
)
bug(
    "biases_not_counted", "unet",
    "The number of parameters leaves out the biases of 3x3 convolutions: nearly right, and it does not match the paper's "
    "network.",
    Edit("tinyunet.shapes:LayerInfo.params", "9 * self.c_in + 1", "9 * self.c_in"),
    differentiable=False,
)

# Tiles

bug(
    "stride_of_the_output", "tiling",
    "Tiles are laid edge to edge, 388 pixels apart, as figure 2 is usually read: 388 is no multiple of 16, so poolings fall "
    "differently and tiles do not agree with the whole image.",
    Edit("tinyunet.shapes:tile_spans", "stride = keep // step * step", "stride = keep"),
    known="the usual reading of the paper's figure 2",
)
bug(
    "halo_too_small", "tiling",
    "Tiles of a network with same padding overlap by one pooling cell instead of the whole receptive field: the zero border of "
    "each tile leaves a frame in the result.",
    Edit("tinyunet.shapes:tile_spans", "halo = -(-max(max(r) for r in receptive_field(spec)) // step) * step", "halo = step"),
    shipped="Project-MONAI/MONAI#298, MIC-DKFZ/nnUNet#325: seams, in like manner",
)
bug(
    "tile_one_pixel_off", "tiling",
    "The input of each tile begins one pixel late: every mask is shifted by a pixel, which no score notices on large cells.",
    Edit("tinyunet.shapes:tile_spans", "Span(a, z, a - border, a - border + tile, 0)",
         "Span(a, z, a - border + 1, a - border + 1 + tile, 0)"),
)
bug(
    "zeros_beyond_the_image", "tiling",
    "Beyond the image the network sees zeros instead of a mirror: the outermost 92 pixels are segmented worse than all others.",
    Edit("tinyunet.inference:predict_tiles", "            x /= std\n",
         "            x /= std\n"
         "            x[:, [not 0 <= i < height for i in range(row.in_start, row.in_stop)]] = 0\n"
         "            x[:, :, [not 0 <= j < width for j in range(col.in_start, col.in_stop)]] = 0\n"),
)
bug(
    "not_normalised_when_predicting", "tiling normalization",
    "The image is not divided by its standard deviation when predicting: the network sees numbers that it never saw in "
    "training.",
    Edit("tinyunet.inference:predict_tiles", "            x /= std\n", ""),
    shipped="pytorch/hub#72, lmb-freiburg/Unet-Segmentation#49",
)
bug(
    "predicts_in_training_mode", "tiling",
    "Prediction forgets eval mode: dropout and batch statistics go on, and each prediction is another one.",
    Edit("tinyunet.inference:_eval_mode", "    model.eval()\n", "    model.train()\n"),
    shipped="milesial/Pytorch-UNet#31, aladdinpersson/Machine-Learning-Collection#70",
)
bug(
    "stays_in_eval_mode", "tiling training",
    "After a validation the network stays in eval mode: dropout never comes back, and training goes on as another one.",
    Edit("tinyunet.inference:_eval_mode", "        if training:", "        if False:"),
)
bug(
    "flip_not_undone", "tiling",
    "Predictions of mirrored images are averaged without turning them back: the mean is a blur of the image and its mirror "
    "image.",
    Edit("tinyunet.inference:_forward", "return xp.flip(proba, axes)", "return proba"),
)
bug(
    "views_added_not_averaged", "tiling",
    "Probabilities of four views are added and not divided by four: the mask is right, and every threshold is wrong.",
    Edit("tinyunet.inference:predict_tiles", "proba /= len(views)", "proba /= 1"),
)
bug(
    "sigmoid_classes_exchanged", "tiling",
    "For a network with one logit, p is given as the probability of background: every mask is inverted.",
    Edit("tinyunet.inference:_forward", "xp.concatenate((1 - p, p), axis=-1)", "xp.concatenate((p, 1 - p), axis=-1)"),
)
