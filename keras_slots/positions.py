"""Choices as numbers: pure functions of tensors, each compiled once for all kernels of a shape, and their entropy.

A choice is counted as a *position*: how many values of its connection are smaller than the selected one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_slots.kernels.nearest import SharedValues, Strata
from keras_slots.kernels.seed import integer_of

Tensor = Any
Array = np.ndarray[Any, Any]


def bits_per_choice(positions: Array, start: Array, num_values: int) -> float:
    """Entropy of how far the choices have moved, in bits a connection.

    `H = -sum_d p_d log2 p_d`, `p_d` the share of connections with `positions - start = d`. It is what an
    arithmetic coder needs that knows the seed and these shares, and nothing of where in the layer it is.

    Example:

    >>> bits_per_choice(np.array([0, 1, 2, 3], "uint8"), np.array([0, 1, 1, 2], "uint8"), 8)
    1.0
    """
    moved = positions.astype("int32") - start
    counts = np.bincount(moved + (num_values - 1)).astype("float64")
    shares = counts[counts > 0] / len(positions)
    return abs(float((shares * np.log2(shares)).sum()))


def by_bank(kernel: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the selected values in a bank `(..., K)` or `(K,)`, and their `magnitudes`."""
    smaller = ops.cast(bank < kernel[..., None], "int32")
    return _small(ops.sum(smaller, axis=-1), bank.shape[-1]), magnitudes(kernel)


def by_steps(
    kernel: Tensor, steps: Tensor, overflow_index: Tensor | None = None, overflow_steps: Any = None
) -> tuple[Tensor, Tensor]:
    """The same on the staircases of `read_staircase`: a position is the number of a step."""
    position, limit = _count_below(kernel, steps), steps.shape[0]
    if overflow_index is not None:
        limit += overflow_steps.shape[0]
        flat = ops.reshape(position, (-1,))
        index = integer_of(overflow_index, "int32")
        more = _count_below(ops.take(ops.reshape(kernel, (-1,)), index), overflow_steps)
        position = ops.scatter_update(flat, index[:, None], ops.take(flat, index) + more)
    return _small(position, limit), magnitudes(kernel)


def _count_below(kernel: Tensor, steps: Tensor) -> Tensor:
    position = ops.zeros(kernel.shape, "int32")
    for h in range(steps.shape[0]):
        position = position + ops.cast(ops.cast(steps[h], kernel.dtype) < kernel, "int32")
    return position


@dataclass(frozen=True)
class PositionsOfNearest:
    """The same of a `NearestKernel`; equal for equal values."""

    bank: Strata | SharedValues
    num_values: int

    def __call__(self, lever: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        values, index = self.bank.nearest(lever, seed)
        if isinstance(self.bank, SharedValues):
            return by_bank(values, np.array(self.bank.values, "float32"))
        return _small(index, self.num_values), magnitudes(values)


def _small(position: Tensor, limit: int) -> Tensor:
    """As few bytes as numbers below `limit` need: they travel to the host."""
    return ops.cast(position, "uint8" if limit <= 2**8 else "int32")


def magnitudes(values: Tensor) -> Tensor:
    """Sums of `|values|` over the last axis; the rest is for the host to add in float64."""
    return ops.sum(
        ops.abs(ops.cast(values, keras.backend.result_type(values.dtype, "float32"))), axis=-1
    )


def position_dtype(num_values: int) -> str:
    """The unsigned integers that hold the positions of K values."""
    return "uint8" if num_values <= 2**8 else "uint16"
