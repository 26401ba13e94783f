"""Which slot layer stands for which Keras layer."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import keras

from keras_slots.slot_layer import SlotLayer

LayerClass = TypeVar("LayerClass", bound=type)

#: The slot layer of each Keras layer; `register_slot_layer` fills it.
SLOT_CLASSES: dict[type[keras.layers.Layer], type[SlotLayer]] = {}


def register_slot_layer(
    plain_class: type[keras.layers.Layer], *, replace: bool = False
) -> Callable[[LayerClass], LayerClass]:
    """Class decorator of a slot layer: names its Keras layer, registers it, shows all arguments to `inspect`.

    Args:
        plain_class: The Keras layer that computes the same from an ordinary kernel. `slotify` replaces it by the
            decorated class, and `materialize` puts it back.
        replace: Whether the decorated class takes the place of another slot layer of `plain_class`, for the whole
            process.

    Raises:
        ValueError: If `plain_class` has a slot layer already and `replace` is False, or no `get_config` although
            its constructor takes arguments.

    Example:

    >>> import keras
    >>> from keras_slots import SlotDense, register_slot_layer
    >>> class Projection(keras.layers.Dense):
    ...     pass
    >>> @register_slot_layer(Projection)
    ... class SlotProjection(SlotDense):
    ...     pass
    >>> SlotProjection.plain_class.__name__
    'Projection'
    """

    def decorate(cls: LayerClass) -> LayerClass:
        before = SLOT_CLASSES.get(plain_class)
        # The same class again, as when a cell of a notebook is run twice, is no other one.
        if before is not None and not replace and _place(before) != _place(cls):
            raise ValueError(
                f"`plain_class` must be a layer that has no slot layer yet. Received: {plain_class.__name__}, "
                f"whose slot layer is {before.__name__}, for {cls.__name__}. Register it for a subclass of "
                f"{plain_class.__name__}, or pass `replace=True`: `slotify` then makes {cls.__name__} layers "
                "everywhere in this process."
            )
        own = set(parameters_of(plain_class)) - set(parameters_of(keras.layers.Layer))
        lost = plain_class.get_config is keras.layers.Layer.get_config
        if own and lost and getattr(cls, "get_config", None) is SlotLayer.get_config:
            raise ValueError(
                f"`plain_class` must have a `get_config` that returns its arguments {sorted(own)}: without it "
                f"they would be lost. Received: {plain_class.__name__}. Write one as docs/extending.md shows."
            )
        if "__init__" not in vars(cls):

            def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                super(cls, self).__init__(*args, **kwargs)  # type: ignore[arg-type]

            cls.__init__ = __init__  # type: ignore[misc]
        cls.plain_class = plain_class  # type: ignore[attr-defined]
        vars(cls)["__init__"].__signature__ = _signature(plain_class)
        SLOT_CLASSES[plain_class] = cls
        return keras.saving.register_keras_serializable(package="keras_slots")(cls)

    return decorate


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters that a constructor takes by name, those that it passes on to its base class included."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = _parameters(base)
        named = [p for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        found = {p.name: p for p in named} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _signature(plain_class: type) -> inspect.Signature:
    """All parameters of the Keras layer, then ours as keyword-only, then its `**kwargs` if it has them."""
    plain = _parameters(plain_class)
    kwargs = [p for p in plain if p.kind is p.VAR_KEYWORD]
    plain = [p for p in plain if p.kind is not p.VAR_KEYWORD]
    names = {p.name for p in plain}
    ours = [p for p in _parameters(SlotLayer) if p.kind is p.KEYWORD_ONLY and p.name not in names]
    return inspect.Signature([*plain, *ours, *kwargs])


def _parameters(cls: type) -> list[inspect.Parameter]:
    """The parameters of the constructor, `self` among them."""
    function = getattr(cls, "__init__")  # noqa: B009 (a type checker frowns on the attribute itself)
    return list(inspect.signature(function).parameters.values())
