"""The protocol of the numbers that a kernel starts from: banks, initial scores and starts, drawn or given."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from keras_slots._registry import Registrable

Array = np.ndarray[Any, Any]


class Description(NamedTuple):
    """The K values of a connection as a `.slots` file describes them."""

    kind: str  # one of `slots_file.values.KINDS`
    seed: int = 0  # of the stream, or of the keys of a hash
    factor: float = 1.0  # of the numbers of the stream, or of the integers of a hash
    given: Array | None = None  # values that are not drawn, those of all connections, float32, `(K,)`
    bits: int | None = None  # the size of the integers of a hash, if it is limited


class ValueSource(Registrable):
    """Source of the numbers of a kernel. A subclass implements the methods of its roles; others raise an error.

    Connections are numbered in the C order of the kernel; a block is `start` to `stop - 1`.
    """

    registry: ClassVar[dict[str, type[ValueSource]]] = {}
    kind_of_class = "distribution"
    #: What it can be used for: `"bank"`, `"scores"`, `"start"`.
    roles: ClassVar[frozenset[str]] = frozenset()
    #: Whether the numbers can be drawn from a seed, so that they need not be stored.
    rebuildable = True
    #: Whether the numbers are drawn from the seed of the kernel, so that they are lost with it.
    needs_seed = True
    #: Whether the scores are computed from the bank and a start of each connection.
    from_start = False
    #: How the numbers are distributed: `"independent"`, `"strata"`, `"two values"`; None if unknown.
    spread: str | None = None
    #: Whether the numbers are uniform between two bounds.
    uniform = False

    @classmethod
    def check_registration(cls, key: Any) -> None:
        super().check_registration(key)
        if not cls.roles:
            raise ValueError(
                f"`{cls.__name__}.roles` must contain 'bank', 'scores' or 'start'. "
                f"Received: none, for the name {key!r}."
            )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes a source from the result of `get_config`."""
        return cls(**config)

    def check_num_values(self, num_values: int) -> None:
        """Raises a `ValueError` for a K that a bank of this source cannot have."""

    def rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        """The values of these connections, `(stop - start, K)`, or `(1, K)` if all have the same."""
        raise self._missing_method_error("rows")

    def score_rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        """The initial scores of these connections, `(stop - start, K)`."""
        raise self._missing_method_error("score_rows")

    def start_rows(self, seed: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        """Where these connections start, `(stop - start,)`."""
        raise self._missing_method_error("start_rows")

    def _missing_method_error(self, method: str) -> ValueError:
        return ValueError(
            f"`{type(self).__name__}` must have a method `{method}` to be used here. Received: an "
            f"object without it, whose roles are {sorted(self.roles)}. Write the method, or leave out the role."
        )

    def describe(self, seed: int, num_values: int, fans: tuple[int, int]) -> Description | None:
        """A few numbers that describe the values of `rows`; None if there are none."""
        return None


def sources_with_role(role: str) -> dict[str, type[ValueSource]]:
    """The sources with a role, by name; for scores, those that have only this role come first."""
    fitting = [(name, cls) for name, cls in ValueSource.registry.items() if role in cls.roles]
    return dict(sorted(fitting, key=lambda pair: role == "scores" and len(pair[1].roles)))
