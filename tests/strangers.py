"""What the tests with models of other people share."""

import keras
import numpy as np
import pytest

import keras_slots

L = keras.layers
MINOR = int(keras.__version__.split(".")[1])
MODES = ("per_value", "per_connection")
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
#: Slot class of each Keras layer, by the public names.
SLOT_CLASSES = {
    getattr(L, name.removeprefix("Slot")): getattr(keras_slots, name)
    for name in keras_slots.__all__
    if name.startswith("Slot") and hasattr(L, name.removeprefix("Slot")) and name != "SlotLayer"
}
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


def since_keras_3(minor):
    """Marks what Keras added in that version, and slot layers take over with it."""
    return pytest.mark.skipif(minor > MINOR, reason=f"new in Keras 3.{minor}")


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def slot_layers(model):
    return [x for x in model._flatten_layers() if type(x) in SLOT_CLASSES.values()]


def kernel_layers(model):
    """The layers that hold kernels, in order."""
    return [x for x in model._flatten_layers() if _kernels(x)]


def kernels(layer):
    """Name -> kernel of a built layer, as arrays."""
    return {name: numpy_of(getattr(layer, name)) for name in _kernels(layer)}


def _kernels(layer):
    # Not `hasattr`: an unbuilt slot layer says that it is to be built first.
    names = [name for name in _KERNELS if hasattr(type(layer), name) or name in vars(layer)]
    return [name for name in names if layer.built and getattr(layer, name, None) is not None]


def give_kernels(slot, plain):
    """The plain model with the kernels that the slot model has selected: the truth to compare with."""
    for ours, theirs in zip(kernel_layers(slot), kernel_layers(plain), strict=True):
        assert ours.name == theirs.name
        for name, kernel in kernels(ours).items():
            getattr(theirs, name).assign(kernel)
    return plain


def random_input(model, count=3, seed=0):
    """Random inputs in the structure that the model takes; integers below 5 for integer inputs."""
    rng = np.random.default_rng(seed)

    def draw(tensor):
        shape = (count, *(7 if size is None else size for size in tensor.shape[1:]))
        if "int" in str(tensor.dtype):
            return rng.integers(0, 5, shape).astype(tensor.dtype)
        return rng.normal(size=shape).astype("float32")

    # A Sequential model has one input, and none in the sense of `input`.
    return keras.tree.map_structure(draw, _inputs(model))


def _inputs(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def arrays(outputs):
    return [numpy_of(y) for y in keras.tree.flatten(outputs)]


def assert_same(first, second):
    for one, other in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(first, second, rtol=1e-5, atol=1e-6):
    for one, other in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


#: Every Keras layer that holds kernels: a plain one, and the shape of its input.
LAYERS = {
    "dense": (lambda **k: L.Dense(4, **k), (3, 5)),
    "conv1d": (lambda **k: L.Conv1D(4, 3, **k), (2, 7, 3)),
    "conv2d": (lambda **k: L.Conv2D(4, 3, **k), (2, 6, 6, 3)),
    "conv3d": (lambda **k: L.Conv3D(2, 2, **k), (1, 4, 4, 4, 3)),
    "conv1d_transpose": (lambda **k: L.Conv1DTranspose(4, 3, strides=2, **k), (2, 5, 3)),
    "conv2d_transpose": (lambda **k: L.Conv2DTranspose(4, 3, strides=2, **k), (2, 4, 4, 3)),
    "conv3d_transpose": (lambda **k: L.Conv3DTranspose(2, 2, strides=2, **k), (1, 3, 3, 3, 2)),
    "depthwise1d": (lambda **k: L.DepthwiseConv1D(3, depth_multiplier=2, **k), (2, 7, 3)),
    "depthwise2d": (lambda **k: L.DepthwiseConv2D(3, depth_multiplier=2, **k), (2, 6, 6, 3)),
    "separable1d": (lambda **k: L.SeparableConv1D(4, 3, depth_multiplier=2, **k), (2, 7, 3)),
    "separable2d": (lambda **k: L.SeparableConv2D(4, 3, **k), (2, 6, 6, 3)),
    "einsum": (
        lambda **k: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", **k),
        (2, 3, 4),
    ),
    "attention": (lambda **k: L.MultiHeadAttention(2, 3, **k), (2, 5, 4)),
    "grouped_attention": (lambda **k: L.GroupQueryAttention(3, 4, 2, **k), (2, 5, 4)),
}
#: Every layer in one of the score modes, to save time, and every layer in the other one.
LAYER_AND_MODE = [(name, MODES[i % 2]) for i, name in enumerate(LAYERS)]
LAYER_AND_OTHER_MODE = [(name, MODES[1 - i % 2]) for i, name in enumerate(LAYERS)]
#: How the arguments about the kernels of a layer begin, where that is not "kernel".
PREFIXES = {
    "depthwise1d": ("depthwise",),
    "depthwise2d": ("depthwise",),
    "separable1d": ("depthwise", "pointwise"),
    "separable2d": ("depthwise", "pointwise"),
}


def plain_layer(kind, /, **arguments):
    """The Keras layer of the table; `kernel_...` arguments are given to each of its kernels."""
    for argument in [x for x in arguments if x.startswith("kernel_")]:
        value = arguments.pop(argument)
        for prefix in PREFIXES.get(kind, ("kernel",)):
            arguments[argument.replace("kernel", prefix)] = value
    return LAYERS[kind][0](**arguments)


def slot_layer(kind, kernel_arguments=None, **slot_arguments):
    """The slot layer of the table."""
    plain = plain_layer(kind, **(kernel_arguments or {}))
    return SLOT_CLASSES[type(plain)](**_own_config(plain), **slot_arguments)


def _own_config(plain):
    config = plain.get_config()
    # Both the attention layers and ours have a seed: ours governs all.
    config.pop("seed", None)
    return config


def call(layer, x, **arguments):
    """The layer on x, as query and value where it takes two inputs."""
    if "Attention" in type(layer).__name__:
        return layer(x, x, **arguments)
    return layer(x, **arguments)


def model_of(layer, shape):
    """The Functional model of one layer; its input has the given shape, batch included."""
    inputs = keras.Input(shape[1:], name="x")
    return keras.Model(inputs, call(layer, inputs))


def layer_input(name, seed=0):
    return np.random.default_rng(seed).normal(size=LAYERS[name][1]).astype("float32")
