"""Every property of what is no op, with geometry from Hypothesis; and every one of them seen to fail on a bug planted for it."""

from contextlib import nullcontext
from dataclasses import replace
from functools import wraps
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyunet import shapes
from tinyunet.catalogue import Draw, properties
from tinyunet.data.normalize import Normalization
from tinyunet.data.sample import Dataset
from tinyunet.errors import CheckError

SUBJECTS = ("weight_map", "elastic_field", "augment_tile", "unet", "init", "tiling", "optim", "schedule", "metrics", "training",
            "splits", "normalization")  # fmt: skip
EVERY = {f"{prop.subject}.{prop.name}": prop for prop in properties(SUBJECTS)}
EXAMPLES = {"a_resumed_run_ends_with_the_same_bytes": 3, "the_best_step_is_kept": 3, "one_image_is_learnt_by_heart": 3}


@pytest.mark.parametrize("name", EVERY)
def test_tinyunet_keeps_the_property(name, drawn_from):
    """The property holds, whatever the geometry and the values."""
    prop = EVERY[name]

    @settings(max_examples=EXAMPLES.get(prop.name, 8))
    @given(data=st.data())
    def run(data):
        prop.run(None, drawn_from(data))

    run()


# Every property has been seen to fail -------------------------------------------------------------------------------


def result(change):
    """The function, with its result changed."""
    return lambda function: wraps(function)(lambda *args, **options: change(function(*args, **options)))


def call(instead):
    """A function that gets the right one, and its arguments."""
    return lambda function: wraps(function)(lambda *args, **options: instead(function, *args, **options))


def value(other):
    """Another function or number in its place."""
    return lambda _: other


def symmetric(start, stop, n):
    """A mirror that repeats the edge pixel."""
    i = np.arange(start, stop) % (2 * n)
    return np.where(i < n, i, 2 * n - 1 - i)


def part(index, change):
    """Change one of several results."""
    return result(lambda r: tuple(change(a) if k == index else a for k, a in enumerate(r)))


def by_column(function, x):
    """A ReLU that gives columns numbers of their own."""
    y, ctx = function(x)
    return y + np.arange(y.shape[2])[:, None], ctx


def misplaced(spans):
    """Tiles that are read one pixel too far to the right, one more in each."""
    return tuple(s._replace(in_start=s.in_start + k, in_stop=s.in_stop + k) for k, s in enumerate(spans))


def at_least_half(prediction, reference):
    """SEG's scores with "at least half" for "more than half"."""
    scores = []
    for r in np.unique(reference[reference > 0]):
        found = [s for s in np.unique(prediction[prediction > 0])
                 if 2 * ((prediction == s) & (reference == r)).sum() >= (reference == r).sum()]
        both = [((prediction == s) & (reference == r)).sum() / ((prediction == s) | (reference == r)).sum() for s in found]
        scores.append(max(both, default=0.0))
    return np.array(scores)


def averaging(self, name, w, g):
    """SGD whose velocity is a running mean of gradients."""
    v = self.velocity[name]
    v[...] = self.momentum * v + (1 - self.momentum) * g
    w -= self.lr * v


def uncorrected(self, name, w, g):
    """Adam without its bias corrections."""
    m, s = self.mean[name], self.square[name]
    m += (1 - self.beta1) * (g - m)
    s += (1 - self.beta2) * (g * g - s)
    w -= self.lr * m / (np.sqrt(s) + self.eps)


def decay_all(step, self):
    """A step that decays biases too."""
    for name, w in self.model.params().items():
        if w.ndim == 1:
            self.model.grads()[name][...] += self.weight_decay * w
    step(self)


def clearing_step(step, self):
    """A step that clears the gradients."""
    step(self)
    for g in self.model.grads().values():
        g[...] = 0


def first_rate(step, self):
    """A step that never looks at the learning rate again."""
    self.lr = self.first = getattr(self, "first", self.lr)
    step(self)


def uphill(step, self):
    """A step in the wrong direction."""
    self.lr = -abs(self.lr)
    step(self)


