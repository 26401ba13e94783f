"""What a `.slots` file says about a kernel: where its values come from, and what predicts its choices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from keras_slots.kernels.base import SlotKernel
from keras_slots.slots.choices import BLOCK_VALUES, MOST_CODED, Coding, cost, missed
from keras_slots.slots.stairs import Start
from keras_slots.slots.values import KINDS, Stream, Values
from keras_slots.values.distributions import Distribution
from keras_slots.values.nearest_scores import NearestScores
from keras_slots.values.philox import SCORE_STREAM, START_STREAM
from keras_slots.values.stratified import StratifiedUniform, strata_unit
from keras_slots.values.value_bank import ValueBank

Array = np.ndarray[Any, Any]

_DRAWN = KINDS[:4]
_MOST_OFFSETS = 64  # rows back that are tried
_ALIKE = 0.05  # correlation from which rows count as alike
_MOST_TRIED = 2**19  # connections up to which several ways are tried
_PREDICTABLE = 64  # one choice in that many may be out of reach of the envelope
_LARGEST_SHARE, _SHARES = 4, 256  # of w0 that are tried: up to the first, that many to 1


def values_of(kernel: SlotKernel) -> Values:
    """The values of a kernel as few numbers.

    Raises:
        ValueError: If no few numbers bring them back; it says why.
    """
    k = kernel.num_values
    if kernel.variable_dtype == "float16":
        raise ValueError("a .slots file knows no values in float16")
    seed = kernel.current_seed
    sharing, bank = kernel.sharing, kernel.bank_initializer
    rounded, shared = kernel.variable_dtype == "bfloat16", kernel.initial.shared
    if isinstance(sharing, ValueBank):
        given = np.asarray(sharing.values, "float32")
        return Values(k, "given", shared=True, rounded=rounded, given=given)
    if isinstance(bank, Distribution) and seed is None:
        raise ValueError(
            "its seed is lost, by averaging models of different seeds, or clipping or noising all weights"
        )
    fans = kernel.initial.fans
    if isinstance(bank, StratifiedUniform):
        assert seed is not None
        low, high = (int(x) for x in bank.words(seed))
        unit = float(strata_unit(k, bank.bound(fans)))
        return Values(k, "strata", high << 32 | low, unit, shared, rounded)
    if isinstance(bank, Distribution) and bank.kind in _DRAWN:
        assert seed is not None
        seed = seed if bank.seed is None else bank.seed
        return Values(k, bank.kind, seed, bank.factor(fans), shared, rounded)
    if shared:
        given = np.asarray(kernel.bank, "float32")
        return Values(k, "given", shared=True, rounded=rounded, given=given)
    raise ValueError(f"no seed brings back what {bank!r} drew")


@dataclass(frozen=True)
class Found:
    """The choices of a kernel, and what is known of them.

    Attributes:
        index: int64 of shape `(n,)`.
        shift: How far each value is from that of the start, float32.
        start: Where connections start, of the envelope if `hull`.
        hull: Whether the envelope of the scores predicts the choices.
        other: The same with another start, which may cost less.
    """

    index: Array
    shift: Array
    start: Start
    hull: bool
    other: Found | None = None


def find(kernel: SlotKernel, values: Values, selected: Array) -> Found | None:
    """The choices that give the selected values, bit for bit; None where a value is not among those described.

    Args:
        kernel: The kernel.
        values: `values_of(kernel)`.
        selected: Its selected values, float32 of shape `(n,)`.
    """
    stream, hull = _start_stream(kernel)
    n, k = len(selected), values.num_values
    staying = np.zeros(_LARGEST_SHARE * _SHARES + 2, "int64")
    index, begin, largest = np.empty(n, "int64"), np.zeros(n, "float32"), 0.0
    block = max(1, 4 * BLOCK_VALUES // k)
    for low in range(0, n, block):
        high = min(low + block, n)
        rows = np.ascontiguousarray(values.rows(low, high))
        same = rows.view("uint32") == selected[low:high, None].view("uint32")
        index[low:high] = same.argmax(axis=1)
        if not same.any(axis=1).all():
            return None
        largest = max(largest, float(np.abs(rows).max(initial=0)))
        if stream and hull:
            scores = stream.draw((high - low) * k, low * k).reshape(-1, k).argmax(axis=1)
            begin[low:high] = np.take_along_axis(rows, scores[:, None], axis=1)[:, 0]
        elif stream:
            begin[low:high] = stream.draw(high - low, low)
            staying += _staying(rows, selected[low:high], begin[low:high])
    exponent = 24 - math.frexp(largest)[1] if largest else 0
    exponent = min(max(exponent, -200), 200)
    if stream is None:
        return Found(index, selected, Start(exponent, Stream("uniform", 0, 0, 1.0)), False)
    if hull:
        return Found(index, selected - begin, Start(exponent, stream), True)
    found = None
    shares = _shares_of_start(begin.astype("float64"), selected, np.cumsum(staying))
    for share in shares if n <= _MOST_TRIED else shares[-1:]:
        start = Start(exponent, stream, float(np.float32(share * 2.0**exponent)))
        found = Found(index, selected - np.float32(share) * begin, start, False, found)
    return found


def _shares_of_start(w0: Array, selected: Array, stay: Array) -> list[float]:
    """Shares of w0 near which weights ended: decay, or rounding to few values, makes it another one than 1.

    That of the least squares, and that for which the most connections stay; the better guess is the last.
    """
    most = int(stay.argmax())
    shares = [float(w0 @ selected) / max(float(w0 @ w0), 1e-300), most / _SHARES]
    if 2 * stay[most] < len(w0):
        shares.reverse()
    return [min(max(share, 0.0), float(_LARGEST_SHARE)) for share in shares]


def _staying(rows: Array, selected: Array, w0: Array) -> Array:
    """How many connections more than with the share before select the value nearest to a share of w0.

    The shares are i / 256, for i from 0 to 1024. A connection selects its value from one share to another: where
    `share * w0` lies between the midpoints to the neighbouring values.
    """
    value = selected.astype("float64")
    above = np.where(rows > selected[:, None], rows, np.inf).min(axis=1)
    below = np.where(rows < selected[:, None], rows, -np.inf).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = [(value + other) / 2 / w0 * _SHARES for other in (below, above)]
    most = _LARGEST_SHARE * _SHARES
    first = np.ceil(np.clip(np.fmin(*ends), 0, most + 1)).astype("int64")
    last = np.floor(np.clip(np.fmax(*ends), -1, most)).astype("int64") + 1
    count = partial(np.bincount, minlength=most + 2)
    return count(first) - count(np.maximum(first, last))


def _start_stream(kernel: SlotKernel) -> tuple[Stream | None, bool]:
    """The stream of the initial scores and True, of w0 and False, or None and False."""
    initial, scores = kernel.initial, kernel.initial.score_initializer
    nearest = isinstance(scores, NearestScores)
    drawn = initial.drawn_scores
    if not isinstance(drawn, Distribution) or drawn.kind not in _DRAWN:
        return None, False
    seed = kernel.current_seed if drawn.seed is None else drawn.seed
    if seed is None:
        return None, False
    if nearest:
        return Stream(drawn.kind, seed, START_STREAM, drawn.factor(initial.fans)), False
    return Stream(drawn.kind, seed, SCORE_STREAM, 1.0), True


def coding_of(found: Found, values: Values, shape: tuple[int, ...]) -> Coding | None:
    """How to code the choices of a kernel; None where that never pays."""
    n, k = len(found.index), values.num_values
    width = 1
    for axis, size in enumerate(reversed(shape)):
        if width >= 16 and axis:
            break
        width *= size
    if k > MOST_CODED or width * k > 2**24:
        return None
    rows = n // width
    stairs = "hull" if found.hull else "nearest"
    coding = Coding(stairs, found.start, rows, width, 1, 1, ())
    if found.hull and not _within_reach(found, values, coding):
        coding = replace(coding, stairs="nearest")  # from zero: the start has a gain of 0
    choices = _alike(found.shift.reshape(rows, width), _distances(shape, rows, width))
    ways = [_grouped(coding, offsets, k) for offsets in choices]
    if found.other and (way := coding_of(found.other, values, shape)):
        ways.append(way)
    if len(ways) == 1 or n > _MOST_TRIED:
        return ways[0]
    return min(ways, key=lambda way: cost(found.index, values, way))


def _grouped(coding: Coding, offsets: tuple[int, ...], num_values: int) -> Coding:
    """The coding with those offsets, about 128 groups of rows, and few lanes: each costs four bytes."""
    n, width = coding.rows * coding.width, coding.width
    most = max(1, BLOCK_VALUES // (width * num_values))
    group = min(max(1, n // (128 * width)), most, *offsets, 2**16 - 1)
    lanes = 1 << min(9, (n // 8192).bit_length())
    while lanes > group * width:
        lanes //= 2
    return replace(coding, offsets=offsets, group=group, lanes=lanes)


def _within_reach(found: Found, values: Values, coding: Coding) -> bool:
    """Whether the envelope leads to nearly all choices, judged by the first connections."""
    rows = min(coding.rows, max(1, 2**15 // coding.width))
    count = missed(found.index, values, coding, rows)
    return count * _PREDICTABLE <= rows * coding.width


def _distances(shape: tuple[int, ...], rows: int, width: int) -> list[int]:
    """How far apart rows may lie that are alike."""
    if len(shape) > 2 and width == shape[-1]:
        # The same input channel at the neighbouring place of a convolution, in each direction.
        steps = [math.prod(shape[axis:-1]) for axis in range(1, len(shape) - 1)]
        return [step for step in steps if step < rows]
    return list(range(1, min(_MOST_OFFSETS, rows - 1) + 1))


def _alike(shift: Array, distances: list[int]) -> list[tuple[int, ...]]:
    """The one or two distances whose rows, averaged, are most like a row, and the next best ones.

    Of two, the correlation of a row with their sum is `(c_a + c_b) / sqrt(2 + 2 c_(a - b))`, with c the
    correlations of rows at a distance: of the pixel to the left and that to the upper right each tells more beside
    the other than that above would.
    """
    energy = float(np.vdot(shift, shift))
    if not energy:
        return [()]
    lags = {*distances, *(abs(a - b) for a, b in combinations(distances, 2))}
    found = {d: float(np.vdot(shift[d:], shift[:-d])) / energy for d in lags}
    sums: dict[tuple[int, ...], float] = {(d,): found[d] for d in distances}
    for a, b in combinations(distances, 2):
        spread = max(2 + 2 * found[abs(a - b)], 0.5)
        sums[a, b] = (found[a] + found[b]) / math.sqrt(spread)
    best = sorted((key for key in sums if sums[key] > _ALIKE), key=lambda key: -sums[key])
    return best[:3] or [()]
