"""Layers inside other layers: where they are, and how slot layers take the place of plain ones.

A *composite* is a layer or a subclassed model with other layers in its attributes, such as the block of a
transformer. Its class makes these in its constructor or in `build`, and knows no slot layers. So a composite with
slot layers is first made as its class makes it, and then the slot layers take the places of the plain ones. A file
holds the configuration of the composite, and those of the slot layers by path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar, NamedTuple

import keras

from keras_slots._keras import exchange_parts, inner_layers, parts_of
from keras_slots.layers.base import SlotLayer


class Place(NamedTuple):
    """A layer inside a composite."""

    #: Attributes, keys and indices that lead to it, as in `"blocks/0/dense"`.
    path: str
    #: Names of the layers around it, the outermost first.
    scope: tuple[str, ...]
    layer: keras.layers.Layer


def is_model(layer: Any) -> bool:
    """Whether a layer is a Functional or Sequential model."""
    return isinstance(layer, keras.Sequential) or (isinstance(layer, keras.Model) and hasattr(layer, "operations"))


#: Layers around other layers, and the attributes that hold these.
WRAPPERS = {
    keras.layers.TimeDistributed: ("layer",),
    keras.layers.Bidirectional: ("forward_layer", "backward_layer"),
    keras.layers.RNN: ("cell",),
    keras.layers.StackedRNNCells: ("cells",),
}


def is_whole(layer: Any) -> bool:
    """Whether a layer can only be replaced as a whole, with all layers inside it."""
    known = type(layer) in SlotLayer.registry or type(layer) in WRAPPERS
    # A recurrent layer may read the weights of its cell without calling it.
    return known or is_model(layer) or isinstance(layer, (SlotLayer, keras.layers.RNN))


def is_composite(layer: Any) -> bool:
    """Whether a layer is made again by its class before layers inside it are replaced."""
    functional = isinstance(layer, keras.Model) and hasattr(layer, "operations")
    # Some classes make the graph of a Functional model themselves, from arguments of their own.
    has_own_config = functional and not type(layer).get_config.__module__.startswith("keras.")
    return has_own_config or not is_whole(layer)


def holds_slots(layer: Any) -> bool:
    """Whether a layer is a slot layer, or has one inside."""
    return any(isinstance(x, SlotLayer) for x in inner_layers(layer))


def places_in(composite: Any, is_closed: Callable[[Any], bool] = is_whole) -> Iterator[Place]:
    """All layers in the attributes of a composite, at any depth, but none inside those that `is_closed`.

    A layer that is in several places comes once for each.
    """
    entered = {id(composite)}

    def walk(owner: Any, path: tuple[str, ...], scope: tuple[str, ...]) -> Iterator[Place]:
        for attribute, value in parts_of(owner).items():
            for keys, part in keras.tree.flatten_with_path(value):
                if not isinstance(part, keras.layers.Layer) or part is composite:
                    continue
                way = (*path, attribute, *map(str, keys))
                yield Place("/".join(way), scope, part)
                if id(part) not in entered and not is_closed(part):
                    entered.add(id(part))
                    yield from walk(part, way, (*scope, part.name))

    # The paths of variables in a graph do not begin with the name of the model.
    return walk(composite, (), () if is_model(composite) else (composite.name,))


def exchange(composite: Any, new: dict[int, keras.layers.Layer]) -> None:
    """Puts layers into the places of others, given by `id`, wherever they are in a composite."""
    layers = {id(x): x for _, _, x in places_in(composite, is_closed=lambda layer: id(layer) in new)}
    # The innermost first: on PyTorch a layer also lists the parameters of those inside it.
    for owner in (*reversed([x for key, x in layers.items() if key not in new]), composite):
        exchange_parts(owner, new)


def scoped(names: tuple[str, ...]) -> ExitStack:
    """A context in which variables have these names before their own in their path."""
    stack = ExitStack()
    for name in names:
        stack.enter_context(keras.name_scope(name))
    return stack


def has_own_build(layer: Any) -> bool:
    """Whether a layer builds the layers inside it; others leave that to the first call."""
    return type(layer).build is not keras.layers.Layer.build


class SlotComposite:
    """Mixin before the class of a composite that holds slot layers in the places of plain ones."""

    #: The class of the composite itself.
    composite_class: ClassVar[type]

    def get_config(self) -> dict[str, Any]:
        plain: Any = object.__new__(self.composite_class)
        vars(plain).update(vars(self))
        layer = dict(keras.saving.serialize_keras_object(plain))
        layer.pop("compile_config", None)  # the one of the composite is enough
        # Keras takes two objects with one `id` for one, and the next object may get the `id` of this one.
        layer.pop("shared_object_id", None)
        slots: dict[int, tuple[str, Any]] = {}
        others: dict[int, tuple[str, Any]] = {}
        for path, _, part in places_in(self):
            whole = is_whole(part) and holds_slots(part)
            (slots if whole else others).setdefault(id(part), (path, part))
        builds = {}
        if not has_own_build(self):
            layer.pop("build_config", None)
            builds = {
                path: part.get_build_config()
                for path, part in others.values()
                if part.built and has_own_build(part)
            }
        return {
            "layer": layer,
            "builds": builds,
            "slots": {path: keras.saving.serialize_keras_object(part) for path, part in slots.values()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        composite = keras.saving.deserialize_keras_object(config["layer"])
        for path, build in config["builds"].items():
            place = _find(composite, path)
            if not place.layer.built:
                with scoped(place.scope):
                    place.layer.build_from_config(build)
        new = {}
        for path, part in config["slots"].items():
            place = _find(composite, path)
            with scoped(place.scope):
                new[id(place.layer)] = keras.saving.deserialize_keras_object(part)
        exchange(composite, new)
        return as_slot_composite(composite)


def _find(composite: keras.layers.Layer, path: str) -> Place:
    for place in places_in(composite, is_closed=lambda layer: False):
        if place.path == path:
            return place
    raise ValueError(
        f"Layer '{composite.name}' of type {type(composite).__name__} was saved with a layer '{path}', which its "
        "class does not make any more. Load it with the version of the class that it was saved with."
    )


_CLASSES: dict[type, type] = {}


def as_slot_composite(composite: Any) -> Any:
    """The composite, now of a class that saves the slot layers inside it."""
    plain = type(composite)
    if not issubclass(plain, SlotComposite):
        if plain not in _CLASSES:
            attributes = {"composite_class": plain, "__module__": plain.__module__, "__doc__": plain.__doc__}
            _CLASSES[plain] = _registered(type(f"Slot{plain.__name__}", (SlotComposite, plain), attributes))
            _registered(SlotComposite)
        composite.__class__ = _CLASSES[plain]
    return composite


def _registered(cls: type) -> type:
    """Registers a class with Keras; files call all composites `SlotComposite`, and the last one makes them."""
    return keras.saving.register_keras_serializable("keras_slots", "SlotComposite")(cls)


_registered(SlotComposite)
