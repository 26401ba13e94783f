"""The one protocol of what a kernel starts from: banks, initial scores and starts, drawn or given."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from keras_slots._registry import Registrable

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


class ValueSource(Registrable):
    """Where the numbers of a kernel come from. A subclass answers what it can be asked; the rest is refused.

    Connections are counted in the C order of the kernel, from `start` to `stop - 1`.
    """

    registry: ClassVar[dict[str, type[ValueSource]]] = {}
    kind_of_class = "distribution"
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

    @classmethod
    def check_registration(cls, key: Any) -> None:
        super().check_registration(key)
        if not cls.roles:
            raise ValueError(
                f"`{cls.__name__}.roles` must say what it can be given for: 'bank', 'scores' or 'start'. "
                f"Received: none, for the name {key!r}."
            )

    def rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        """The values of these connections, `(stop - start, K)`, or `(1, K)` if all have the same."""
        raise self._cannot("rows")

    def score_rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        """The initial scores of these connections, `(stop - start, K)`."""
        raise self._cannot("score_rows")

    def start_rows(self, seed: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        """Where these connections start, `(stop - start,)`."""
        raise self._cannot("start_rows")

    def _cannot(self, method: str) -> ValueError:
        return ValueError(
            f"`{type(self).__name__}` must have a method `{method}` for what it was given for. Received: an "
            f"object without it, whose roles are {sorted(self.roles)}. Write the method, or leave out the role."
        )

    def describe(self, seed: int, num_values: int, fans: tuple[int, int]) -> Description | None:
        """The values of `rows` in a few numbers; None if there are none."""
        return None


def names_of(role: str) -> dict[str, type[ValueSource]]:
    """The sources that can be given for an argument, by name; for scores those that are nothing else first."""
    fitting = [(name, cls) for name, cls in ValueSource.registry.items() if role in cls.roles]
    return dict(sorted(fitting, key=lambda pair: role == "scores" and len(pair[1].roles)))
