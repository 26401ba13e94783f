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

from keras_slots.values.initial_values import InitialValues
from keras_slots.kernels.capacity import Capacity, capacity
from keras_slots.kernels.envelope import Array, envelope
from keras_slots.values.rounded import DTYPE, LARGEST
from keras_slots.validation import check_choice, check_finite

_CHUNK_VALUES = 1 << 17  # bank values handled at once by a thread, in about 5 MB
_BAR_AFTER = 3.0  # seconds


class Staircase(NamedTuple):
    """The steps of all n connections of a kernel. Shapes depend on `capacity` alone, all entries are finite.

    Reading, c being what weight decay has left of the initial scores:

        value = steps[0]
        for h in range(levels): value = where(lever > c * thresholds[h], steps[h + 1], value)

    then the same for the tall connections `tall_index`, on from their `value`, with `tall_thresholds` and
    `tall_steps`. Thresholds that nobody needs are the largest number of the dtype, and the steps behind them
    repeat the last one. Places for tall connections that are not needed name others, whose value they keep.

    Attributes:
        thresholds: Shape `(levels, n)`, non-decreasing along the first axis.
        steps: Shape `(levels + 1, n)`, the values; non-decreasing too.
        tall_index: int32, shape `(tall_count,)`: sorted, no two alike.
        tall_thresholds: Shape `(tall_levels, tall_count)`.
        tall_steps: Shape `(tall_levels, tall_count)`.
    """

    thresholds: Array
    steps: Array
    tall_index: Array
    tall_thresholds: Array
    tall_steps: Array


