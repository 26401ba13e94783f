"""The values of a kernel as a `.slots` file describes them, by a few numbers.

Everything here is integer arithmetic and single correctly rounded float operations, so that a file always means
the same numbers, also to `reader/slots.c`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_slots.values import philox
from keras_slots.values.stratified import Grid, integers

Array = np.ndarray[Any, Any]

#: Kinds of values, in the order of their numbers in the file: those of `philox.KINDS`, and others.
KINDS = ("uniform", "positive_uniform", "truncated_normal", "signed_constant", "strata", "given", "grid")
#: Maximum magnitude of the integers as which values are compared.
LARGEST = 2**24


@dataclass(frozen=True)
class Stream:
    """Numbers of a Philox stream, one or K for each connection.

    Attributes:
        kind: One of `philox.KINDS`.
        seed: First word of the key.
        stream: Second word of the key.
        factor: float32 that multiplies them.
    """

    kind: str
    seed: int
    stream: int
    factor: float

    @np.errstate(over="ignore")  # a factor in a damaged file may make values infinite
    def draw(self, count: int, start: int) -> Array:
        """The elements `[start, start + count)`, float32."""
        return philox.draw(self.kind, self.seed, self.stream, count, start, self.factor)


@dataclass(frozen=True)
class Values:
    """All values of a kernel.

    Attributes:
        num_values: K.
        kind: One of `KINDS`.
        seed: Seed of the stream, or of the keys of the hash of stratified values.
        factor: float32: the factor of the drawn numbers, or of the integers of stratified values.
        shared: Whether all connections have the values of connection 0.
        rounded: Whether values are rounded to bfloat16.
        given: float32 array of the K values, only for the kind `"given"`.
        bits: Size of the integers of stratified values, only for the kind `"grid"`.
    """

    num_values: int
    kind: str
    seed: int = 0
    factor: float = 1.0
    shared: bool = False
    rounded: bool = False
    given: Array | None = None
    bits: int | None = None

    @np.errstate(over="ignore")  # a factor in a damaged file may make values infinite
    def rows(self, start: int, stop: int) -> Array:
        """The values of the connections `start` to `stop - 1`, float32 of shape `(stop - start, K)`."""
        first, last = (0, 1) if self.shared else (start, stop)
        k = self.num_values
        if self.given is not None:
            values = self.given[None]
        elif self.kind in ("strata", "grid"):
            keys = philox.raw_words(self.seed, philox.STRATA_STREAM, 2)
            connections = np.arange(first, last, dtype=np.uint64).astype("uint32")
            values = integers(keys, connections, Grid(k, self.bits)) * np.float32(self.factor)
        else:
            values = Stream(self.kind, self.seed, 0, self.factor).draw((last - first) * k, first * k)
        values = values.reshape(-1, k)
        if self.rounded:
            values = values.astype("bfloat16").astype("float32")
        return np.broadcast_to(values, (stop - start, k)) if self.shared else values

    def take(self, index: Array, start: int) -> Array:
        """The values at `index` of the connections from `start` on."""
        return take(self.rows(start, start + len(index)), index)


def take(rows: Array, index: Array) -> Array:
    """The element of each row at its index."""
    return rows[np.arange(len(rows)), index]


def to_integers(values: Array, exponent: int) -> Array:
    """`trunc(values * 2**exponent)`, clamped to `LARGEST`, as int64; exact, because it is computed in float64."""
    wide = np.multiply(values, 2.0**exponent, dtype="float64")
    return np.clip(np.trunc(wide, out=wide), -LARGEST, LARGEST, out=wide).astype("int64")
