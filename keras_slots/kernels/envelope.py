"""The upper envelope of K lines per connection, in plain NumPy and float64.

The lines of a connection are `heights[k] + slopes[k] * lever`: `slopes` are its bank values and `heights` its
initial scores, both of shape `(connections, K)`. `keras_slots.kernels.staircase` puts the results into
arrays of fixed shape.
"""

from typing import Any

import numpy as np

from keras_slots._checks import LIMIT

Array = np.ndarray[Any, Any]

# A threshold below zero is at most -NUDGE, so that a lever of exactly 0 is above it. It is far from the
# denormal numbers, which accelerators and compiled code flush to 0.
NUDGE = 1e-30

_Crossing = tuple[Array, Array, Array]  # connections, thresholds >= 0, values reached


def envelope(bank: Array, scores: Array) -> tuple[Array, Array]:
    """Returns thresholds `(H, n)` in float64 and steps `(H + 1, n)` of bank and scores `(n, K)`.

    The value at a lever is `steps[h]`, where h is the number of thresholds below it. H is the largest number of
    thresholds in this call; a connection with fewer is padded with infinity and its last value.

    Two walks start at a lever of 0, where the winner is known without rounding: one to the right from the steepest
    of the winners, and one to the left from the flattest.
    """
    slopes = np.ascontiguousarray(bank, "float64")
    heights = np.ascontiguousarray(scores, "float64")
    low, chosen, high = _winners_at_zero(slopes, heights)
    # Smaller than any difference of two scores, so that a quotient with it exceeds all others.
    floor = 2.0**-149 if scores.dtype.itemsize <= 4 else 2.0**-1022
    left, left_count, last = _walk(slopes, heights, low, -1, floor)
    right, right_count, last = _walk(slopes, heights, high, 1, floor)

    index = np.arange(len(slopes))
    low_value, value, high_value = (_take_per_row(slopes, k) for k in (low, chosen, high))
    into, out = low_value < value, value < high_value  # the steps at a lever of 0
    total = left_count + into + out + right_count
    height = int(total.max(initial=0))
    thresholds = np.full((height, len(slopes)), np.inf)
    steps = np.repeat(last[None], height + 1, axis=0)
    for distance, (at, threshold, reached) in enumerate(left):
        row = left_count[at] - 1 - distance
        thresholds[row, at] = -threshold
        steps[row, at] = reached
    steps[left_count, index] = low_value
    thresholds[left_count[into], index[into]] = -NUDGE
    steps[(left_count + into)[into], index[into]] = value[into]
    thresholds[(left_count + into)[out], index[out]] = 0.0
    offset = left_count + into + out
    steps[offset, index] = high_value
    for distance, (at, threshold, reached) in enumerate(right):
        thresholds[offset[at] + distance, at] = threshold
        steps[offset[at] + distance + 1, at] = reached
    thresholds, steps = _merge_equal(thresholds, steps)
    return thresholds, steps.astype(bank.dtype)


def _winners_at_zero(slopes: Array, heights: Array) -> tuple[Array, Array, Array]:
    """Returns the lines that win just left of, at, and just right of a lever of 0."""
    first = heights.argmax(axis=1)
    ties = heights == _take_per_row(heights, first)[:, None]
    if np.count_nonzero(ties) == len(heights):
        return first, first, first
    low, high = first.copy(), first.copy()
    at = np.flatnonzero(ties.sum(axis=1) > 1)
    low[at] = np.where(ties[at], slopes[at], np.inf).argmin(axis=1)
    high[at] = np.where(ties[at], slopes[at], -np.inf).argmax(axis=1)
    return low, first, high


