"""`register` adds selection rules, score modes, distributions and slot layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import keras

Class = TypeVar("Class", bound=type)


class Registrable:
    """Base of everything that can be registered. Each kind has its own table, `registry`."""

    #: Maps a name, or a Keras layer, to the class.
    registry: ClassVar[dict[Any, type]]
    #: Name of the kind in errors.
    kind_of_class: ClassVar[str]

    @classmethod
    def check_registration(cls, key: Any) -> None:
        """Raises a `ValueError` if the class is incomplete, or the key does not fit its kind."""
        if not isinstance(key, str) or not key:
            raise ValueError(
                f"`key` must be the name of a {cls.kind_of_class}. Received: key={key!r} for {cls.__name__}."
            )

    @classmethod
    def on_registration(cls, key: Any) -> None:
        """Also registers the class with Keras, so that files can refer to it."""
        # The class may already be registered with Keras, under another package.
        if keras.saving.get_registered_name(cls) == cls.__name__:
            keras.saving.register_keras_serializable(package="keras_slots")(cls)


def register(key: Any, *, replace: bool = False) -> Callable[[Class], Class]:
    """Class decorator that adds a selection rule, a score mode, a distribution or a slot layer.

    Args:
        key: For a slot layer, the Keras layer that computes the same with an ordinary kernel: `slotify` replaces
            it by the decorated class, and `materialize` does the reverse. For all others, the name of the class
            in the arguments `selection`, `score_mode`, `bank_initializer` and `score_initializer`.
        replace: Whether to replace a class that is registered under that key, in the whole process.

    Raises:
        ValueError: If the decorated object is not a subclass of `SelectionRule`, `kernels.SlotKernel`,
            `Distribution` or `SlotLayer`, or lacks a method that its kind needs, or if the key is taken and
            `replace` is False.

    Example:

    >>> import keras
    >>> from keras_slots import GlorotUniform, SlotDense, register
    >>> @register("wide")
    ... class Wide(GlorotUniform):
    ...     def __init__(self, scale=3.0, *, seed=None):
    ...         super().__init__(scale, seed=seed)
    >>> SlotDense(3, bank_initializer="wide").bank_initializer
    Wide(scale=3.0)
    >>> class Projection(keras.layers.Dense):
    ...     pass
    >>> @register(Projection)
    ... class SlotProjection(SlotDense):
    ...     pass
    >>> SlotProjection.plain_class.__name__
    'Projection'
    """

    def decorate(cls: Class) -> Class:
        if not (isinstance(cls, type) and issubclass(cls, Registrable)):
            raise ValueError(
                "`register` decorates a subclass of `SelectionRule`, `kernels.SlotKernel`, `Distribution` or "
                f"`SlotLayer`. Received: {cls!r} for the key {key!r}. Decorate the class itself, not a function "
                "that creates instances of it."
            )
        cls.check_registration(key)
        before = cls.registry.get(key)
        # The same class, defined again by running a notebook cell twice, is not a conflict.
        if before is not None and not replace and _full_name(before) != _full_name(cls):
            raise ValueError(
                f"`key` is taken. Received: key={getattr(key, '__name__', repr(key))}, which belongs to "
                f"{_full_name(before)}, for {_full_name(cls)}. Choose another one, or pass `replace=True` to take "
                "its place everywhere in this process."
            )
        cls.registry[key] = cls
        cls.on_registration(key)
        return cls

    return decorate


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
