"""Selection: scores -> index -> value, greedy and probabilistic.

Pure functions of tensors, written with `keras.ops`; no layer and no variable in sight. K, the number of values of
a connection, is always the last axis.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

from keras import ops

Tensor = Any

# Branching factor of the tournament below. Eight scores are one cache line half; measured fastest for K = 8 to 64.
_RADIX = 8
# Up to this K a chain of `where` beats a gather once the compiler has fused it.
_MAX_UNROLLED_LOOKUP = 16
# Up to this K a running sum beats `cumsum`, for which XLA on CPU adds up every prefix anew.
_MAX_UNROLLED_SUM = 64


def greedy_index(scores: Tensor) -> Tensor:
    """Index of the highest score of each connection; ties go to the lowest index.

    `index[c] = min { k : scores[c, k] = max_j scores[c, j] }` (paper, section 3, "greedy selection").

    A tournament over blocks of scores with a strict `>`: one pass over memory and no reduction, which XLA on CPU
    fuses far better than an arg-max. `-0.0` and `+0.0` tie, as in NumPy (`keras.ops.argmax` orders them).

    Args:
        scores: Tensor of shape `(..., K)`.

    Returns:
        int32 tensor of shape `(...)`.

    Example:

    >>> import numpy as np
    >>> from keras_slots.selection import greedy_index
    >>> np.asarray(greedy_index(np.array([[0.1, 0.7, 0.7], [0.3, 0.2, 0.1]])))
    array([1, 0], dtype=int32)
    """
    scores = ops.convert_to_tensor(scores)
    num_values = scores.shape[-1]
    if num_values <= _RADIX:
        best = scores[..., 0]
        index = ops.zeros_like(best, dtype="int32")
        for k in range(1, num_values):
            higher = scores[..., k] > best
            best = ops.where(higher, scores[..., k], best)
            index = ops.where(higher, k, index)
        return index
    missing = -num_values % _RADIX
    if missing:
        # Padding comes last and never wins a strict comparison.
        padding = [(0, 0)] * (len(scores.shape) - 1) + [(0, missing)]
        scores = ops.pad(scores, padding, constant_values=float("-inf"))
    blocks = ops.reshape(scores, (*scores.shape[:-1], -1, _RADIX))
    within = greedy_index(blocks)
    block = greedy_index(_unrolled_lookup(blocks, within))
    return block * _RADIX + lookup(within, block)


def probabilistic_index(scores: Tensor, uniform: Tensor) -> Tensor:
    """One draw of an index from softmax(scores) for each connection.

    `P(index[c] = k) = exp(scores[c, k]) / sum_j exp(scores[c, j])` (paper, section 3, "probabilistic sampling"),
    by inversion: the first k whose cumulative probability exceeds `uniform[c]`. One random number a connection
    instead of the K of the Gumbel trick.

    Args:
        scores: Tensor of shape `(..., K)`.
        uniform: Tensor of shape `(...)`, random numbers in [0, 1), in the dtype of `scores`.

    Returns:
        int32 tensor of shape `(...)`.

    Example:

    >>> import numpy as np
    >>> from keras_slots.selection import probabilistic_index
    >>> scores = np.log(np.array([[0.25, 0.75], [0.25, 0.75]]))
    >>> np.asarray(probabilistic_index(scores, np.array([0.2, 0.3])))
    array([0, 1], dtype=int32)
    """
    scores = ops.convert_to_tensor(scores)
    weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
    # `uniform * total` may round up to the total itself: the last value takes what is left.
    if scores.shape[-1] > _MAX_UNROLLED_SUM:
        sums = ops.cumsum(weights, axis=-1)
        target = uniform * sums[..., -1]
        return ops.sum(ops.cast(sums[..., :-1] <= target[..., None], "int32"), axis=-1)
    *sums, total = accumulate(weights[..., k] for k in range(scores.shape[-1]))
    target = uniform * total
    index = ops.zeros_like(target, dtype="int32")
    for passed in sums:
        index = index + ops.cast(passed <= target, "int32")
    return index


def lookup(values: Tensor, index: Tensor) -> Tensor:
    """Value number `index` of each connection: `values[c, index[c]]`.

    Args:
        values: Tensor of shape `(..., K)`, or `(K,)` when all connections share their values.
        index: int32 tensor of shape `(...)`, entries in [0, K).

    Returns:
        Tensor of shape `(...)`, bitwise entries of `values`.

    Example:

    >>> import numpy as np
    >>> from keras_slots.selection import lookup
    >>> np.asarray(lookup(np.array([[1.5, 2.5], [3.5, 4.5]]), np.array([1, 0])))
    array([2.5, 3.5])
    """
    values = ops.convert_to_tensor(values)
    index = ops.convert_to_tensor(index)
    if len(values.shape) == 1:
        return ops.take(values, index, axis=0)
    if values.shape[-1] <= _MAX_UNROLLED_LOOKUP:
        return _unrolled_lookup(values, index)
    return ops.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def climb(lever: Tensor, decay: Tensor, thresholds: Tensor, steps: Tensor) -> Tensor:
    """Greedy selection with one lever a connection: the value of its staircase at the lever.

    `kernel[c] = steps[h, c]`, h the number of thresholds with `lever[c] > decay * thresholds[h, c]`.

    Args:
        lever: Tensor of shape `(...)`, u of the module `keras_slots.staircase`.
        decay: Scalar tensor, c of the same module: what is left of the initial scores.
        thresholds: Tensor of shape `(H, ...)`, non-decreasing along the first axis, padded with `+inf`.
        steps: Tensor of shape `(H + 1, ...)`, the values of the staircase.

    Returns:
        Tensor of shape `(...)`, bitwise entries of `steps`.

    Example:

    >>> import numpy as np
    >>> from keras_slots.selection import climb
    >>> thresholds, steps = np.array([[0.0], [1.0]]), np.array([[-2.0], [0.5], [3.0]])
    >>> [float(climb(np.array([u]), np.array(1.0), thresholds, steps)[0]) for u in (-1.0, 0.5, 2.0)]
    [-2.0, 0.5, 3.0]
    """
    lever, decay = ops.convert_to_tensor(lever), ops.convert_to_tensor(decay)
    thresholds, steps = ops.convert_to_tensor(thresholds), ops.convert_to_tensor(steps)
    value = steps[0]
    for h in range(thresholds.shape[0]):
        value = ops.where(lever > decay * thresholds[h], steps[h + 1], value)
    return value


def selector(selection: str) -> Callable[..., Tensor]:
    """Function `(scores, values, *uniform) -> kernel` of a selection rule."""
    index_of: Any = {"greedy": greedy_index, "probabilistic": probabilistic_index}[selection]

    def select(scores: Tensor, values: Tensor, *uniform: Tensor) -> Tensor:
        return lookup(values, index_of(scores, *uniform))

    return select


def _unrolled_lookup(values: Tensor, index: Tensor) -> Tensor:
    value = values[..., 0]
    for k in range(1, values.shape[-1]):
        value = ops.where(index == k, values[..., k], value)
    return value
