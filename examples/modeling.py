"""From a recipe to a compiled model: network, optimizer, schedule, loss."""

import math

import keras

import devices
import networks
from runfolder import RunError


def build_model(recipe, input_shape, num_classes):
    """The network of a recipe, as slot machine or as learned baseline."""

    def build(layers):
        return networks.build(
            recipe.network,
            input_shape,
            num_classes,
            layers=layers,
            padding=recipe.padding,
            dropout=recipe.dropout,
            seed=recipe.seed,
        )

    learned = networks.learned_layers(recipe.seed)
    if recipe.method == "learned":
        return build(learned)
    values = {"bank_initializer": _distribution(recipe), "sharing": recipe.sharing}
    if recipe.sharing == "network":
        kernels = [layer.kernel for layer in build(learned).layers if hasattr(layer, "kernel")]
        values = {"sharing": _shared_values(recipe, [tuple(kernel.shape) for kernel in kernels])}
    slots = networks.slot_layers(
        recipe.seed,
        recipe.score_scale,
        recipe.dense_score_scale,
        num_values=recipe.num_values,
        selection=recipe.selection,
        score_mode=recipe.score_mode,
        **values,
    )
    return build(slots)


def _distribution(recipe):
    import keras_slots

    name = "".join(part.capitalize() for part in recipe.bank.split("_"))
    return getattr(keras_slots, name)(recipe.bank_scale)


def _shared_values(recipe, kernel_shapes):
    """One bank for all layers, as wide as Glorot uniform is for the largest of them."""
    from keras_slots import ValueBank
    from keras_slots.initializers import compute_fans
    from keras_slots.random_streams import derive_seed

    fans = compute_fans(max(kernel_shapes, key=math.prod))
    bound = recipe.bank_scale * math.sqrt(6.0 / sum(fans))
    return ValueBank(recipe.num_values, bound=bound, seed=derive_seed(recipe.seed, "network"))


class CoupledDecaySGD(keras.optimizers.SGD):
    """SGD with an L2 penalty: `decay · variable` joins the gradient, and so the momentum."""

    def __init__(self, *args, decay=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        gradient = gradient + keras.ops.cast(self.decay * variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)


def make_schedule(recipe, steps_per_epoch):
    """Learning rate, or a Keras schedule over steps."""
    rate, first = recipe.learning_rate, recipe.schedule_epoch * steps_per_epoch
    schedules = keras.optimizers.schedules
    if recipe.schedule == "cosine":
        return schedules.CosineDecay(rate, recipe.epochs * steps_per_epoch)
    if recipe.schedule == "warm_restarts":  # 25: restarts after epochs 25, 75, 175
        return schedules.CosineDecayRestarts(rate, first, t_mul=2.0)
    if recipe.schedule == "step":
        return schedules.PiecewiseConstantDecay([first], [rate, rate / 10])
    return rate


def make_optimizer(recipe, steps_per_epoch):
    settings = {"momentum": recipe.momentum, "nesterov": recipe.nesterov, "name": "sgd"}
    rate = make_schedule(recipe, steps_per_epoch)
    if recipe.weight_decay and recipe.weight_decay_kind == "l2":
        return CoupledDecaySGD(rate, decay=recipe.weight_decay, **settings)
    return keras.optimizers.SGD(rate, weight_decay=recipe.weight_decay or None, **settings)


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


def compile_model(model, recipe, options, steps, replicas=1):
    """Compiles for `steps` training steps an epoch on `replicas` devices."""
    together = options.steps_per_execution
    if replicas > 1 and keras.backend.backend() == "tensorflow":
        if together > 1:
            raise RunError("--steps-per-execution must be 1 on several devices (a limit of Keras)")
        together = 1
    if not together:  # small steps are grouped; the results do not depend on it
        largest = 200 if recipe.network == "lenet300100" else 1
        largest = max(largest, 20 if devices.on_gpu() else 1)
        together = max(n for n in range(1, min(largest, steps) + 1) if steps % n == 0)
    if steps % together:
        raise RunError(
            f"--steps-per-execution must divide the {steps} steps of an epoch. Received: {together}"
        )
    model.compile(
        make_optimizer(recipe, steps),
        make_loss(recipe.label_smoothing),
        weighted_metrics=["accuracy"],
        steps_per_execution=together,
        jit_compile={"on": True, "off": False, "auto": "auto"}[options.jit_compile],
    )
    model.optimizer.build(model.trainable_variables)