def forgetful(self, state, steps):
    """Resuming without momentum."""
    self.steps = steps


def without_undoing(function, model, x, view):
    """Flips that are not turned back."""
    flips = tuple(axis for axis, flip in zip((1, 2), view[:2], strict=True) if flip)
    return function(model, np.flip(x, flips), (False, False, view[2]))


def always_training(forward, self, x):
    """Dropout that does not know of eval mode."""
    self.training = True
    return forward(self, x)


def parameters_only(load, self, state):
    """Running statistics that are not loaded."""
    load(self, {**self.state(), **{name: a for name, a in state.items() if not name.endswith((".mean", ".var"))}})


def training_validation(evaluate, model, *args, **options):
    """A validation that leaves its traces in the running statistics."""
    model.train().forward(np.ones((1, 20, 20, 1), np.float32))
    return evaluate(model, *args, **options)


def reading_labels(step):
    """Labels read at another place than the image."""
    return call(lambda sample, plane, at, order: sample(plane, step(at) if order == 0 else at, order))


def times(factor):
    """A result that is larger by a factor."""
    return result(lambda y: y * factor)


W, A, M, T = "tinyunet.data.weight_map", "tinyunet.data.augment", "tinyunet.metrics", "tinyunet.train"
D1_TWICE = (f"{W}:distances", result(lambda d: (d[0], d[0])))
SUM_OVER_IMAGES = (f"{T}:energy", call(lambda f, a, *rest: tuple(len(a) * r for r in f(a, *rest))))
NORM = "tinyunet.data.normalize"

