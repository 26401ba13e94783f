"""Model in, new model out: a copy in which a function decides what becomes of each layer."""

import inspect
import tempfile
import types
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np

from keras_slots._keras import copy_operation, direct_layers, inner_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.live_config import carried_in, live_config
from keras_slots.slot_layer import SlotLayer, named_weights

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


def copy_common_weights(old: keras.layers.Layer, new: SlotLayer) -> None:
    """Gives a slot layer the weights of its Keras layer: all but the kernels."""
    if not old.built or not new.built:
        return
    for mine, its in pair_weights(old, new, new.weight_sources()):
        if isinstance(its, keras.Variable):
            its.assign(_detached(mine))


Source = TypeVar("Source")


def pair_weights(
    plain: keras.layers.Layer, slot: SlotLayer, sources: dict[str, Source]
) -> list[tuple[keras.Variable, Source]]:
    """Each weight of a Keras layer, and what a slot layer gives for it.

    Args:
        plain: Keras layer, built.
        slot: Its slot layer, built.
        sources: By the name of the weight; `weight_sources` of the slot layer, or what is made of them.

    Raises:
        ValueError: If a weight has no source, a source no weight, or their shapes differ.
    """
    weights: dict[str, Any] = named_weights(plain)
    # A weight without a name of its own goes by that of its attribute.
    names = {id(weight): name for name, weight in weights.items()}
    for attribute in sorted(sources.keys() - weights.keys()):
        if name := names.pop(id(getattr(plain, attribute, None)), None):
            weights[attribute] = weights.pop(name)
    problem = f"Layer '{slot.name}' ({type(slot).__name__}) does not fit its Keras layer {type(plain).__name__}"
    if weights.keys() != sources.keys():
        raise ValueError(
            f"{problem}: weights pair by name. Expected the weights {sorted(weights)}. Received: "
            f"{sorted(sources)}. Name each kernel through `argument` or `name` of `add_slot_kernel` and keep it "
            "in an attribute; give other weights and inner layers the same `name` in both classes."
        )
    for name, weight in weights.items():
        source: Any = sources[name]
        shape = source.initial.kernel_shape if isinstance(source, SlotKernel) else source.shape
        if tuple(shape) != tuple(weight.shape):
            raise ValueError(
                f"{problem}: its weight '{name}' must have the shape {tuple(weight.shape)}. Received: "
                f"{tuple(shape)}."
            )
    return [(weight, sources[name]) for name, weight in weights.items()]


def holds_assets(layer: keras.layers.Layer) -> bool:
    """Whether a layer has state beside its variables, such as the vocabulary of a `StringLookup`."""
    return hasattr(layer, "save_assets") and hasattr(layer, "load_assets")


def serialize(model: keras.Model) -> dict[str, Any]:
    """A model as a dictionary for a file.

    Raises:
        ValueError: If a layer has a function or object that no file holds; it names the layer and the argument.
    """
    for layer in inner_layers(model):
        if is_model(layer) or isinstance(layer, SlotLayer):
            continue
        for argument, value in carried_in(live_config(layer)):
            named = isinstance(value, types.FunctionType) and value.__name__ != "<lambda>"
            if not (named or hasattr(value, "get_config")):
                raise ValueError(
                    f"A file cannot hold the `{argument}` of layer '{layer.name}'. Expected a function with a "
                    f"name, or an object with a `get_config`. Received: {value!r}. Write it as a function of "
                    "its own, decorated with `keras.saving.register_keras_serializable()`."
                )
    try:
        config: dict[str, Any] = keras.saving.serialize_keras_object(model)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"A file cannot hold model '{model.name}': Keras cannot write its configuration. {error}"
        ) from error
    return config


