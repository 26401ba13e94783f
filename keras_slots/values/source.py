"""The one protocol of what a kernel starts from: banks, initial scores and starts, drawn or given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import keras
import numpy as np

Array = np.ndarray[Any, Any]


class Description(NamedTuple):
    """The K values of a connection as a `.slots` file describes them.

    Attributes:
        kind: One of `slots_file.values.KINDS`.
        seed: Seed of the stream, or the two keys of a hash, `key0 + 2**32 * key1`.
        factor: What multiplies the numbers of the stream; the distance of two positions of a hash.
        given: The values themselves where no seed stands for them, float32 of shape `(K,)`.
    """

    kind: str
    seed: int = 0
    factor: float = 1.0
    given: Array | None = None


class ValueSource:
    """Where the numbers of a kernel come from. A subclass answers what it can be asked; the rest is refused.

    Connections are counted in the C order of the kernel, from `start` to `stop - 1`.
    """

    #: The arguments that it can be given for: `"bank"`, `"scores"`, `"start"`.
    roles: ClassVar[frozenset[str]] = frozenset()
    #: Whether the seed brings the numbers back, so that nobody has to keep them.
    rebuildable = True
    #: Whether the numbers follow from the seed of the kernel, so that they are lost with it.
    needs_seed = True
    #: Whether the scores follow from the bank and a start of each connection.
    from_start = False
    #: How the numbers lie: `"independent"`, `"strata"`, `"two values"`; None where nothing is known.
    spread: str | None = None
    #: Whether the numbers are uniform between two bounds.
    uniform = False

    def rows(
        self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int
    ) -> Array:
        """The values of these connections, `(stop - start, K)`, or `(1, K)` if all have the same."""
        raise NotImplementedError

    def score_rows(
        self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int
    ) -> Array:
        """The initial scores of these connections, `(stop - start, K)`."""
        raise NotImplementedError

    def start_rows(self, seed: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        """Where these connections start, `(stop - start,)`."""
        raise NotImplementedError

    def describe(self, seed: int, num_values: int, fans: tuple[int, int]) -> Description | None:
        """The values of `rows` in a few numbers; None if there are none."""
        return None


Source = TypeVar("Source", bound=type[ValueSource])

#: Every source that has a name; `register_distribution` adds to it.
NAMED: dict[str, type[ValueSource]] = {}


def register_distribution(name: str, *, replace: bool = False) -> Callable[[Source], Source]:
    """Class decorator of a distribution: arguments such as `bank_initializer` know it by that name.

    Args:
        name: The name.
        replace: Whether the class takes the place of another one of that name, for the whole process.

    Raises:
        ValueError: If the decorated object is no subclass of `ValueSource`, has no role, or the name is taken and
            `replace` is False.

    Example:

    >>> from keras_slots import GlorotUniform, SlotDense
    >>> @register_distribution("wide")
    ... class Wide(GlorotUniform):
    ...     def __init__(self, scale=3.0, *, seed=None):
    ...         super().__init__(scale, seed=seed)
    >>> SlotDense(3, bank_initializer="wide").bank_initializer
    Wide(scale=3.0)
    """

    def decorate(cls: Source) -> Source:
        if not (isinstance(cls, type) and issubclass(cls, ValueSource) and cls.roles):
            raise ValueError(
                "A distribution must be a subclass of `Distribution` or `ValueSource` that says in `roles` what "
                f"it can be given for. Received: {cls!r} for the name {name!r}."
            )
        before = NAMED.get(name)
        if before is not None and not replace and before.__qualname__ != cls.__qualname__:
            raise ValueError(
                f"`name` must be that of a new distribution. Received: name={name!r}, which {before.__name__} "
                "has. Choose another name, or pass `replace=True` to take its place in this process."
            )
        NAMED[name] = cls
        return keras.saving.register_keras_serializable(package="keras_slots")(cls)

    return decorate


def names_of(role: str) -> dict[str, type[ValueSource]]:
    """The sources that can be given for an argument, by name; for scores those that are nothing else first."""
    fitting = [(name, cls) for name, cls in NAMED.items() if role in cls.roles]
    return dict(sorted(fitting, key=lambda pair: role == "scores" and len(pair[1].roles)))
