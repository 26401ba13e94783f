"""What a kernel starts from: its bank and its initial scores, whole or some connections at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from keras_slots.values.dependent_scores import DependentScores
from keras_slots.values.distributions import Distribution
from keras_slots.values.nearest_scores import NearestScores
from keras_slots.values.philox import BANK_STREAM, SCORE_STREAM, derive_seed
from keras_slots.values.stratified import StratifiedUniform
from keras_slots.values.value_bank import ValueBank

Array = np.ndarray[Any, Any]

_BLOCK_VALUES = 2**20  # scores computed at once, in float64


@dataclass(frozen=True)
class InitialValues:
    """Bank and initial scores of one kernel, a pure function of the fields.

    Both can be had whole or some connections at a time. Connections are counted in the C order of
    the kernel.

    Args:
        kernel_shape: Shape of the kernel.
        num_values: K.
        fans: `(fan_in, fan_out)` of the kernel, without K.
        seed: Integer; bank and scores take different streams of it.
        bank_initializer: `Distribution` or Keras initializer.
        score_initializer: `Distribution`, `NearestScores` or Keras initializer.
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
    def drawn_scores(self) -> Any:
        """The distribution or Keras initializer that is drawn from for the scores: the start of nearest ones."""
        scores = self.score_initializer
        return scores.start if isinstance(scores, NearestScores) else scores

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
        return isinstance(self.drawn_scores, Distribution) and (
            isinstance(self.sharing, ValueBank) or isinstance(self.bank_initializer, Distribution)
        )

    def bank(self) -> Array:
        """The whole bank, of shape `bank_shape`, float32 or what a Keras initializer returns."""
        stop = 1 if self.shared else self.num_connections
        return self._draw_bank(0, stop).reshape(self.bank_shape)

    def scores(self) -> Array:
        """The initial scores, of shape `score_shape`; float64 when they are nearest ones."""
        if not isinstance(self.score_initializer, DependentScores):
            return self.score_rows(0, self.num_connections).reshape(self.score_shape)
        scores = np.empty((self.num_connections, self.num_values))
        block = max(1, _BLOCK_VALUES // self.num_values)
        for start in range(0, len(scores), block):
            stop = min(start + block, len(scores))
            scores[start:stop] = self.score_rows(start, stop)
        return scores.reshape(self.score_shape)

    def rows(self, start: int, stop: int) -> tuple[Array, Array]:
        """Bank and scores of the connections `start` to `stop - 1`, each of shape `(stop - start, K)`.

        A shared bank comes as `(K,)`.
        """
        bank = self.bank_rows(start, stop)
        return bank, self._scores_of(bank, start, stop)

    def bank_rows(self, start: int, stop: int) -> Array:
        """The values of the connections `start` to `stop - 1`, see `rows`."""
        return self.bank() if self.shared else self._draw_bank(start, stop)

    def score_rows(self, start: int, stop: int) -> Array:
        """The initial scores of the connections `start` to `stop - 1`, see `rows`."""
        if isinstance(self.score_initializer, DependentScores):
            return self._scores_of(self.bank_rows(start, stop), start, stop)
        return self._draw_scores(start, stop)

    def start(self) -> Array:
        """The w0 of `NearestScores` at every connection, of the shape of the kernel."""
        return self.start_rows(0, self.num_connections).reshape(self.kernel_shape)

    def start_rows(self, start: int, stop: int) -> Array:
        """The w0 of the connections `start` to `stop - 1`, of shape `(stop - start,)`.

        Raises:
            ValueError: if the scores are no `NearestScores`.
        """
        if not isinstance(self.score_initializer, NearestScores):
            raise ValueError(
                "`score_initializer` must be `NearestScores` for a start. Received: "
                f'score_initializer={self.score_initializer!r}. Pass score_initializer="nearest".'
            )
        if isinstance(self.score_initializer.start, Distribution):
            return self.score_initializer.sample_start(self.seed, stop - start, self.fans, start)
        return self._start_from_keras[start:stop]

    def with_arrays(self, bank: Any, scores: Any = None) -> InitialValues:
        """The same kernel with these values, for example those of a file, in place of drawn ones.

        Args:
            bank: Array of shape `bank_shape`.
            scores: Array of shape `score_shape`; None leaves `score_initializer` in its place.

        Raises:
            ValueError: if a shape differs.
        """
        return replace(
            self,
            bank_initializer=_Given(bank),
            score_initializer=self.score_initializer if scores is None else _Given(scores),
            sharing="layer" if self.shared else "connection",
        )

    def _scores_of(self, bank: Array, start: int, stop: int) -> Array:
        """The scores of connections with that bank, which nearest ones depend on."""
        scores = self.score_initializer
        if isinstance(scores, NearestScores):
            return scores.scores(bank, self.start_rows(start, stop))
        return self._draw_scores(start, stop)

    def _draw_scores(self, start: int, stop: int) -> Array:
        k, scores = self.num_values, self.drawn_scores
        if not isinstance(scores, Distribution):
            return self._scores_from_keras[start:stop]
        window = (stop - start) * k, self.fans, start * k, SCORE_STREAM
        return scores.sample(self.seed, *window).reshape(-1, k)

    def _draw_bank(self, start: int, stop: int) -> Array:
        k, bank = self.num_values, self.bank_initializer
        if isinstance(self.sharing, ValueBank):
            return self.sharing.values[None]
        if isinstance(bank, StratifiedUniform):
            return bank.rows(self.seed, k, self.fans, start, stop)
        if not isinstance(bank, Distribution):
            return self._bank_from_keras[start:stop]
        window = (stop - start) * k, self.fans, start * k, BANK_STREAM
        return bank.sample(self.seed, *window).reshape(-1, k)

    @cached_property
    def _bank_from_keras(self) -> Array:
        seed = derive_seed(self.seed, "bank")
        bank = _call(self.bank_initializer, "bank_initializer", self.bank_shape, seed)
        if not isinstance(self.bank_initializer, _Given):
            _check_varied(bank, self.bank_initializer)
        return bank.reshape(-1, self.num_values)

    @cached_property
    def _scores_from_keras(self) -> Array:
        seed = derive_seed(self.seed, "scores")
        scores = _call(self.score_initializer, "score_initializer", self.score_shape, seed)
        return scores.reshape(-1, self.num_values)

    @cached_property
    def _start_from_keras(self) -> Array:
        seed = derive_seed(self.seed, "start")
        return _call(self.score_initializer.start, "start", self.kernel_shape, seed).reshape(-1)


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
            f"`{name}` must return an array of shape {shape}. Received: shape {array.shape} from "
            f"{initializer!r}."
        )
    return array


def _check_varied(bank: Array, initializer: Any) -> None:
    if bank.shape[-1] > 1 and bank.size and (bank == bank[..., :1]).all():
        raise ValueError(
            "`bank_initializer` must give connections different values, or there is nothing to select "
            f"and nothing to train. Received: {initializer!r}, whose {bank.shape[-1]} values are equal "
            "at every connection. Pass a random one, for example `bank_initializer='glorot_uniform'`."
        )
