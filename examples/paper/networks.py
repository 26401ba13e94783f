"""The networks of the paper in the Functional API, written once for slot machine and baseline.

Slot machine and learned network differ in nothing but the class of their dense and convolution layers.
No layer has a bias. VGG-19 has batch norm without affine parameters, and so has conv6bn, which is not in
the paper. All networks end in logits.

Source: Slot Machines (arXiv 2101.06475), appendix, table of architectures. `padding="author"`
builds what the author's code builds: valid convolutions in CONV-2 and CONV-4 and in the first four
of CONV-6, whose first dense layers then read 12,544, 3,200 and 1,024 numbers on 32x32 images.
"""

import math
import zlib

import keras
from keras import layers as kl

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
    """The network of a recipe, as slot machine or as learned baseline.

    Args:
        recipe: the `Recipe`. Its dropout stands before the first two dense layers of CONV-2/4/6 and
            before the second and third of LeNet; networks with batch norm have none.
        input_shape: `(height, width, channels)` of an image.
        num_classes: units of the last layer.

    Returns:
        A Functional model from images to logits.
    """
    arguments = learned_arguments(recipe)
    if recipe.method == "learned":
        return _build(recipe, input_shape, num_classes, kl.Dense, kl.Conv2D, arguments)
    from keras_slots import SlotConv2D, SlotDense

    network_bank = None
    if recipe.sharing == "network":
        learned = _build(recipe, input_shape, num_classes, kl.Dense, kl.Conv2D, arguments)
        kernels = [layer.kernel for layer in learned.layers if hasattr(layer, "kernel")]
        network_bank = _network_bank(recipe, [tuple(kernel.shape) for kernel in kernels])
    arguments = slot_arguments(recipe, network_bank)
    return _build(recipe, input_shape, num_classes, SlotDense, SlotConv2D, arguments)


def learned_arguments(recipe):
    """From the name of a layer to the arguments by which an ordinary one is the recipe's."""
    penalty = _penalty(recipe)

    def arguments(name):
        start = keras.initializers.GlorotUniform(seed=layer_seed(recipe.seed, name))
        return {"kernel_initializer": start, "kernel_regularizer": penalty}

    return arguments


def slot_arguments(recipe, network_bank=None):
    """The same for a slot layer: the one place where a recipe becomes arguments of the library."""
    import keras_slots
    from keras_slots.values.philox import derive_seed

    bank = "".join(part.capitalize() for part in recipe.bank.split("_"))
    moves = keras.regularizers.L1(recipe.move_penalty) if recipe.move_penalty else None
    shared = {
        "num_values": recipe.num_values,
        "selection": recipe.selection,
        "score_mode": "nearest" if _trains_nearest(recipe) else recipe.score_mode,
        "kernel_regularizer": _penalty(recipe),
        "move_regularizer": moves,
        "sharing": network_bank or recipe.sharing,
    }
    if network_bank is None:
        shared["bank_initializer"] = getattr(keras_slots, bank)(recipe.bank_scale)

    def arguments(name):
        scale = recipe.dense_score_scale if name.startswith("dense") else recipe.score_scale
        scores = keras_slots.UniformScores(scale)
        if _trains_nearest(recipe):
            scores = None
        elif recipe.scores == "nearest":
            scores = keras_slots.NearestScores()
        return shared | {"score_initializer": scores, "seed": derive_seed(recipe.seed, name)}

    return arguments


def _trains_nearest(recipe):
    """Whether the recipe is `score_mode="nearest"`, which it names by a lever, nearest scores and strata."""
    return (recipe.score_mode, recipe.scores, recipe.bank) == ("per_connection", "nearest", "stratified_uniform")


def _penalty(recipe):
    if recipe.weight_decay_kind == "weights" and recipe.weight_decay:
        return keras.regularizers.L2(recipe.weight_decay / 2)
    return None


def _network_bank(recipe, kernel_shapes):
    """One bank for all layers, as wide as Glorot uniform is for the largest of them."""
    from keras_slots import ValueBank
    from keras_slots.values.initializers import compute_fans
    from keras_slots.values.philox import derive_seed

    fans = compute_fans(max(kernel_shapes, key=math.prod))
    bound = recipe.bank_scale * math.sqrt(6.0 / sum(fans))
    return ValueBank(recipe.num_values, bound=bound, seed=derive_seed(recipe.seed, "network"))


def layer_seed(seed, name):
    """A seed in Keras' range for the layer of that name, so that equal layers start differently."""
    return zlib.crc32(f"{seed}/{name}".encode()) % (2**31 - 1)


def _build(recipe, input_shape, num_classes, dense_class, conv_class, arguments):
    def dense(units, name, **more):
        return dense_class(units, use_bias=False, name=name, **more, **arguments(name))

    def drop(x, name):
        if not recipe.dropout:
            return x
        return kl.Dropout(recipe.dropout, seed=layer_seed(recipe.seed, name), name=name)(x)

    network, normalized = recipe.network, recipe.network in NORMALIZED
    fused = normalized and keras.backend.backend() == "tensorflow"
    norm = FusedBatchNormalization if fused else kl.BatchNormalization
    inputs = x = keras.Input(input_shape, name="image")
    number = pools = 0
    for filters in CONVOLUTIONS[network]:
        if filters == "pool":
            pools += 1
            x = kl.MaxPooling2D(2, name=f"pool{pools}")(x)
            continue
        number += 1
        name = f"conv{number}"
        valid = recipe.padding == "author" and not normalized and number <= 4
        settings = {"padding": "valid" if valid else "same", "use_bias": False, "name": name}
        settings["activation"] = None if normalized else "relu"
        x = conv_class(filters, 3, **settings, **arguments(name))(x)
        if normalized:
            x = norm(center=False, scale=False, name=f"norm{number}")(x)
            x = kl.Activation("relu", name=f"relu{number}")(x)
    if normalized:
        last, x = "dense", kl.GlobalAveragePooling2D(name="average")(x)
    elif network == "lenet300100":
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
    return keras.Model(inputs, logits(x), name=network)


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


def count_connections(model) -> int:
    """Connections of all dense and convolution layers: entries of their kernels."""
    return sum(math.prod(layer.kernel.shape) for layer in model.layers if hasattr(layer, "kernel"))


def without_penalty(model):
    """The model without the weight decay of its recipe on its kernels: another recipe brings its own."""
    for layer in model.layers:
        if getattr(layer, "kernel_regularizer", None) is not None:
            layer.kernel_regularizer = layer.kernel.regularizer = None
    return model
