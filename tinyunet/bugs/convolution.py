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
    Edit("tinyunet.ops.conv:conv2d_backward", "channel_sum(dy)", "channel_sum(dy) / len(dy)"),
)
bug(
    "dw_is_a_mean", "conv2d",
    "The weight gradient is divided by the number of images a second time: with one image a step nothing shows.",
    Edit("tinyunet.ops.conv:conv2d_backward", "by_w.grad_w(x, dy, size, pad)", "by_w.grad_w(x, dy, size, pad) / len(x)"),
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
    Edit("tinyunet.ops.conv:conv2d_forward", "b, x, w, pad)", "0 * b, x, w, pad)"),
    Edit("tinyunet.ops.conv:conv2d_forward", "add_bias(y, b)", "add_bias(y, 0 * b)"),
)
bug(
    "upconv_rows_exchanged", "upconv",
    "The two rows of every 2x2 block change places, forward and backward alike: it trains, and weights from another library "
    "give a comb.",
    Edit("tinyunet.rungs.gemm:forward", "by_row[:, :, a]", "by_row[:, :, 1 - a]"),
    Edit("tinyunet.rungs.gemm:grad_x", "by_row[:, :, 0].reshape(", "by_row[:, :, 1].reshape("),
    Edit("tinyunet.rungs.gemm:grad_x", "pixels += by_row[:, :, 1].reshape(", "pixels += by_row[:, :, 0].reshape("),
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
    Edit("tinyunet.rungs.gemm:grad_x", "pixels += by_row[:, :, 1]", "pixels += by_row[:, :, 0]"),
)
bug(
    "upconv_bias_of_one_phase", "upconv",
    "The bias gradient adds up one pixel of each 2x2 block: a quarter of what it should be, on average.",
    Edit("tinyunet.ops.upconv:upconv_backward", "channel_sum(dy)", "channel_sum(dy[:, ::2, ::2])"),
)
bug(
    "strip_without_its_halo", "conv2d_float32 conv2d",
    "A strip that is not the last takes zeros for the two rows below it, which its last rows need: small images are right, large "
    "ones have a seam below every strip.",
    Edit("tinyunet.rungs.strips:forward", "padded_rows(x[n], start", "padded_rows(x[n, :stop] if stop < rows else x[n], start"),
)
bug(
    "last_group_of_strips_alone", "conv2d_float32 conv2d",
    "The weight gradient keeps the sum of the last group of strips and loses the others: right for small images, and a "
    "fraction of the gradient for large ones.",
    Edit("tinyunet.rungs.strips:grad_w", "reduce(np.add, each(products, jobs), ", "reduce(np.add, each(products, jobs)[-1:], "),
)
bug(
    "stale_rows_below", "conv2d_float32 conv2d",
    "The rows of zeros below the image are not written, since fresh memory is zero anyway: work memory is not fresh, and the "
    "border holds what was computed before.",
    Edit("tinyunet.rungs.strips:padded_rows", "    rows[below:] = 0\n", ""),
)
bug(
    "run_begins_one_row_late", "conv2d_float32 conv2d",
    "The weight gradient of the last row of the kernel takes the columns of the row above: two thirds of it are right, and the "
    "loss falls.",
    Edit("tinyunet.rungs.strips:grad_w", "written[r : r + h]", "written[min(r, 1) : min(r, 1) + h]"),
)
bug(
    "rest_of_the_wrong_rows", "conv2d_float32",
    "Where four does not divide the height, the last tile gives its last rows instead of its first: right for every height "
    "that is a multiple of four.",
    Edit("tinyunet.rungs.winograd1d:correlate", "A.T[: len(rest)]", "A.T[-len(rest) :]"),
)
bug(
    "wrapped_runs_count", "conv2d_float32",
    "Runs that wrap around the end of a row are multiplied by whatever the work memory holds instead of by zero: the weight "
    "gradient depends on what was computed before.",
    Edit("tinyunet.rungs.winograd1d:grad_w", "            m[:, :, cols:] = 0  # runs that wrap around count nothing\n", ""),
)
bug(
    "inverse_for_transpose", "conv2d_float32",
    "Backward undoes the kernel's transform with its pseudo-inverse, where the gradient of a linear map is its transpose: each "
    "row of dw is a mixture of all three.",
    Edit("tinyunet.rungs.winograd1d:grad_w", "return G.T @ du", "return np.linalg.pinv(G) @ du"),
)
bug(
    "two_of_three_runs", "conv2d_float32",
    "Pixels that begin a run are taken by threes, and the third of three is forgotten: every third column keeps what the work "
    "memory held.",
    Edit("tinyunet.rungs.winograd1d:runs", "range(3)", "range(2)"),
)
bug(
    "points_rounded", "conv2d_float32",
    "The transform of the kernel is written down with two decimals: results are off by three hundredths, which looks like noise "
    "and is the same every time.",
    Edit("tinyunet.rungs.winograd:kernel", "np.kron(G, G)", "np.kron(G, np.round(G, 2))"),
)
bug(
    "transform_not_transposed", "conv2d_float32",
    "The second factor of B^T d B is B where it should be B^T, as rows and columns are treated alike in the text: nothing fits, "
    "forward and backward.",
    Edit("tinyunet.rungs.winograd:transform_rows", "np.matmul(B.T, tiles,", "np.matmul(B, tiles,"),
)
bug(
    "winograd_flip_forgotten", "conv2d_float32",
    "The transformed kernel is not turned by 180 degrees for the gradient by the image: forward is right, and deeper layers "
    "learn from a gradient that points elsewhere.",
    Edit("tinyunet.rungs.winograd:kernel", "both[:, ::-1] if flip else both", "both"),
)
bug(
    "channels_exchanged_unless_as_many", "conv2d_float32",
    "Input and output channels change places for the gradient by the image only where their numbers differ, since else it runs "
    "without: wrong in every layer that keeps its width.",
    Edit("tinyunet.rungs.winograd:correlate", "u.transpose(0, 2, 1) if flip else u",
         "u.transpose(0, 2, 1) if flip and w.shape[2] != w.shape[3] else u"),
)
bug(
    "tiles_cut_at_the_wrong_end", "conv2d_float32",
    "A tile that reaches beyond the map loses its first rows and columns instead of its last: the map moves by up to three "
    "pixels, unless its sides are multiples of four.",
    Edit("tinyunet.rungs.winograd:give_rows", "[: y.shape[0], : y.shape[1]]", "[-y.shape[0] :, -y.shape[1] :]"),
)
bug(
    "one_name_for_two_arrays", "conv2d_float32",
    "Two arrays share a name in the work memory, so that writing the first block of channels destroys what the next blocks read: "
    "right up to 64 channels.",
    Edit("tinyunet.rungs.winograd:all_tiles", 'workspace("all tiles"', 'workspace("tiles"'),
)
bug(
    "winograd_gradient_of_one_image", "conv2d_float32",
    "Where channels are many and tiles few, the tiles of every image get the gradient of the first one: right for one image a "
    "step.",
    Edit("tinyunet.rungs.winograd:grad_w", "take_gradient(dy[n, :, :, job]", "take_gradient(dy[0, :, :, job]"),
)
