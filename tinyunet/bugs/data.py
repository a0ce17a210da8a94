"""Bugs of the data: augmentation, weight maps, normalisation, splits."""

from tinyunet.bugs.core import Edit, bug

# Augmentation

bug(
    "labels_interpolated", "augment_tile",
    "Labels are read with linear interpolation and rounded: between classes 0 and 2 appears a rim of class 1, and around "
    "unknown pixels one of background.",
    Edit("tinyunet.data.augment:augment_tile", "_sample(labels, out_at, order=0)",
         "np.rint(_sample(labels.astype(np.float32), out_at, order=1)).astype(np.int32)"),
    shipped="gvtulder/elasticdeform#10, mdbloice/Augmentor PR#226, MIC-DKFZ/batchgenerators#56",
)
bug(
    "labels_bent_otherwise", "augment_tile",
    "Labels are deformed by a random field of their own: image and mask no longer fit, and the network learns soft outlines.",
    Edit("tinyunet.data.augment:augment_tile", "out_at = at[:, *middle]",
         "out_at = _coordinates(rows, cols, settings, u[:6], rng.standard_normal(nodes.shape))[:, *middle]"),
)
bug(
    "labels_not_from_the_centre", "augment_tile training",
    "The labels of a tile are cut from its top left corner, though the network predicts its centre: it learns to predict 92 "
    "pixels away.",
    Edit("tinyunet.data.augment:augment_tile", "[(n_in - n_out) // 2 for n_in, n_out in zip(in_size, out_size, strict=True)]",
         "[0 for _ in in_size]"),
    shipped="jakeret/tf_unet#211: the crop of the labels, in like manner",
)
bug(
    "weights_not_moved", "augment_tile",
    "Image and labels are deformed, the weight map stays where it was: large weights lie beside the gaps instead of in them.",
    Edit("tinyunet.data.augment:augment_tile", "_sample(weights, out_at, order=1)",
         "_mirrored(weights, rows[middle[0]], cols[middle[1]]).astype(np.float32)"),
)
bug(
    "half_a_pixel_off", "augment_tile",
    "Rows are counted from a middle that is half a pixel off: every deformed tile is blurred and shifted, image and labels "
    "alike.",
    Edit("tinyunet.data.augment:_coordinates", "(len(rows) - 1) / 2) * flip_y", "len(rows) / 2) * flip_y"),
)
bug(
    "edge_repeated_when_bending", "augment_tile",
    "Beyond the edge a deformed tile repeats the edge pixel, a plain one does not: SciPy's \"reflect\" is NumPy's \"symmetric\".",
    Edit("tinyunet.data.augment:_sample", 'mode="mirror"', 'mode="reflect"'),
)
bug(
    "seed_ignored", "elastic_field augment_tile",
    "The random field comes from a generator of its own: no run can be repeated, and a bug that shows once never shows again.",
    Edit("tinyunet.data.augment:augment_tile", "nodes = rng.standard_normal", "nodes = np.random.default_rng().standard_normal"),
    Edit("tinyunet.data.augment:elastic_field", "std * rng.standard_normal", "std * np.random.default_rng().standard_normal"),
)
bug(
    "edge_node_forgotten", "elastic_field",
    "The interpolation does not repeat the last node beyond the edge: displacements shrink towards the bottom and right of the "
    "tile.",
    Edit("tinyunet.data.augment:bicubic_matrix", "b[:, -1] += kernel[:, -1]", "b[:, -1] += 0"),
)
bug(
    "contrast_about_zero", "augment_tile",
    "Contrast is changed about 0 instead of the mean: each change of contrast is a much larger change of brightness too.",
    Edit("tinyunet.data.augment:_grey", "gain * (x - mean) + (mean + offset * unit)", "gain * x + offset * unit"),
)

# Weight maps

