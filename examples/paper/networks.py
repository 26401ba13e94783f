"""The networks of the paper in the Functional API, written once for slot machine and baseline.

They differ in nothing but the class of their dense and convolution layers. No layer has a bias, batch norm
has no parameters, and all networks end in logits.

Source: Slot Machines (arXiv 2101.06475), appendix, table of architectures.
"""

import functools
import math
import zlib

import keras
from keras import layers as kl

import keras_slots
from keras_slots.values.philox import derive_seed

# Filters of the convolutions; "pool" halves the image.
CONVOLUTIONS = {
    "lenet300100": (),
    "conv2": (64, 64, "pool"),
    "conv4": (64, 64, "pool", 128, 128, "pool"),
    "conv6": (64, 64, "pool", 128, 128, "pool", 256, 256, "pool"),
    "vgg19": (64, 64, "pool", 128, 128, "pool", *[256] * 4, "pool", *[512] * 4, "pool", *[512] * 4),
    # Not in the paper: small enough to compare many runs on a processor.
    "conv6bn": (32, 32, "pool", 64, 64, "pool", 128, 128),
}
NORMALIZED = ("vgg19", "conv6bn")


def build_model(recipe, input_shape, num_classes):
    """The network of a recipe, from images of `input_shape` to logits."""
    learned = functools.partial(_learned_arguments, recipe)
    plain = kl.Dense, kl.Conv2D, learned
    if recipe.method == "learned":
        return _build(recipe, input_shape, num_classes, *plain)
    bank = None
    if recipe.sharing == "network":
        # As wide as Glorot uniform is for the largest kernel.
        shapes = _kernel_shapes(_build(recipe, input_shape, num_classes, *plain))
        *window, fan_in, fan_out = max(shapes, key=math.prod)
        bound = recipe.bank_scale * math.sqrt(6.0 / (math.prod(window) * (fan_in + fan_out)))
        seed = derive_seed(recipe.seed, "network")
        bank = keras_slots.ValueBank(recipe.num_values, bound=bound, seed=seed)
    slots = functools.partial(_slot_arguments, recipe, bank)
    classes = keras_slots.SlotDense, keras_slots.SlotConv2D
    return _build(recipe, input_shape, num_classes, *classes, slots)


def _learned_arguments(recipe, name):
    """The arguments by which the ordinary layer of that name is the recipe's."""
    start = keras.initializers.GlorotUniform(seed=_layer_seed(recipe, name))
    return {"kernel_initializer": start, "kernel_regularizer": _penalty(recipe)}


def _slot_arguments(recipe, network_bank, name):
    """The same of a slot layer."""
    nearest, per_value = recipe.scores == "nearest", recipe.score_mode == "per_value"
    scores = keras_slots.UniformScores(recipe.score_scale)
    if nearest:
        scores = keras_slots.NearestScores() if per_value else None
    bank = keras_slots.StratifiedUniform if nearest else keras_slots.GlorotUniform
    moves = keras.regularizers.L1(recipe.move_penalty) if recipe.move_penalty else None
    return {
        "num_values": recipe.num_values,
        "selection": recipe.selection,
        "score_mode": "nearest" if nearest and not per_value else recipe.score_mode,
        "score_initializer": scores,
        "kernel_regularizer": _penalty(recipe),
        "move_regularizer": moves,
        "sharing": network_bank or recipe.sharing,
        "bank_initializer": None if network_bank else bank(recipe.bank_scale),
        "seed": derive_seed(recipe.seed, name),
    }


def _penalty(recipe):
    if recipe.weight_decay_kind == "weights" and recipe.weight_decay:
        return keras.regularizers.L2(recipe.weight_decay / 2)
    return None


def _layer_seed(recipe, name):
    """A seed in Keras' range for the layer of that name, so that equal layers start differently."""
    return zlib.crc32(f"{recipe.seed}/{name}".encode()) % (2**31 - 1)


def _build(recipe, input_shape, num_classes, dense_class, conv_class, arguments):
    def dense(units, name, **more):
        return dense_class(units, use_bias=False, name=name, **more, **arguments(name))

    def drop(x, name):
        if not recipe.dropout:
            return x
        return kl.Dropout(recipe.dropout, seed=_layer_seed(recipe, name), name=name)(x)

    normalized = recipe.network in NORMALIZED
    fused = normalized and keras.backend.backend() == "tensorflow"
    norm = FusedBatchNormalization if fused else kl.BatchNormalization
    inputs = x = keras.Input(input_shape, name="image")
    number = pools = 0
    for filters in CONVOLUTIONS[recipe.network]:
        if filters == "pool":
            pools += 1
            x = kl.MaxPooling2D(2, name=f"pool{pools}")(x)
            continue
        number += 1
        settings = {"padding": "same", "use_bias": False, "name": f"conv{number}"}
        settings["activation"] = None if normalized else "relu"
        x = conv_class(filters, 3, **settings, **arguments(f"conv{number}"))(x)
        if normalized:
            x = norm(center=False, scale=False, name=f"norm{number}")(x)
            x = kl.Activation("relu", name=f"relu{number}")(x)
    if normalized:
        last, x = "dense", kl.GlobalAveragePooling2D(name="average")(x)
    elif recipe.network == "lenet300100":
        last, x = "dense3", kl.Flatten(name="flatten")(x)
        for number, units in ((1, 300), (2, 100)):
            x = dense(units, f"dense{number}", activation="relu")(x)
            x = drop(x, f"dropout{number}")
    else:
        last, x = "dense3", kl.Flatten(name="flatten")(x)
        for number in (1, 2):
            x = drop(x, f"dropout{number}")
            x = dense(256, f"dense{number}", activation="relu")(x)
    # The logits are computed in full precision under the mixed policies too.
    logits = dense(num_classes, last, dtype=keras.config.dtype_policy().variable_dtype)
    return keras.Model(inputs, logits(x), name=recipe.network)


class FusedBatchNormalization(kl.BatchNormalization):
    """Batch norm without affine parameters, by TensorFlow's one operation for it in training.

    Keras computes the same in several passes, which cost a quarter of VGG-19's step on a processor.
    """

    def call(self, inputs, training=None, mask=None):
        if not training or self.compute_dtype == "float64":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        size = inputs.shape[-1]
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, tf.ones(size), tf.zeros(size), epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // size, tf.float32)
        for average, new in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (count - 1.0) / count),  # of these, not of all images
        ):
            average.assign(average * self.momentum + new * (1.0 - self.momentum))
        return outputs


def _kernel_shapes(model):
    return [layer.kernel.shape for layer in model.layers if hasattr(layer, "kernel")]


def count_connections(model):
    """Connections of all dense and convolution layers: entries of their kernels."""
    return sum(map(math.prod, _kernel_shapes(model)))
