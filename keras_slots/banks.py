"""What a kernel starts from: its bank and its first scores, whole or some connections at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from keras_slots.distributions import Distribution
from keras_slots.nearest import NearestScores, StratifiedUniform
from keras_slots.random_streams import BANK_STREAM, SCORE_STREAM, START_STREAM, derive_seed
from keras_slots.sharing import ValueBank

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class InitialValues:
    """Bank and first scores of one kernel, a pure function of the fields.

    Both can be had whole or some connections at a time. Connections are counted in the C order of
    the kernel.

    Args:
        kernel_shape: Shape of the kernel.
        num_values: K.
        fans: `(fan_in, fan_out)` of the kernel, without K.
        seed: Integer; bank and scores take different streams of it.
        bank_initializer: `Distribution` or Keras initializer.
        score_initializer: `Distribution` or Keras initializer.
        sharing: `"connection"`, `"layer"` or a `keras_slots.ValueBank`.

    Example:

    >>> from keras_slots import GlorotUniform, UniformScores
    >>> initial = InitialValues((3, 2), 4, (3, 2), 7, GlorotUniform(), UniformScores(), "connection")
    >>> initial.bank().shape, initial.scores().shape, initial.rows(1, 3)[0].shape
    ((3, 2, 4), (3, 2, 4), (2, 4))
    """

    kernel_shape: tuple[int, ...]
    num_values: int
    fans: tuple[int, int]
    seed: int
    bank_initializer: Any
    score_initializer: Any
    sharing: Any

    @property
    def num_connections(self) -> int:
        """The size of the kernel."""
        return prod(self.kernel_shape)

    @property
    def shared(self) -> bool:
        """Whether all connections have the same K values."""
        return self.sharing != "connection"

    @property
    def bank_shape(self) -> tuple[int, ...]:
        """`(K,)` when the values are shared, else `kernel_shape + (K,)`."""
        return (self.num_values,) if self.shared else self.score_shape

    @property
    def score_shape(self) -> tuple[int, ...]:
        """`kernel_shape + (K,)`."""
        return (*self.kernel_shape, self.num_values)

    @property
    def rebuildable(self) -> bool:
        """Whether the seed brings bank and scores back, so that nobody has to keep them."""
        scores = self.score_initializer
        if isinstance(scores, NearestScores):
            scores = scores.start
        return isinstance(scores, Distribution) and (
            isinstance(self.sharing, ValueBank) or isinstance(self.bank_initializer, Distribution)
        )

    def bank(self) -> Array:
        """The whole bank, of shape `bank_shape`, float32 or what a Keras initializer returns."""
        return self._bank(0, prod(self.bank_shape)).reshape(self.bank_shape)

    def scores(self) -> Array:
        """The first scores, of shape `score_shape`."""
        return self._scores(0, prod(self.score_shape)).reshape(self.score_shape)

    def rows(self, start: int, stop: int) -> tuple[Array, Array]:
        """Bank and scores of the connections `start` to `stop - 1`, each of shape `(stop - start, K)`.

        A shared bank comes as `(K,)`.
        """
        k = self.num_values
        window = start * k, (stop - start) * k
        scores = self._scores(*window).reshape(-1, k)
        return self.bank() if self.shared else self._bank(*window).reshape(-1, k), scores

    def start(self) -> Array:
        """Where nearest scores start: w0 of each connection, of shape `kernel_shape`."""
        return self._start(0, self.num_connections).reshape(self.kernel_shape)

    def with_arrays(self, bank: Any, scores: Any) -> InitialValues:
        """The same kernel with these values, for example those of a file, in place of drawn ones.

        Args:
            bank: Array of shape `bank_shape`.
            scores: Array of shape `score_shape`.

        Raises:
            ValueError: if a shape differs.
        """
        return replace(
            self,
            bank_initializer=_Given(bank),
            score_initializer=_Given(scores),
            sharing="layer" if self.shared else "connection",
        )

    def _bank(self, start: int, count: int) -> Array:
        if isinstance(self.sharing, ValueBank):
            return self.sharing.values[start : start + count]
        if not isinstance(self.bank_initializer, Distribution):
            return self._bank_from_keras[start : start + count]
        if isinstance(self.bank_initializer, StratifiedUniform):
            return self.bank_initializer.sample_strata(
                self.seed, self.num_values, self.fans, start, count
            )
        return self.bank_initializer.sample(self.seed, count, self.fans, start, BANK_STREAM)

    def _scores(self, start: int, count: int) -> Array:
        if isinstance(self.score_initializer, NearestScores):
            return self._nearest_scores(start, count)
        if not isinstance(self.score_initializer, Distribution):
            return self._scores_from_keras[start : start + count]
        return self.score_initializer.sample(self.seed, count, self.fans, start, SCORE_STREAM)

    def _nearest_scores(self, start: int, count: int) -> Array:
        k = self.num_values
        bank = self._bank(0, k) if self.shared else self._bank(start, count)
        values = bank.astype("float64").reshape(-1, k)
        begin = self._start(start // k, count // k).astype("float64")[:, None]
        return (values * begin - values * values / 2).reshape(-1)

    def _start(self, start: int, count: int) -> Array:
        begin = self.score_initializer.start
        if isinstance(begin, Distribution):
            return begin.sample(self.seed, count, self.fans, start, START_STREAM)
        return self._start_from_keras[start : start + count]

    @cached_property
    def _start_from_keras(self) -> Array:
        seed = derive_seed(self.seed, "start")
        return _call(self.score_initializer.start, "start", self.kernel_shape, seed).reshape(-1)

    @cached_property
    def _bank_from_keras(self) -> Array:
        seed = derive_seed(self.seed, "bank")
        bank = _call(self.bank_initializer, "bank (K last)", self.bank_shape, seed)
        if not isinstance(self.bank_initializer, _Given):
            _check_varied(bank, self.bank_initializer)
        return bank.reshape(-1)

    @cached_property
    def _scores_from_keras(self) -> Array:
        seed = derive_seed(self.seed, "scores")
        return _call(self.score_initializer, "scores (K last)", self.score_shape, seed).reshape(-1)


class _Given:
    """An array in the place of an initializer."""

    def __init__(self, array: Any) -> None:
        self._array = np.asarray(array)

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return self._array


def _call(initializer: Any, name: str, shape: tuple[int, ...], seed: int) -> Array:
    """The numbers of a Keras initializer; one without a seed of its own gets ours."""
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    if "seed" in config and config["seed"] is None:
        # An unseeded Keras initializer would give two layers that share the object the same numbers.
        initializer = initializer.__class__.from_config({**config, "seed": seed % 2**31})
    array = np.array(initializer(shape, dtype="float32"))
    if array.shape != shape:
        raise ValueError(
            f"The initializer of the {name} must return an array of shape {shape}. Received: shape "
            f"{array.shape} from {initializer!r}."
        )
    return array


def _check_varied(bank: Array, initializer: Any) -> None:
    if bank.shape[-1] > 1 and bank.size and (bank == bank[..., :1]).all():
        raise ValueError(
            "`bank_initializer` must give connections different values, or there is nothing to select "
            f"and nothing to train. Received: {initializer!r}, whose {bank.shape[-1]} values are equal "
            "at every connection. Pass a random one, for example `bank_initializer='glorot_uniform'`."
        )
