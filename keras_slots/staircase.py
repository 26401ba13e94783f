"""The staircase of one lever per connection: the upper envelope of K lines, in plain NumPy.

A connection with bank values `w_k` and initial scores `s_k` has, at lever `u`, the scores
`s_k + w_k * u`. Greedy selection takes the highest of these K lines, so the selected value is a
non-decreasing staircase in `u`. It is computed once, on the host, and is the same on every
backend, for any number of threads.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
RowCallback = Callable[[int, int], tuple[Array, Array]]
ProgressCallback = Callable[[int, int], None]

# A threshold below zero is at most -NUDGE, so that a lever of exactly 0 is above it. Not a denormal
# number, and far from one: accelerators and compiled code flush those to 0.
NUDGE = 1e-30
# Inputs stay below, and thresholds beyond are dropped: no float32 lever gets there.
LIMIT = 1e300

_CHUNK_VALUES = 1 << 17  # bank values handled at once by a thread, in about 5 MB
_BAR_AFTER = 3.0  # seconds

_Step = tuple[Array, Array, Array]  # rows, thresholds, values


def staircase(bank: Any, scores: Any) -> tuple[Array, Array]:
    """Computes, for every connection, which value greedy selection takes at which lever.

    Forward: `value(u) = bank[argmax_k(scores[k] + bank[k] * u)]`, written as the values
    `v_0 <= ... <= v_H` and the thresholds `b_1 < ... < b_H` of `evaluate`.

    At a lever of exactly 0 the result is the arg-max of `scores` (lowest index on ties), as
    connections whose input is always 0 stay there for ever: thresholds between -1e-30 and 0
    become -1e-30, and a value that wins at 0 alone gets the step from -1e-30 to 0.

    Args:
        bank: Floats of shape `(K, n)`, or `(K, 1)` when all connections share their K values.
        scores: Floats of shape `(K, n)`: the initial scores, in units of lever times value.

    Returns:
        `(thresholds, values)`: float64 of shape `(H, n)`, padded with `inf`, and values of the
        dtype of `bank` of shape `(H + 1, n)`, padded with the last one. `H` is the largest number
        of steps in this call. All arithmetic is in float64.

    Raises:
        ValueError: If shapes do not fit, or an entry is not finite.

    Example:

    >>> import numpy as np
    >>> from keras_slots.staircase import staircase
    >>> bank = np.array([[-1.0], [0.0], [2.0]])
    >>> scores = np.array([[0.0], [1.0], [0.0]])
    >>> thresholds, values = staircase(bank, scores)
    >>> thresholds.ravel().tolist(), values.ravel().tolist()
    ([-1.0, 0.5], [-1.0, 0.0, 2.0])

    Not in the paper, which trains all K scores: it is the algorithm of section 3 (greedy
    selection, straight-through gradient, SGD) with K - 1 of each connection's K scores
    eliminated exactly.
    """
    bank, scores = _as_floats(bank, "bank"), _as_floats(scores, "scores")
    num_values, num_connections = scores.shape if scores.ndim == 2 else (0, 0)
    if num_values < 1:
        raise ValueError(
            "`scores` must have shape (num_values, connections) with at least one value. "
            f"Received: scores.shape={scores.shape}"
        )
    if bank.shape not in ((num_values, num_connections), (num_values, 1)):
        raise ValueError(
            "`bank` must have the shape of `scores`, or (num_values, 1) if the values are shared. "
            f"Received: bank.shape={bank.shape}, scores.shape={scores.shape}"
        )
    wide = np.broadcast_to(bank, scores.shape)
    return _envelope(wide.T, scores.T)


def evaluate(thresholds: Array, values: Array, lever: Any, decay: float = 1.0) -> Array:
    """Selects one value per connection: the NumPy reference of the layers' forward pass.

    Forward: `w = v_0; for h in 1..H: w = v_h where lever > decay * b_h`.

    Args:
        thresholds: Shape `(H, n)`, as `staircase` returns them.
        values: Shape `(H + 1, n)`.
        lever: Shape `(n,)` or a number.
        decay: Product of the weight-decay factors `1 - learning_rate * weight_decay` of all
            steps so far, the factor `c` in `scores = c * initial_scores + bank * lever`.

    Returns:
        The selected values, shape `(n,)`.

    Example:

    >>> import numpy as np
    >>> from keras_slots.staircase import evaluate
    >>> thresholds, values = np.array([[-1.0], [0.5]]), np.array([[-1.0], [0.0], [2.0]])
    >>> [evaluate(thresholds, values, u).item() for u in (-3.0, 0.0, 0.6)]
    [-1.0, 0.0, 2.0]
    """
    selected = values[0]
    for threshold, value in zip(thresholds, values[1:]):
        selected = np.where(lever > decay * threshold, value, selected)
    return selected


def build_staircase(
    num_connections: int,
    num_values: int,
    rows: RowCallback,
    dtype: Any = "float32",
    *,
    workers: int | None = None,
    progress: ProgressCallback | bool = True,
) -> tuple[Array, Array]:
    """Builds the staircase of a whole kernel without ever holding its bank.

    Same result as `staircase` on the whole bank, for any `workers`. In float32 the thresholds are
    rounded down, so comparing a float32 lever with them is the comparison with the float64 ones.

    Args:
        num_connections: Number of connections of the kernel, its size.
        num_values: K.
        rows: Called as `rows(start, stop)` from several threads at once. Returns the bank and the
            scores of the connections `start` to `stop - 1`, each of shape
            `(stop - start, num_values)`; the bank may be `(num_values,)` if it is shared.
        dtype: `"float32"` or `"float64"`, of both results: the variable dtype of the layer.
        workers: Number of threads. Default: one per core.
        progress: `True` draws a bar on stderr once the build has taken 3 seconds, `False` is
            silent, and a function is called as `progress(connections_done, num_connections)`.

    Returns:
        `(thresholds, values)` of shapes `(H, num_connections)` and `(H + 1, num_connections)`.

    Raises:
        ValueError: If `dtype` is another one, or `rows` returns other shapes or entries that are
            not finite.

    Example:

    >>> import numpy as np
    >>> from keras_slots.staircase import build_staircase
    >>> bank = np.array([-1.0, 0.0, 2.0], "float32")
    >>> def rows(start, stop):
    ...     return bank, np.tile(np.array([0.0, 1.0, 0.0], "float32"), (stop - start, 1))
    >>> thresholds, values = build_staircase(5, 3, rows)
    >>> thresholds.shape, values.shape, thresholds[:, 0].tolist()
    ((2, 5), (3, 5), [-1.0, 0.5])
    """
    if np.dtype(dtype) not in (np.dtype("float32"), np.dtype("float64")):
        raise ValueError(
            f"`dtype` must be 'float32' or 'float64', to hold thresholds of 1e-30. "
            f"Received: dtype={dtype}"
        )
    result = _Result(num_connections, np.dtype(dtype))
    report = _Bar() if progress is True else progress or None
    chunk = max(1, _CHUNK_VALUES // max(num_values, 1))

    def work(start: int) -> None:
        stop = min(start + chunk, num_connections)
        result.put(start, *_envelope(*_checked_rows(rows, start, stop, num_values)))
        result.report(stop - start, report)

    count = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(count) as pool:
        tasks = [pool.submit(work, start) for start in range(0, num_connections, chunk)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            if isinstance(report, _Bar):
                report.close()
    return result.thresholds, result.values


def _as_floats(array: Any, name: str) -> Array:
    """Returns `array` as a NumPy array of floats, all finite."""
    array = np.asarray(array)
    if array.dtype.kind in "iub":
        array = array.astype("float64")
    if array.size and not (-LIMIT < float(array.min()) and float(array.max()) < LIMIT):
        raise ValueError(
            f"`{name}` must be finite (and below 1e300), but holds NaN, infinite or larger "
            f"entries. Check the initializer. Received: {name} from {array.min()} to {array.max()}"
        )
    return array


def _checked_rows(rows: RowCallback, start: int, stop: int, num_values: int) -> tuple[Array, Array]:
    """Calls `rows` and returns bank and scores of one shape."""
    bank, scores = rows(start, stop)
    bank, scores = _as_floats(bank, "bank"), _as_floats(scores, "scores")
    expected = (stop - start, num_values)
    if scores.shape != expected or bank.shape not in (expected, (num_values,)):
        raise ValueError(
            f"`rows({start}, {stop})` must return bank and scores of shape {expected}, or a shared "
            f"bank of shape {(num_values,)}. "
            f"Received: bank.shape={bank.shape}, scores.shape={scores.shape}"
        )
    return np.broadcast_to(bank, expected), scores


def _envelope(bank: Array, scores: Array) -> tuple[Array, Array]:
    """Returns thresholds `(H, n)` in float64 and values `(H + 1, n)` of bank and scores `(n, K)`.

    Two walks start at a lever of 0, where the winner is known without rounding: to the right from
    the steepest of the winners, to the left from the flattest.
    """
    slopes = np.ascontiguousarray(bank, "float64")
    heights = np.ascontiguousarray(scores, "float64")
    low, chosen, high = _winners_at_zero(slopes, heights)
    # The smallest difference of two scores, so that a quotient with it overtakes all others.
    floor = {2: 2.0**-24, 4: 2.0**-149}.get(scores.dtype.itemsize, 2.0**-1022)
    left, left_count, last = _walk(slopes, heights, low, -1, floor)
    right, right_count, last = _walk(slopes, heights, high, 1, floor)

    index = np.arange(len(slopes))
    low_value, value, high_value = (slopes[index, k] for k in (low, chosen, high))
    into, out = low_value < value, value < high_value  # the steps at a lever of 0
    total = left_count + into + out + right_count
    size = int(total.max(initial=0))
    thresholds = np.full((size, len(slopes)), np.inf)
    values = np.repeat(last[None], size + 1, axis=0)
    for distance, (at, threshold, reached) in enumerate(left):
        step = left_count[at] - 1 - distance
        thresholds[step, at] = -threshold
        values[step, at] = reached
    values[left_count, index] = low_value
    thresholds[left_count[into], index[into]] = -NUDGE
    values[(left_count + into)[into], index[into]] = value[into]
    thresholds[(left_count + into)[out], index[out]] = 0.0
    offset = left_count + into + out
    values[offset, index] = high_value
    for distance, (at, threshold, reached) in enumerate(right):
        thresholds[offset[at] + distance, at] = threshold
        values[offset[at] + distance + 1, at] = reached
    thresholds, values = _merge_equal(thresholds, values)
    return thresholds, values.astype(bank.dtype)


def _winners_at_zero(slopes: Array, heights: Array) -> tuple[Array, Array, Array]:
    """Returns the lines that win left of, at, and right of a lever of 0: the arg-max of heights."""
    first = heights.argmax(axis=1)
    ties = heights == heights[np.arange(len(heights)), first][:, None]
    if np.count_nonzero(ties) == len(heights):
        return first, first, first
    low, high = first.copy(), first.copy()
    at = np.flatnonzero(ties.sum(axis=1) > 1)
    low[at] = np.where(ties[at], slopes[at], np.inf).argmin(axis=1)
    high[at] = np.where(ties[at], slopes[at], -np.inf).argmax(axis=1)
    return low, first, high


def _walk(
    slopes: Array, heights: Array, start: Array, direction: int, floor: float
) -> tuple[list[_Step], Array, Array]:
    """Walks along the envelope from a lever of 0 (gift wrapping), all connections side by side.

    From the line `c`, the next one is the first to be met: among the steeper ones, that with
    the largest `(w_k - w_c) / (s_c - s_k)`. Lines that are not steeper have a negative quotient
    once `s_c - s_k` is made positive. Towards negative levers (`direction=-1`) all slopes count
    negated. Crossings that rounding makes equal leave a step of no width, see `_merge_equal`.

    Returns:
        The steps in order, each `(connections, thresholds >= 0, values)`, the number of steps of
        each connection, and the value that each ends with.
    """
    index = np.arange(len(slopes))
    slope, height = slopes[index, start], heights[index, start]
    end = slopes.max(axis=1) if direction > 0 else slopes.min(axis=1)
    count = np.zeros(len(slopes), "int64")
    last = slope.copy()
    reach = np.full(len(slopes), 0.0 if direction > 0 else NUDGE)
    gain, loss = np.empty_like(slopes), np.empty_like(slopes)
    steps: list[_Step] = []
    keep = slope != end
    while True:
        if not keep.all():
            index, slope, height, reach, end = (a[keep] for a in (index, slope, height, reach, end))
            slopes, heights = slopes[keep], heights[keep]
            gain, loss = gain[: len(index)], loss[: len(index)]
        if not len(index):
            return steps, count, last
        np.subtract(slopes, slope[:, None], out=gain)
        if direction < 0:
            np.negative(gain, out=gain)
        np.subtract(height[:, None], heights, out=loss)
        np.maximum(loss, floor, out=loss)
        with np.errstate(over="ignore", under="ignore"):
            np.divide(gain, loss, out=gain)
        best = gain.argmax(axis=1)
        row = np.arange(len(index))
        quotient = gain[row, best]
        next_slope, next_height = slopes[row, best], heights[row, best]
        keep = quotient > 1.0 / LIMIT
        if not keep.all():
            # (rare) the next step is out of reach of any lever
            index, slope, height, reach, end = (a[keep] for a in (index, slope, height, reach, end))
            slopes, heights = slopes[keep], heights[keep]
            gain, loss = gain[: len(index)], loss[: len(index)]
            next_slope, next_height = next_slope[keep], next_height[keep]
        with np.errstate(over="ignore", under="ignore"):
            crossing = (height - next_height) / np.abs(next_slope - slope)
        reach = np.maximum(reach, crossing)
        slope, height = next_slope, next_height
        steps.append((index, reach, slope))
        count[index] += 1
        last[index] = slope
        keep = slope != end


def _merge_equal(thresholds: Array, values: Array) -> tuple[Array, Array]:
    """Removes steps of no width: of equal thresholds the last one stays."""
    empty = (thresholds[:-1] == thresholds[1:]) & (thresholds[1:] < np.inf)
    if not empty.any():
        return thresholds, values
    at = np.flatnonzero(empty.any(axis=0))
    drop = np.concatenate([empty[:, at], np.zeros((1, len(at)), bool)])
    order = np.argsort(drop, axis=0, kind="stable")
    kept = np.where(drop, np.inf, thresholds[:, at])
    thresholds[:, at] = np.take_along_axis(kept, order, axis=0)
    reached = np.where(drop, values[-1, at], values[1:, at])
    values[1:, at] = np.take_along_axis(reached, order, axis=0)
    size = int((thresholds < np.inf).sum(axis=0).max(initial=0))
    return thresholds[:size], values[: size + 1]


def _round_down(thresholds: Array, dtype: np.dtype[Any]) -> Array:
    """Casts such that `u > rounded` is `u > threshold` for every finite `u` of `dtype`."""
    if dtype == thresholds.dtype:
        return thresholds
    with np.errstate(over="ignore", under="ignore"):
        rounded = thresholds.astype(dtype)
        lower = np.nextafter(rounded, dtype.type(-np.inf))
    # -inf would turn into NaN where a decay factor has become 0
    return np.maximum(np.where(rounded > thresholds, lower, rounded), np.finfo(dtype).min)


class _Result:
    """The arrays of a build, which grow with the largest number of steps seen so far."""

    def __init__(self, num_connections: int, dtype: np.dtype[Any]):
        self.thresholds = np.empty((0, num_connections), dtype)
        self.values = np.zeros((1, num_connections), dtype)
        self.done = 0
        self._lock = threading.Lock()

    def put(self, start: int, thresholds: Array, values: Array) -> None:
        thresholds = _round_down(thresholds, self.thresholds.dtype)
        size, count = thresholds.shape
        columns = slice(start, start + count)
        with self._lock:
            have, total = self.thresholds.shape
            if size > have:
                # Rows are added at the end: memory is extended in place where the system can.
                self.thresholds.resize((size, total), refcheck=False)
                self.values.resize((size + 1, total), refcheck=False)
                self.thresholds[have:] = np.inf
                self.values[have + 1 :] = self.values[have]
            self.thresholds[:size, columns] = thresholds
            self.thresholds[size:, columns] = np.inf
            self.values[: size + 1, columns] = values
            self.values[size + 1 :, columns] = values[-1]

    def report(self, count: int, progress: ProgressCallback | None) -> None:
        with self._lock:
            self.done += count
            if progress is not None:
                progress(self.done, self.thresholds.shape[1])


class _Bar:
    """A text progress bar on stderr, for builds that take more than a few seconds."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.drawn = False

    def __call__(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self.began
        if seconds < _BAR_AFTER:
            return
        filled = 30 * done // total
        bar = "=" * filled + "." * (30 - filled)
        sys.stderr.write(f"\rstaircase [{bar}] {100 * done // total:3d}% {seconds:.0f}s")
        sys.stderr.flush()
        self.drawn = True

    def close(self) -> None:
        if self.drawn:
            sys.stderr.write("\n")