PLANTED = {
    "weight_map.distances_equal_a_loop_over_all_cells": (f"{W}:distances", part(1, lambda d: 1.01 * d)),
    "weight_map.the_nearest_cell_comes_first": (f"{W}:distances", result(lambda d: d[::-1])),
    "weight_map.the_map_is_equation_2": D1_TWICE,
    "weight_map.the_distance_balance_is_that_of_falk_2019": (
        f"{W}:weight_map", call(lambda f, i, preset: f(i, preset=replace(preset, sigma1=2 * preset.sigma1)))),
    "weight_map.names_of_cells_do_not_matter": (f"{W}:distances", call(lambda f, i, c: f(np.where(i > 99, 0, i), c))),
    "weight_map.a_lone_cell_has_no_border": D1_TWICE,
    "weight_map.between_two_discs_d1_plus_d2_is_the_gap": (f"{W}:distances", part(0, lambda d: d - 0.5)),
    "weight_map.turned_cells_have_turned_weights": (f"{W}:distances", part(1, lambda d: np.roll(d, 1, axis=0))),
    "weight_map.moved_cells_have_moved_weights": (
        f"{W}:distances", part(0, lambda d: d + np.arange(d.shape[1], dtype=np.float32))),
    "weight_map.sigma_sets_the_width": (
        f"{W}:weight_parts", call(lambda f, i, preset: f(i, preset=replace(preset, sigma=5.0)))),
    "weight_map.the_border_only_adds": (f"{W}:weight_parts", result(lambda p: p._replace(w=p.w + 0.1, border=p.border + 0.1))),
    "weight_map.classes_are_balanced": (f"{W}:class_weights", times(2)),
    "weight_map.unknown_pixels_weigh_nothing": (f"{W}:weight_map", result(lambda w: w + 1e-3)),
    "weight_map.weights_of_the_training_set_are_looked_up": (f"{W}:_lookup", result(lambda w: w[::-1])),
    "weight_map.any_kind_of_instances_gives_the_same_map": (f"{W}:weight_map", result(lambda w: w.astype(np.float64))),
    "weight_map.separate_opens_every_gap": (f"{W}:separate", call(lambda f, i, width: f(i, width + 2))),
    "weight_map.the_cache_gives_the_same_bytes": (f"{W}:astuple", value(lambda settings: ())),
    "elastic_field.no_deviation_is_no_displacement": (f"{A}:elastic_field", result(lambda u: u + 0.1)),
    "elastic_field.it_is_bicubic_interpolation": (f"{A}:bicubic_matrix", result(np.abs)),
    "elastic_field.the_field_stays_near_its_nodes": (f"{A}:elastic_field", times(3)),
    "elastic_field.a_node_moves_by_the_deviation": (f"{A}:elastic_field", times(1.5)),
    "elastic_field.same_seed_same_field": (
        f"{A}:elastic_field", call(lambda f, shape, rng, *rest: f(shape, np.random.default_rng(), *rest))),
    "augment_tile.without_augmentation_a_tile_is_a_copy": (f"{A}:mirror_index", value(symmetric)),
    "augment_tile.a_displacement_of_nothing_is_the_identity": (
        f"{A}:_sample", call(lambda f, a, at, order: f(a, at + 0.3, order))),
    "augment_tile.beyond_the_edge_is_a_mirror": (f"{A}:mirror_index", value(symmetric)),
    "augment_tile.image_labels_and_weights_move_together": (f"{A}:_sample", reading_labels(lambda at: at + 2)),
    "augment_tile.no_label_is_made_up": (
        f"{A}:_sample",
        call(lambda f, a, at, order: f(a.astype(float), at, 1).astype(np.int32) if order == 0 else f(a, at, order))),
    "augment_tile.unknown_pixels_weigh_nothing": (f"{A}:IGNORE", value(-2)),
    "augment_tile.grey_values_are_for_the_image_alone": (
        f"{A}:augment_tile",
        call(lambda f, *a: (tile := f(*a))._replace(weights=tile.weights * np.float32(1 + a[6].gain)))),
    "augment_tile.flips_flip_everything": (f"{A}:_sample", reading_labels(lambda at: at[:, ::-1])),
    "augment_tile.turning_keeps_distances": (f"{A}:_coordinates", result(lambda at: at * np.array([1, 1.5])[:, None, None])),
    "augment_tile.displacements_are_bounded": (f"{A}:_coordinates", call(lambda f, r, c, s, u, nodes: f(r, c, s, 2 * u, nodes))),
    "augment_tile.same_seed_same_tile": (
        f"{A}:augment_tile", call(lambda f, *a: (a[6].moves and a[7].random(), f(*a))[1])),
    "augment_tile.inputs_survive_and_types_are_fixed": (
        f"{A}:augment_tile", result(lambda tile: tile._replace(labels=tile.labels.astype(np.int64)))),
    "augment_tile.grey_values_change_by_the_formula": (f"{A}:_grey", times(1.9)),
    "augment_tile.gamma_keeps_black_and_white": (
        f"{A}:_grey", call(lambda f, x, settings, *rest: f(x, settings, *rest) * (-1 if settings.gamma else 1))),
    "unet.sizes_follow_one_formula": ("tinyunet.shapes:fits", value(lambda spec, n: True)),
    "unet.the_network_keeps_to_the_formula": ("tinyunet.unet:UNet.forward", result(lambda y: y[:, 1:])),
    "unet.sizes_that_do_not_fit_are_refused": ("tinyunet.shapes:check_size", value(lambda *a: None)),
    "unet.skips_are_cropped_about_their_centre": (
        "tinyunet.shapes:center_crop", result(lambda c: shapes.Crop(0, c.top + c.bottom, 0, c.left + c.right))),
    "unet.parameters_are_counted_by_hand": ("tinyunet.shapes:count_params", result(lambda n: n + 1)),
    "unet.layers_stand_where_the_list_says": ("tinyunet.shapes:layers", result(lambda layers: layers[::-1])),
    "unet.the_receptive_field_is_where_gradients_go": (
        "tinyunet.shapes:receptive_field", result(lambda field: tuple(shapes.Reach(r.before + 1, r.after) for r in field))),
    "unet.the_papers_receptive_field_has_two_sizes": (
        "tinyunet.shapes:receptive_field", result(lambda field: tuple(max(field, key=lambda r: r.size) for _ in field[1:]))),
    "unet.a_shift_by_the_pooling_grid_shifts_the_output": ("tinyunet.ops:relu_forward", call(by_column)),
    "unet.every_skip_matters": ("tinyunet.ops:crop_concat_forward", call(lambda f, up, skip: f(up, 0 * skip))),
    "unet.gradients_come_back_through_the_skips": ("tinyunet.ops:crop_concat_backward", part(1, lambda dskip: 0 * dskip)),
    "unet.gradients_reach_every_parameter": ("tinyunet.ops:upconv_backward", part(1, lambda dw: 0 * dw)),
    "unet.the_paper_passes_the_complex_step": ("tinyunet.ops:dropout_backward", value(lambda dy, ctx: dy)),
    "unet.the_release_passes_the_complex_step": ("tinyunet.ops:relu_backward", value(lambda dy, ctx: dy)),
    "unet.same_bn_passes_the_complex_step": ("tinyunet.ops:conv2d_backward", part(1, lambda dw: 1.001 * dw)),
    "unet.two_levels_pass_the_complex_step": (
        "tinyunet.ops:crop_concat_backward", part(1, lambda dskip: np.roll(dskip, 1, axis=1))),
    "unet.channels_inside_may_be_renamed": (
        "tinyunet.ops:conv2d_forward", part(0, lambda y: y * (1 + 0.1 * np.arange(y.shape[-1])))),
    "unet.logits_are_not_squashed": ("tinyunet.unet:UNet.forward", result(lambda y: np.maximum(y, 0))),
    "unet.one_logit_is_two_classes": ("tinyunet.ops:sigmoid_cross_entropy_backward", times(2)),
    "unet.parts_of_a_batch_add_up": SUM_OVER_IMAGES,
    "unet.images_of_a_batch_do_not_meet": ("tinyunet.ops:conv2d_forward", part(0, lambda y: y + 0.01 * y.mean(0))),
    "unet.looking_changes_nothing": (
        "tinyunet.layers:Layer.remember", call(lambda f, self, ctx, y: f(self, ctx, y) * (1.001 if self.hooks else 1))),
    "unet.predicting_leaves_the_network_alone": ("tinyunet.layers:Dropout.forward", call(always_training)),
    "unet.running_statistics_follow_the_batches": (
        "tinyunet.layers:BatchNorm.__init__", call(lambda f, self, name, channels: f(self, name, channels, 0.9))),
    "unet.a_context_is_used_once": ("tinyunet.layers:Layer.recall", value(lambda self, dy: self._ctx)),
    "unet.a_checkpoint_brings_back_every_bit": (
        "tinyunet.unet:UNet.load_state",
        call(lambda f, self, state: f(self, {name: a.astype(np.float16) for name, a in state.items()}))),
    "unet.a_trained_network_is_stored_whole": ("tinyunet.unet:UNet.load_state", call(parameters_only)),
    "init.the_variance_is_two_over_fan_in": (
        "tinyunet.layers:he_normal", call(lambda f, shape, fan_in, rng: f(shape, int(np.prod(shape[:3])), rng))),
    "init.maps_neither_vanish_nor_explode": ("tinyunet.init:he_normal", times(0.5)),
    "init.same_seed_same_network": (
        "tinyunet.layers:he_normal", call(lambda f, shape, fan_in, rng: f(shape, fan_in, np.random.default_rng()))),
    "init.the_first_loss_is_that_of_guessing": ("tinyunet.layers:he_normal", times(20)),
    "tiling.tiles_start_on_the_pooling_grid": ("tinyunet.shapes:tile_spans", result(misplaced)),
    "tiling.tiles_cover_every_pixel_once": ("tinyunet.shapes:tile_spans", result(lambda spans: spans[:-1])),
    "tiling.a_tile_on_the_grid_equals_the_whole": ("tinyunet.ops:relu_forward", call(by_column)),
    "tiling.tiles_equal_one_pass": ("tinyunet.shapes:tile_spans", result(misplaced)),
    "tiling.the_border_is_a_mirror": ("tinyunet.inference:mirror_index", value(symmetric)),
    "tiling.an_image_is_normalised_as_in_training": (f"{NORM}:Normalization.stats", part(0, lambda mean: 0 * mean)),
    "tiling.any_image_comes_back_in_its_size": ("tinyunet.inference:softmax", value(lambda logits: logits)),
    "tiling.the_tile_comes_from_the_budget": (
        "tinyunet.inference:default_tile", call(lambda f, model, image, mem: f(model, image, 1500 - mem))),
    "tiling.predicting_gives_the_network_back": ("tinyunet.inference:_eval_mode", value(nullcontext)),
    "tiling.one_logit_gives_two_probabilities": ("tinyunet.inference:sigmoid", result(lambda p: 1 - p)),
    "tiling.averages_are_means_of_flips": ("tinyunet.inference:_forward", call(without_undoing)),
    "tiling.averages_do_not_care_which_way_is_up": (
        "tinyunet.inference:_VIEWS", lambda views: {name: some[:-1] if some[1:] else some for name, some in views.items()}),
    "optim.sgd_is_its_recurrence": ("tinyunet.optim:SGD._update", value(averaging)),
    "optim.momentum_sums_a_geometric_series": ("tinyunet.optim:SGD._update", value(averaging)),
    "optim.adam_is_algorithm_1": ("tinyunet.optim:Adam._update", value(uncorrected)),
    "optim.adam_starts_with_a_full_step": ("tinyunet.optim:Adam._update", value(uncorrected)),
    "optim.weights_decay_and_biases_do_not": ("tinyunet.optim:Optimizer.step", call(decay_all)),
    "optim.a_resumed_optimizer_goes_on": ("tinyunet.optim:Optimizer.load_state", value(forgetful)),
    "optim.the_model_keeps_its_arrays": ("tinyunet.optim:Optimizer.step", call(clearing_step)),
    "optim.the_learning_rate_is_read_at_every_step": ("tinyunet.optim:Optimizer.step", call(first_rate)),
    "optim.both_find_the_bottom": ("tinyunet.optim:Optimizer.step", call(uphill)),
    "schedule.schedules_are_their_closed_forms": ("tinyunet.optim:schedule", times(0.99)),
    "schedule.schedules_start_at_1_and_fall": (
        "tinyunet.optim:schedule", call(lambda f, name, step, steps: f(name, step + 1, steps + 1))),
    "schedule.stairs_drop_at_half_and_three_quarters": (
        "tinyunet.optim:schedule", call(lambda f, name, step, steps: f(name, step - 1, steps))),
    "schedule.a_warm_up_grows_to_1": (
        "tinyunet.optim:schedule", call(lambda f, name, step, steps, warmup=0: f(name, step, steps, 2 * warmup))),
    "schedule.an_unknown_schedule_is_refused": ("tinyunet.optim:schedule", value(lambda *a: 1.0)),
    "metrics.confusion_counts_pairs": (f"{M}:confusion_matrix", result(np.transpose)),
    "metrics.iou_and_dice_are_those_of_sets": (f"{M}:iou", value(import_module(M).dice)),
    "metrics.dice_follows_from_iou": (f"{M}:dice", value(import_module(M).iou)),
    "metrics.unknown_pixels_are_not_scored": (
        f"{M}:confusion_matrix", call(lambda f, prediction, labels, k: f(prediction, np.maximum(labels, 0), k))),
    "metrics.the_mean_is_of_foreground_that_is_there": (
        f"{M}:foreground_mean", value(lambda values: float(np.nan_to_num(values[1:]).mean()))),
    "metrics.images_are_pooled": (f"{M}:total", value(lambda scores: scores[0])),
    "metrics.components_are_floods": (
        "tinyunet.data.instances:components", call(lambda f, mask, connectivity=4: f(mask, 12 - connectivity))),
    "metrics.small_objects_are_removed": ("tinyunet.data.instances:remove_small", call(lambda f, ids, n: f(ids, n + 1))),
    "metrics.seg_is_a_loop_over_objects": (f"{M}:seg_scores", result(lambda scores: np.sort(scores)[::-1] ** 2)),
    "metrics.exactly_half_is_no_match": (f"{M}:seg_scores", value(at_least_half)),
    "metrics.seg_does_not_see_false_alarms": (
        f"{M}:seg", call(lambda f, prediction, reference: f(prediction, reference) - 0.1 * (prediction.max() > 40))),
    "metrics.v_rand_counts_pairs": (f"{M}:_foreground_shares", part(3, lambda singles: 0)),
    "metrics.v_info_sums_entropies": (f"{M}:_foreground_shares", part(3, lambda singles: 0)),
    "metrics.predicted_membranes_are_single_pixels": (
        f"{M}:v_rand", call(lambda f, prediction, reference: f(prediction + 1, reference))),
    "metrics.only_the_foreground_of_the_truth_counts": (
        f"{M}:v_rand", call(lambda f, prediction, reference: f(prediction, reference + 1))),
    "metrics.merging_lowers_merge_and_splitting_split": (
        f"{M}:v_rand", call(lambda f, prediction, reference: f(reference, prediction))),
    "metrics.names_of_objects_do_not_matter": (
        f"{M}:v_rand", call(lambda f, prediction, reference: f(np.minimum(prediction, 3), reference))),
    "metrics.the_truth_is_perfect": (f"{M}:v_rand", result(lambda a: a._replace(f_score=0.99 * a.f_score))),
    "metrics.the_best_threshold_is_found_by_trying": (
        f"{M}:best_threshold",
        call(lambda f, measure, maps, *a, **k: f(measure, [np.minimum(p + 1e-9, 1) for p in maps], *a, **k))),
    "metrics.warping_flips_simple_pixels": (f"{M}:_crossings", result(lambda c: np.where(c == 0, 1, c))),
    "metrics.warping_keeps_the_topology": (f"{M}:_crossings", result(lambda c: np.where(c == 0, 1, c))),
    "metrics.a_moved_membrane_costs_nothing_and_a_gap_its_length": (f"{M}:_crossings", times(0)),
    "training.a_run_is_its_steps_written_out": (f"{T}:UNet.zero_grad", value(lambda self: None)),
    "training.the_loss_of_a_batch_is_a_mean_over_tiles": SUM_OVER_IMAGES,
    "training.weights_and_unknown_pixels_are_respected": (f"{T}:energy", call(lambda f, a, labels, weights: f(a, labels, None))),
    "training.a_batch_is_cut_from_its_images": (
        f"{T}:augment_tile", result(lambda tile: tile._replace(labels=np.roll(tile.labels, 1, axis=0)))),
    "training.each_tile_is_normalised_by_its_own_image": (
        f"{T}:make_batch",
        call(lambda f, samples, *a: f([s._replace(mean=samples[0].mean, std=samples[0].std) for s in samples], *a))),
    "training.every_epoch_takes_every_image_once": (
        f"{T}:make_batch", call(lambda f, samples, *a: f(samples[:1] * len(samples), *a))),
    "training.every_step_draws_anew": (
        f"{T}:make_batch",
        call(lambda f, samples, config, tile, step, rng: f(samples, config, tile, 1, np.random.default_rng(0)))),
    "training.touching_cells_are_opened_before_training": (f"{T}:separate", value(lambda instances, width: instances)),
    "training.one_image_is_learnt_by_heart": (f"{T}:energy", part(1, lambda da: 0 * da)),
    "training.same_seed_same_bytes": (
        f"{T}:make_batch",
        call(lambda f, samples, config, tile, step, rng: f(samples, config, tile, step, np.random.default_rng()))),
    "training.a_resumed_run_ends_with_the_same_bytes": ("tinyunet.optim:Optimizer.load_state", value(forgetful)),
    "training.validating_changes_no_weight": (f"{T}:evaluate", call(training_validation)),
    "training.a_run_starts_from_gradients_of_zero": (f"{T}:UNet.zero_grad", value(lambda self: None)),
    "training.the_best_step_is_kept": (f"{T}:quality", times(-1)),
    "training.a_run_that_overflows_stops": (f"{T}:_not_finite", value(lambda *a: "it went wrong")),
    "splits.a_block_split_cuts_the_end_off": ("tinyunet.data.splits:block_split", result(lambda parts: parts[::-1])),
    "splits.a_random_split_parts_all_images": (
        "tinyunet.data.splits:random_split", call(lambda f, data, share, rng: (data, f(data, share, rng)[1]))),
    "splits.a_random_split_follows_its_seed": (
        "tinyunet.data.splits:random_split", call(lambda f, data, share, rng: f(data, share, np.random.default_rng(0)))),
    "splits.impossible_shares_are_refused": ("tinyunet.data.splits:_share", value(lambda data, share, who: 1)),
    "normalization.an_image_gets_mean_0_and_deviation_1": (f"{NORM}:Normalization.stats", part(1, lambda std: 2 * std)),
    "normalization.brightness_and_contrast_do_not_matter": (f"{NORM}:Normalization.stats", part(1, np.ones_like)),
    "normalization.percentiles_are_counted": (f"{NORM}:HIGH", value(95.0)),
    "normalization.a_data_set_is_one_heap_of_pixels": (f"{NORM}:_squares", times(2)),
    "normalization.only_training_images_count": (
        f"{T}:fit", call(lambda f, model, data, val, *a, **k: f(model, Dataset((*data, *val)), val, *a, **k))),
    "normalization.a_constant_image_becomes_zero": (f"{NORM}:_or_one", value(lambda std, mean: std + 1e-9)),
    "normalization.prediction_sees_what_training_saw": (
        "tinyunet.checkpoint:save_checkpoint",
        call(lambda f, path, kept, *a: f(path, replace(kept, normalization=Normalization("none")), *a))),
}  # fmt: skip


