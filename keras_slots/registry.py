"""Which slot layer stands for which Keras layer."""

import inspect
from collections.abc import Callable
from typing import TypeVar

import keras

from keras_slots.slot_layer import SlotLayer

LayerClass = TypeVar("LayerClass", bound=type)

#: The slot layer of each Keras layer; `register_slot_layer` fills it.
SLOT_CLASSES: dict[type[keras.layers.Layer], type[SlotLayer]] = {}


def register_slot_layer(
    plain_class: type[keras.layers.Layer],
) -> Callable[[LayerClass], LayerClass]:
    """Class decorator of a slot layer: names its Keras layer, registers it, shows all arguments to `inspect`.

    Args:
        plain_class: The Keras layer that computes the same from an ordinary kernel. `slotify` replaces it by the
            decorated class, and `materialize` puts it back.

    Example:

    >>> import keras
    >>> from keras_slots import SlotDense, register_slot_layer
    >>> class Projection(keras.layers.Dense):
    ...     pass
    >>> @register_slot_layer(Projection)
    ... class SlotProjection(SlotDense):
    ...     def __init__(self, units, **kwargs):
    ...         super().__init__(units, **kwargs)
    >>> SlotProjection.plain_class.__name__
    'Projection'
    """

    def decorate(cls: LayerClass) -> LayerClass:
        cls.plain_class = plain_class  # type: ignore[attr-defined]
        vars(cls)["__init__"].__signature__ = _signature(plain_class)
        SLOT_CLASSES[plain_class] = cls
        return keras.saving.register_keras_serializable(package="keras_slots")(cls)

    return decorate


def _signature(plain_class: type) -> inspect.Signature:
    """All parameters of the Keras layer, then ours as keyword-only, then `**kwargs`."""
    *plain, kwargs = _parameters(plain_class)
    names = {p.name for p in plain}
    ours = [p for p in _parameters(SlotLayer) if p.kind is p.KEYWORD_ONLY and p.name not in names]
    return inspect.Signature([*plain, *ours, kwargs])


def _parameters(cls: type) -> list[inspect.Parameter]:
    """The parameters of the constructor, `self` among them."""
    function = getattr(cls, "__init__")  # noqa: B009 (a type checker frowns on the attribute itself)
    return list(inspect.signature(function).parameters.values())