def build_staircase(
    initial: InitialValues,
    dtype: str = "float32",
    *,
    bank_dtype: str | None = None,
    size: Capacity | None = None,
) -> Staircase:
    """Builds the staircases of a whole kernel without ever holding its bank.

    Forward: reading the result at `lever` gives `bank[argmax_k(c * scores[k] + bank[k] * lever)]`. All arithmetic
    is in float64. In float32 the thresholds are rounded down, so that comparing a float32 lever with them is the
    comparison with the float64 ones. Those of `RoundedScores` are bfloat16 numbers, and so are their steps.

    At a lever of exactly 0 the result is the arg-max of the scores (lowest index on ties), as connections whose
    input is always 0 stay there for ever: thresholds between -1e-30 and 0 become -1e-30, and a value that wins at
    0 alone gets the step from -1e-30 to 0.

    A build of more than three seconds shows a progress bar, on a terminal only.

    Args:
        initial: Bank and initial scores.
        dtype: `"float32"` or `"float64"`, the dtype of the lever. Of the result too, unless scores are rounded.
        bank_dtype: Dtype in which the layer holds its values, to which they are rounded first. Default: `dtype`.
        size: Sizes of the arrays. Default: `capacity(initial)`.

    Returns:
        A `Staircase`.

    Raises:
        ValueError: If `dtype` is another one, an entry of bank or scores is not finite, or the draw needs more
            steps than `size` has.

    Example:

    >>> import numpy as np
    >>> from keras_slots.values.initial_values import InitialValues
    >>> initial = InitialValues((2,), 3, (2, 2), 0, None, None, "layer")
    >>> initial = initial.with_arrays([-1.0, 0.0, 2.0], [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    >>> staircase = build_staircase(initial)
    >>> staircase.thresholds[:, 0].tolist(), staircase.steps[:, 0].tolist()
    ([-1.0, 0.5], [-1.0, 0.0, 2.0])

    Not in the paper, which trains all K scores: it is the algorithm of section 3 (greedy selection,
    straight-through gradient, SGD) with K - 1 of each connection's K scores eliminated exactly.
    """
    check_choice(dtype, "dtype", ("float32", "float64"))
    size = capacity(initial) if size is None else size
    result = _Result(initial.num_connections, size, np.dtype(DTYPE if initial.rounded else dtype))
    # Keras has imported ml_dtypes, by which NumPy knows bfloat16.
    held = np.dtype(bank_dtype or dtype)
    chunk = max(1, _CHUNK_VALUES // initial.num_values)

    def work(start: int) -> None:
        stop = min(start + chunk, initial.num_connections)
        bank, scores = initial.rows(start, stop)
        bank = check_finite(bank, "bank").astype(held).astype(dtype)
        bank = np.broadcast_to(bank, scores.shape)
        result.put(start, *envelope(bank, check_finite(scores, "scores")))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
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


def _largest(dtype: np.dtype[Any]) -> Any:
    # A scalar of the dtype: NumPy before 2 would turn arrays to float64 beside a number of Python.
    return dtype.type(LARGEST if dtype == DTYPE else np.finfo(dtype).max)


def round_down(thresholds: Array, dtype: np.dtype[Any]) -> Array:
    """Casts such that `u > rounded` is `u > threshold` for every finite `u` of `dtype`, and all are finite."""
    largest = _largest(dtype)
    with np.errstate(over="ignore", under="ignore"):
        rounded = thresholds.astype(dtype)
        lower = np.nextafter(rounded, dtype.type(-np.inf))
    # Infinite ones would turn into NaN where a decay factor has become 0.
    return np.clip(np.where(rounded > thresholds, lower, rounded), -largest, largest)


def _held(thresholds: Array, dtype: np.dtype[Any]) -> Array:
    """The thresholds as a staircase of that dtype holds them."""
    if dtype != DTYPE:
        return round_down(thresholds, dtype)
    # They are such numbers, but for the rounding of the scores they were computed from.
    return np.clip(thresholds, -LARGEST, LARGEST).astype(dtype)


class _Result:
    """The arrays of a build, filled in blocks of connections by several threads."""

    def __init__(self, num_connections: int, size: Capacity, dtype: np.dtype[Any]):
        self.size = size
        self.thresholds = np.empty((size.levels, num_connections), dtype)
        self.steps = np.empty((size.levels + 1, num_connections), dtype)
        # Connection, thresholds and steps of the tall ones of each block.
        self.tall: list[tuple[Array, Array, Array]] = []

    def put(self, start: int, thresholds: Array, steps: Array) -> None:
        """Takes the steps of the connections from `start` on, as `envelope` gives them."""
        held = _held(thresholds, self.thresholds.dtype)
        levels, columns = self.size.levels, slice(start, start + thresholds.shape[1])
        have = min(levels, len(thresholds))
        self.thresholds[:have, columns] = held[:have]
        self.thresholds[have:, columns] = _largest(held.dtype)
        self.steps[: have + 1, columns] = steps[: have + 1]
        self.steps[have + 1 :, columns] = steps[have]
        count = (thresholds < np.inf).sum(axis=0)
        if count.max(initial=0) > levels + self.size.tall_levels:
            raise _outgrown(f"a connection with {count.max()} steps", self.size)
        at = np.flatnonzero(count > levels)
        if len(at):
            self.tall.append((start + at, held[levels:, at], steps[levels + 1 :, at]))

    def staircase(self) -> Staircase:
        """The whole, once all blocks are there."""
        _, tall_levels, tall_count = self.size
        found = np.sort(np.concatenate([np.empty(0, "int64"), *(index for index, *_ in self.tall)]))
        if len(found) > tall_count:
            raise _outgrown(
                f"{len(found)} connections with more than {self.size.levels} steps", self.size
            )
        others = np.setdiff1d(np.arange(tall_count), found)[: tall_count - len(found)]
        index = np.union1d(found, others)
        dtype = self.thresholds.dtype
        thresholds = np.full((tall_levels, tall_count), _largest(dtype), dtype)
        steps = np.repeat(self.steps[-1:, index], tall_levels, axis=0)
        for block, block_thresholds, block_steps in self.tall:
            at, have = np.searchsorted(index, block), len(block_thresholds)
            thresholds[:have, at] = block_thresholds
            steps[:have, at] = block_steps
            steps[have:, at] = block_steps[-1]
        return Staircase(self.thresholds, self.steps, index.astype("int32"), thresholds, steps)


def _outgrown(received: str, size: Capacity) -> ValueError:
    return ValueError(
        f"`seed` must give values that fit into {size.levels} steps for all connections and "
        f"{size.tall_levels} more for {size.tall_count} of them. Received: {received}, which happens "
        "once in a thousand million networks. Pass another `seed`."
    )
