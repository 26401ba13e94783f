"""Small models, their data, and what moves them as training would."""

import functools
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np

import keras_slots
from comparisons import numpy_of

NEAREST = {"score_mode": "nearest", "bank_initializer": "stratified_uniform"}
#: What the kernels of a model are made of, and the form that is expected in the file.
KERNELS = {
    "lever": ({"score_mode": "per_connection"}, "hull"),
    "scores": ({"num_values": 4}, "hull"),
    "two_values": ({"num_values": 2, "score_mode": "per_connection"}, "hull"),
    "odd": ({"num_values": 5, "bank_initializer": "he_uniform"}, "hull"),
    "normal": ({"bank_initializer": "he_normal", "score_mode": "per_connection"}, "hull"),
    "constant": ({"bank_initializer": "signed_constant", "num_values": 4}, "hull"),
    "strata": (NEAREST, "nearest"),
    "strata_16": ({**NEAREST, "num_values": 16}, "nearest"),
    "grid": ({**NEAREST, "bank_initializer": keras_slots.StratifiedUniform(1.5, bits=8)}, "nearest"),
    "grid_scores": ({"num_values": 3, "bank_initializer": keras_slots.StratifiedUniform(bits=4)}, "hull"),
    "nearest": ({"score_initializer": "nearest", "bank_initializer": "glorot_normal"}, "nearest"),
    "layer": ({"sharing": "layer"}, "hull"),
    "nearest_layer": ({**NEAREST, "sharing": "layer"}, "nearest"),
    "nearest_bank": ({"score_mode": "nearest", "sharing": keras_slots.ValueBank(8, bound=0.5, seed=5)}, "nearest"),
    "bank": ({"sharing": keras_slots.ValueBank(8, bound=0.2, seed=5)}, "hull"),
    "layer_bfloat16": ({"sharing": "layer", "dtype": "bfloat16"}, "hull"),
    "bank_bfloat16": ({"sharing": keras_slots.ValueBank(8, bound=0.2, seed=5), "dtype": "bfloat16"}, "hull"),
    "many": ({**NEAREST, "num_values": 300}, "packed"),
    "keras": ({"bank_initializer": keras.initializers.RandomNormal(seed=1)}, "stored"),
    "one": ({"num_values": 1}, "stored"),
}


def small_model(seed=0, selection="greedy", num_values=4, **slot_arguments):
    """Functional: convolution, batch norm, dense; 6x6x2 images, three classes."""
    x = inputs = keras.Input((6, 6, 2))
    arguments = {"num_values": num_values, "selection": selection, **slot_arguments}
    x = keras_slots.SlotConv2D(4, 3, seed=seed, name="conv", **arguments)(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    outputs = keras_slots.SlotDense(3, seed=seed + 1, name="logits", **arguments)(x)
    return keras.Model(inputs, outputs, name="small")


def small_data(count=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6, 6, 2)).astype("float32")
    return x, rng.integers(0, 3, count)


def compiled_model(model, optimizer=None, **arguments):
    model.compile(
        optimizer=optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **arguments,
    )
    return model


def dense_model(units=(24, 6), inputs=40, **slot_arguments):
    layers = [
        keras_slots.SlotDense(n, seed=11 + i, name=f"dense{i}", **slot_arguments) for i, n in enumerate(units)
    ]
    return keras.Sequential([keras.Input((inputs,)), *layers], name="small")


def conv_model(**slot_arguments):
    """Convolution, batch norm, nested model and dropout: every kind of weight."""
    arguments = {"seed": 3, "score_mode": "per_connection", **slot_arguments}
    inputs = keras.Input((8, 8, 3))
    x = keras_slots.SlotConv2D(24, 3, use_bias=False, name="conv", **arguments)(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.5)(keras.layers.ReLU()(x))
    inner = keras.Sequential(
        [keras.Input((6, 6, 24)), keras_slots.SlotSeparableConv2D(4, 3, name="apart", **arguments)]
    )
    x = keras.layers.Flatten()(inner(x))
    return keras.Model(inputs, keras_slots.SlotDense(5, name="logits", **arguments)(x))


def moved(model, size=1.0, seed=0):
    """Moves what training would move, by random steps that are alike for neighbouring inputs."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for kernel in getattr(layer, "slot_kernels", {}).values():
            (variable,) = kernel.trained_variables()
            shape = kernel.initial.kernel_shape
            lever = (
                np.cumsum(random.normal(size=shape), axis=0)
                / np.sqrt(1 + np.arange(shape[0]))[(...,) + (None,) * (len(shape) - 1)]
            )
            nearest = "nearest" in repr(kernel.score_initializer).lower()
            unit = float(np.std(numpy_of(kernel.bank).astype("float32"))) if nearest else 0.3
            step = (size * unit * lever).astype("float32")
            if variable.name == "scores":
                step = step[..., None] * numpy_of(kernel.bank).astype("float32")
            variable.assign(numpy_of(variable) + step)
        for variable in layer.trainable_variables:
            if "bias" in variable.path or "batch" in variable.path:
                variable.assign(random.normal(size=variable.shape))
    return model


@functools.cache
def saved(name):
    """The file of a model with the kernels of that name, as bytes, and the weights that it stands for."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The file stores", UserWarning)
        model = moved(conv_model() if name == "conv" else dense_model(**KERNELS[name][0]))
        path = keras_slots.save_slots(model, Path(folder, "m.slots"))
        plain = keras_slots.materialize(model)
        weights = [(v.path, np.array(numpy_of(v))) for v in plain.variables]
        return path.read_bytes(), weights, plain.to_json()
