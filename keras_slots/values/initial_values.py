"""The bank and the initial scores of a kernel, whole or in blocks of connections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np

from keras_slots._backend import eager_scope
from keras_slots.values.philox import derive_seed
from keras_slots.values.source import ValueSource

Array = np.ndarray[Any, Any]

_BLOCK_VALUES = 2**20  # scores computed at once, in float64


@dataclass(frozen=True)
class InitialValues:
    """Bank and initial scores of one kernel, a pure function of the fields; connections are in C order.

    Example:

    >>> from keras_slots import GlorotUniform, UniformScores
    >>> initial = InitialValues((3, 2), 4, (3, 2), 7, GlorotUniform(), UniformScores(), "connection")
    >>> initial.bank().shape, initial.scores().shape, initial.rows(1, 3)[0].shape
    ((3, 2, 4), (3, 2, 4), (2, 4))
    """

    kernel_shape: tuple[int, ...]
    num_values: int
    fans: tuple[int, int]  # of the kernel, without K
    seed: int  # bank and scores use different streams of it
    bank_initializer: Any  # `ValueSource` or Keras initializer
    score_initializer: Any  # the same
    sharing: Any  # `"connection"`, `"layer"` or a `keras_slots.ValueBank`

    @property
    def num_connections(self) -> int:
        return prod(self.kernel_shape)

    @property
    def shared(self) -> bool:
        """Whether all connections have the same K values."""
        return self.sharing != "connection"

    @property
    def bank_shape(self) -> tuple[int, ...]:
        """`(K,)` if the values are shared, else `kernel_shape + (K,)`."""
        return (self.num_values,) if self.shared else self.score_shape

    @property
    def score_shape(self) -> tuple[int, ...]:
        return (*self.kernel_shape, self.num_values)

    @cached_property
    def bank_source(self) -> ValueSource:
        if isinstance(self.sharing, ValueSource):
            return self.sharing
        return self._source(self.bank_initializer, "bank_initializer", self.bank_shape, "bank")

    @cached_property
    def score_source(self) -> ValueSource:
        return self._source(self.score_initializer, "score_initializer", self.score_shape, "scores")

    @cached_property
    def start_source(self) -> ValueSource:
        """The source of the start w0 of each connection, for nearest scores only."""
        if not self.score_source.from_start:
            raise ValueError(
                "`score_initializer` must be `NearestScores` for connections to have a start. Received: "
                f'score_initializer={self.score_initializer!r}. Pass score_initializer="nearest".'
            )
        return self._source(self.score_initializer.start, "start", self.kernel_shape, "start")

    @property
    def rebuildable(self) -> bool:
        """Whether bank and scores can be drawn from the seed, so that they need not be stored."""
        return self.bank_source.rebuildable and self.score_source.rebuildable

    def bank(self) -> Array:
        """The whole bank, of shape `bank_shape`, in float32 or the dtype of a Keras initializer."""
        stop = 1 if self.shared else self.num_connections
        return self.bank_source.rows(self.seed, self.num_values, self.fans, 0, stop).reshape(self.bank_shape)

    def scores(self) -> Array:
        """The initial scores, of shape `score_shape`; nearest scores are float64."""
        if not self.score_source.from_start:
            return self.score_rows(0, self.num_connections).reshape(self.score_shape)
        scores = np.empty((self.num_connections, self.num_values))
        block = max(1, _BLOCK_VALUES // self.num_values)
        for start in range(0, len(scores), block):
            stop = min(start + block, len(scores))
            scores[start:stop] = self.score_rows(start, stop)
        return scores.reshape(self.score_shape)

    def rows(self, start: int, stop: int) -> tuple[Array, Array]:
        """Bank and scores of the connections `start` to `stop - 1`, `(stop - start, K)`; a shared bank: `(K,)`."""
        bank = self.bank_rows(start, stop)
        if self.score_source.from_start:
            return bank, self.score_initializer.scores(bank, self.start_rows(start, stop))
        return bank, self.score_rows(start, stop)

    def bank_rows(self, start: int, stop: int) -> Array:
        """The values of the connections `start` to `stop - 1`, see `rows`."""
        if self.shared:
            return self.bank()
        return self.bank_source.rows(self.seed, self.num_values, self.fans, start, stop)

    def score_rows(self, start: int, stop: int) -> Array:
        """The initial scores of the connections `start` to `stop - 1`, see `rows`."""
        if self.score_source.from_start:
            return self.rows(start, stop)[1]
        return self.score_source.score_rows(self.seed, self.num_values, self.fans, start, stop)

    def start(self) -> Array:
        """The w0 of `NearestScores` at every connection, of the shape of the kernel."""
        return self.start_rows(0, self.num_connections).reshape(self.kernel_shape)

    def start_rows(self, start: int, stop: int) -> Array:
        """The w0 of the connections `start` to `stop - 1`, of shape `(stop - start,)`."""
        return self.start_source.start_rows(self.seed, self.fans, start, stop)

    def with_arrays(self, bank: Array, scores: Array) -> InitialValues:
        """The same kernel with a given bank and initial scores, for example those of a file."""
        return replace(
            self,
            bank_initializer=_WholeArray("bank_initializer", self.bank_shape, lambda: bank),
            score_initializer=_WholeArray("score_initializer", self.score_shape, lambda: scores),
            sharing="layer" if self.shared else "connection",
        )

    def _source(self, initializer: Any, argument: str, shape: tuple[int, ...], part: str) -> ValueSource:
        if isinstance(initializer, ValueSource):
            return initializer
        make = partial(_call_initializer, initializer, argument, shape, derive_seed(self.seed, part))
        return _WholeArray(argument, shape, make)


class _WholeArray(ValueSource):
    """A source with all numbers in one array: those of a Keras initializer, or given ones."""

    rebuildable = False
    needs_seed = False

    def __init__(self, argument: str, shape: tuple[int, ...], make: Callable[[], Array]):
        self._argument, self._shape, self._make = argument, shape, make

    @cached_property
    def _array(self) -> Array:
        array = self._make()
        if array.shape != self._shape:
            raise ValueError(
                f"`{self._argument}` must return an array of shape {self._shape}. Received: shape {array.shape}."
            )
        return array

    def rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        return self._array.reshape(-1, num_values)[start:stop]

    score_rows = rows

    def start_rows(self, seed: int, fans: tuple[int, int], start: int, stop: int) -> Array:
        return self._array.reshape(-1)[start:stop]


def _call_initializer(initializer: Any, name: str, shape: tuple[int, ...], seed: int) -> Array:
    """Calls a Keras initializer; if it has no seed, it gets the seed of the layer."""
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    if "seed" in config and config["seed"] is None:
        # Without a seed, two layers that share a Keras initializer would get the same numbers.
        initializer = initializer.__class__.from_config({**config, "seed": seed % 2**31})
    with eager_scope():  # `fit` may build a layer while tracing
        array = np.array(initializer(shape, dtype="float32"))
    is_bank = name == "bank_initializer" and array.shape == shape and 1 < shape[-1] <= array.size
    if is_bank and (array == array[..., :1]).all():
        raise ValueError(
            "`bank_initializer` must give each connection different values, or there is nothing to select "
            f"and nothing to train. Received: {initializer!r}, whose {shape[-1]} values are equal "
            "at every connection. Pass a random one, for example `bank_initializer='glorot_uniform'`."
        )
    return array
