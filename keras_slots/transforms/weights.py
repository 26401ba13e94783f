"""The weights of two layers of which one is made from the other."""

import tempfile
from collections.abc import Iterable
from typing import Any, TypeVar

import keras

from keras_slots._keras import inner_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.layers.base import SlotLayer, copied_array
from keras_slots.layers.naming import named_weights

Pairs = list[tuple[keras.layers.Layer, keras.layers.Layer]]
Source = TypeVar("Source")


def is_replaced(pair: tuple[keras.layers.Layer, keras.layers.Layer]) -> bool:
    """Whether one of two layers is a slot layer and the other one a plain one."""
    old, new = pair
    return isinstance(old, SlotLayer) != isinstance(new, SlotLayer)


def copy_states(pairs: Pairs) -> None:
    """Copies the state of the layers that are neither slot layers nor copies of them; builds copies like them."""
    for old, new in pairs:
        if old.built and not new.built:
            # A layer may be built before its model, as one that `adapt` was called on.
            new.build_from_config(old.get_build_config())
    own = zip(own_variables(old for old, _ in pairs), own_variables(new for _, new in pairs), strict=True)
    for pair, variables in zip(pairs, own, strict=True):
        if not is_replaced(pair):
            _copy_state(*pair, *variables)


def _copy_state(
    old: keras.layers.Layer, new: keras.layers.Layer, mine: list[keras.Variable], its: list[keras.Variable]
) -> None:
    """Copies the state of a layer to its copy: variables, random state and vocabularies."""
    if holds_assets(old):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    if not old.built or not new.built:
        return
    shapes, received = ([tuple(v.shape) for v in variables] for variables in (mine, its))
    if shapes != received:
        raise ValueError(
            f"Layer '{old.name}' of type {type(old).__name__} cannot be copied: one that Keras makes from its "
            f"configuration has weights of the shapes {received}, not {shapes}. Create all layers and weights in "
            "`__init__` or in `build`, from what `get_config` returns."
        )
    for variable, copied in zip(mine, its, strict=True):
        copied.assign(copied_array(variable))
    finalize(new)


def finalize(layer: keras.layers.Layer) -> None:
    """Lets `Normalization` and similar layers compute with their weights, if they have some."""
    if layer.variables and hasattr(layer, "finalize_state"):
        layer.finalize_state()


def own_variables(layers: Iterable[keras.layers.Layer]) -> list[list[keras.Variable]]:
    """The variables of each layer, without those of layers inside it that are in the list themselves."""
    layers = list(layers)
    listed = {id(x) for x in layers}
    own = []
    for layer in layers:
        apart = [x for x in inner_layers(layer) if x is not layer and id(x) in listed]
        inner = {id(v) for x in apart for v in x.variables}
        own.append([v for v in layer.variables if id(v) not in inner])
    return own


def holds_assets(layer: keras.layers.Layer) -> bool:
    """Whether a layer has state other than variables, such as the vocabulary of a `StringLookup`."""
    return hasattr(layer, "save_assets") and hasattr(layer, "load_assets")


def pair_weights(
    plain: keras.layers.Layer, slot: SlotLayer, sources: dict[str, Source]
) -> list[tuple[keras.Variable, Source]]:
    """Pairs each weight of a Keras layer with its source in the slot layer; both are built.

    `sources` are the `weight_sources` of the slot layer, or values made from them, by the name of the weight.
    """
    weights: dict[str, Any] = named_weights(plain)
    # A weight without its own name takes that of its attribute.
    names = {id(weight): name for name, weight in weights.items()}
    for attribute in sorted(sources.keys() - weights.keys()):
        if name := names.pop(id(getattr(plain, attribute, None)), None):
            weights[attribute] = weights.pop(name)
    problem = f"Layer '{slot.name}' ({type(slot).__name__}) does not fit its Keras layer {type(plain).__name__}"
    if weights.keys() != sources.keys():
        raise ValueError(
            f"{problem}: their weights are paired by name. Expected the weights {sorted(weights)}. Received: "
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
