"""The table of layers that hold kernels: Keras layers, and the slot layers of the same arguments."""

import re

import keras
import numpy as np
import pytest

import keras_slots
from backends import BACKEND
from comparisons import numpy_of
from keras_slots.layers.arguments import parameters_of

L = keras.layers
MINOR = int(keras.__version__.split(".")[1])
MODES = ("per_value", "per_connection")
#: Slot class of each Keras layer; a copy, as tests register more.
SLOT_CLASSES = dict(keras_slots.SlotLayer.registry)
SLOT_ARGUMENTS = (
    "num_values",
    "selection",
    "score_mode",
    "bank_initializer",
    "score_initializer",
    "sharing",
    "move_regularizer",
    "seed",
)
_RECURRENT = {"recurrent_initializer": "glorot_uniform"}
#: Keras layer, its arguments, shape of an input: first one row for each class, then rows with other arguments.
LAYERS = {
    "dense": (L.Dense, {"units": 4}, (3, 5)),
    "conv1d": (L.Conv1D, {"filters": 4, "kernel_size": 3}, (2, 7, 3)),
    "conv2d": (L.Conv2D, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, (2, 6, 6, 3)),
    "conv3d": (L.Conv3D, {"filters": 2, "kernel_size": 2}, (1, 4, 4, 4, 3)),
    "conv1d_transpose": (L.Conv1DTranspose, {"filters": 4, "kernel_size": 3, "strides": 2}, (2, 5, 3)),
    "conv2d_transpose": (
        L.Conv2DTranspose,
        {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"},
        (2, 4, 4, 3),
    ),
    "conv3d_transpose": (
        L.Conv3DTranspose,
        {"filters": 2, "kernel_size": 2, "strides": 2, "padding": "same"},
        (1, 3, 3, 3, 2),
    ),
    "depthwise1d": (L.DepthwiseConv1D, {"kernel_size": 3, "strides": 2, "depth_multiplier": 2}, (2, 7, 3)),
    "depthwise2d": (L.DepthwiseConv2D, {"kernel_size": 3, "depth_multiplier": 2}, (2, 6, 6, 3)),
    "separable1d": (
        L.SeparableConv1D,
        {"filters": 4, "kernel_size": 3, "padding": "same", "depth_multiplier": 2},
        (2, 7, 3),
    ),
    "separable2d": (L.SeparableConv2D, {"filters": 4, "kernel_size": 3}, (2, 6, 6, 3)),
    "einsum": (
        L.EinsumDense,
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"},
        (2, 3, 4),
    ),
    "attention": (L.MultiHeadAttention, {"num_heads": 2, "key_dim": 3}, (2, 5, 4)),
    "grouped_attention": (
        L.GroupQueryAttention,
        {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2},
        (2, 5, 4),
    ),
    "embedding": (
        L.Embedding,
        {"input_dim": 12, "output_dim": 4, "embeddings_initializer": "glorot_uniform"},
        (2, 5),
    ),
    "reversible_embedding": (
        L.ReversibleEmbedding,
        {"input_dim": 12, "output_dim": 4, "embeddings_initializer": "glorot_uniform"},
        (2, 5),
    ),
    "simple_rnn_cell": (L.SimpleRNNCell, {"units": 4, **_RECURRENT}, (2, 4)),
    "lstm_cell": (L.LSTMCell, {"units": 4, **_RECURRENT}, (2, 4)),
    "gru_cell": (L.GRUCell, {"units": 4, **_RECURRENT}, (2, 4)),
    "simple_rnn": (L.SimpleRNN, {"units": 4, **_RECURRENT}, (2, 3, 5)),
    "lstm": (L.LSTM, {"units": 4, "return_sequences": True, **_RECURRENT}, (2, 3, 5)),
    "gru": (L.GRU, {"units": 3, **_RECURRENT}, (2, 3, 5)),
}
VARIANTS = {
    "dense_3d": (L.Dense, {"units": 4, "use_bias": False}, (2, 3, 5)),
    "conv1d_causal": (L.Conv1D, {"filters": 4, "kernel_size": 3, "padding": "causal"}, (2, 7, 3)),
    "conv1d_dilated": (L.Conv1D, {"filters": 4, "kernel_size": 3, "dilation_rate": 2}, (2, 9, 3)),
    "conv2d_dilated": (L.Conv2D, {"filters": 4, "kernel_size": 3, "dilation_rate": (1, 2)}, (2, 6, 7, 3)),
    "conv2d_groups": (L.Conv2D, {"filters": 4, "kernel_size": 3, "groups": 2}, (2, 6, 6, 4)),
    "conv3d_tanh": (L.Conv3D, {"filters": 4, "kernel_size": 2, "activation": "tanh"}, (1, 4, 4, 4, 3)),
    "separable2d_tanh": (
        L.SeparableConv2D,
        {"filters": 4, "kernel_size": 3, "depth_multiplier": 2, "activation": "tanh"},
        (2, 6, 6, 3),
    ),
}
#: The rows with one input, and with kernels and a bias of their own, which `built_layer` makes.
ONE_INPUT = tuple(
    name for name in {**LAYERS, **VARIANTS} if not re.search("attention|embedding|rnn|lstm|gru", name)
)
#: Every layer in one of the score modes, to save time, and every layer in the other one.
LAYER_AND_MODE = [(name, MODES[i % 2]) for i, name in enumerate(LAYERS)]
LAYER_AND_OTHER_MODE = [(name, MODES[1 - i % 2]) for i, name in enumerate(LAYERS)]
#: How the arguments about the kernels of a layer begin, where that is not "kernel".
PREFIXES = {
    "depthwise1d": ("depthwise",),
    "depthwise2d": ("depthwise",),
    "separable1d": ("depthwise", "pointwise"),
    "separable2d": ("depthwise", "pointwise"),
    "embedding": ("embeddings",),
    "reversible_embedding": ("embeddings",),
    **{name: ("kernel", "recurrent") for name in LAYERS if "rnn" in name or "lstm" in name or "gru" in name},
}


def keras_can(layer, policy):
    """On JAX, Keras' own `SimpleRNN` fails in float64: its loop starts in float64 and goes on in float32."""
    return BACKEND.name != "jax" or (layer, policy) != ("simple_rnn", "float64")


def since_keras_3(minor):
    """Marks what Keras added in that version, and slot layers take over with it."""
    return pytest.mark.skipif(minor > MINOR, reason=f"new in Keras 3.{minor}")


def plain_layer(kind, /, **arguments):
    """The Keras layer of the table; `kernel_...` arguments are given to each of its kernels."""
    for argument in [x for x in arguments if x.startswith("kernel_")]:
        value = arguments.pop(argument)
        for prefix in PREFIXES.get(kind, ("kernel",)):
            arguments[argument.replace("kernel", prefix)] = value
    cls, own, _ = LAYERS[kind]
    taken = parameters_of(cls)  # of a layer without a bias, no argument about one
    return cls(**own, **{k: v for k, v in arguments.items() if not k.startswith("bias_") or k in taken})


def slot_layer(kind, kernel_arguments=None, **slot_arguments):
    """The slot layer of the table."""
    plain = plain_layer(kind, **(kernel_arguments or {}))
    return SLOT_CLASSES[type(plain)](**_own_config(plain), **slot_arguments)


def _own_config(plain):
    config = plain.get_config()
    # Both the attention layers and ours have a seed: ours governs all.
    config.pop("seed", None)
    return config


def built_layer(name, **arguments):
    """The built slot layer of a row, with a bias that is not zero, and an input."""
    cls, own, shape = {**LAYERS, **VARIANTS}[name]
    x = numbers_for(cls, shape, seed=7)
    layer = SLOT_CLASSES[cls](**{**own, "seed": 3, **arguments})
    layer.build(shape)
    if getattr(layer, "bias", None) is not None:
        layer.bias.assign(np.random.default_rng(8).normal(size=layer.bias.shape))
    return layer, x


def plain_twin(layer, x, kernels=None):
    """The Keras layer of the same arguments, given the kernels (by name) and the bias of the slot layer."""
    config = layer.get_config()
    for argument in SLOT_ARGUMENTS:
        del config[argument]
    plain = layer.plain_class.from_config(config)
    plain.build(x.shape)
    for name, kernel in layer.slot_kernels.items():
        getattr(plain, name).assign(kernel.select() if kernels is None else kernels[name])
    if getattr(layer, "bias", None) is not None:
        plain.bias.assign(np.array(numpy_of(layer.bias)))
    return plain


def bank_variable(layer):
    """What holds the bank of a layer with scores, for tests that choose it."""
    (variable,) = (v for v in layer.variables if v.name == "bank")
    return variable


def call(layer, x, *others, **arguments):
    """The layer on x, as query and value where it takes two inputs, and as the states of a cell."""
    kind = type(layer).__name__
    if kind.endswith("Cell"):
        return layer(x, [x] * (2 if "LSTM" in kind else 1), **arguments)[0]
    if "Attention" in kind and not others:
        others = (x,)
    return layer(x, *others, **arguments)


def model_of(layer, shape):
    """The Functional model of one layer; its input has the given shape, batch included."""
    inputs = keras.Input(shape[1:], name="x")
    return keras.Model(inputs, call(layer, inputs))


def layer_input(name, seed=0):
    return numbers_for(LAYERS[name][0], LAYERS[name][-1], seed)


def numbers_for(cls, shape, seed=0):
    """An input for a Keras layer of this class."""
    rng = np.random.default_rng(seed)
    if issubclass(cls, L.Embedding):
        return rng.integers(0, 12, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def gradients(layer, x, upstream, way, by_id=False):
    """Output, and the gradient of sum(output * upstream) for each trainable variable, by name or by `id`.

    `x` is the input of the layer, or a tuple of its inputs.
    """
    training = {"training": True} if hasattr(layer, "num_values") else {}

    def total(upstream, *inputs):
        y = call(layer, *inputs, **training)
        return keras.ops.sum(y * keras.ops.cast(upstream, y.dtype)), y

    inputs = x if isinstance(x, tuple) else (x,)
    y, values = BACKEND.gradients(total, layer.trainable_variables, (upstream, *inputs), way)
    paths = [v.path.removeprefix(f"{layer.path}/") for v in layer.trainable_variables]
    # "kernel/scores" is "scores" in layers with one kernel.
    names = [path.removeprefix("kernel/") for path in paths]
    keys = [id(v) for v in layer.trainable_variables] if by_id else names
    values = [None if g is None else numpy_of(g) for g in values]
    return numpy_of(y), dict(zip(keys, values, strict=True))
