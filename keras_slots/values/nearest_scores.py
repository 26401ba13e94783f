"""Initial scores with which greedy selection takes the nearest value."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_slots._config import EqualByConfig
from keras_slots._registry import register
from keras_slots.values import initializers
from keras_slots.values.source import ValueSource

Array = np.ndarray[Any, Any]


@register("nearest")
class NearestScores(EqualByConfig, ValueSource):
    """Initial scores `s_k = w_k w0 - w_k^2 / 2`: greedy selection takes the value nearest to w0 plus the lever.

    They are `-(w_k - w0)^2 / 2` plus a constant, so the highest score belongs to the bank value nearest to the
    start w0. Training adds `w_k u` to score k, where u is the sum of the steps of the optimizer on the plain
    gradient; then the highest score belongs to the value nearest to w0 + u. So the kernel follows, in steps, an
    ordinary weight that starts at w0. All K values can be selected, and the learning rate is that of an ordinary
    layer.

    That holds under SGD. Adam moves all K scores of `score_mode="per_value"` by the same step, however large their
    values are, so values of the same sign never overtake each other; with Adam use `score_mode="nearest"`.

    With `score_mode="per_value"`, float32 scores can separate neighbouring values up to a K of about a thousand.

    Args:
        start: distribution of w0, one number per connection: a name, a keras_slots distribution or a Keras
            initializer. None: `"glorot_uniform"`.

    Raises:
        ValueError: if `start` is unknown, or not a distribution of single values.

    Example:

    >>> nearest = NearestScores()
    >>> nearest
    NearestScores(start=GlorotUniform(scale=1.0))
    >>> nearest.scores(bank=np.array([[-1.0, 0.0, 2.0]]), start=np.array([0.5]))
    array([[-1.,  0., -1.]])

    Not in the paper, whose initial scores are uniform; otherwise it is the paper's algorithm (section 3).
    """

    roles = frozenset({"scores"})
    from_start = True

    def __init__(self, start: Any = None) -> None:
        self.start = initializers.get("glorot_uniform" if start is None else start, "start")

    @property
    def rebuildable(self) -> bool:  # type: ignore[override]
        return getattr(self.start, "rebuildable", False)

    def scores(self, bank: Array, start: Array) -> Array:
        """The initial scores, float64 of shape `(..., K)`; bank `(..., K)`, or `(K,)` if shared; start `(...)`."""
        bank, start = np.asarray(bank, "float64"), np.asarray(start, "float64")
        return bank * start[..., None] - bank * bank / 2.0

    def get_config(self) -> dict[str, Any]:
        return {"start": keras.saving.serialize_keras_object(self.start)}

    def __repr__(self) -> str:
        return f"NearestScores(start={self.start!r})"