def _copy(layer: Any, convert: Convert, copy: Callable, pairs: Pairs) -> Any:
    if isinstance(layer, keras.Sequential):
        return _copy_sequential(layer, copy)
    if is_model(layer):
        return _copy_functional(layer, copy)
    if not isinstance(layer, keras.layers.Layer):
        # An operation, such as the sum of `x + y`: it has no weights.
        return copy_operation(layer)
    if type(layer) is keras.layers.TimeDistributed:
        config = live_config(layer)
        del config["layer"]
        return type(layer)(copy(layer.layer), **config)
    new = convert(layer)
    pairs.append((layer, new))
    return new


def _copy_sequential(model: keras.Sequential, copy: Callable) -> keras.Sequential:
    first = direct_layers(model)[:1]
    inputs = [_copy_input(x) for x in first if isinstance(x, keras.layers.InputLayer)]
    layers = [*inputs, *(copy(layer) for layer in model.layers)]
    make = _constructor(model, keras.Sequential, "layers") or keras.Sequential
    return make(layers, name=model.name, trainable=model.trainable)


def _copy_functional(model: keras.Model, copy: Callable) -> keras.Model:
    named = {id(x.output): x for x in model.layers if isinstance(x, keras.layers.InputLayer)}

    def fresh(tensor: keras.KerasTensor) -> keras.KerasTensor:
        if id(tensor) in named:
            return _copy_input(named[id(tensor)]).output
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)

    # A model of the same layers that is not compiled: `clone_model` would compile the copy too, which fails for
    # losses that Keras cannot serialize.
    twin = keras.Model(model.input, model.output, name=model.name)
    new = keras.models.clone_model(
        twin,
        input_tensors=keras.tree.map_structure(fresh, model.input),
        clone_function=copy,
    )
    make = _constructor(model, type(new), "inputs", "outputs")
    return new if make is None else make(new.input, new.output, name=model.name)


def _copy_input(layer: keras.layers.InputLayer) -> keras.layers.InputLayer:
    return keras.layers.InputLayer.from_config(layer.get_config())


def _constructor(model: keras.Model, base: type, *arguments: str) -> type | None:
    """The class of a model if it is one of the user's whose constructor takes these arguments alone, else None.

    Raises:
        ValueError: If the class computes something else than Keras' `base`, which would be lost.

    Warns:
        UserWarning: If the class has other methods, which are lost.
    """
    own = [cls for cls in type(model).__mro__ if cls not in base.__mro__]
    makers = [vars(cls)["__init__"] for cls in own if "__init__" in vars(cls)]
    if all(_takes(inspect.signature(maker), arguments) for maker in makers):
        return type(model) if own else None
    lost = {x for cls in own for x in vars(cls) if not x.startswith("__")} - _MADE_BY_KERAS
    text = (
        f"The copy of model '{model.name}' does not have {sorted(lost)} of its class {type(model).__name__}, "
        "whose `__init__` does not take the arguments of a Keras model. Let it take "
        f"{', '.join(f'`{x}`' for x in arguments)} and `**kwargs` alone, and make the layers outside of it."
    )
    if "call" in lost:
        raise ValueError(text)
    if lost:
        warnings.warn(text, stacklevel=2)
    return None


#: What a copy that Keras makes does without.
_MADE_BY_KERAS = {"get_config", "from_config", "build", "_abc_impl"}


def _takes(maker: inspect.Signature, arguments: tuple[str, ...]) -> bool:
    """Whether a constructor takes the arguments of a Keras model, and no other."""
    _, *parameters = maker.parameters.values()
    kinds = {p.kind for p in parameters}
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    rest = {"name", "trainable"}
    if names - {*arguments, *rest} or not (rest <= names or inspect.Parameter.VAR_KEYWORD in kinds):
        return False
    return inspect.Parameter.VAR_POSITIONAL in kinds or set(arguments) <= names


def _detached(variable: keras.Variable) -> np.ndarray:
    # A copy: on JAX, training one model would delete an array that both hold.
    return np.array(keras.ops.convert_to_numpy(variable))
