"""The staircase of a connection: which value greedy selection takes at which lever.

A connection with bank values `w_k` and initial scores `s_k` has, at lever `u`, the scores `s_k + w_k * u`. Greedy
selection takes the highest of these K lines, so the selected value is a non-decreasing staircase in `u`. It is
computed once, on the host, and is the same on every backend, for any number of threads.
"""

from __future__ import annotations

import math
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_slots._checks import check_choice, check_finite
from keras_slots.kernels.envelope import Array, envelope
from keras_slots.values.initial_values import InitialValues

# K -> number of steps that a connection exceeds with a probability of 5e-18, for independent values. The K lines
# are K random points (value, score), and a step is an edge of the upper side of their convex hull. For uniform
# points the distribution of the number of edges is known (Buchta 2012, "On the boundary structure of the convex
# hull of random points", for a triangle; a square is two rectangles beside the highest point). Normal and rounded
# values need fewer steps. `test_levels.py` derives the table.
_MOST_STEPS = {
    32: 18, 64: 21, 128: 24, 256: 26, 512: 28, 1024: 31,
    2048: 33, 4096: 35, 8192: 37, 16384: 39, 32768: 40, 65536: 42,
}  # fmt: skip
_CHUNK_VALUES = 1 << 17  # bank values per block of a thread, which takes about 5 MB
_MOST_THREADS = 8
_BAR_AFTER = 3.0  # seconds


class Staircase(NamedTuple):
    """The steps of all n connections of a kernel; all entries are finite.

    How to read it:

        value = steps[0]
        for h in range(levels): value = where(lever > thresholds[h], steps[h + 1], value)

    Both arrays are non-decreasing along the first axis. If a connection has fewer steps, its last threshold and
    its last value repeat.
    """

    thresholds: Array  # (levels, n)
    steps: Array  # (levels + 1, n)


def levels_of(initial: InitialValues) -> int:
    """How many steps to provide; depends only on the arguments of a kernel, never on its draw.

    The chance that a draw needs more is below 1e-9 for 160 million connections. If nothing is known about the
    values (a Keras initializer, given values), it is `K - 1`, which is always enough.

    Example:

    >>> from keras_slots import GlorotUniform, UniformScores
    >>> start = 7, GlorotUniform(), UniformScores(), "connection"
    >>> [levels_of(InitialValues((784, 300), k, (784, 300), *start)) for k in (2, 8, 64)]
    [1, 7, 21]
    """
    most, spread = initial.num_values - 1, initial.bank_source.spread
    if spread == "two values":
        return min(1, most)
    if most < 16 or not initial.score_source.uniform or spread not in ("independent", "strata"):
        return most
    levels = _MOST_STEPS[2 ** math.ceil(math.log2(initial.num_values))]
    return min(most, levels + (spread == "strata"))


def build_staircase(
    initial: InitialValues, dtype: str = "float32", *, bank_dtype: str | None = None, levels: int | None = None
) -> Staircase:
    """Builds the staircases of a kernel, without holding its whole bank in memory, in float64.

    Reading the result at `lever` gives `bank[argmax_k(scores[k] + bank[k] * lever)]`.

    At a lever of exactly 0 the result is the arg-max of the scores (lowest index on ties). This matters because
    connections whose input is always 0 stay there. So thresholds between -1e-30 and 0 become -1e-30, and a value
    that wins only at 0 gets the step from -1e-30 to 0.

    Args:
        initial: Bank and initial scores.
        dtype: `"float32"` or `"float64"`, the dtype of the lever and of the result.
        bank_dtype: Dtype of the values of the layer, to which they are rounded first. Default: `dtype`.
        levels: Number of thresholds; None: `levels_of(initial)`.

    Raises:
        ValueError: If an entry of bank or scores is not finite, or the draw needs more steps than `levels`.

    Not in the paper, which trains all K scores. It is the algorithm of section 3 (greedy selection,
    straight-through gradient, SGD) with K - 1 of the K scores of each connection eliminated exactly.
    """
    check_choice(dtype, "dtype", ("float32", "float64"))
    levels = levels_of(initial) if levels is None else levels
    count = initial.num_connections
    result = Staircase(np.empty((levels, count), dtype), np.empty((levels + 1, count), dtype))
    # NumPy knows bfloat16, because Keras has imported ml_dtypes.
    held = np.dtype(bank_dtype or dtype)
    chunk = max(1, _CHUNK_VALUES // initial.num_values)

    def work(start: int) -> None:
        stop = min(start + chunk, count)
        bank, scores = initial.rows(start, stop)
        bank = check_finite(bank, "bank").astype(held).astype(dtype)
        bank = np.broadcast_to(bank, scores.shape)
        thresholds, steps = envelope(bank, check_finite(scores, "scores"))
        _store(result, slice(start, stop), thresholds, steps)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        tasks = [pool.submit(work, start) for start in range(0, count, chunk)]
        try:
            _wait_with_progress(tasks)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return result


def _store(result: Staircase, columns: slice, thresholds: Array, steps: Array) -> None:
    """Stores the result of `envelope`; the last threshold of a connection repeats, or 0 if it has none."""
    levels, have = len(result.thresholds), len(thresholds)
    if have > levels:
        raise ValueError(
            f"`seed` must give values that need at most {levels} steps. Received: a connection with {have}, which "
            "happens about once in 10^9 networks. Pass another `seed`."
        )
    real = thresholds < np.inf
    rounded = round_down(np.where(real, thresholds, -np.inf), result.thresholds.dtype)
    repeated = np.where(real.any(axis=0), np.maximum.accumulate(rounded, axis=0), 0)
    result.thresholds[:have, columns] = repeated
    result.thresholds[have:, columns] = repeated[-1] if have else 0
    result.steps[: have + 1, columns] = steps
    result.steps[have + 1 :, columns] = steps[-1]


def _wait_with_progress(tasks: list[Future[None]]) -> None:
    """Waits for all tasks or the first error, on a terminal with a progress bar if it takes long."""
    began, bar = time.monotonic(), None
    for done, task in enumerate(as_completed(tasks), start=1):
        task.result()
        if bar is None and time.monotonic() - began > _BAR_AFTER and sys.stdout.isatty():
            bar = keras.utils.Progbar(len(tasks), unit_name="block of connections")
        if bar is not None:
            bar.update(done)


def round_down(thresholds: Array, dtype: np.dtype[Any]) -> Array:
    """Casts to finite numbers such that `u > rounded` equals `u > threshold` for every finite `u` of `dtype`."""
    # A scalar of the dtype, because NumPy 1 would promote the arrays to float64 for a Python number.
    largest = dtype.type(np.finfo(dtype).max)
    with np.errstate(over="ignore", under="ignore"):
        rounded = thresholds.astype(dtype)
        lower = np.nextafter(rounded, dtype.type(-np.inf))
    return np.clip(np.where(rounded > thresholds, lower, rounded), -largest, largest)
