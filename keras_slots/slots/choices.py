"""The choices of a kernel as bytes, and back: coded step by step, or packed where that is shorter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_slots.slots.model import Model
from keras_slots.slots.rans import FULL, Decoder, Encoder
from keras_slots.slots.stairs import NEVER, Stairs, Start, hull, nearest
from keras_slots.slots.values import Values

Array = np.ndarray[Any, Any]
Progress = Callable[[int], None]

STAIRS = {"hull": hull, "nearest": nearest}
#: Values of the connections that are handled at once, at most, unless one row has more.
BLOCK_VALUES = 2**18
#: Choices that are packed at once: a multiple of 8, so that they begin at a whole byte.
_PACKED = 2**16
#: K up to which choices are coded: each step of a connection is a decision.
MOST_CODED = 256


@dataclass(frozen=True)
class Coding:
    """How the choices of a kernel are coded.

    Attributes:
        stairs: `"hull"` or `"nearest"`.
        start: Where connections start.
        rows: Number of rows.
        width: Connections of a row.
        group: Rows that are coded at once: nothing is learned between them.
        lanes: States of the coder, a power of two.
        offsets: How many rows back the rows lie that are alike, at least `group`.
    """

    stairs: str
    start: Start
    rows: int
    width: int
    group: int
    lanes: int
    offsets: tuple[int, ...]

    def blocks(self, values: Values) -> Iterator[tuple[int, int, Stairs]]:
        """First and last row and the stairs of each group, computed one group ahead."""
        make, width = STAIRS[self.stairs], self.width
        edges = [(low, min(low + self.group, self.rows)) for low in range(0, self.rows, self.group)]

        def stairs(edge: tuple[int, int]) -> Stairs:
            return make(values, self.start, edge[0] * width, edge[1] * width)

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(stairs, edges[0])
            for number, edge in enumerate(edges):
                ready = coming.result()
                if number + 1 < len(edges):
                    coming = pool.submit(stairs, edges[number + 1])
                yield (*edge, ready)


def encode(
    index: Array, values: Values, coding: Coding, progress: Progress | None = None
) -> tuple[Array, Array]:
    """Returns the words of the choices, uint16, and the connections whose choice no step leads to.

    Args:
        index: The chosen indices, of shape `(n,)`, in the C order of the kernel.
        values: The values of the kernel.
        coding: How to code.
        progress: Is told the number of connections done, at times.
    """
    encoder = Encoder(coding.lanes)
    lost = _put(index, values, coding, encoder.put, progress)
    return encoder.words(), lost


def cost(index: Array, values: Values, coding: Coding) -> float:
    """About how many bits the choices would take."""
    bits_of = -np.log2(np.arange(FULL + 1).clip(1) / FULL)
    total = 0.0

    def put(bits: Array, p: Array) -> None:
        nonlocal total
        total += float(bits_of[np.where(bits, p, FULL - p)].sum())

    _put(index, values, coding, put, None)
    return total


def _put(
    index: Array,
    values: Values,
    coding: Coding,
    put: Callable[[Array, Array], None],
    progress: Progress | None,
) -> Array:
    """Gives all decisions and their probabilities to `put`; returns the choices that no step leads to."""
    model = Model(coding.rows, coding.width, coding.offsets)
    lost: list[Array] = []

    def code(bits: Array | None, p: Array) -> Array:
        assert bits is not None
        put(bits, p)
        return bits

    for low, high, stairs in coding.blocks(values):
        first, last = low * coding.width, high * coding.width
        moves, missed = moves_of(stairs, index[first:last])
        lost.append(first + missed)
        model.code(stairs, high - low, moves, code)
        if progress:
            progress(last - first)
    return np.concatenate(lost)


def decode(
    words: Array, values: Values, coding: Coding, progress: Progress | None = None
) -> tuple[Array, Array]:
    """Returns the indices that `encode` was given, but for those no step leads to, and their values.

    They are uint8 and float32, of shape `(n,)`.

    Raises:
        ValueError: If the words are not of this kernel.
    """
    decoder = Decoder(coding.lanes, words)
    model = Model(coding.rows, coding.width, coding.offsets)
    index = np.empty(coding.rows * coding.width, "uint8")  # K is at most MOST_CODED
    chosen = np.empty(len(index), "float32")
    for low, high, stairs in coding.blocks(values):
        moves = model.code(stairs, high - low, None, lambda _, p: decoder.take(p))
        first, last = low * coding.width, high * coding.width
        index[first:last] = _index(stairs, moves)
        chosen[first:last] = _take(stairs.rows, index[first:last])
        if progress:
            progress(last - first)
    decoder.check_end()
    return index, chosen


def missed(index: Array, values: Values, coding: Coding, rows: int) -> int:
    """How many choices of the first rows no step leads to."""
    last = rows * coding.width
    stairs = STAIRS[coding.stairs](values, coding.start, 0, last)
    return len(moves_of(stairs, index[:last])[1])


def moves_of(stairs: Stairs, index: Array) -> tuple[Array, Array]:
    """The moves that lead to the values of these choices, and where there are none."""
    selected = _take(stairs.rows, index)
    moves, known = np.zeros(len(index), "int64"), _take(stairs.rows, stairs.start) == selected
    for side, sign in enumerate((1, -1)):
        for m, step in enumerate(stairs.steps[side]):
            here = (_take(stairs.rows, step) == selected) & ~known
            here &= stairs.thresholds[side][m] < NEVER
            moves[here] = sign * (m + 1)
            known |= here
    return moves, np.flatnonzero(~known)


def _index(stairs: Stairs, moves: Array) -> Array:
    index = stairs.start.copy()
    for side, sign in enumerate((1, -1)):
        for m, step in enumerate(stairs.steps[side]):
            here = moves == sign * (m + 1)
            index[here] = step[here]
    return index


def _take(rows: Array, index: Array) -> Array:
    return rows[np.arange(len(rows)), index]


def pack(index: Array, num_values: int) -> bytes:
    """`ceil(log2 K)` bits for each index, the lowest bit first."""
    bits = (num_values - 1).bit_length()
    parts = []
    for low in range(0, len(index), _PACKED):
        here = index[low : low + _PACKED].astype("<u2")
        table = here[:, None] >> np.arange(bits, dtype="uint16") & 1
        parts.append(np.packbits(table.astype("uint8").reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)


def packed_size(count: int, num_values: int) -> int:
    """Number of bytes that `pack` writes."""
    return -(-count * (num_values - 1).bit_length() // 8)


def unpack(packed: Any, count: int, num_values: int) -> Array:
    """The indices that `pack` was given, uint16.

    Raises:
        ValueError: If an index is not below K, or a bit behind the last one is set.
    """
    bits = (num_values - 1).bit_length()
    data, index = np.frombuffer(packed, "uint8"), np.empty(count, "uint16")
    for low in range(0, count, _PACKED):
        here = index[low : low + _PACKED]
        flat = np.unpackbits(
            data[low * bits // 8 :][: packed_size(len(here), num_values)], bitorder="little"
        )
        table = flat[: len(here) * bits].reshape(-1, bits)
        here[:] = table @ (1 << np.arange(bits, dtype="uint16"))
        if flat[len(here) * bits :].any() or here.max() >= num_values:
            raise ValueError("packed choices of values that do not exist")
    return index