@pytest.fixture
def no_caches():
    """Sizes are remembered by their functions; a planted bug must not find right ones, nor leave wrong ones."""
    remembering = [f for f in vars(shapes).values() if hasattr(f, "cache_clear")]

    def clear():
        for function in remembering:
            function.cache_clear()

    clear()
    yield
    clear()


def run_often(prop):
    """On 25 draws; some bugs show in some geometries only."""
    for k in range(25):
        prop.run(None, Draw(np.random.default_rng((0, k))))


@pytest.mark.parametrize("name", EVERY)
def test_the_property_fails_on_the_bug_planted_for_it(name, monkeypatch, no_caches):
    """With the bug in place the property does not hold, and says so in words."""
    where, plant = PLANTED[name]
    module, path = where.split(":")
    owner = import_module(module)
    *classes, attribute = path.split(".")
    for part_of_path in classes:
        owner = getattr(owner, part_of_path)
    monkeypatch.setattr(owner, attribute, plant(getattr(owner, attribute)))
    with pytest.raises(CheckError):  # and no other error: the property was computed, and does not hold
        run_often(EVERY[name])


@pytest.mark.parametrize(
    "name", ["unet.a_shift_by_the_pooling_grid_shifts_the_output", "tiling.a_tile_on_the_grid_equals_the_whole"]
)
def test_a_search_for_a_network_that_is_alive_ends(name, monkeypatch):
    """If every network is dead, the property fails after fifty instead of drawing for ever."""
    forward = import_module("tinyunet.unet").UNet.forward
    monkeypatch.setattr("tinyunet.unet.UNet.forward", lambda self, x: 0 * forward(self, x))
    with pytest.raises(CheckError, match="the logits of fifty networks took ten values or fewer"):
        EVERY[name].run(None, Draw(np.random.default_rng(0)))


def test_every_property_has_a_planted_bug():
    """The table knows every property, and no other."""
    assert PLANTED.keys() == EVERY.keys()
