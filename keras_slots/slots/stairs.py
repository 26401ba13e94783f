"""Which values a connection can move to, and how far its lever must go for each: what makes choices predictable.

Training starts each connection at one value. Its lever then has to pass a threshold to reach the next larger one,
another to reach the one after, and the same to the other side. A `Stairs` holds these thresholds as integers, in
units that are the same for all connections of a kernel, so that a decoder in any language computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_slots.slots.values import Stream, Values, to_integers

Array = np.ndarray[Any, Any]

#: The threshold of a step that does not exist.
NEVER = 2**40


@dataclass(frozen=True)
class Stairs:
    """Steps of n connections, outwards from where each starts.

    Attributes:
        rows: All values of the connections, float32 of shape `(n, K)`.
        start: Index of the value at the start, int64 of shape `(n,)`.
        steps: For larger and for smaller values: the index that step m leads to, a list of `(n,)`.
        thresholds: The same: how far the lever must go, at least 1; `NEVER` where there is no such step.
    """

    rows: Array
    start: Array
    steps: tuple[list[Array], list[Array]]
    thresholds: tuple[list[Array], list[Array]]


@dataclass(frozen=True)
class Start:
    """What is known of where connections start.

    Attributes:
        exponent: Values count as `trunc(value * 2**exponent)`.
        stream: Initial scores in units of 2**-23 (`hull`), or w0 in the units of the values (`nearest`).
        gain: float32 that multiplies w0; 0: all connections start at zero.
    """

    exponent: int
    stream: Stream
    gain: float = 0.0


def hull(values: Values, start: Start, first: int, last: int) -> Stairs:
    """Steps of the upper envelope of the K lines `score + value * lever`, from the value of the highest score.

    From value c at score s_c the next larger one is the k with the largest `(w_k - w_c) / (s_c - s_k)`, the lowest
    k of equal ones; the threshold is the inverse, `floor(2**16 (s_c - s_k) / (w_k - w_c))`. A float64 quotient of
    integers below 2**26 orders them exactly.
    """
    k = values.num_values
    rows = values.rows(first, last)
    bank = to_integers(rows, start.exponent)
    scores = to_integers(start.stream.draw((last - first) * k, first * k).reshape(-1, k), 23)
    begin = scores.argmax(axis=1)
    found = [_walk(bank, scores, begin, direction) for direction in (1, -1)]
    return Stairs(rows, begin, (found[0][0], found[1][0]), (found[0][1], found[1][1]))


def _walk(
    bank: Array, scores: Array, begin: Array, direction: int
) -> tuple[list[Array], list[Array]]:
    count, k = bank.shape
    steps: list[Array] = []
    thresholds: list[Array] = []
    at, current = np.arange(count), begin
    while k > 1:
        line = np.arange(0, bank.size, k)
        value, score = (x.reshape(-1).take(line + current) for x in (bank, scores))
        gain = bank - value[:, None] if direction > 0 else value[:, None] - bank
        loss = np.maximum(score[:, None] - scores, 1)
        best = (gain / loss).argmax(axis=1)  # at most 0 for values that are not further out
        gained, lost = (x.reshape(-1).take(line + best) for x in (gain, loss))
        on = np.flatnonzero(gained > 0)
        if not len(on):
            return steps, thresholds
        if len(on) < len(at):
            at, bank, scores = at[on], bank[on], scores[on]
            best, gained, lost = best[on], gained[on], lost[on]
        steps.append(np.zeros(count, "int64"))
        thresholds.append(np.full(count, NEVER, "int64"))
        steps[-1][at] = current = best
        thresholds[-1][at] = np.maximum((lost << 16) // gained, 1)
    return steps, thresholds


def nearest(values: Values, start: Start, first: int, last: int) -> Stairs:
    """All K values in their order, from the one nearest to a target: `trunc(gain * w0)`.

    Thresholds are twice the distances from the target to the midpoints of neighbouring values.
    """
    rows = values.rows(first, last)
    bank = to_integers(rows, start.exponent)
    order = bank.argsort(axis=1, kind="stable")
    bank = np.take_along_axis(bank, order, axis=1)
    middle = bank[:, 1:] + bank[:, :-1]
    target = np.zeros(len(bank), "int64")
    if start.gain:
        w0 = start.stream.draw(last - first, first).astype("float64")
        target = 2 * to_integers(w0 * float(np.float32(start.gain)), 0)
    begin = (middle < target[:, None]).sum(axis=1)
    at, k = np.arange(len(bank)), values.num_values
    steps: tuple[list[Array], list[Array]] = ([], [])
    thresholds: tuple[list[Array], list[Array]] = ([], [])
    for side, sign in enumerate((1, -1)):
        for m in range(k - 1):
            place = begin + sign * (m + 1)
            exists = (place < k) & (place >= 0)
            if not exists.any():
                break
            place = np.where(exists, place, begin)
            gap = np.where(exists, place - (1 - side), 0)  # the midpoint on the way
            far = np.maximum(sign * (middle[at, gap] - target), 1)
            steps[side].append(order[at, place])
            thresholds[side].append(np.where(exists, far, NEVER))
    return Stairs(rows, order[at, begin], steps, thresholds)
