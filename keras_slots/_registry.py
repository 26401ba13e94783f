"""`register`: the one way to add a selection rule, a score mode, a distribution or a slot layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import keras

Class = TypeVar("Class", bound=type)


class Registrable:
    """Base of what can be registered. Each kind has a table of its own, `registry`."""

    #: What arguments look up: name, or Keras layer, -> class.
    registry: ClassVar[dict[Any, type]]
    #: What the kind is called in errors.
    kind_of_class: ClassVar[str]

    @classmethod
    def check_registration(cls, key: Any) -> None:
        """Raises a `ValueError` if the class cannot do its work, or the key is not one of its kind."""
        if not isinstance(key, str) or not key:
            raise ValueError(
                f"`key` must be the name of a {cls.kind_of_class}. Received: key={key!r} for {cls.__name__}."
            )

    @classmethod
    def on_registration(cls, key: Any) -> None:
        """What else registering a class does: a file can name it."""
        # A class may be registered with Keras under a package of its own already.
        if keras.saving.get_registered_name(cls) == cls.__name__:
            keras.saving.register_keras_serializable(package="keras_slots")(cls)


def register(key: Any, *, replace: bool = False) -> Callable[[Class], Class]:
    """Class decorator that adds a selection rule, a score mode, a distribution or a slot layer.

    Args:
        key: For a slot layer the Keras layer that computes the same from an ordinary kernel: `slotify` replaces it
            by the decorated class, and `materialize` puts it back. For all others the name by which arguments of
            slot layers know the class: `selection`, `score_mode`, `bank_initializer`, `score_initializer`.
        replace: Whether the class takes the place of another one of that key, for the whole process.

    Raises:
        ValueError: If the decorated object is no subclass of `SelectionRule`, `kernels.SlotKernel`, `Distribution`
            or `SlotLayer`, lacks what its kind needs, or the key is taken and `replace` is False.

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
                "that makes objects of it."
            )
        cls.check_registration(key)
        before = cls.registry.get(key)
        # The same class again, as when a cell of a notebook is run twice, is no other one.
        if before is not None and not replace and _place(before) != _place(cls):
            raise ValueError(
                f"`key` must be new. Received: key={_shown(key)}, which {before.__name__} has, for "
                f"{cls.__name__}. Choose another one, or pass `replace=True` to take its place everywhere in this "
                "process."
            )
        cls.registry[key] = cls
        cls.on_registration(key)
        return cls

    return decorate


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _shown(key: Any) -> str:
    return key.__name__ if isinstance(key, type) else repr(key)
