"""The kernel of a slot layer as C code sees it: packed choices, and how to make the value of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_slots.kernels.base import SlotKernel
from keras_slots.values.stratified import Grid, StratifiedUniform

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Hashed:
    """How the values of a `StratifiedUniform` bank are made: keys of the hash, integers, and their unit."""

    keys: tuple[int, int]
    grid: Grid
    unit: np.float32


@dataclass(frozen=True)
class Bank:
    """A kernel as a matrix of `inputs` rows and `outputs` columns.

    Attributes:
        num_values: K.
        index: The choice of each connection, `(inputs, outputs)`.
        weights: The selected values, float32, `(inputs, outputs)`.
        hashed: How each value is made; None if all connections share a table of them.
        table: That table, float32, `(K,)`; or None.
        unit: What integers of eight bits are multiplied by to be the values; those of a table may be rounded to
            them. None if the values are too fine for that.
    """

    num_values: int
    index: Array
    weights: Array
    hashed: Hashed | None
    table: Array | None
    unit: np.float32 | None

    def integers(self, values: Array) -> Array:
        """Values of the bank in units."""
        assert self.unit is not None
        return np.rint(values.astype("float64") / float(self.unit)).astype("int64")


def bank_of(kernel: SlotKernel, inputs: int) -> Bank:
    """The bank of a kernel whose outputs have that many connections.

    Raises:
        ValueError: If C code cannot make its values; says why.
    """
    if kernel.variable_dtype != "float32":
        raise ValueError(f"its values are {kernel.variable_dtype}. Build it with dtype float32")
    k = kernel.num_values
    initial = kernel.initial if kernel.initial.shared else kernel.current_initial_values()
    weights = ops.convert_to_numpy(kernel.select()).reshape(inputs, -1)
    index = ops.convert_to_numpy(kernel.selected_indices).reshape(inputs, -1)
    source, hashed, unit = initial.bank_source, None, None
    if isinstance(source, StratifiedUniform):
        grid, (low, high) = Grid(k, source.bits), source.words(initial.seed)
        hashed = Hashed((int(low), int(high)), grid, grid.unit(source.bound(initial.fans)))
        unit = hashed.unit if source.bits is not None and source.bits <= 8 else None
    if initial.shared:
        table = ops.convert_to_numpy(kernel.bank)
        return Bank(k, index, weights, None, table, unit or np.float32(np.abs(table).max() / 127))
    if hashed is None:
        raise ValueError(
            f"each of its connections has values drawn by {initial.bank_initializer!r}, which C code cannot make. "
            "Train with `bank_initializer=StratifiedUniform()`, or with `sharing='layer'`"
        )
    return Bank(k, index, weights, hashed, None, unit)


def choice_bits(num_values: int) -> int:
    """Bits of a choice in the packed array; 0: five choices in a byte, for K = 3."""
    return 0 if num_values == 3 else max(1, (num_values - 1).bit_length())


def packed(choices: Array, num_values: int) -> Array:
    """Rows of choices as bytes, `(rows, bytes)`; the first ones are in the low bits or digits of a byte."""
    rows, bits = len(choices), choice_bits(num_values)
    if bits == 0:
        digits = np.pad(choices, ((0, 0), (0, -choices.shape[1] % 5))).reshape(rows, -1, 5)
        return (digits @ 3 ** np.arange(5)).astype("uint8")
    shown = choices.astype("uint32")[..., None] >> np.arange(bits, dtype="uint32") & 1
    return np.packbits(shown.astype("uint8").reshape(rows, -1), axis=1, bitorder="little")
