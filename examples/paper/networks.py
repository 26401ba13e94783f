"""The networks of the paper in the Functional API, written once for slot machine and baseline.

They differ in nothing but the class of their dense and convolution layers. No layer has a bias, batch norm
has no parameters (but in two networks that are not in the paper), and all networks end in logits.

Source: Slot Machines (arXiv 2101.06475), appendix, table of architectures.
"""

import functools
import itertools
import math
import zlib

import keras
import numpy as np
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
    "resnet8": (),  # that of MLPerf Tiny: residual blocks of two convolutions
    "tinyconv": ((8, 5, 2), 12, 12, "pool", 16),  # that of tiny_mnist.py; of the first one window and strides, too
}
RESIDUAL_BLOCKS = ((16, 1), (32, 2), (64, 2))  # filters, strides
# What batch norm trains.
NORMALIZED = {"vgg19": (), "conv6bn": (), "resnet8": ("center", "scale"), "tinyconv": ("center",)}


def build_model(recipe, input_shape, num_classes, fused=True):
    """The network of a recipe, from images of `input_shape` to logits.

    `fused` takes the batch norm that trains faster on TensorFlow, instead of Keras' own.
    """

    def learned(name):
        return {"kernel_initializer": keras.initializers.GlorotUniform(_layer_seed(recipe, name))}

    build = functools.partial(_build, recipe, input_shape, num_classes, fused)
    if recipe.method == "learned":
        return build(kl.Dense, kl.Conv2D, learned)
    scale, sharing = recipe.bank_scale, recipe.sharing
    mode = {"score_mode": recipe.score_mode, "bank_initializer": keras_slots.GlorotUniform(scale)}
    if recipe.scores == "nearest":
        bank = keras_slots.StratifiedUniform(scale)
        mode = {"score_mode": "nearest", "bank_initializer": bank}
    if sharing == "network":
        # As wide as Glorot uniform is for the largest kernel.
        shapes = _kernel_shapes(build(kl.Dense, kl.Conv2D, learned))
        *window, fan_in, fan_out = max(shapes, key=math.prod)
        bound = scale * math.sqrt(6.0 / (math.prod(window) * (fan_in + fan_out)))
        seed = derive_seed(recipe.seed, "network")
        sharing = keras_slots.ValueBank(recipe.num_values, bound=bound, seed=seed)
        del mode["bank_initializer"]
    moves = keras.regularizers.L1(recipe.move_penalty) if recipe.move_penalty else None
    mode |= {"num_values": recipe.num_values, "selection": recipe.selection}
    mode |= {"sharing": sharing, "move_regularizer": moves}

    def selected(name):
        scale = recipe.dense_score_scale if name.startswith("dense") else recipe.score_scale
        scores = {} if recipe.scores == "nearest" else {"score_initializer": keras_slots.UniformScores(scale)}
        return mode | scores | {"seed": derive_seed(recipe.seed, name)}

    return build(keras_slots.SlotDense, keras_slots.SlotConv2D, selected)


def _layer_seed(recipe, name):
    """A seed in Keras' range for the layer of that name, so that equal layers start differently."""
    return zlib.crc32(f"{recipe.seed}/{name}".encode()) % (2**31 - 1)


def _build(recipe, input_shape, num_classes, fused, dense, conv, arguments):
    def common(name):
        decay = recipe.weight_decay if recipe.weight_decay_kind == "weights" else 0
        penalty = keras.regularizers.L2(decay / 2) if decay else None
        shared = {"kernel_regularizer": penalty, "use_bias": False, "name": name}
        return shared | arguments(name)

    def drop(x, name):
        if not recipe.dropout:
            return x
        return kl.Dropout(recipe.dropout, seed=_layer_seed(recipe, name), name=name)(x)

    normalized = recipe.network in NORMALIZED
    tiny = recipe.network == "tinyconv"
    affine = {part: part in NORMALIZED.get(recipe.network, ()) for part in ("center", "scale")}
    on_tensorflow = keras.backend.backend() == "tensorflow"
    norm = FusedBatchNormalization if fused and on_tensorflow else kl.BatchNormalization
    numbers, pools = itertools.count(1), itertools.count(1)

    def convolve(x, filters, size=3, strides=1, relu=True):
        number, activation = next(numbers), "relu" if relu and not normalized else None
        padding = "valid" if tiny else "same"
        settings = {"padding": padding, "activation": activation} | common(f"conv{number}")
        x = conv(filters, size, strides, **settings)(x)
        if normalized:
            x = norm(**affine, name=f"norm{number}")(x)
            x = kl.Activation("relu", name=f"relu{number}")(x) if relu else x
        return x

    inputs = x = keras.Input(input_shape, name="image")
    for filters in CONVOLUTIONS[recipe.network]:
        if filters == "pool":
            x = kl.MaxPooling2D(2, name=f"pool{next(pools)}")(x)
        else:
            x = convolve(x, *np.atleast_1d(filters).tolist())
    if recipe.network == "resnet8":
        x = convolve(x, 16)
        for filters, strides in RESIDUAL_BLOCKS:
            before = x if strides == 1 else convolve(x, filters, 1, strides, relu=False)
            x = convolve(convolve(x, filters, strides=strides), filters, relu=False)
            x = kl.Activation("relu")(kl.Add()([x, before]))
    last = "dense" if normalized else "dense3"
    flat = tiny or not normalized
    x = kl.Flatten(name="flatten")(x) if flat else kl.GlobalAveragePooling2D()(x)
    if recipe.network == "lenet300100":
        for number, units in ((1, 300), (2, 100)):
            x = dense(units, activation="relu", **common(f"dense{number}"))(x)
            x = drop(x, f"dropout{number}")
    elif not normalized:
        for number in (1, 2):
            x = drop(x, f"dropout{number}")
            x = dense(256, activation="relu", **common(f"dense{number}"))(x)
    # The logits are computed in full precision under the mixed policies too.
    full = keras.config.dtype_policy().variable_dtype
    return keras.Model(inputs, dense(num_classes, dtype=full, **common(last))(x), name=recipe.network)


class FusedBatchNormalization(kl.BatchNormalization):
    """Batch norm by TensorFlow's one operation for it in training.

    Keras computes the same in several passes, which cost a quarter of VGG-19's step on a processor.
    """

    def call(self, inputs, training=None, mask=None):
        if not training or self.compute_dtype == "float64":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        size = inputs.shape[-1]
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones(size)
        offset = tf.convert_to_tensor(self.beta) if self.center else tf.zeros(size)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, scale, offset, epsilon=self.epsilon, is_training=True
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