def _walk(
    slopes: Array, heights: Array, start: Array, direction: int, floor: float
) -> tuple[list[_Crossing], Array, Array]:
    """Walks along the envelope from a lever of 0 (gift wrapping), for all connections at once.

    Towards negative levers (`direction=-1`) all slopes are negated. Returns the crossings in order, their number
    at each connection, and the value that each ends with. Crossings that rounding makes equal leave a step of
    width 0, see `_merge_equal`.
    """
    index = np.arange(len(slopes))
    slope, height = _take_per_row(slopes, start), _take_per_row(heights, start)
    end = _take_per_row(slopes, slopes.argmax(axis=1) if direction > 0 else slopes.argmin(axis=1))
    reach = np.full(len(slopes), 0.0 if direction > 0 else NUDGE)
    count, last = np.zeros(len(slopes), "int64"), slope.copy()
    scratch = np.empty((2, slopes.size))
    crossings: list[_Crossing] = []
    while True:
        slopes, heights, index, slope, height, end, reach = _filter_rows(
            slope != end, (slopes, heights, index, slope, height, end, reach)
        )
        if not len(index):
            return crossings, count, last
        best, quotient = _next_line(slopes, heights, slope, height, direction, floor, scratch)
        next_slope, next_height = _take_per_row(slopes, best), _take_per_row(heights, best)
        # The walk ends where no finite lever reaches the crossing.
        slopes, heights, index, slope, height, end, reach, next_slope, next_height = _filter_rows(
            quotient > 1.0 / LIMIT, (slopes, heights, index, slope, height, end, reach, next_slope, next_height)
        )
        with np.errstate(over="ignore", under="ignore"):
            reach = np.maximum(reach, (height - next_height) / np.abs(next_slope - slope))
        slope, height = next_slope, next_height
        crossings.append((index, reach, slope))
        count[index] += 1
        last[index] = slope


def _next_line(
    slopes: Array, heights: Array, slope: Array, height: Array, direction: int, floor: float, scratch: Array
) -> tuple[Array, Array]:
    """Returns the line that the current one meets first, and 1 / (lever of the crossing).

    Among the steeper lines it is the one with the largest `(w_k - w_c) / (s_c - s_k)`. Lines that are not steeper
    have a quotient of at most 0 once `s_c - s_k` is made positive.
    """
    gain, loss = (array[: slopes.size].reshape(slopes.shape) for array in scratch)
    if direction > 0:
        np.subtract(slopes, slope[:, None], out=gain)
    else:
        np.subtract(slope[:, None], slopes, out=gain)
    np.subtract(height[:, None], heights, out=loss)
    np.clip(loss, floor, np.inf, out=loss)  # three times faster than `maximum` with a number
    with np.errstate(over="ignore", under="ignore"):
        np.divide(gain, loss, out=gain)
    best = gain.argmax(axis=1)
    return best, _take_per_row(gain, best)


def _take_per_row(lines: Array, which: Array) -> Array:
    """Returns `lines[i, which[i]]` for all i."""
    return lines.take(np.arange(0, lines.size, lines.shape[1]) + which)


def _filter_rows(keep: Array, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Returns the rows of all arrays that `keep` marks."""
    if keep.all():
        return arrays
    at = np.flatnonzero(keep)
    return tuple(array.take(at, axis=0) for array in arrays)


def _merge_equal(thresholds: Array, steps: Array) -> tuple[Array, Array]:
    """Removes steps of width 0: of equal thresholds the last one stays."""
    empty = (thresholds[:-1] == thresholds[1:]) & (thresholds[1:] < np.inf)
    if not empty.any():
        return thresholds, steps
    at = np.flatnonzero(empty.any(axis=0))
    drop = np.concatenate([empty[:, at], np.zeros((1, len(at)), bool)])
    order = np.argsort(drop, axis=0, kind="stable")
    kept = np.where(drop, np.inf, thresholds[:, at])
    thresholds[:, at] = np.take_along_axis(kept, order, axis=0)
    reached = np.where(drop, steps[-1, at], steps[1:, at])
    steps[1:, at] = np.take_along_axis(reached, order, axis=0)
    height = int((thresholds < np.inf).sum(axis=0).max(initial=0))
    return thresholds[:height], steps[: height + 1]
