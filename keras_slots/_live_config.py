"""The configuration of a layer with the functions and objects themselves, which no file could hold.

`layer.get_config()` fails for a layer with a `functools.partial`, and what it says of a lambda or of a class that
is not registered cannot be read again. A copy in the same process needs neither: it takes the same object.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import keras

from keras_slots._keras import inner_layers

Config = dict[str, Any]
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


class _Text(str):
    """Text, which Keras hands on as it is, with an object."""

    carried: Any

    def __deepcopy__(self, memo: dict) -> _Text:
        return self


@keras.saving.register_keras_serializable(package="keras_slots")
class Carried:
    """Stands in a configuration for an object: Keras deserializes it to that very object."""

    def __init__(self, carried: Any):
        self.carried = carried

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.carried(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "carried":  # not set yet
            raise AttributeError(name)
        return getattr(self.carried, name)

    def get_config(self) -> Config:
        text = _Text(self.carried)
        text.carried = self.carried
        return {"carried": text}

    @classmethod
    def from_config(cls, config: Config) -> Any:
        return config["carried"].carried


def live_config(layer: keras.layers.Layer, owner: type | None = None) -> Config:
    """The configuration of a layer, for a copy in the same process.

    Args:
        layer: Layer, which stays as it is.
        owner: The class whose `get_config` is asked; None: that of the layer.
    """
    config = _bare((owner or type(layer)).get_config(_stand_in(layer, {})))  # type: ignore[attr-defined]
    if isinstance(layer, keras.layers.Lambda):
        config["mask"] = layer.mask  # Keras makes all else of a `Lambda` again, but not its mask
    return config


def from_live_config(cls: type, config: Config, layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer of class `cls` that `live_config(layer)` describes; inner layers of any class are known."""
    classes = {type(x).__name__: type(x) for x in inner_layers(layer) if not _known(type(x))}
    with keras.saving.custom_object_scope(classes):
        return cls.from_config(config)  # type: ignore[attr-defined]


def carried_in(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The names of the arguments in a configuration that carry an object, and these objects."""
    if isinstance(config, _Text):
        yield ".".join(x for x in path if x not in ("config", "carried")), config.carried
    elif isinstance(config, dict):
        for key, value in config.items():
            yield from carried_in(value, (*path, str(key)))
    elif isinstance(config, (list, tuple)):
        for number, value in enumerate(config):
            yield from carried_in(value, (*path, str(number)))


def _stand_in(layer: Any, done: dict[int, Any]) -> Any:
    """An object of the layer's class with its attributes, the objects that Keras cannot make again carried."""
    if id(layer) in done:
        return done[id(layer)]
    new = done[id(layer)] = object.__new__(type(layer))
    methods = {name for name in vars(layer) if callable(getattr(type(layer), name, None))}
    attributes = {name: value for name, value in vars(layer).items() if name not in methods}
    vars(new).update(vars(layer))
    vars(new).update({name: _exchange(value, done) for name, value in attributes.items()})
    return new


def _exchange(value: Any, done: dict[int, Any]) -> Any:
    # Not models: they know their operations by identity.
    if isinstance(value, keras.layers.Layer):
        return value if isinstance(value, keras.Model) else _stand_in(value, done)
    if isinstance(value, list):
        return [_exchange(x, done) for x in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_exchange(x, done) for x in value)
    if isinstance(value, dict):
        return {key: _exchange(x, done) for key, x in value.items()}
    return Carried(value) if _is_carried(value) else value


def _is_carried(value: Any) -> bool:
    if isinstance(value, _FUNCTIONS):
        return True
    if isinstance(value, (type, keras.Variable, keras.KerasTensor)) or _known(type(value)):
        return False
    return callable(value) or hasattr(value, "get_config")


def _known(cls: type) -> bool:
    """Whether Keras can make objects of a class again."""
    own = cls.__module__.split(".")[0] == "keras"
    return own or keras.saving.get_registered_name(cls) != cls.__name__


def _bare(config: Any) -> Any:
    """A configuration in which a class put an object as it is, without `Carried` around it."""
    if isinstance(config, Carried):
        return config.carried
    if isinstance(config, dict):
        return {key: _bare(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)) and not hasattr(config, "_fields"):
        return type(config)(_bare(x) for x in config)
    return config
