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

from keras_slots.envelope import LIMIT, NUDGE, Array, envelope

__all__ = ["NUDGE", "build_staircase", "evaluate", "staircase"]

RowCallback = Callable[[int, int], tuple[Array, Array]]
ProgressCallback = Callable[[int, int], None]

_CHUNK_VALUES = 1 << 17  # bank values handled at once by a thread, in about 5 MB
_BAR_AFTER = 3.0  # seconds


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
    return envelope(wide.T, scores.T)


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
    for threshold, value in zip(thresholds, values[1:], strict=True):
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
        result.put(start, *envelope(*_checked_rows(rows, start, stop, num_values)))
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
