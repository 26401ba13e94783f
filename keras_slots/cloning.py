"""Model in, new model out: a copy in which a function decides what becomes of each layer."""

import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Convert = Callable[[keras.layers.Layer], keras.layers.Layer]
Pairs = list[tuple[keras.layers.Layer, keras.layers.Layer]]


def clone(model: keras.Model, convert: Convert, caller: str) -> tuple[keras.Model, Pairs]:
    """A copy with converted layers, and the pairs of old and new layer.

    Nested models and layers inside `TimeDistributed` are converted too; shared layers stay shared. The copy is not
    compiled, and the given model is not touched.

    Args:
        model: Functional or Sequential model.
        convert: Makes the new layer; weights are copied later.
        caller: Name of the public function, for the error.

    Raises:
        ValueError: If `model` is a subclassed model.
    """
    if not is_model(model):
        raise ValueError(
            f"`{caller}` takes Functional and Sequential models, whose layers are known. Received: a model of "
            f"type {type(model).__name__}. Rebuild it with the Functional API, or put the layers in by hand."
        )
    pairs: Pairs = []
    done: dict[int, Any] = {}

    def copy(layer: Any) -> Any:
        if id(layer) not in done:
            done[id(layer)] = _copy(layer, convert, copy, pairs)
        return done[id(layer)]

    return copy(model), pairs


def is_model(layer: Any) -> bool:
    """Whether a layer is a Functional or Sequential model, whose layers are known."""
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and hasattr(layer, "operations")
    )


def copy_state(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Gives a layer all that its original holds: variables, random state and vocabularies."""
    if not old.built or not new.built:
        return
    for mine, its in zip(old.variables, new.variables, strict=True):
        its.assign(_detached(mine))
    if holds_assets(old):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    if hasattr(new, "finalize_state"):
        # Normalization and its kin compute with what they derive from their weights.
        new.finalize_state()


def copy_common_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Copies the weights that both layers have under one path: all but the kernels."""
    if not old.built or not new.built:
        return
    mine = {v.path.removeprefix(f"{old.path}/"): v for v in old.weights}
    for its in new.weights:
        path = its.path.removeprefix(f"{new.path}/")
        if path in mine:
            its.assign(_detached(mine[path]))


def holds_assets(layer: keras.layers.Layer) -> bool:
    """Whether a layer has state beside its variables, such as the vocabulary of a `StringLookup`."""
    return hasattr(layer, "save_assets") and hasattr(layer, "load_assets")


def _copy(layer: Any, convert: Convert, copy: Callable, pairs: Pairs) -> Any:
    if isinstance(layer, keras.Sequential):
        return _copy_sequential(layer, copy)
    if is_model(layer):
        return _copy_functional(layer, copy)
    if not isinstance(layer, keras.layers.Layer):
        # An operation, such as the sum of `x + y`: it has no weights.
        return type(layer).from_config(layer.get_config())
    if type(layer) is keras.layers.TimeDistributed:
        config = layer.get_config()
        del config["layer"]
        return type(layer)(copy(layer.layer), **config)
    new = convert(layer)
    pairs.append((layer, new))
    return new


def _copy_sequential(model: keras.Sequential, copy: Callable) -> keras.Sequential:
    config = model.get_config()
    inputs = [
        keras.layers.InputLayer.from_config(x["config"])
        for x in config["layers"][:1]
        if x["class_name"] == "InputLayer"
    ]
    layers = [copy(layer) for layer in model.layers]
    new = keras.Sequential([*inputs, *layers], name=model.name, trainable=model.trainable)
    shape = config.get("build_input_shape")
    if shape and not new.built:
        new.build(shape)
    return new


def _copy_functional(model: keras.Model, copy: Callable) -> keras.Model:
    named = {id(x.output): x for x in model.layers if isinstance(x, keras.layers.InputLayer)}

    def fresh(tensor: keras.KerasTensor) -> keras.KerasTensor:
        if id(tensor) in named:
            return keras.layers.InputLayer.from_config(named[id(tensor)].get_config()).output
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)

    # A model of the same layers that is not compiled: `clone_model` would compile the copy too, which fails for
    # losses that Keras cannot serialize.
    twin = keras.Model(model.input, model.output, name=model.name)
    new = keras.models.clone_model(
        twin,
        input_tensors=keras.tree.map_structure(fresh, model.input),
        clone_function=copy,
    )
    if type(model) is not type(new) and type(model).__init__ is type(new).__init__:
        new = type(model)(new.input, new.output, name=model.name)
    return new


def _detached(variable: keras.Variable) -> np.ndarray:
    # A copy: on JAX, training one model would delete an array that both hold.
    return np.array(keras.ops.convert_to_numpy(variable))
