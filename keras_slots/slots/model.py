"""How probable each step is, learned while coding: counts for each context, in integer arithmetic.

A connection is coded as decisions: is its lever beyond the first threshold towards larger values, beyond the
second, and so on; and if not beyond the first, the same towards smaller values. The context of a decision is how
far the threshold lies from where levers nearby let expect this one, and how much levers nearby moved at all.
Rows of connections that are alike are a distance apart that the file names: neighbouring pixels of an image, or
the same channel at the neighbouring place of a convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_slots.slots.rans import BITS, FULL
from keras_slots.slots.stairs import NEVER, Stairs

Array = np.ndarray[Any, Any]
#: `(known bits or None, p) -> bits`: codes a block of decisions.
Code = Callable[[Array | None, Array], Array]

_GAPS, _ACTIVITIES = 96, 12
_COUNT_BITS = 11  # counts are halved from 2**11 on, so that they follow what changes


def size_class(x: Array) -> Array:
    """Half octaves: `2 floor(log2 x)`, and 1 more where x is at least 1.5 times that power. x in [1, 2**53)."""
    # The exponent and the first digit of a float64.
    return (x.astype("float64").view("int64") >> 51) - (1023 << 1)


class Model:
    """Counts and what is known of the rows before.

    Args:
        rows: Number of rows of the kernel.
        width: Connections of a row.
        offsets: How many rows back the rows lie that are alike.
    """

    def __init__(self, rows: int, width: int, offsets: tuple[int, ...]):
        self.width, self.offsets = width, offsets
        self._ones = np.ones(4 * _GAPS * _ACTIVITIES, "int64")
        self._all = np.full(4 * _GAPS * _ACTIVITIES, 3, "int64")
        # Only as many rows as the offsets reach back.
        self._kept = max(offsets, default=0) + 1
        self._levers = np.zeros((0, width), "int64")
        self._moves = np.zeros(0, "int64")

    def code(self, stairs: Stairs, count: int, moves: Array | None, code: Code) -> Array:
        """Codes the next rows; returns the moves: the number of steps to larger values, or minus that to smaller.

        Args:
            stairs: Steps of their connections.
            count: Number of rows.
            moves: The moves where they are known, int64 of shape `(n,)`; None to decode.
            code: Codes decisions, or decodes them.
        """
        expected, activity = self._expect(count)
        n = len(stairs.start)
        found = np.zeros(n, "int64")
        low, high = np.full(n, -NEVER), np.full(n, NEVER)
        for side, sign in enumerate((1, -1)):
            where = np.flatnonzero(found == 0)
            for m, threshold in enumerate(stairs.thresholds[side]):
                far = threshold[where]
                exists = far < NEVER
                where, far = where[exists], far[exists]
                if not len(where):
                    break
                bits = None if moves is None else sign * moves[where] > m
                context = _context(
                    2 * side + min(m, 1), far, sign * expected[where], activity[where]
                )
                bits = self._decide(context, bits, code)
                # Levers that stay are on this side of the threshold, the others beyond it.
                stays, goes = where[~bits], where[bits]
                (high if sign > 0 else low)[stays] = sign * far[~bits]
                (low if sign > 0 else high)[goes] = sign * far[bits]
                found[goes] = sign * (m + 1)
                where = goes
        self._remember(np.clip(expected, low, high), found)
        return found

    def _decide(self, context: Array, bits: Array | None, code: Code) -> Array:
        p = np.clip((self._ones[context] << BITS) // self._all[context], 1, FULL - 1)
        bits = code(bits, p)
        size = len(self._all)
        self._ones += 2 * np.bincount(context[bits], minlength=size)
        self._all += 2 * np.bincount(context, minlength=size)
        over = np.flatnonzero(self._all >= 1 << _COUNT_BITS)
        if len(over):
            shift = size_class(self._all[over]) // 2 + 1 - _COUNT_BITS
            self._ones[over] >>= shift
            self._all[over] >>= shift
        return bits

    def _expect(self, count: int) -> tuple[Array, Array]:
        """Where the levers of the next rows are expected, and the activity, 0 to 11, of each connection's row."""
        width, have = self.width, len(self._moves)
        total = np.zeros((count, width), "int64")
        moves, number = np.zeros(count, "int64"), np.zeros(count, "int64")
        for offset in self.offsets:
            # Of the rows `first` to `count - 1`; nothing is known before the first row of the kernel.
            first = max(0, offset - have)
            if first >= count:
                continue
            rows = slice(have - offset + first, have - offset + count)
            total[first:] += self._levers[rows]
            moves[first:] += self._moves[rows]
            number[first:] += 1
        number = np.maximum(number, 1)
        expected = (7 * total) // (8 * number[:, None])
        share = np.maximum((moves << 8) // (number * width), 1)
        activity = np.clip(size_class(share) - 8, 0, _ACTIVITIES - 1)
        return expected.reshape(-1), np.repeat(activity, width)

    def _remember(self, levers: Array, moves: Array) -> None:
        rows = levers.reshape(-1, self.width)
        steps = np.abs(moves).reshape(-1, self.width).sum(axis=1)
        self._levers = np.concatenate([self._levers, rows])[-self._kept :]
        self._moves = np.concatenate([self._moves, steps])[-self._kept :]


def _context(kind: int, far: Array, expected: Array, activity: Array) -> Array:
    gap = far - expected
    size = size_class(np.maximum(np.abs(gap), 1))
    place = np.where(gap > 0, 32 + np.minimum(size, 63), 31 - np.minimum(size // 2, 31))
    return (kind * _GAPS + place) * _ACTIVITIES + activity
