"""The configuration of a layer for a copy in the same process, with functions and objects that files cannot hold.

`layer.get_config()` fails for a layer with a `functools.partial`, and its entries for a lambda or for a class that
is not registered cannot be deserialized. A copy in the same process can use the object itself.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_slots._keras import inner_layers

Config = dict[str, Any]
#: Raised where Keras cannot write the configuration of a layer, or make the layer from it.
CONFIG_ERRORS = (TypeError, ValueError, AttributeError, NotImplementedError)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


class _TextWithObject(str):
    """Text with an attached object; Keras passes text on unchanged."""

    carried: Any

    def __deepcopy__(self, memo: dict) -> _TextWithObject:
        return self


@keras.saving.register_keras_serializable(package="keras_slots")
class CarriedObject:
    """Represents an object in a configuration; Keras deserializes it to that same object."""

    def __init__(self, carried: Any):
        self.carried = carried

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.carried(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "carried":  # not set yet
            raise AttributeError(name)
        return getattr(self.carried, name)

    def get_config(self) -> Config:
        text = _TextWithObject(self.carried)
        text.carried = self.carried
        return {"carried": text}

    @classmethod
    def from_config(cls, config: Config) -> Any:
        return config["carried"].carried


def live_config(layer: keras.layers.Layer, owner: type | None = None) -> Config:
    """The configuration of a layer, for a copy in the same process, by `get_config` of its class or of `owner`."""
    config = (owner or own_class(layer)).get_config(_stand_in(layer, {}))  # type: ignore[attr-defined]
    config = _mapped(_unwrapped, config)
    if isinstance(layer, keras.layers.Lambda):
        config["mask"] = layer.mask  # Keras deserializes all of a `Lambda` but its mask
    return config


def from_live_config(cls: type, config: Config, layer: keras.layers.Layer) -> keras.layers.Layer:
    """Makes a layer of class `cls` from `live_config(layer)`; classes of inner layers need not be registered."""
    classes = {cls.__name__: cls for cls in map(own_class, inner_layers(layer)) if not _is_registered(cls)}
    with keras.saving.custom_object_scope(classes):
        return cls.from_config(config)  # type: ignore[attr-defined]


def carried_in(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The arguments in a configuration that carry an object, with these objects."""
    if isinstance(config, _TextWithObject):
        yield ".".join(x for x in path if x not in ("config", "carried")), config.carried
    elif isinstance(config, dict):
        for key, value in config.items():
            yield from carried_in(value, (*path, str(key)))
    elif isinstance(config, (list, tuple)):
        for number, value in enumerate(config):
            yield from carried_in(value, (*path, str(number)))


def own_class(layer: Any) -> type:
    """The class of a layer; of a composite with slot layers, that of the composite itself."""
    return getattr(layer, "composite_class", type(layer))


def _stand_in(layer: Any, done: dict[int, Any]) -> Any:
    """A stand-in of the layer's class with its attributes; objects that Keras cannot deserialize are carried."""
    if id(layer) in done:
        return done[id(layer)]
    new: Any = object.__new__(own_class(layer))
    done[id(layer)] = new

    def stand_in(value: Any) -> Any:
        # Not for models: they identify their operations by object.
        if isinstance(value, keras.layers.Layer):
            return value if isinstance(value, keras.Model) else _stand_in(value, done)
        return CarriedObject(value) if _is_carried(value) else value

    for name, value in vars(layer).items():
        is_method = callable(getattr(type(layer), name, None))
        vars(new)[name] = value if is_method else _mapped(stand_in, value)
    return new


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of a value, or of each entry of nested lists, tuples and dictionaries."""
    if isinstance(value, dict):
        return {key: _mapped(function, x) for key, x in value.items()}
    if isinstance(value, list):
        return [_mapped(function, x) for x in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_mapped(function, x) for x in value)
    return function(value)


def _unwrapped(value: Any) -> Any:
    # A class may put a `CarriedObject` into its configuration directly.
    return value.carried if isinstance(value, CarriedObject) else value


def _is_carried(value: Any) -> bool:
    if isinstance(value, _FUNCTIONS):
        return True
    if isinstance(value, (type, keras.Variable, keras.KerasTensor)) or _is_registered(type(value)):
        return False
    return callable(value) or hasattr(value, "get_config")


def _is_registered(cls: type) -> bool:
    """Whether Keras can deserialize objects of a class."""
    own = cls.__module__.split(".")[0] == "keras"
    return own or keras.saving.get_registered_name(cls) != cls.__name__