bug(
    "d1_and_d2_exchanged", "weight_map",
    "The distance to the second nearest cell is handed out as that to the nearest: the sum in eq. 2 does not notice, every "
    "figure and every other formula does.",
    Edit("tinyunet.data.weight_map:distances", "return d1, d2", "return d2, d1"),
)
bug(
    "d2_is_d1", "weight_map",
    "The second nearest cell is the nearest once more: every cell gets a halo, alone or not, and gaps are not special.",
    Edit("tinyunet.data.weight_map:distances", "np.minimum(second, np.maximum(nearest, d), out=second)",
         "np.minimum(second, d, out=second)"),
)
bug(
    "distance_from_the_border", "weight_map",
    "Distances are counted from the pixel next to the cell instead of the cell: all weights in the gaps are larger than eq. 2 "
    "says.",
    Edit("tinyunet.data.weight_map:distances", "distance_transform_edt(instances[grown] != i).astype(np.float32)",
         "np.maximum(distance_transform_edt(instances[grown] != i) - 1, 0).astype(np.float32)"),
)
bug(
    "sigma_not_squared", "weight_map",
    "The exponent divides by 2 sigma instead of 2 sigma^2: the ridge is half as wide as it should be, and a gap of ten pixels "
    "weighs nothing.",
    Edit("tinyunet.data.weight_map:weight_parts", "-(d**2) / (2 * p.sigma**2))\n\n", "-(d**2) / (2 * p.sigma))\n\n"),
)
bug(
    "sum_of_squares", "weight_map",
    "d1^2 + d2^2 stands where (d1 + d2)^2 belongs: weights in the gaps are too large, and the paper's w0 and sigma mean "
    "something else.",
    Edit("tinyunet.data.weight_map:weight_parts", "d = d1[gap].astype(np.float64) + d2[gap]",
         "d = np.hypot(d1[gap].astype(np.float64), d2[gap])"),
)
bug(
    "border_on_cells", "weight_map",
    "The border term is added on the cells too, not on the background alone: the rims of cells count as much as the gaps.",
    Edit("tinyunet.data.weight_map:weight_parts", "gap = background & np.isfinite(d2)", "gap = np.isfinite(d2)"),
)
bug(
    "cut_off_too_early", "weight_map",
    "The border term ends at two sigma: a step of up to 0.9 in the weights (w0 = 10, sigma = 5) runs around every gap.",
    Edit("tinyunet.data.weight_map:REACH", "math.sqrt(2 * math.log(1e9))", "2.0"),
)
bug(
    "box_too_small", "weight_map",
    "The distance to a cell is computed in its bounding box grown by one pixel: only cells that nearly touch know of each "
    "other.",
    Edit("tinyunet.data.weight_map:distances", "margin = math.ceil(cutoff)", "margin = 1"),
)
bug(
    "balance_inverted", "weight_map",
    "Classes are weighted by their frequency instead of its inverse: the rare class, usually the cells, counts even less.",
    Edit("tinyunet.data.weight_map:class_weights", "counts.sum() / (present.sum() * np.maximum(counts, 1))",
         "present.sum() * counts / counts.sum()"),
)
bug(
    "ignored_pixels_weigh", "weight_map",
    "Unknown pixels are looked up like all others, and index -1 is the last class: what nobody annotated weighs as much as "
    "cells.",
    Edit("tinyunet.data.weight_map:weight_parts", "w_c[counted] = _lookup(class_weights, labels)[labels[counted]]",
         "w_c[:] = _lookup(class_weights, labels)[labels]"),
)
bug(
    "cache_ignores_labels", "weight_map",
    "The cached map is named by the instances and not by the labels: after a correction of the labels training goes on with the "
    "old weights.",
    Edit("tinyunet.data.weight_map:cached_weight_map", "for a in (instances, labels, class_weights):",
         "for a in (instances, class_weights):"),
)
bug(
    "gap_on_one_side", "weight_map",
    "Of two cells that touch only the one with the smaller number gives way: the gap is half as wide, and depends on the "
    "numbering.",
    Edit("tinyunet.data.weight_map:separate", "(largest == instances) & (smallest == instances)", "largest == instances"),
)

# Normalisation and splits

bug(
    "normalised_with_validation_images", "normalization",
    "Mean and deviation are taken over training and validation images together: the validation has been seen, and its score is "
    "too good.",
    Edit("tinyunet.train:_steps", "(sample.image for sample in train)", "(sample.image for sample in (*train, *val))"),
)
bug(
    "mean_of_means", "normalization",
    "Every image counts alike in the mean of the data set, however large it is: thumbnails decide how large images are "
    "normalised.",
    Edit("tinyunet.data.normalize:Normalization.fit", "count + image.shape[0] * image.shape[1], ", "count + 1, "),
    Edit("tinyunet.data.normalize:Normalization.fit", "image.sum(axis=(0, 1), ", "image.mean(axis=(0, 1), "),
    Edit("tinyunet.data.normalize:Normalization.fit", "_squares(image, np.zeros(image.shape[-1]))",
         "_squares(image, np.zeros(image.shape[-1])) / image[..., 0].size"),
)
bug(
    "one_deviation_for_all_channels", "normalization",
    "All channels are divided by one deviation: a weak stain beside a strong one disappears.",
    Edit("tinyunet.data.normalize:_std", "np.sqrt(_squares(image, mean) / (image.shape[0] * image.shape[1]))",
         "np.sqrt(_squares(image, mean).sum() / image.size) * np.ones(image.shape[-1])"),
)
bug(
    "constant_image_is_noise", "normalization",
    "A constant image is divided by what rounding left over of its deviation: an empty field of view becomes a field of noise, "
    "or NaN.",
    Edit("tinyunet.data.normalize:_or_one", "np.where(std > np.finfo(np.float32).eps * np.abs(mean), std, 1.0)", "std + 1e-12"),
)
bug(
    "validation_images_in_training", "splits",
    "The images that validate also train: the score is excellent and says nothing.",
    Edit("tinyunet.data.splits:block_split", "dataset[:len(dataset) - m], ", "dataset[:], "),
)
