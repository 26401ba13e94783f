"""The configuration of a layer for a copy in the same process, with functions and objects that files cannot hold.

`layer.get_config()` fails for a layer with a `functools.partial`, and its entries for a lambda or for a class that
is not registered cannot be deserialized. A copy in the same process can use the object itself.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import keras

from keras_slots._keras import inner_layers

Config = dict[str, Any]
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
    """The configuration of a layer, for a copy in the same process.

    Args:
        layer: Layer, which is not changed.
        owner: The class whose `get_config` to call; None: that of the layer.
    """
    config = _unwrapped((owner or type(layer)).get_config(_stand_in(layer, {})))  # type: ignore[attr-defined]
    if isinstance(layer, keras.layers.Lambda):
        config["mask"] = layer.mask  # Keras deserializes all of a `Lambda` but its mask
    return config


def from_live_config(cls: type, config: Config, layer: keras.layers.Layer) -> keras.layers.Layer:
    """Makes a layer of class `cls` from `live_config(layer)`; classes of inner layers need not be registered."""
    classes = {type(x).__name__: type(x) for x in inner_layers(layer) if not _is_registered(type(x))}
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


def _stand_in(layer: Any, done: dict[int, Any]) -> Any:
    """A stand-in of the layer's class with its attributes; objects that Keras cannot deserialize are carried."""
    if id(layer) in done:
        return done[id(layer)]
    new = done[id(layer)] = object.__new__(type(layer))
    methods = {name for name in vars(layer) if callable(getattr(type(layer), name, None))}
    attributes = {name: value for name, value in vars(layer).items() if name not in methods}
    vars(new).update(vars(layer))
    vars(new).update({name: _with_carried_objects(value, done) for name, value in attributes.items()})
    return new


def _with_carried_objects(value: Any, done: dict[int, Any]) -> Any:
    # Not models: they identify their operations by object.
    if isinstance(value, keras.layers.Layer):
        return value if isinstance(value, keras.Model) else _stand_in(value, done)
    if isinstance(value, list):
        return [_with_carried_objects(x, done) for x in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_with_carried_objects(x, done) for x in value)
    if isinstance(value, dict):
        return {key: _with_carried_objects(x, done) for key, x in value.items()}
    return CarriedObject(value) if _is_carried(value) else value


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


def _unwrapped(config: Any) -> Any:
    """Unwraps `CarriedObject` objects that a class put into its configuration directly."""
    if isinstance(config, CarriedObject):
        return config.carried
    if isinstance(config, dict):
        return {key: _unwrapped(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)) and not hasattr(config, "_fields"):
        return type(config)(_unwrapped(x) for x in config)
    return config
