"""Nearest scores, and the bank that suits them: every value within reach, and found without the others."""

from typing import Any

import keras

from keras_slots.distributions import Distribution
from keras_slots.random_streams import Float32Array
from keras_slots.strata import Strata, sample, seed_words, strata


@keras.saving.register_keras_serializable(package="keras_slots")
class StratifiedUniform(Distribution):
    """Value k of a connection is uniform in the k-th of K equal parts of `[-b, b)`.

    `b = scale * sqrt(6 / (fan_in + fan_out))`, the bound of Glorot uniform. The values of a connection are
    sorted by construction, and each can be computed by itself, see `keras_slots.strata`.

    Args:
        scale: positive finite number that multiplies every value.
        seed: see `Distribution`.

    Example:

    >>> from keras_slots import StratifiedUniform
    >>> values = StratifiedUniform().sample_strata(seed=0, num_values=4, fans=(3, 3), start=0, count=4)
    >>> [bool(-1 + k / 2 <= v < -0.5 + k / 2) for k, v in enumerate(values)]
    [True, True, True, True]

    Not in the paper, whose values are independent.
    """

    kind = "stratified_uniform"
    _variance, _mode = 1.0, "fan_avg"

    def strata(self, num_values: int, fans: tuple[int, int]) -> Strata:
        """How K values lie in a kernel with these fans."""
        return strata(num_values, 3.0**0.5 * self.rms(fans))

    def words(self, seed: int) -> Any:
        """The two words by which the seed of the layer, or one of its own, enters the hash."""
        return seed_words(seed if self.seed is None else self.seed)

    def sample_strata(
        self, seed: int, num_values: int, fans: tuple[int, int], start: int, count: int
    ) -> Float32Array:
        """Returns the elements `[start, start + count)` of a bank, flattened in C order, K last.

        Args:
            seed: seed of the layer; `self.seed` replaces it when it is set.
            num_values: K.
            fans: `(fan_in, fan_out)` of the kernel.
            start: index of the first value.
            count: number of values.
        """
        return sample(self.strata(num_values, fans), self.words(seed), start, count)


@keras.saving.register_keras_serializable(package="keras_slots")
class NearestScores:
    """First scores by which greedy selection takes the value nearest to a weight that is trained as usual.

    `scores[c, k] = w_k * w0 - w_k**2 / 2`, which is `-(w_k - w0)**2 / 2` but for a number that all K share: the
    first selection is the value nearest to the start w0. Training moves all scores by `g * w_k`, so the
    selection is the value nearest to w0 + u, u moving like an ordinary weight at an ordinary learning rate.
    Every value can be reached, and the network tends to the ordinary trained one as K grows: `docs/nearest.md`.

    Args:
        start: distribution of w0: whatever `kernel_initializer` of a Keras layer takes. None: the layer's
            `kernel_initializer`, Glorot uniform unless you say otherwise.

    Example:

    >>> from keras_slots import NearestScores, SlotDense
    >>> layer = SlotDense(3, num_values=16, score_initializer=NearestScores(), seed=1)
    >>> layer.build((None, 4))
    >>> tuple(layer.scores.shape)
    (4, 3, 16)

    Not in the paper, which draws scores U(0, lambda * sigma); all else is its algorithm.
    """

    def __init__(self, start: Any = None) -> None:
        from keras_slots import initializers  # it names this class

        self.start = None if start is None else initializers.get(start)

    def starting_at(self, start: Any) -> "NearestScores":
        """The same with a start, where it has none."""
        return self if self.start is not None else NearestScores(start)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal object."""
        return {"start": keras.saving.serialize_keras_object(self.start)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NearestScores":
        """Returns the scores that `get_config` described."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), repr(self.get_config())))

    def __repr__(self) -> str:
        return f"NearestScores({'' if self.start is None else f'start={self.start!r}'})"
