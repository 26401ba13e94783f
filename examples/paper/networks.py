"""The networks of the paper in the Functional API, written once for slot machine and baseline.

Each definition takes its dense and convolution layers from a `Layers` pair, so the slot machine
and the learned network differ in nothing else. No biases. VGG-19 alone has batch norm, without
affine parameters, and so has conv6bn, which is not of the paper. All networks end in logits.

Source: Slot Machines (arXiv 2101.06475), appendix, table of architectures. `padding="author"`
builds what the author's code builds: valid convolutions in CONV-2 and CONV-4 and in the first four
of CONV-6, whose first dense layers then read 12,544, 3,200 and 1,024 numbers on 32x32 images.
"""

import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers as kl

# Filters of the convolutions; "pool" halves the image.
CONVOLUTIONS = {
    "conv2": (64, 64, "pool"),
    "conv4": (64, 64, "pool", 128, 128, "pool"),
    "conv6": (64, 64, "pool", 128, 128, "pool", 256, 256, "pool"),
    "vgg19": (64, 64, "pool", 128, 128, "pool", *[256] * 4, "pool", *[512] * 4, "pool", *[512] * 4),
    # Not of the paper: small enough to compare many runs on a processor.
    "conv6bn": (32, 32, "pool", 64, 64, "pool", 128, 128),
}
NETWORKS = ("lenet300100", *CONVOLUTIONS)


class Layers(NamedTuple):
    """Where a network takes its layers from.

    Attributes:
        dense: `dense(units, name=..., activation=..., dtype=...)` makes a dense layer without bias.
        conv: `conv(filters, name=..., activation=..., padding=...)` makes a 3x3 convolution.
    """

    dense: Callable[..., keras.layers.Layer]
    conv: Callable[..., keras.layers.Layer]


def learned_layers(seed=0, penalty=None):
    """Ordinary trained layers: the baseline; `penalty` is the regularizer of their kernels."""

    def start(name):
        return keras.initializers.GlorotUniform(seed=layer_seed(seed, name))

    def dense(units, name, activation=None, dtype=None):
        return kl.Dense(
            units,
            activation,
            use_bias=False,
            kernel_initializer=start(name),
            kernel_regularizer=penalty,
            name=name,
            dtype=dtype,
        )

    def conv(filters, name, activation=None, padding="same"):
        return kl.Conv2D(
            filters,
            3,
            padding=padding,
            activation=activation,
            use_bias=False,
            kernel_initializer=start(name),
            kernel_regularizer=penalty,
            name=name,
        )

    return Layers(dense, conv)


def slot_layers(seed=0, score_scale=1.0, dense_score_scale=1.0, scores="uniform", **slot_arguments):
    """Slot layers: the slot machine.

    Args:
        seed: each layer takes a seed of its own from it and from its name.
        score_scale: initial scores of convolutions, U(0, score_scale * b).
        dense_score_scale: the same for dense layers.
        scores: "uniform", or "nearest" for nearest scores, which have no scale.
        **slot_arguments: `num_values`, `selection`, `sharing` and so on, as of `SlotDense`.
    """
    from keras_slots import NearestScores, SlotConv2D, SlotDense, UniformScores
    from keras_slots.values.philox import derive_seed

    def initial_scores(scale):
        return NearestScores() if scores == "nearest" else UniformScores(scale)

    def dense(units, name, activation=None, dtype=None):
        return SlotDense(
            units,
            activation,
            use_bias=False,
            name=name,
            dtype=dtype,
            seed=derive_seed(seed, name),
            score_initializer=initial_scores(dense_score_scale),
            **slot_arguments,
        )

    def conv(filters, name, activation=None, padding="same"):
        return SlotConv2D(
            filters,
            3,
            padding=padding,
            activation=activation,
            use_bias=False,
            name=name,
            seed=derive_seed(seed, name),
            score_initializer=initial_scores(score_scale),
            **slot_arguments,
        )

    return Layers(dense, conv)


def layer_seed(seed, name):
    """A seed in Keras' range for the layer of that name, so that equal layers start differently."""
    return zlib.crc32(f"{seed}/{name}".encode()) % (2**31 - 1)


def build(
    name, input_shape, num_classes, layers=None, padding="same", dropout=None, seed=0
) -> keras.Model:
    """Builds one network of the paper.

    Args:
        name: "lenet300100", "conv2", "conv4", "conv6", "vgg19" or "conv6bn".
        input_shape: `(height, width, channels)` of an image.
        num_classes: units of the last layer.
        layers: a `Layers` pair; None: `learned_layers(seed)`.
        padding: "same", or "author" for the author's valid convolutions.
        dropout: rate in front of the first two dense layers of CONV-2/4/6 (None: 0.5) and in
            front of the second and third of LeNet (None: 0). Those with batch norm have none.
        seed: seed of the dropout masks, and of the learned layers when `layers` is None.

    Returns:
        A Functional model from images to logits.

    Example:
        >>> build("lenet300100", (28, 28, 1), 10).count_params()
        266200
    """
    if name not in NETWORKS:
        raise ValueError(f"`name` must be one of {', '.join(NETWORKS)}. Received: name={name}")
    if padding not in ("same", "author"):
        raise ValueError(f'`padding` must be "same" or "author". Received: padding={padding}')
    layers = learned_layers(seed) if layers is None else layers
    if dropout is None:
        dropout = 0.5 if name in ("conv2", "conv4", "conv6") else 0.0
    inputs = keras.Input(input_shape, name="image")
    if name == "lenet300100":
        outputs = _lenet(inputs, num_classes, layers, dropout, seed)
    elif name in ("vgg19", "conv6bn"):
        outputs = _normalized_conv_net(name, inputs, num_classes, layers)
    else:
        outputs = _conv_net(name, inputs, num_classes, layers, padding, dropout, seed)
    return keras.Model(inputs, outputs, name=name)


