"""Models of plain Keras layers, and how a slot model is compared with one."""

import keras
import numpy as np
from keras import ops

from comparisons import numpy_of
from layer_table import SLOT_CLASSES, L

_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel", "embeddings")


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
    names = ["embeddings"] if "embeddings" in names else names  # a slot layer calls it its kernel, too
    return [name for name in names if layer.built and getattr(layer, name, None) is not None]


def give_kernels(slot, plain):
    """The plain model with the kernels that the slot model has selected: the truth to compare with."""
    for ours, theirs in zip(kernel_layers(slot), kernel_layers(plain), strict=True):
        assert ours.name == theirs.name, "does `_KERNELS` name the kernels of this layer?"
        for name, kernel in kernels(ours).items():
            getattr(theirs, name).assign(kernel)
    return plain


def without_seeds(config):
    """A configuration without seeds: the attention and recurrent layers of Keras have one, for dropout."""
    if isinstance(config, dict):
        return {key: without_seeds(value) for key, value in config.items() if key != "seed"}
    return [without_seeds(x) for x in config] if isinstance(config, (list, tuple)) else config


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


def _model(*build):
    """A function of no arguments that puts the given steps between two dense layers."""

    def make():
        inputs = keras.Input((5, 4), name="steps")
        x = L.Dense(4, name="first")(inputs)
        for step in build:
            x = step(x, inputs)
        return keras.Model(inputs, L.Dense(2, name="last")(x))

    return make


def _masked(*layers, token_input=True):
    def make():
        inputs = keras.Input((6,), dtype="int32") if token_input else keras.Input((6, 4))
        x = L.Embedding(5, 4, mask_zero=True)(inputs) if token_input else L.Masking()(inputs)
        for layer in layers:
            x = layer(x)
        return keras.Model(inputs, L.Dense(2, name="last")(x))

    return make


def _attention(x):
    return L.GlobalAveragePooling1D()(L.Attention()([x, x]))


OPERATIONS = {
    "sum": _model(lambda x, inputs: x + inputs),
    "product_with_a_number": _model(lambda x, inputs: x * 2),
    "number_first": _model(lambda x, inputs: 1.0 - x),
    "ops_relu": _model(lambda x, inputs: ops.relu(x)),
    "ops_concatenate": _model(lambda x, inputs: ops.concatenate([x, inputs], axis=-1)),
    "slice": _model(lambda x, inputs: x[:, :3]),
    "where": _model(lambda x, inputs: ops.where(x > 0, x, inputs)),
    "mean_and_negation": _model(lambda x, inputs: -x - ops.mean(x, axis=1, keepdims=True)),
    "reshape_and_matmul": _model(
        lambda x, inputs: ops.matmul(ops.reshape(x, (-1, 5, 4)), ops.transpose(inputs, (0, 2, 1)))
    ),
    "mask_and_mean": _masked(L.Dense(3, name="first"), L.GlobalAveragePooling1D()),
    "mask_and_lstm": _masked(L.LSTM(3)),
    "mask_and_bidirectional": _masked(L.Bidirectional(L.GRU(3))),
    "mask_and_attention": _masked(_attention),
    "masking_layer": _masked(L.Dense(4, name="first"), L.LSTM(3), token_input=False),
}


def vocabulary_models():
    words = L.TextVectorization(output_sequence_length=4)
    words.adapt(["green tea", "black tea", "black coffee"])
    strings = L.StringLookup()
    strings.adapt(["a", "b", "c"])
    integers = L.IntegerLookup()
    integers.adapt([10, 20, 30])
    text = keras.Input((), dtype="string")
    letter = keras.Input((2,), dtype="string")
    number = keras.Input((2,), dtype="int64")
    return {
        "text": (text, words, np.array(["black tea", "red tea"])),
        "strings": (letter, strings, np.array([["a", "b"], ["c", "z"]])),
        "integers": (number, integers, np.array([[10, 20], [30, 40]])),
    }


def vocabulary_model(name):
    inputs, lookup, x = vocabulary_models()[name]
    embedded = L.Flatten()(L.Embedding(9, 3)(lookup(inputs)))
    return keras.Model(inputs, L.Dense(2, name="last")(embedded)), x
