"""Bugs of the two convolutions: in the operations, and in the rungs that compute them."""

from tinyunet.bugs.core import Edit, bug

bug(
    "kernel_flipped", "conv2d",
    "The kernel is applied upside down and mirrored, forward and backward alike: training works as ever, and weights from "
    "another library give nonsense.",
    Edit("tinyunet.rungs.taps:_taps", "slice(r, r + rows), slice(s, s + cols)",
         "slice(size - 1 - r, size - 1 - r + rows), slice(size - 1 - s, size - 1 - s + cols)"),
)
bug(
    "kernel_transposed", "conv2d",
    "Rows and columns of the kernel are exchanged, forward and backward alike: training works, and a symmetric kernel in a test "
    "notices nothing.",
    Edit("tinyunet.rungs.taps:_taps", "yield r, s, ", "yield s, r, "),
)
bug(
    "same_repeats_the_edge", "conv2d",
    "Same padding repeats the edge pixel instead of adding zeros, but backward knows of zeros only: the gradient is wrong in "
    "the border.",
    Edit("tinyunet.rungs.taps:zero_pad", "(0, 0)))", '(0, 0)), mode="edge")'),
)
bug(
    "same_crops_at_the_corner", "conv2d",
    "Backward cuts the padding off at the bottom and right only: the gradient arrives one pixel off, and learning is merely "
    "worse.",
    Edit("tinyunet.rungs.taps:grad_x", "dx[:, pad : dx.shape[1] - pad, pad : dx.shape[2] - pad]",
         "dx[:, : dx.shape[1] - 2 * pad, : dx.shape[2] - 2 * pad]"),
)
bug(
    "wrong_only_if_square", "conv2d",
    "The weight gradient reads the image transposed whenever the output is square: a test with unequal sides sees nothing, and "
    "training uses square tiles.",
    Edit("tinyunet.rungs.taps:grad_w", "padded[window], dy,",
         "padded[window].transpose(0, 2, 1, 3) if dy.shape[1] == dy.shape[2] else padded[window], dy,"),
)
bug(
    "wrong_unless_square", "conv2d",
    "The height stands where the width belongs: right for every square image, an error or a cut gradient for all others.",
    Edit("tinyunet.rungs.taps:grad_x", "pad : dx.shape[2] - pad", "pad : dx.shape[1] - pad"),
)
bug(
    "accumulates_in_float32", "conv2d",
    "The result is added up in float32 whatever the input is: harmless in training, and it blinds every gradient check that "
    "relies on float64.",
    Edit("tinyunet.rungs.taps:forward", "w.shape[3]), x.dtype)\n", 'w.shape[3]), "float32")\n'),
    Edit("tinyunet.rungs.taps:forward", "y += padded[window] @ w[r, s]", "y += (padded[window] @ w[r, s]).real.astype(y.dtype)"),
)
bug(
    "negative_index_wraps", "conv2d",
    "Nobody asks whether an index is negative, and in Python -1 is the last row: the top border of the image sees the bottom, "
    "forward and backward alike.",
    Edit("tinyunet.rungs.loops:conv_forward", "0 <= i + r - pad < height and 0 <= j + s - pad < width",
         "i + r - pad < height and j + s - pad < width"),
    Edit("tinyunet.rungs.loops:conv_grad_x", "0 <= i + r - pad < height and 0 <= j + s - pad < width",
         "i + r - pad < height and j + s - pad < width"),
    Edit("tinyunet.rungs.loops:conv_grad_w", "0 <= i + r - pad < height and 0 <= j + s - pad < width",
         "i + r - pad < height and j + s - pad < width"),
)
bug(
    "dw_of_the_last_pixel", "conv2d",
    "The weight gradient is assigned where it should be added to, so only the last pixel of the last image counts: the loss "
    "falls, slowly and noisily.",
    Edit("tinyunet.rungs.loops:conv_grad_w", "dw[r, s] += ", "dw[r, s] = "),
    shipped="LBANN/lbann PR#1022, accumulation of the kernel gradient, in like manner",
)
bug(
    "dx_with_unflipped_kernel", "conv2d",
    "The gradient by the image convolves with the kernel as it is instead of the flipped one: deeper layers learn from a "
    "gradient that points elsewhere.",
    Edit("tinyunet.rungs.im2col:grad_x", "w[::-1, ::-1].transpose", "w.transpose"),
)
bug(
    "col2im_overwrites", "conv2d",
    "Windows overlap, and where they do the gradient is overwritten instead of added up: each pixel hears from one window of "
    "nine.",
    Edit("tinyunet.rungs.im2col:grad_x", "s : s + cols] += windows", "s : s + cols] = windows"),
)
bug(
    "im2col_index", "conv2d",
    "Windows are read along the row where they should go down it: the kernel sees three overlapping strips of one row.",
    Edit("tinyunet.rungs.im2col:_columns", "(down, right, down, item)", "(down, right, right, item)"),
    shipped="ravin-d-27/PyDeepFlow PR#85, an im2col index, in like manner",
)
bug(
    "memory_order_assumed", "conv2d",
    "Strides are computed for an image that lies row by row in memory, and nobody makes sure of it: a transposed or sliced image "
    "is read as noise.",
    Edit("tinyunet.rungs.im2col:_padded_rows", "return xp.ascontiguousarray(image[start:stop])", "return image[start:stop]"),
    Edit("tinyunet.ops.contract:as_values", "return array_module(x).ascontiguousarray(x)", "return x"),
)
bug(
    "last_strip_forgotten", "conv2d",
    "The last strip is left out where the rows do not divide evenly, so that its memory holds whatever was there: small images "
    "are right, large ones end in noise.",
    Edit("tinyunet.rungs.im2col:_strips", "range(0, rows, step)", "range(0, max(rows - step + 1, 1), step)"),
)
bug(
    "zeros_at_every_strip", "conv2d",
    "With same padding every strip gets a border of zeros of its own: small images are right, large ones have seams every few "
    "rows.",
    Edit("tinyunet.rungs.im2col:_padded_rows", "max(start - pad, 0)", "start"),
)
bug(
    "gradient_sees_last_strip", "conv2d",
    "The weight gradient keeps the last strip alone: right for small images, and a fraction of the gradient for large ones.",
    Edit("tinyunet.rungs.im2col:grad_w", "dw += ", "dw = "),
)
bug(
    "bias_gradient_is_a_mean", "conv2d conv1x1",
    "A layer divides its bias gradient by the number of images, though the loss has done so: with one image a step nothing "
    "shows, with eight the biases learn eight times too slowly.",
    Edit("tinyunet.ops.conv:conv2d_backward", "channel_sum(dy)", "channel_sum(dy) / len(x)"),
)
bug(
    "dw_is_a_mean", "conv2d",
    "The weight gradient is divided by the number of images a second time: with one image a step nothing shows.",
    Edit("tinyunet.ops.conv:conv2d_backward", "rung.grad_w(x, dy, size, pad)", "rung.grad_w(x, dy, size, pad) / len(x)"),
)
bug(
    "conv1x1_first_image_only", "conv1x1",
    "The weight gradient of the 1x1 convolution takes the first image of the batch alone: with one image a step nothing shows.",
    Edit("tinyunet.ops.conv:conv2d_backward", "x.reshape(-1, c_in).T @ dy.reshape(-1, c_out)",
         "x[:1].reshape(-1, c_in).T @ dy[:1].reshape(-1, c_out)"),
    shipped="LBANN/lbann PR#1022, kernel gradient wrong per sample, in like manner",
)
bug(
    "bias_forgotten", "conv2d conv1x1",
    "The bias is never added: behind every ReLU the network can only turn about the origin, and the gradient of the bias moves "
    "something that nobody reads.",
    Edit("tinyunet.ops.conv:conv2d_forward", "add_bias(y, b)", "add_bias(y, 0 * b)"),
)
bug(
    "upconv_rows_exchanged", "upconv",
    "The two rows of every 2x2 block change places, forward and backward alike: it trains, and weights from another library "
    "give a comb.",
    Edit("tinyunet.rungs.gemm:forward", "y[:, :, a]", "y[:, :, 1 - a]"),
    Edit("tinyunet.rungs.gemm:grad_x", "by_row[:, :, 0].reshape(", "by_row[:, :, 1].reshape("),
    Edit("tinyunet.rungs.gemm:grad_x", "dx += by_row[:, :, 1].reshape(", "dx += by_row[:, :, 0].reshape("),
    Edit("tinyunet.rungs.gemm:grad_w", "by_row[:, :, a, ", "by_row[:, :, 1 - a, "),
)
bug(
    "upconv_first_image_only", "upconv",
    "Every image of the batch is painted from the first one: right for one image a step, and nobody looks at the others.",
    Edit("tinyunet.rungs.loops:upconv_forward", "w[a, b] @ x[n, i, j]", "w[a, b] @ x[0, i, j]"),
    shipped="chelsea0x3b/dfdx#657, a transposed convolution wrong for batches, and only on CUDA",
)
bug(
    "upconv_gradient_of_one_row", "upconv",
    "The upper row of each block is counted twice and the lower one not at all: the gradient has the right size and half of its "
    "content.",
    Edit("tinyunet.rungs.gemm:grad_x", "dx += by_row[:, :, 1]", "dx += by_row[:, :, 0]"),
)
bug(
    "upconv_bias_of_one_phase", "upconv",
    "The bias gradient adds up one pixel of each 2x2 block: a quarter of what it should be, on average.",
    Edit("tinyunet.ops.upconv:upconv_backward", "channel_sum(dy)", "channel_sum(dy[:, ::2, ::2])"),
)