def _drop(x, rate, name, seed):
    if not rate:
        return x
    return kl.Dropout(rate, seed=layer_seed(seed, name), name=name)(x)


def _logits(num_classes, name, layers):
    """The last layer, which computes in full precision under the mixed policies too."""
    return layers.dense(num_classes, name=name, dtype=keras.config.dtype_policy().variable_dtype)


def _lenet(inputs, num_classes, layers, dropout, seed):
    x = kl.Flatten(name="flatten")(inputs)
    x = layers.dense(300, name="dense1", activation="relu")(x)
    x = _drop(x, dropout, "dropout1", seed)
    x = layers.dense(100, name="dense2", activation="relu")(x)
    x = _drop(x, dropout, "dropout2", seed)
    return _logits(num_classes, "dense3", layers)(x)


def _conv_net(name, inputs, num_classes, layers, padding, dropout, seed):
    x, number, pools = inputs, 0, 0
    for filters in CONVOLUTIONS[name]:
        if filters == "pool":
            pools += 1
            x = kl.MaxPooling2D(2, name=f"pool{pools}")(x)
            continue
        number += 1
        pad = "valid" if padding == "author" and number <= 4 else "same"
        x = layers.conv(filters, name=f"conv{number}", activation="relu", padding=pad)(x)
    x = kl.Flatten(name="flatten")(x)
    for number in (1, 2):
        x = _drop(x, dropout, f"dropout{number}", seed)
        x = layers.dense(256, name=f"dense{number}", activation="relu")(x)
    return _logits(num_classes, "dense3", layers)(x)


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


def _normalized_conv_net(name, inputs, num_classes, layers):
    on_tensorflow = keras.backend.backend() == "tensorflow"
    norm = FusedBatchNormalization if on_tensorflow else kl.BatchNormalization
    x, number, pools = inputs, 0, 0
    for filters in CONVOLUTIONS[name]:
        if filters == "pool":
            pools += 1
            x = kl.MaxPooling2D(2, name=f"pool{pools}")(x)
            continue
        number += 1
        x = layers.conv(filters, name=f"conv{number}")(x)
        x = norm(center=False, scale=False, name=f"norm{number}")(x)
        x = kl.Activation("relu", name=f"relu{number}")(x)
    x = kl.GlobalAveragePooling2D(name="average")(x)
    return _logits(num_classes, "dense", layers)(x)


def count_connections(model) -> int:
    """Connections of all dense and convolution layers: entries of their kernels."""
    return sum(math.prod(layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel"))


def build_model(recipe, input_shape, num_classes):
    """The network of a recipe, as slot machine or as learned baseline."""

    def network(layers):
        return build(
            recipe.network,
            input_shape,
            num_classes,
            layers=layers,
            padding=recipe.padding,
            dropout=recipe.dropout,
            seed=recipe.seed,
        )

    penalty = None
    if recipe.weight_decay_kind == "weights" and recipe.weight_decay:
        penalty = keras.regularizers.L2(recipe.weight_decay / 2)
    learned = learned_layers(recipe.seed, penalty)
    if recipe.method == "learned":
        return network(learned)
    values = {"bank_initializer": _distribution(recipe), "sharing": recipe.sharing}
    if recipe.sharing == "network":
        kernels = [layer.kernel for layer in network(learned).layers if hasattr(layer, "kernel")]
        values = {"sharing": _shared_values(recipe, [tuple(kernel.shape) for kernel in kernels])}
    slots = slot_layers(
        recipe.seed,
        recipe.score_scale,
        recipe.dense_score_scale,
        recipe.scores,
        num_values=recipe.num_values,
        selection=recipe.selection,
        score_mode=recipe.score_mode,
        kernel_regularizer=penalty,
        move_regularizer=keras.regularizers.L1(recipe.move_penalty)
        if recipe.move_penalty
        else None,
        **values,
    )
    return network(slots)


def without_penalty(model):
    """The model, with the weight decay of its recipe taken off its kernels: another recipe brings its own."""
    for layer in model.layers:
        if getattr(layer, "kernel_regularizer", None) is not None:
            layer.kernel_regularizer = layer.kernel.regularizer = None
    return model


def _distribution(recipe):
    import keras_slots

    name = "".join(part.capitalize() for part in recipe.bank.split("_"))
    return getattr(keras_slots, name)(recipe.bank_scale)


def _shared_values(recipe, kernel_shapes):
    """One bank for all layers, as wide as Glorot uniform is for the largest of them."""
    from keras_slots import ValueBank
    from keras_slots.values.initializers import compute_fans
    from keras_slots.values.philox import derive_seed

    fans = compute_fans(max(kernel_shapes, key=math.prod))
    bound = recipe.bank_scale * math.sqrt(6.0 / sum(fans))
    return ValueBank(recipe.num_values, bound=bound, seed=derive_seed(recipe.seed, "network"))
