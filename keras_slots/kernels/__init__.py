"""What is trained in the place of a kernel and how it selects: one module for each score mode."""

from collections.abc import Callable
from typing import TypeVar

from keras_slots.kernels.base import SlotKernel
from keras_slots.kernels.nearest import NearestKernel
from keras_slots.kernels.per_connection import PerConnectionKernel
from keras_slots.kernels.per_value import PerValueKernel

Kernel = TypeVar("Kernel", bound=type[SlotKernel])

#: The kernel of each score mode; `register_score_mode` adds to it.
SCORE_MODES: dict[str, type[SlotKernel]] = {
    "per_value": PerValueKernel,
    "per_connection": PerConnectionKernel,
    "nearest": NearestKernel,
}


def register_score_mode(name: str, *, replace: bool = False) -> Callable[[Kernel], Kernel]:
    """Class decorator of a kernel: `score_mode=name` of every slot layer makes kernels of that class.

    Args:
        name: Name of the score mode.
        replace: Whether the class takes the place of another one of that name, for the whole process.

    Raises:
        ValueError: If the decorated object is no subclass of `SlotKernel`, lacks a method that it needs, or the
            name is taken and `replace` is False.

    Example:

    >>> from keras_slots import SlotDense
    >>> @register_score_mode("scores")
    ... class OwnKernel(PerValueKernel):
    ...     pass
    >>> SlotDense(3, score_mode="scores").score_mode
    'scores'
    """

    def decorate(cls: Kernel) -> Kernel:
        if not (isinstance(cls, type) and issubclass(cls, SlotKernel)):
            raise ValueError(
                "A score mode must be a subclass of `keras_slots.kernels.SlotKernel`. Received: "
                f"{cls!r} for the name {name!r}. Decorate the class itself, not a function that makes kernels."
            )
        missing = sorted(cls.__abstractmethods__)
        if cls.measures_moves and cls.moves is SlotKernel.moves:
            missing.append("moves")
        if missing:
            raise ValueError(
                f"A score mode must have all methods that a kernel needs. Received: {cls.__name__} without "
                f"{missing}. Write them as docs/extending.md shows."
            )
        before = SCORE_MODES.get(name)
        if before is not None and not replace and before.__qualname__ != cls.__qualname__:
            raise ValueError(
                f"`name` must be that of a new score mode. Received: name={name!r}, which {before.__name__} has. "
                "Choose another name, or pass `replace=True` to take its place in this process."
            )
        SCORE_MODES[name] = cls
        return cls

    return decorate
