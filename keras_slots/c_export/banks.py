"""The kernel of a slot layer as C code sees it: packed choices, and how to make the value of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_slots.kernels.base import SlotKernel
from keras_slots.values.stratified import StratifiedUniform, strata_bits, strata_unit

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Strata:
    """How the values of a `StratifiedUniform` bank are made: `2 * position - lowest`, times `unit`.

    Attributes:
        keys: The two keys of the hash.
        bits: A stratum has `2**bits` positions.
        lowest: Minus the lowest of these integers.
        unit: float32.
        in_bytes: Whether the integers fit into signed bytes.
    """

    keys: tuple[int, int]
    bits: int
    lowest: int
    unit: np.float32
    in_bytes: bool


@dataclass(frozen=True)
class Bank:
    """A kernel as a matrix of `inputs` rows and `outputs` columns.

    Attributes:
        num_values: K.
        index: The choice of each connection, `(inputs, outputs)`.
        weights: The selected values, float32, `(inputs, outputs)`.
        strata: How each value is made; None if all connections share a table of them.
        table: That table, float32, `(K,)`; or None.
        unit: What integers of eight bits are multiplied by to be the values; those of a table may be rounded to
            them. None if the values are too fine for that.
    """

    num_values: int
    index: Array
    weights: Array
    strata: Strata | None
    table: Array | None
    unit: np.float32 | None

    def integers(self, values: Array) -> Array:
        """Values of the bank in units."""
        assert self.unit is not None
        return np.rint(values.astype("float64") / float(self.unit)).astype("int64")


def strata_of(source: StratifiedUniform, seed: int, num_values: int, fans: tuple[int, int]) -> Strata:
    """How the values of a stratified bank are made."""
    low, high = (int(key) for key in source.words(seed))
    size = getattr(source, "bits", None)
    if size is None:
        bits, unit = strata_bits(num_values), strata_unit(num_values, source.bound(fans)) / np.float32(2)
        return Strata((low, high), bits, num_values << bits, unit, in_bytes=False)
    bits = size - 1 - (num_values - 1).bit_length()
    positions = num_values << bits
    unit = np.float32(float(np.float32(source.bound(fans))) / positions)
    return Strata((low, high), bits, positions - 1, unit, in_bytes=size <= 8)


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
    source, strata = initial.bank_source, None
    if isinstance(source, StratifiedUniform):
        strata = strata_of(source, initial.seed, k, initial.fans)
    in_bytes = strata.unit if strata is not None and strata.in_bytes else None
    if initial.shared:
        table = ops.convert_to_numpy(kernel.bank)
        return Bank(k, index, weights, None, table, in_bytes or np.float32(np.abs(table).max() / 127))
    if strata is None:
        raise ValueError(
            f"each of its connections has values drawn by {initial.bank_initializer!r}, which C code cannot make. "
            "Train with `bank_initializer=StratifiedUniform()`, or with `sharing='layer'`"
        )
    return Bank(k, index, weights, strata, None, in_bytes)


def choice_bits(num_values: int) -> int:
    """Bits of a choice in the packed array; 0: five choices in a byte, for K = 3."""
    return 0 if num_values == 3 else max(1, (num_values - 1).bit_length())


def packed(index: Array, num_values: int) -> bytes:
    """The choices in the order of their use, output by output, the first ones in the low bits or digits of a byte."""
    choices = index.T.reshape(-1).astype("uint32")
    bits = choice_bits(num_values)
    if bits == 0:
        choices = np.pad(choices, (0, -len(choices) % 5)).reshape(-1, 5)
        return (choices @ 3 ** np.arange(5)).astype("uint8").tobytes()
    shown = (choices[:, None] >> np.arange(bits, dtype="uint32") & 1).astype("uint8")
    return np.packbits(shown.reshape(-1), bitorder="little").tobytes()
