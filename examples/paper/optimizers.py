"""Optimizer and loss of a recipe."""

import keras


class CoupledDecaySGD(keras.optimizers.SGD):
    """SGD with an L2 penalty: `decay · variable` joins the gradient, and so the momentum."""

    def __init__(self, *args, decay, **kwargs):
        super().__init__(*args, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        gradient = gradient + keras.ops.cast(self.decay * variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)


def make_schedule(recipe, steps_per_epoch):
    """A cosine to zero; one_cycle rises in a fifth of the steps before it; warm_restarts at epochs 25, 75, 175."""
    rate, total = recipe.learning_rate, recipe.epochs * steps_per_epoch
    if recipe.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(rate, total)
    if recipe.schedule == "warm_restarts":
        return keras.optimizers.schedules.CosineDecayRestarts(rate, 25 * steps_per_epoch, t_mul=2.0)
    warmup = {"warmup_target": rate, "warmup_steps": total // 5}
    return keras.optimizers.schedules.CosineDecay(rate / 20, total - total // 5, **warmup)


def make_optimizer(recipe, steps_per_epoch):
    settings = {"momentum": 0.9, "nesterov": recipe.nesterov, "name": "sgd"}
    if recipe.averaging:
        settings |= {"use_ema": True, "ema_momentum": recipe.averaging}
    rate = make_schedule(recipe, steps_per_epoch)
    if recipe.weight_decay and recipe.weight_decay_kind == "l2":
        return CoupledDecaySGD(rate, decay=recipe.weight_decay, **settings)
    return keras.optimizers.SGD(rate, **settings)


def make_loss(label_smoothing=0.0):
    """Cross entropy from logits and integer labels."""
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def smoothed_crossentropy(labels, logits):
        log_shares = keras.ops.log_softmax(keras.ops.cast(logits, "float32"))
        labels = keras.ops.one_hot(keras.ops.cast(labels, "int32"), logits.shape[-1])
        hit = keras.ops.sum(labels * log_shares, axis=-1)
        return -(1 - label_smoothing) * hit - label_smoothing * keras.ops.mean(log_shares, axis=-1)

    return smoothed_crossentropy
