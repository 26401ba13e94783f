"""What a slot kernel starts from: its bank and its initial scores, whole or some connections at a time."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from keras_slots import banks
from keras_slots.random_streams import BANK_STREAM, SCORE_STREAM, derive_seed

Array = np.ndarray


@dataclass(frozen=True)
class InitialValues:
    """Bank and initial scores of one kernel, a pure function of the fields.

    Args:
        kernel_shape: Shape of the kernel; connections are counted in C order.
        num_values: K.
        fans: `(fan_in, fan_out)` of the kernel, without K.
        seed: Integer; bank and scores take different streams of it.
        bank_initializer: `keras_slots.banks.Distribution` or Keras initializer.
        score_initializer: `keras_slots.UniformScores` or Keras initializer.
        sharing: `"connection"`, `"layer"` or a `keras_slots.ValueBank`.
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
        return prod(self.kernel_shape)

    @property
    def shared(self) -> bool:
        """Whether all connections have the same K values."""
        return self.sharing != "connection"

    @property
    def bank_shape(self) -> tuple[int, ...]:
        return (self.num_values,) if self.shared else self.score_shape

    @property
    def score_shape(self) -> tuple[int, ...]:
        return (*self.kernel_shape, self.num_values)

    @property
    def rebuildable(self) -> bool:
        """Whether the seed brings bank and scores back, so that nobody has to keep them."""
        return isinstance(self.score_initializer, banks.Distribution) and (
            isinstance(self.sharing, banks.ValueBank)
            or isinstance(self.bank_initializer, banks.Distribution)
        )

    def bank(self) -> Array:
        """The whole bank, of shape `bank_shape`, float32 or what a Keras initializer returns."""
        if isinstance(self.sharing, banks.ValueBank):
            return self.sharing.values
        if not isinstance(self.bank_initializer, banks.Distribution):
            return self._from_keras
        return self._sample_bank(0, prod(self.bank_shape)).reshape(self.bank_shape)

    def scores(self) -> Array:
        """The initial scores, of shape `score_shape`."""
        if not isinstance(self.score_initializer, banks.Distribution):
            return self._scores_from_keras
        return self._sample_scores(0, prod(self.score_shape)).reshape(self.score_shape)

    def rows(self, start: int, stop: int) -> tuple[Array, Array]:
        """Bank and scores of the connections `start` to `stop - 1`, each of shape `(stop - start, K)`.

        A shared bank comes as `(K,)`.
        """
        k = self.num_values
        if isinstance(self.score_initializer, banks.Distribution):
            scores = self._sample_scores(start * k, (stop - start) * k).reshape(-1, k)
        else:
            scores = self._scores_from_keras.reshape(-1, k)[start:stop]
        if self.shared:
            bank = self.bank()
        elif isinstance(self.bank_initializer, banks.Distribution):
            bank = self._sample_bank(start * k, (stop - start) * k).reshape(-1, k)
        else:
            bank = self._from_keras.reshape(-1, k)[start:stop]
        return bank, scores

    def _sample_bank(self, start: int, count: int) -> Array:
        return self.bank_initializer.sample(
            self.seed, count, self.fans, start=start, stream=BANK_STREAM
        )

    def _sample_scores(self, start: int, count: int) -> Array:
        return self.score_initializer.sample(
            self.seed, count, self.fans, start=start, stream=SCORE_STREAM
        )

    @cached_property
    def _from_keras(self) -> Array:
        return _call(self.bank_initializer, self.bank_shape, derive_seed(self.seed, "bank"))

    @cached_property
    def _scores_from_keras(self) -> Array:
        return _call(self.score_initializer, self.score_shape, derive_seed(self.seed, "scores"))


def _call(initializer: Any, shape: tuple[int, ...], seed: int) -> Array:
    """Numbers of a Keras initializer; one without a seed of its own gets ours."""
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    if "seed" in config and config["seed"] is None:
        # An unseeded Keras initializer would give two layers that share the object the same numbers.
        initializer = initializer.__class__.from_config({**config, "seed": seed % 2**31})
    return np.array(initializer(shape, dtype="float32"))
