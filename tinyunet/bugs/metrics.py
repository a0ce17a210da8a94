"""Bugs of the measures. The network is as good as ever; what is told about it is wrong."""

from tinyunet.bugs.core import Edit, bug

bug(
    "seg_at_exactly_half", "metrics",
    "An object counts as found from exactly half of its pixels on: two halves can claim one cell, and SEG is too good.",
    Edit("tinyunet.metrics:seg_scores", "(2 * table.pixels > size_R[table.i])", "(2 * table.pixels >= size_R[table.i])"),
)
bug(
    "seg_half_of_the_prediction", "metrics",
    "Half of the predicted object is asked for instead of half of the true one: small fragments match, and SEG is another "
    "measure.",
    Edit("tinyunet.metrics:seg_scores", "(2 * table.pixels > size_R[table.i])", "(2 * table.pixels > size_S[table.j])"),
)
bug(
    "rand_on_all_pixels", "metrics",
    "Pairs are counted over the whole image and not in the truth's foreground alone: how wide a membrane is drawn decides the "
    "score.",
    Edit("tinyunet.metrics:_foreground_shares", "inside = reference > 0", "inside = np.ones(reference.shape, bool)"),
)
bug(
    "membranes_are_one_object", "metrics",
    "All predicted background is one large object instead of single pixels: a membrane that is drawn too wide merges all cells "
    "that it touches, and V_Rand falls.",
    Edit("tinyunet.metrics:v_rand", "_foreground_shares(prediction, ",
         "_foreground_shares(np.where(prediction > 0, prediction, prediction.max() + 1), "),
    known="skimage.metrics.adapted_rand_error, where it is the definition",
)
bug(
    "merge_and_split_exchanged", "metrics",
    "Merge and split change names: the F-score is right, and whoever tunes against merged cells tunes the wrong way.",
    Edit("tinyunet.metrics:v_rand", "merge=both / ((b**2).sum() + alone), split=both / (a**2).sum()",
         "split=both / ((b**2).sum() + alone), merge=both / (a**2).sum()"),
    shipped="scikit-image/scikit-image#6485",
)
bug(
    "entropy_of_membranes_forgotten", "metrics",
    "Predicted background has no entropy: V_Info does not see that a cell was eaten up by its membrane.",
    Edit("tinyunet.metrics:v_info", "alone = singles / n * np.log(n)", "alone = 0.0 * singles"),
)
bug(
    "iou_counts_the_overlap_twice", "metrics",
    "The union is |A| + |B| without taking the overlap off: a perfect segmentation has an IoU of 0.5.",
    Edit("tinyunet.metrics:iou", "truth + claim - hit", "truth + claim"),
)
bug(
    "absent_class_scores_zero", "metrics",
    "A class that is nowhere, in truth or prediction, scores 0 instead of not counting: an empty image is punished for being "
    "right.",
    Edit("tinyunet.metrics:_ratio", "np.full(whole.shape, np.nan)", "np.zeros(whole.shape)"),
    shipped="fastai/fastai#2267, Project-MONAI/MONAI#746: Dice of empty masks",
)
bug(
    "background_in_the_mean", "metrics",
    "The mean over classes includes the background: 0.99 of background lifts 0.60 of cells to 0.80.",
    Edit("tinyunet.metrics:foreground_mean", "per_class[1:][~np.isnan(per_class[1:])]", "per_class[~np.isnan(per_class)]"),
)
bug(
    "confusion_transposed", "metrics",
    "Rows are predictions and columns the truth: IoU and Dice are symmetric and do not notice, whoever reads the table does.",
    Edit("tinyunet.metrics:confusion_matrix", "labels[known].astype(np.intp) * classes + prediction[known].astype(np.intp)",
         "prediction[known].astype(np.intp) * classes + labels[known].astype(np.intp)"),
)
bug(
    "unknown_is_background", "metrics",
    "Pixels that nobody annotated count as background: every cell found there is a mistake.",
    Edit("tinyunet.metrics:confusion_matrix", "known = labels != IGNORE",
         "labels = np.maximum(labels, 0)\n    known = labels >= 0"),
)
bug(
    "objects_joined_at_corners", "metrics",
    "Objects are 8-connected where 4 were asked for: two cells behind a diagonal membrane of one pixel become one.",
    Edit("tinyunet.data.instances:components", "1 if connectivity == 4 else 2", "2"),
)
bug(
    "min_size_off_by_one", "metrics",
    "Objects of exactly min_size pixels are removed too.",
    Edit("tinyunet.data.instances:_drop_small", "sizes >= max(min_size, 1)", "sizes > max(min_size, 1)"),
)
bug(
    "threshold_reached_is_passed", "metrics",
    "A probability equal to the threshold counts as above it: at threshold 0 everything is foreground.",
    Edit("tinyunet.metrics:best_threshold", "measure(p > threshold, reference)", "measure(p >= threshold, reference)"),
)
bug(
    "first_image_counts_twice", "metrics",
    "The first image counts twice when scores are added up: measures of a data set depend on the order of its images.",
    Edit("tinyunet.metrics:total", "sum(scores[1:], scores[0])", "sum(scores, scores[0])"),
)
