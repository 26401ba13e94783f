"""Initial scores whose staircase holds in 16 bits: thresholds and values are bfloat16 numbers, exactly."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_slots.values import initializers
from keras_slots.values.dependent_scores import DependentScores
from keras_slots.values.distributions import Distribution
from keras_slots.kernels.envelope import envelope

Array = np.ndarray[Any, Any]

#: The dtype of the staircase. Keras has imported ml_dtypes, by which NumPy knows it.
DTYPE = "bfloat16"
LARGEST = (2.0 - 2.0**-7) * 2.0**127


@keras.saving.register_keras_serializable(package="keras_slots")
class RoundedScores(DependentScores, name="rounded"):
    """Initial scores that are moved a little, so that `score_mode="per_connection"` needs half the memory.

    Any increasing thresholds belong to a staircase of some scores. So the values and the thresholds of the drawn
    scores are rounded to bfloat16, and the initial scores are those that have exactly these thresholds: a score
    moves by at most a 256th of its distance to the highest one. `layer.bank` and `layer.scores` are the rounded
    ones, and both score modes train them to the same selections.

    Forward, thresholds `t_h` between the values `v_0 < ... < v_H` of a staircase:

        s[v_(h+1)] = s[v_h] - round(t_h) * (v_(h+1) - v_h)

    from the value that is selected at first, whose score stays. The scores of all other values, which can never be
    selected, stay too, or go down to where they still cannot be. Backward: nothing, they are constants.

    Args:
        scores: distribution that the scores are drawn from. None: `UniformScores()`, the default of every layer.

    Raises:
        ValueError: if `scores` is no distribution of keras_slots.

    Example:

    >>> from keras_slots import RoundedScores, SlotDense
    >>> layer = SlotDense(3, score_mode="per_connection", score_initializer=RoundedScores())
    >>> layer.build((None, 4))
    >>> layer.slot_kernels["kernel"].weights[3].dtype
    'bfloat16'

    Not in the paper, whose scores are drawn as they are; all else is its algorithm (section 3).
    """

    def __init__(self, scores: Any = None) -> None:
        self.drawn = initializers.get_scores(scores)
        if not isinstance(self.drawn, Distribution):
            raise ValueError(
                "`scores` must be a distribution of keras_slots, for the seed must bring the scores back. "
                f"Received: scores={scores!r}. Pass for example scores=UniformScores(2.0)."
            )

    def bank(self, bank: Array) -> Array:
        """Returns the values of a bank, rounded to bfloat16, in float32."""
        return np.asarray(bank).astype(DTYPE).astype("float32")

    def scores(self, bank: Array, scores: Array) -> Array:
        """Returns the initial scores in float64.

        Args:
            bank: rounded values of shape `(n, K)`, or `(K,)` when they are shared.
            scores: drawn scores of shape `(n, K)`.
        """
        bank = np.broadcast_to(np.asarray(bank, "float64"), scores.shape)
        scores = np.asarray(scores, "float64")
        return with_thresholds(bank, scores, lambda t: t.astype(DTYPE).astype("float64"))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal object."""
        return {"scores": keras.saving.serialize_keras_object(self.drawn)}

    def __repr__(self) -> str:
        return f"RoundedScores(scores={self.drawn!r})"


def with_thresholds(bank: Array, scores: Array, change: Any) -> Array:
    """Scores whose staircase has the same values at other thresholds.

    Args:
        bank: float64 values of shape `(n, K)`.
        scores: float64 scores of shape `(n, K)`.
        change: Function of an array of thresholds, non-decreasing, that keeps signs and zeros.

    Returns:
        float64 scores of shape `(n, K)`. The highest one of a connection is what it was.
    """
    thresholds, steps = envelope(bank, scores)
    thresholds = np.where(np.isfinite(thresholds), thresholds, 0.0)  # of repeated steps
    changed, highest = change(thresholds), scores.max(axis=1)
    old, new = (_heights(steps, t, highest) for t in (thresholds, changed))
    # Each value lies between two steps, or is one. Its line stays below both where it is below their crossing.
    place = np.full(scores.shape, -1, "int64")
    for step in steps:
        place += bank >= step[:, None]
    known = (place >= 0) & (bank <= steps[-1][:, None])
    place = np.clip(place, 0, None) * len(bank) + np.arange(len(bank))[:, None]
    slack = np.take(steps, place) - bank
    none = np.zeros((1, len(bank)))
    old_limit = np.take(old, place) + slack * np.take(np.concatenate([thresholds, none]), place)
    limit = np.take(new, place) + slack * np.take(np.concatenate([changed, none]), place)
    # On the staircase itself, but for the rounding of its heights.
    rounding = 1e-12 * ((np.abs(highest) + highest)[:, None] - old_limit)
    selectable = scores >= old_limit - rounding
    return np.where(known, np.where(selectable, limit, np.minimum(scores, limit)), scores)


def _heights(steps: Array, thresholds: Array, highest: Array) -> Array:
    """Scores of the values of a staircase, from the highest, which is selected at a lever of 0, outwards."""
    begin = (thresholds < 0).sum(axis=0)
    heights = np.empty_like(steps)
    heights[begin, np.arange(len(highest))] = highest
    drops = thresholds * np.diff(steps, axis=0)
    for h in range(len(drops)):
        right = h >= begin
        heights[h + 1, right] = heights[h, right] - drops[h, right]
    for h in reversed(range(len(drops))):
        left = h < begin
        heights[h, left] = heights[h + 1, left] + drops[h, left]
    return heights
