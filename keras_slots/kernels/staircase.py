"""The staircase of one lever per connection: which value greedy selection takes at which lever.

A connection with bank values `w_k` and initial scores `s_k` has, at lever `u`, the scores `s_k + w_k * u`. Greedy
selection takes the highest of these K lines, so the selected value is a non-decreasing staircase in `u`. It is
computed once, on the host, and is the same on every backend, for any number of threads.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_slots._checks import check_choice, check_finite
from keras_slots.kernels.capacity import Capacity, capacity
from keras_slots.kernels.envelope import Array, envelope
from keras_slots.values.initial_values import InitialValues

_CHUNK_VALUES = 1 << 17  # bank values handled at once by a thread, in about 5 MB
_MOST_THREADS = 8
_BAR_AFTER = 3.0  # seconds


class Staircase(NamedTuple):
    """The steps of all n connections of a kernel. Shapes depend on `capacity` alone, all entries are finite.

    Reading:

        value = steps[0]
        for h in range(levels): value = where(lever > thresholds[h], steps[h + 1], value)

    then the same for the connections `overflow_index`, on from their `value`, with `overflow_thresholds` and
    `overflow_steps`. Where a connection has fewer steps, its last threshold and its last value repeat. Places for
    overflow that are not needed name other connections, whose value they keep.

    Attributes:
        thresholds: Shape `(levels, n)`, non-decreasing along the first axis.
        steps: Shape `(levels + 1, n)`, the values; non-decreasing too.
        overflow_index: int32, shape `(overflow_count,)`: sorted, no two alike.
        overflow_thresholds: Shape `(overflow_levels, overflow_count)`.
        overflow_steps: Shape `(overflow_levels, overflow_count)`.
    """

    thresholds: Array
    steps: Array
    overflow_index: Array
    overflow_thresholds: Array
    overflow_steps: Array


def build_staircase(
    initial: InitialValues, dtype: str = "float32", *, bank_dtype: str | None = None, size: Capacity | None = None
) -> Staircase:
    """Builds the staircases of a whole kernel without ever holding its bank.

    Reading the result at `lever` gives `bank[argmax_k(scores[k] + bank[k] * lever)]`. All arithmetic is in
    float64. In float32 the thresholds are rounded down, so that comparing a float32 lever with them is the
    comparison with the float64 ones.

    At a lever of exactly 0 the result is the arg-max of the scores (lowest index on ties), as connections whose
    input is always 0 stay there for ever: thresholds between -1e-30 and 0 become -1e-30, and a value that wins at
    0 alone gets the step from -1e-30 to 0.

    A build of more than three seconds shows a progress bar, on a terminal only.

    Args:
        initial: Bank and initial scores.
        dtype: `"float32"` or `"float64"`, the dtype of the lever and of the result.
        bank_dtype: Dtype in which the layer holds its values, to which they are rounded first. Default: `dtype`.
        size: Sizes of the arrays; None: `capacity(initial)`. A built kernel that takes other values keeps its own.

    Raises:
        ValueError: If an entry of bank or scores is not finite, or the draw needs more steps than `size` has.

    Not in the paper, which trains all K scores: it is the algorithm of section 3 (greedy selection,
    straight-through gradient, SGD) with K - 1 of each connection's K scores eliminated exactly.
    """
    check_choice(dtype, "dtype", ("float32", "float64"))
    size = capacity(initial) if size is None else size
    result = _Result(initial.num_connections, size, np.dtype(dtype))
    # Keras has imported ml_dtypes, by which NumPy knows bfloat16.
    held = np.dtype(bank_dtype or dtype)
    chunk = max(1, _CHUNK_VALUES // initial.num_values)

    def work(start: int) -> None:
        stop = min(start + chunk, initial.num_connections)
        bank, scores = initial.rows(start, stop)
        bank = check_finite(bank, "bank").astype(held).astype(dtype)
        bank = np.broadcast_to(bank, scores.shape)
        result.put(start, *envelope(bank, check_finite(scores, "scores")))

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        tasks = [pool.submit(work, start) for start in range(0, initial.num_connections, chunk)]
        try:
            _wait(tasks)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return result.staircase()


def _wait(tasks: list[Future[None]]) -> None:
    """Waits for all tasks or the first error, with a progress bar when it takes long."""
    began, bar = time.monotonic(), None
    for done, task in enumerate(as_completed(tasks), start=1):
        task.result()
        if bar is None and time.monotonic() - began > _BAR_AFTER and sys.stdout.isatty():
            bar = keras.utils.Progbar(len(tasks), unit_name="block of connections")
        if bar is not None:
            bar.update(done)


def round_down(thresholds: Array, dtype: np.dtype[Any]) -> Array:
    """Casts such that `u > rounded` is `u > threshold` for every finite `u` of `dtype`, and all are finite."""
    # A scalar of the dtype: NumPy before 2 would turn arrays to float64 beside a number of Python.
    largest = dtype.type(np.finfo(dtype).max)
    with np.errstate(over="ignore", under="ignore"):
        rounded = thresholds.astype(dtype)
        lower = np.nextafter(rounded, dtype.type(-np.inf))
    return np.clip(np.where(rounded > thresholds, lower, rounded), -largest, largest)


def _filled(thresholds: Array, dtype: np.dtype[Any]) -> Array:
    """The thresholds in that dtype; where a connection has no more steps, its last one, or 0, repeats."""
    real = thresholds < np.inf
    rounded = round_down(np.where(real, thresholds, -np.inf), dtype)
    last = np.maximum.accumulate(rounded, axis=0)
    return np.where(real.any(axis=0), last, dtype.type(0)) if len(last) else last


class _Result:
    """The arrays of a build, filled in blocks of connections by several threads."""

    def __init__(self, num_connections: int, size: Capacity, dtype: np.dtype[Any]):
        self.size = size
        self.thresholds = np.empty((size.levels, num_connections), dtype)
        self.steps = np.empty((size.levels + 1, num_connections), dtype)
        # Connection, thresholds and steps of those of each block that have more.
        self.overflow: list[tuple[Array, Array, Array]] = []

    def put(self, start: int, thresholds: Array, steps: Array) -> None:
        """Takes the steps of the connections from `start` on, as `envelope` gives them."""
        filled = _filled(thresholds, self.thresholds.dtype)
        levels, columns = self.size.levels, slice(start, start + thresholds.shape[1])
        have = min(levels, len(thresholds))
        self.thresholds[:have, columns] = filled[:have]
        self.thresholds[have:, columns] = filled[have - 1] if have else 0
        self.steps[: have + 1, columns] = steps[: have + 1]
        self.steps[have + 1 :, columns] = steps[have]
        count = (thresholds < np.inf).sum(axis=0)
        if count.max(initial=0) > levels + self.size.overflow_levels:
            raise _outgrown(f"a connection with {count.max()} steps", self.size)
        at = np.flatnonzero(count > levels)
        if len(at):
            self.overflow.append((start + at, filled[levels:, at], steps[levels + 1 :, at]))

    def staircase(self) -> Staircase:
        """The whole, once all blocks are there."""
        _, more, places = self.size
        taken = np.sort(np.concatenate([np.empty(0, "int64"), *(at for at, *_ in self.overflow)]))
        if len(taken) > places:
            raise _outgrown(f"{len(taken)} connections with more than {self.size.levels} steps", self.size)
        others = np.setdiff1d(np.arange(places), taken)[: places - len(taken)]
        index = np.union1d(taken, others)
        last = self.thresholds[-1:] if self.size.levels else np.zeros_like(self.steps[:1])
        thresholds = np.repeat(last[:, index], more, axis=0)
        steps = np.repeat(self.steps[-1:, index], more, axis=0)
        for block, block_thresholds, block_steps in self.overflow:
            at, have = np.searchsorted(index, block), len(block_thresholds)
            thresholds[:have, at] = block_thresholds
            thresholds[have:, at] = block_thresholds[-1]
            steps[:have, at] = block_steps
            steps[have:, at] = block_steps[-1]
        return Staircase(self.thresholds, self.steps, index.astype("int32"), thresholds, steps)


def _outgrown(received: str, size: Capacity) -> ValueError:
    return ValueError(
        f"`seed` must give values that fit into {size.levels} steps for all connections and "
        f"{size.overflow_levels} more for {size.overflow_count} of them. Received: {received}, which happens "
        "about once in 10^9 networks. Pass another `seed`."
    )
