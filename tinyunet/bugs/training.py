"""Bugs of training: optimizers, schedules, batches, and going on with a run."""

from tinyunet.bugs.core import Edit, bug

# Optimizers and schedules

bug(
    "adam_without_bias_correction", "optim",
    "Adam does not undo that its averages start at zero: the first steps are about three times as large as they should be, and "
    "some runs never recover.",
    Edit("tinyunet.optim:Adam._update", "self.lr / (1 - self.beta1**self.steps)", "self.lr"),
    Edit("tinyunet.optim:Adam._update", "s / (1 - self.beta2**self.steps)", "s"),
)
bug(
    "adam_eps_inside_the_root", "optim",
    "eps is added under the root: 1e-8 becomes 1e-4, and weights with small gradients hardly move.",
    Edit("tinyunet.optim:Adam._update", ".sqrt(s / (1 - self.beta2**self.steps)) + self.eps)",
         ".sqrt(s / (1 - self.beta2**self.steps) + self.eps))"),
)
bug(
    "momentum_dampened", "optim",
    "The gradient enters the velocity with 1 - momentum: at 0.99 every learning rate of the paper's kind is a hundred times too "
    "small.",
    Edit("tinyunet.optim:SGD._update", "v += g", "v += (1 - self.momentum) * g"),
)
bug(
    "learning_rate_in_the_velocity", "optim",
    "The learning rate multiplies the gradient before it enters the velocity: the same as long as the rate is constant, and a "
    "schedule acts a hundred steps late.",
    Edit("tinyunet.optim:SGD._update", "v += g", "v += self.lr * g"),
    Edit("tinyunet.optim:SGD._update", "w -= self.lr * v", "w -= v"),
)
bug(
    "biases_decay", "optim",
    "Weight decay pulls at biases, gamma and beta too: batch norm is slowly switched off.",
    Edit("tinyunet.optim:Optimizer.step", "self.weight_decay and w.ndim > 1:", "self.weight_decay:"),
)
bug(
    "step_count_not_restored", "optim training",
    "A resumed Adam counts its steps from 0 again and corrects averages that need no correction: the next steps are up to five "
    "times too small.",
    Edit("tinyunet.optim:Optimizer.load_state", "self.steps = steps", "self.steps = 0"),
)
bug(
    "cosine_off_by_one", "schedule",
    "The schedule is one step ahead: the first step is not at the full rate, and the last one has a rate of 0 and does nothing.",
    Edit("tinyunet.optim:schedule", "    t = step / steps\n", "    t = (step + 1) / steps\n"),
)
bug(
    "warmup_starts_at_zero", "schedule",
    "The first step of the warm-up has a learning rate of 0: it computes everything and changes nothing.",
    Edit("tinyunet.optim:schedule", "min(1.0, (step + 1) / (warmup + 1))", "min(1.0, step / warmup if warmup else 1)"),
)
bug(
    "drop_a_step_late", "schedule",
    "The step schedule drops one step after the half: a comparison with < or <= that nobody looks at.",
    Edit("tinyunet.optim:schedule", "1.0 if t < 0.5 else", "1.0 if t <= 0.5 else"),
)
bug(
    "schedule_asked_for_the_next_step", "training",
    "The trainer counts steps from 1 and the schedule from 0: the whole run is one step ahead of its schedule.",
    Edit("tinyunet.train:_steps", "schedule(config.schedule, step - 1, ", "schedule(config.schedule, step, "),
)

# A step

bug(
    "gradients_not_zeroed", "training",
    "Gradients are not set to zero between steps: every step follows the sum of all gradients so far, a momentum of 1.",
    Edit("tinyunet.train:_steps", "model.zero_grad()\n", "pass\n"),
)
bug(
    "same_draw_in_every_step", "training",
    "Every step seeds its generator alike: augmentation and dropout never vary, as with workers of a data loader that share a "
    "seed.",
    Edit("tinyunet.train:_batches", "np.random.default_rng((config.seed, step))", "np.random.default_rng((config.seed, 1))"),
    known="PyTorch data loaders whose workers share the state of NumPy's generator",
)
bug(
    "same_order_in_every_epoch", "training",
    "Images come in the same order in every epoch: with momentum 0.99 the last images of the round always have the last word.",
    Edit("tinyunet.train:make_batch", "(config.seed, _EPOCH, epoch)", "(config.seed, _EPOCH)"),
)
bug(
    "last_images_left_out", "training",
    "Images are drawn from all but the last one: one annotation in thirty is never used.",
    Edit("tinyunet.train:make_batch", "epoch, place = divmod(k, len(prepared))",
         "epoch, place = divmod(k, max(len(prepared) - 1, 1))"),
)
bug(
    "weights_not_handed_on", "training",
    "The weight map is computed, augmented, and never given to the loss: touching cells stay merged.",
    Edit("tinyunet.train:energy", "ops.softmax_cross_entropy_forward(logits, labels, weights)",
         "ops.softmax_cross_entropy_forward(logits, labels)"),
)
bug(
    "touching_cells_stay", "training",
    "Gaps are opened in the instances and not in the labels: the weight is large where the label says cell.",
    Edit("tinyunet.train:prepare", "target = np.where((sample.instances > 0) & (opened == 0) & (target != IGNORE), 0, target)",
         "target = target.copy()"),
)
bug(
    "statistics_of_another_image", "training",
    "All tiles of a batch are normalised like the first image of the set: right as long as all are equally bright.",
    Edit("tinyunet.train:make_batch", "(one.image - sample.mean) / sample.std",
         "(one.image - prepared[0].mean) / prepared[0].std"),
)

# Going on

bug(
    "resumed_without_momentum", "training",
    "A resumed run has its weights and not its velocity: at momentum 0.99 the loss jumps, and takes hundreds of steps to come "
    "back.",
    Edit("tinyunet.train:_steps", "optimizer.load_state(saved.optimizer, start)", "optimizer.steps = start"),
    shipped="milesial/Pytorch-UNet#376",
)
bug(
    "state_not_copied", "optim training",
    "Loading checks the shapes of the stored state and forgets to copy it: no error, and no momentum.",
    Edit("tinyunet.optim:Optimizer.load_state", "array[...] = move(state[name], device_of(array))", "array[...] = 0"),
)
bug(
    "best_is_the_worst", "training",
    "The comparison for the best checkpoint is turned around, as for a loss: best.safetensors holds the worst network of the "
    "run.",
    Edit("tinyunet.train:_steps", "quality(numbers) > quality(best)", "quality(numbers) < quality(best)"),
)
