"""The bank value nearest to a target: greedy selection when the scores start as `w_k w0 - w_k^2 / 2`.

With a lever u and a weight decay that leaves c of those initial scores, the score of value k is

    c (w_k w0 - w_k^2 / 2) + w_k u = w_k v - c w_k^2 / 2,   v = c w0 + u,

and the highest one belongs to the value nearest to the target v / c: w0 + u without decay. An optimizer that
decays u and c decays v = c w0 + u by the same factor, so v is all that need be trained: it starts at w0, like an
ordinary weight, and moves like one. Here `lever` is this v.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from keras import ops

from keras_slots.values.initial_values import InitialValues
from keras_slots.kernels.staircase import Staircase, round_down
from keras_slots.values.stratified import (
    SPREAD,
    connection_state,
    offsets,
    pair_hash,
    strata_bits,
    strata_unit,
)
from keras_slots.validation import check_choice, check_finite

Tensor = Any
Array = np.ndarray[Any, Any]

_BLOCK_VALUES = 2**20  # bank values sorted at once
# Added to a number below 2**21 it leaves the quarters of that number, rounded, in the last bits.
_QUARTERS = np.float32(1.5 * 2**21)


def nearest_in_strata(
    lever: Tensor,
    decay: Tensor,
    words: Tensor,
    *,
    num_values: int,
    bound: float,
    shared: bool = False,
) -> Tensor:
    """Selects at each connection the value of a `StratifiedUniform` bank that is nearest to `lever / decay`.

    Formula: `kernel[c] = bank[c, k*]`, `k* = argmin_k |bank[c, k] - lever[c] / decay|`, ties to the lowest index.

    The bank is nowhere: the nearest value lies in the stratum of the target or in one beside it, and the values of
    the four strata around the target are computed from the seed, whatever K is. The target is rounded twice, by
    dividing by `decay` and by the distance of two positions; for the rounded target the choice is exact.

    A target beyond the bank selects its first or last value, a lever that is NaN the first.

    Args:
        lever: Tensor of shape `(...)`, float32 or float64; connections are counted in C order.
        decay: Scalar tensor: what weight decay has left of the initial scores, 1 without.
        words: Integer tensor of shape `(2,)`: `StratifiedUniform.words`, modulo 2**32.
        num_values: K.
        bound: `StratifiedUniform.bound`.
        shared: Whether all connections have the values of the first.

    Returns:
        float32 tensor of shape `(...)`, bitwise entries of the bank.

    Example:

    >>> from keras_slots.values.stratified import StratifiedUniform
    >>> drawn = StratifiedUniform()
    >>> drawn.rows(0, 4, (2, 4), 0, 2).round(2)
    array([[-0.82, -0.07,  0.29,  0.68],
           [-0.9 , -0.27,  0.15,  0.98]], dtype=float32)
    >>> lever = np.array([0.1, -7.0], "float32")
    >>> settings = {"num_values": 4, "bound": drawn.bound((2, 4))}
    >>> np.asarray(nearest_in_strata(lever, 1.0, drawn.words(0), **settings)).round(2)
    array([-0.07, -0.9 ], dtype=float32)

    Not in the paper, whose initial scores are uniform; all else is its algorithm (section 3).
    """
    position, _ = _search(lever, decay, words, num_values, bound, shared)
    return ops.cast(position, "float32") * strata_unit(num_values, bound)


def nearest_index_in_strata(
    lever: Tensor,
    decay: Tensor,
    words: Tensor,
    *,
    num_values: int,
    bound: float,
    shared: bool = False,
) -> Tensor:
    """The index k* of what `nearest_in_strata` selects: int32 tensor of shape `(...)`, entries in [0, K).

    Example:

    >>> from keras_slots.values.stratified import StratifiedUniform
    >>> words, lever = StratifiedUniform().words(0), np.array([0.1, -7.0], "float32")
    >>> np.asarray(nearest_index_in_strata(lever, 1.0, words, num_values=4, bound=1.0))
    array([1, 0], dtype=int32)
    """
    return _search(lever, decay, words, num_values, bound, shared)[1]


def _search(
    lever: Tensor, decay: Tensor, words: Tensor, num_values: int, bound: float, shared: bool
) -> tuple[Tensor, Tensor]:
    """Centred position and index of the nearest value: integers that every backend computes alike.

    Positions are counted in units of the bank and from its middle. The target is doubled, so that midpoints of
    positions are integers, and compared as a floating-point number with integers below 2**24, which is exact.
    """
    lever = ops.convert_to_tensor(lever)
    dtype, bits = lever.dtype, strata_bits(num_values)
    width, last_pair = 1 << bits, max((num_values - 3) // 2, 0)
    doubled = ops.cast(2.0 / float(strata_unit(num_values, bound)), dtype)
    target = lever * (doubled / ops.cast(decay, dtype))
    words = ops.cast(words, "uint32")
    pair = _first_pair(target, num_values, bits, last_pair)
    hashes = _pair_hashes(words, pair, tuple(lever.shape), shared, 1 if num_values <= 2 else 2)
    start = ops.left_shift(pair, np.int32(bits + 1)) - np.int32((num_values << bits) // 2)
    candidates = [
        start + (ops.cast(offset, "int32") + np.int32(k * width))
        for k, offset in enumerate(x for word in hashes for x in offsets(word, bits))
    ][:num_values]
    position, index = candidates[0] + ops.zeros(lever.shape, "int32"), 2 * pair
    for k, (below, above) in enumerate(pairwise(candidates), start=1):
        further = target > ops.cast(below + above, dtype)
        if k == 3 and num_values % 2:
            # The fourth stratum from the last pair on is beyond the bank.
            further = ops.logical_and(further, pair < np.int32(last_pair))
        position = ops.where(further, above, position)
        index = ops.where(further, 2 * pair + np.int32(k), index)
    return position, index + ops.zeros(lever.shape, "int32")


def _first_pair(target: Tensor, num_values: int, bits: int, last_pair: int) -> Tensor:
    """Number j of the pair of strata such that the nearest value lies in the strata 2 j to 2 j + 3.

    That is `floor(z - 1/2)`, z the target in pairs from the lower end of the bank. It may be wrong by up to a
    quarter, so it does not matter whether a compiler fuses the multiplication with the addition.
    """
    if not last_pair:
        return ops.zeros((), "int32")
    # A power of two. NumPy 1 would make float64 of `1 / np.float32(...)`, and JAX a float64 target.
    per_pair = np.float32(1 / (4 << bits))
    lowest = np.float32((4 - num_values) * 2.0**bits)
    # A comparison rather than `maximum`, so that NaN becomes the lowest on every backend.
    target = ops.cast(target, "float32")
    target = ops.where(target > lowest, target, lowest)
    z = target * per_pair + (_QUARTERS + np.float32(num_values / 4 - 0.5))
    # Positive floating-point numbers, the infinite one too, are ordered like their bits.
    pair = ops.right_shift(ops.view(z, "int32") - _QUARTERS.view(np.int32), np.int32(2))
    return ops.minimum(pair, np.int32(last_pair))


def _pair_hashes(
    words: Tensor, pair: Tensor, shape: tuple[int, ...], shared: bool, count: int
) -> list[Tensor]:
    if shared or not shape:
        rows = columns = ops.zeros((), "uint32")
    else:
        *leading, size = shape
        rows = ops.arange(prod(leading), dtype="int32") * np.int32(size)
        rows = ops.reshape(ops.cast(rows, "uint32"), (*leading, 1))
        columns = ops.cast(ops.arange(size, dtype="int32"), "uint32")
    state = connection_state(words, rows, columns)
    spread = ops.cast(pair, "uint32") * SPREAD
    return [pair_hash(state, spread), pair_hash(state, spread + SPREAD)][:count]


def nearest_staircase(
    initial: InitialValues, dtype: str = "float32", *, bank_dtype: str | None = None
) -> Staircase:
    """Returns the staircases of a kernel that selects the nearest value of a stored bank of any distribution.

    Formula: the steps are the sorted values of a connection, the thresholds the midpoints of neighbours. Reading
    them at `lever` with `c` (see `Staircase`) gives `bank[argmin_k |bank[k] - lever / c|]`: all K values are
    reached.

    Args:
        initial: What the kernel starts from; only its bank is used.
        dtype: `"float32"` or `"float64"`, of the result: the dtype of the lever.
        bank_dtype: Dtype in which the layer holds its values, to which they are rounded first. Default: `dtype`.

    Returns:
        A `Staircase` of K - 1 levels without tall connections.

    Raises:
        ValueError: If `dtype` is another one, or a value is not finite.

    Example:

    >>> initial = InitialValues((1,), 3, (1, 1), 0, None, None, "connection")
    >>> staircase = nearest_staircase(initial.with_arrays([[2.0, -1.0, 0.0]], [[0.0, 0.0, 0.0]]))
    >>> staircase.thresholds.ravel().tolist(), staircase.steps.ravel().tolist()
    ([-0.5, 1.0], [-1.0, 0.0, 2.0])
    """
    check_choice(dtype, "dtype", ("float32", "float64"))
    count, num_values = initial.num_connections, initial.num_values
    thresholds = np.empty((num_values - 1, count), dtype)
    steps = np.empty((num_values, count), dtype)
    block = max(1, _BLOCK_VALUES // num_values)
    for start in range(0, count, block):
        stop = min(start + block, count)
        bank = check_finite(initial.bank_rows(start, stop), "bank")
        bank = np.sort(bank.astype(bank_dtype or dtype).astype(dtype), axis=-1).T
        steps[:, start:stop] = bank if bank.ndim == 2 else bank[:, None]
        wide = steps[:, start:stop].astype("float64")
        thresholds[:, start:stop] = round_down((wide[1:] + wide[:-1]) / 2.0, np.dtype(dtype))
    none = np.empty((0, 0), dtype)
    return Staircase(thresholds, steps, np.empty(0, "int32"), none, none)
