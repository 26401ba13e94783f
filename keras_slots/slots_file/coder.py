"""Codes the choices of a kernel: their steps, how probable each step is, and a range coder.

A decision is whether the lever of a connection passes the threshold of a step (`ConnectionSteps`).
`ProbabilityModel` learns how probable each decision is, and `Encoder` and `Decoder` convert between decisions and
16-bit words. `docs/slots_format.md` defines all of it, in integer arithmetic that is the same in any language.

The coder is the range variant of asymmetric numeral systems (Duda 2013). Its states are interleaved (Giesen 2014,
"Interleaved entropy coders"), so that NumPy codes many decisions at once: decision i of a block belongs to lane i
modulo the number of lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_slots.slots_file.values import Stream, Values, take, to_integers

Array = np.ndarray[Any, Any]

SHARES, LARGEST_SHARE = 256, 1024
#: The threshold of a step that does not exist.
NEVER = 2**40


@dataclass(frozen=True)
class ConnectionSteps:
    """Steps of n connections, outwards from the start of each.

    Attributes:
        rows: All values of the connections, float32 of shape `(n, K)`.
        start: Index of the value at the start, int64 of shape `(n,)`.
        steps: For larger and for smaller values, a list over m: the index that step m leads to, `(n,)`.
        thresholds: For larger and for smaller values, a list over m: how far the lever must move for step m, at
            least 1; `NEVER` if there is no such step.
    """

    rows: Array
    start: Array
    steps: tuple[list[Array], list[Array]]
    thresholds: tuple[list[Array], list[Array]]

    def part(self, first: int, last: int) -> ConnectionSteps:
        """The steps of the connections `first` to `last - 1`, as views."""

        def of_both_sides(lists: tuple[list[Array], list[Array]]) -> tuple[list[Array], list[Array]]:
            return [each[first:last] for each in lists[0]], [each[first:last] for each in lists[1]]

        steps, thresholds = of_both_sides(self.steps), of_both_sides(self.thresholds)
        return ConnectionSteps(self.rows[first:last], self.start[first:last], steps, thresholds)


_NO_STREAM = Stream("uniform", 0, 0, 1.0)


@dataclass(frozen=True)
class Start:
    """Where connections start.

    Attributes:
        exponent: Values are converted to the integers `trunc(value * 2**exponent)`.
        stream: Initial scores in units of 2**-23 (`hull`), or w0 in the units of the values (`nearest`).
        share: What is left of w0, in units of 1 / `SHARES`, at most `LARGEST_SHARE`; 0: connections start at zero.
    """

    exponent: int
    stream: Stream = _NO_STREAM
    share: int = 0


def hull(values: Values, start: Start, first: int, last: int) -> ConnectionSteps:
    """Steps along the upper envelope of the lines `score + value * lever`, from the value of highest score."""
    k = values.num_values
    rows = values.rows(first, last)
    bank = to_integers(rows, start.exponent)
    scores = to_integers(start.stream.draw((last - first) * k, first * k).reshape(-1, k), 23)
    begin = scores.argmax(axis=1)
    right, left = _climb(bank, scores, begin), _climb(-bank, scores, begin)
    return ConnectionSteps(rows, begin, (right[0], left[0]), (right[1], left[1]))


def _climb(bank: Array, scores: Array, current: Array) -> tuple[list[Array], list[Array]]:
    """Steps to ever larger values, and their thresholds.

    From value c with score s_c the next one is the k with the largest `(w_k - w_c) / (s_c - s_k)`. float64 orders
    quotients of integers below 2**26 exactly.
    """
    count = len(bank)
    steps: list[Array] = []
    thresholds: list[Array] = []
    climbing = np.arange(count)
    while True:
        gain = bank - take(bank, current)[:, None]
        loss = np.maximum(take(scores, current)[:, None] - scores, 1)
        best = (gain / loss).argmax(axis=1)
        gained, lost = take(gain, best), take(loss, best)
        on = np.flatnonzero(gained > 0)
        if not len(on):
            return steps, thresholds
        climbing, bank, scores, current = climbing[on], bank[on], scores[on], best[on]
        steps.append(np.zeros(count, "int64"))
        steps[-1][climbing] = current
        thresholds.append(np.full(count, NEVER, "int64"))
        thresholds[-1][climbing] = np.maximum((lost[on] << 16) // gained[on], 1)


def nearest(values: Values, start: Start, first: int, last: int) -> ConnectionSteps:
    """Steps through all K values in order, from the value nearest to the target `trunc(gain * w0)`.

    Thresholds are twice the distances from the target to the midpoints of neighbouring values.
    """
    rows = values.rows(first, last)
    bank = to_integers(rows, start.exponent)
    order = bank.argsort(axis=1, kind="stable")
    bank = np.take_along_axis(bank, order, axis=1)
    middle = bank[:, 1:] + bank[:, :-1]
    target = np.zeros(len(bank), "int64")
    if start.share:
        w0 = start.stream.draw(last - first, first).astype("float64")  # its product with a share is exact
        target = 2 * to_integers(w0 * (start.share / SHARES), start.exponent)
    begin = (middle < target[:, None]).sum(axis=1)
    k = values.num_values
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
            far = np.maximum(sign * (take(middle, gap) - target), 1)
            steps[side].append(take(order, place))
            thresholds[side].append(np.where(exists, far, NEVER))
    return ConnectionSteps(rows, take(order, begin), steps, thresholds)


BITS = 12
FULL = 1 << BITS
_LOWEST = 1 << 16


class Encoder:
    """Collects blocks of decisions, and codes them in reverse order when all are known."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self._blocks: list[tuple[Array, Array]] = []

    def put(self, bits: Array, p: Array) -> Array:
        """Adds a block, and the probability of each bit in units of 1/4096; returns the bits."""
        # The divisor of the state and the number to add; both are below 4096 and fit into 16 bits.
        size = np.where(bits, p, FULL - p).astype("uint16")
        self._blocks.append((size, np.where(bits, 0, p).astype("uint16")))
        return bits

    def cost(self) -> float:
        """An estimate of the bits that the words take."""
        bits_of = -np.log2(np.arange(FULL + 1).clip(1) / FULL)
        return float(sum(bits_of[size].sum() for size, _ in self._blocks))

    def words(self) -> Array:
        """The coded words, uint16: first the states of all lanes, low word first."""
        if self.lanes == 1:
            return self._words_of_one_lane()
        lanes, out = self.lanes, []
        state = np.full(lanes, _LOWEST, "uint64")
        for size, offset in reversed(self._blocks):
            for low in reversed(range(0, len(size), lanes)):
                f = size[low : low + lanes].astype("uint64")
                x = state[: len(f)]
                full = x >= f << np.uint64(32 - BITS)
                if full.any():
                    out.append(x[full][::-1].astype("uint16"))
                    x = np.where(full, x >> np.uint64(16), x)
                quotient, rest = np.divmod(x, f)
                state[: len(f)] = (quotient << np.uint64(BITS)) + rest + offset[low : low + lanes]
        first = state.astype("<u4").view("<u2").astype("uint16")
        return np.concatenate([first, *(part[::-1] for part in reversed(out))])

    def _words_of_one_lane(self) -> Array:
        """`words` for one lane, in Python integers, because arrays of one element are slow."""
        x, out = _LOWEST, []
        for size, offset in reversed(self._blocks):
            for f, more in zip(size[::-1].tolist(), offset[::-1].tolist(), strict=True):
                if x >= f << (32 - BITS):
                    out.append(x & 0xFFFF)
                    x >>= 16
                x = (x // f << BITS) + x % f + more
        return np.array([x & 0xFFFF, x >> 16, *reversed(out)], "uint16")


class Decoder:
    """Decodes blocks of decisions, given the words and the probabilities of the `Encoder`.

    Raises:
        ValueError: If there are fewer words than the decisions need.
    """

    def __init__(self, lanes: int, words: Array):
        self.lanes = lanes
        self._words, self._at = words, 0
        self._state = self._next_words(2 * lanes).astype("<u2").view("<u4").astype("uint64")

    def _next_words(self, count: int) -> Array:
        self._at += count
        if self._at > len(self._words):
            raise ValueError("too few words for the coded choices")
        return self._words[self._at - count : self._at]

    def take(self, p: Array) -> Array:
        """The decisions of a block, booleans."""
        if self.lanes == 1:
            return self._take_in_one_lane(p)
        bits = np.empty(len(p), bool)
        wide = p.astype("uint64")
        for low in range(0, len(p), self.lanes):
            f = wide[low : low + self.lanes]
            x = self._state[: len(f)]
            rest = x & np.uint64(FULL - 1)
            bit = rest < f
            bits[low : low + self.lanes] = bit
            rest = np.where(bit, rest, rest - f)
            x = (x >> np.uint64(BITS)) * np.where(bit, f, np.uint64(FULL) - f) + rest
            short = np.flatnonzero(x < _LOWEST)
            if len(short):
                x[short] = x[short] << np.uint64(16) | self._next_words(len(short))
            self._state[: len(f)] = x
        return bits

    def _take_in_one_lane(self, p: Array) -> Array:
        x, bits = int(self._state[0]), []
        for f in p.tolist():
            rest = x & (FULL - 1)
            bits.append(rest < f)
            x = f * (x >> BITS) + rest if rest < f else (FULL - f) * (x >> BITS) + rest - f
            if x < _LOWEST:
                x = x << 16 | int(self._next_words(1)[0])
        self._state[0] = x
        return np.array(bits, bool)

    def check_end(self) -> None:
        """Raises a `ValueError` if words are left, or a state differs from the initial state of the encoder."""
        if self._at != len(self._words) or (self._state != _LOWEST).any():
            raise ValueError("coded choices that do not end at the end of the words")


#: `(bits or None, p) -> bits`: encodes a block of known decisions, or decodes it.
Code = Callable[[Any, Array], Array]

_GAPS, _ACTIVITIES = 96, 12
_COUNT_BITS = 11  # counts are halved from 2**11 on, so that they adapt


def size_class(x: Array) -> Array:
    """`2 floor(log2 x)`, plus 1 if x is at least 1.5 times that power of two. x in [1, 2**53)."""
    # The exponent and the highest mantissa bit of a float64.
    return (x.astype("float64").view("int64") >> 51) - (1023 << 1)


class ProbabilityModel:
    """Adaptive probabilities of decisions, from counts per context and the levers of earlier rows.

    Args:
        width: Connections of a row.
        offsets: Distances in rows to earlier rows that resemble a row.
        activity: Whether contexts depend on how many connections of those rows have moved.
    """

    def __init__(self, width: int, offsets: tuple[int, ...], activity: bool):
        self.width, self.offsets, self.activity = width, offsets, activity
        self._ones = np.ones(4 * _GAPS * _ACTIVITIES, "int64")
        self._all = np.full(4 * _GAPS * _ACTIVITIES, 3, "int64")
        # The last rows, as many as the offsets reach; zero above the first one.
        self._reach = max(offsets, default=1)
        self._levers = np.zeros((self._reach, width), "int64")
        self._moves = np.zeros(self._reach, "int64")
        self._coded_rows = 0

    def code(self, stairs: ConnectionSteps, code: Code, moves: Array | None = None) -> Array:
        """Codes the next rows; returns the moves: positive numbers of steps to larger values, negative to smaller.

        Args:
            stairs: Steps of the connections of these rows.
            code: Function that encodes or decodes decisions.
            moves: The moves to encode, int64 of shape `(n,)`; None to decode.
        """
        expected, activity = self._expect(len(stairs.start) // self.width)
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
                context = _context(2 * side + min(m, 1), far, sign * expected[where], activity[where])
                bits = self._decide(context, bits, code)
                # Levers that do not take the step are below the threshold, the others above it.
                stays, goes = where[~bits], where[bits]
                (high if sign > 0 else low)[stays] = sign * far[~bits]
                (low if sign > 0 else high)[goes] = sign * far[bits]
                found[goes] = sign * (m + 1)
                where = goes
        levers = np.clip(expected, low, high).reshape(-1, self.width)
        row_moves = np.abs(found).reshape(-1, self.width).sum(axis=1)
        self._levers = np.concatenate([self._levers, levers])[-self._reach :]
        self._moves = np.concatenate([self._moves, row_moves])[-self._reach :]
        self._coded_rows += len(levers)
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
        """The expected levers of the next rows, and the activity, 0 to 11, of the row of each connection."""
        total = np.zeros((count, self.width), "int64")
        moves, number = np.zeros(count, "int64"), np.zeros(count, "int64")
        for offset in self.offsets:
            rows = slice(self._reach - offset, self._reach - offset + count)
            total += self._levers[rows]
            moves += self._moves[rows]
            number += np.arange(self._coded_rows, self._coded_rows + count) >= offset
        number = np.maximum(number, 1)
        expected = (7 * total) // (8 * number[:, None])
        share = np.maximum((moves << 8) // (number * self.width), 1)
        activity = np.clip(size_class(share) - 8, 0, _ACTIVITIES - 1 if self.activity else 0)
        return expected.reshape(-1), np.repeat(activity, self.width)


def _context(kind: int, far: Array, expected: Array, activity: Array) -> Array:
    gap = far - expected
    size = size_class(np.maximum(np.abs(gap), 1))
    place = np.where(gap > 0, 32 + np.minimum(size, 63), 31 - np.minimum(size // 2, 31))
    return (kind * _GAPS + place) * _ACTIVITIES + activity


STAIRS = {"hull": hull, "nearest": nearest}
#: Maximum number of values that are processed at once, unless one row has more.
BLOCK_VALUES = 2**18
#: Number of values of which steps are computed at once: small groups together, because each call takes time.
_STEP_VALUES = 2**15
#: Number of choices that are packed at once: a multiple of 8, so that blocks begin at a whole byte.
_PACKED = 2**16
#: Maximum K of coded choices, because each step of a connection is a decision.
MOST_CODED = 256


@dataclass(frozen=True)
class Coding:
    """How the choices of a kernel are coded.

    Attributes:
        stairs: `"hull"` or `"nearest"`.
        start: Where connections start.
        rows: Number of rows.
        width: Connections of a row.
        group: Number of rows that are coded together; probabilities are only updated after a group.
        lanes: Number of states of the coder, a power of two.
        offsets: Distances in rows to earlier rows that resemble a row, at least `group`.
        activity: Whether contexts depend on how many connections of those rows have moved.
    """

    stairs: str
    start: Start
    rows: int
    width: int
    group: int
    lanes: int
    offsets: tuple[int, ...]
    activity: bool

    def blocks(self, values: Values) -> Iterator[tuple[int, int, ConnectionSteps]]:
        """Yields first connection, end and steps of each group; a thread computes the steps ahead."""
        n, size = self.rows * self.width, self.group * self.width
        together = size * max(1, _STEP_VALUES // (size * values.num_values))

        def steps(first: int) -> ConnectionSteps:
            return STAIRS[self.stairs](values, self.start, first, min(first + together, n))

        ready = steps(0)
        with ThreadPoolExecutor(1) as pool:  # starts its thread at the first `submit`
            for begin in range(0, n, together):
                after = begin + together
                coming = pool.submit(steps, after) if after < n else None
                for first in range(begin, min(after, n), size):
                    last = min(first + size, n)
                    yield first, last, ready.part(first - begin, last - begin)
                if coming:
                    ready = coming.result()


def encode(index: Array, values: Values, coding: Coding) -> tuple[Array, Array]:
    """The words of the choices `index`, uint16, and the connections whose choice no step leads to."""
    encoder, lost = _encoder_of(index, values, coding)
    return encoder.words(), lost


def cost(index: Array, values: Values, coding: Coding) -> float:
    """An estimate of the bits that the choices would take."""
    return _encoder_of(index, values, coding)[0].cost()


def _encoder_of(index: Array, values: Values, coding: Coding) -> tuple[Encoder, Array]:
    encoder, model = Encoder(coding.lanes), ProbabilityModel(coding.width, coding.offsets, coding.activity)
    lost: list[Array] = []
    for first, last, stairs in coding.blocks(values):
        moves, missed = moves_to_choices(stairs, index[first:last])
        lost.append(first + missed)
        model.code(stairs, encoder.put, moves)
    return encoder, np.concatenate(lost)


def decode(words: Array, values: Values, coding: Coding) -> tuple[Array, Array]:
    """The indices that were encoded, uint8, except those that no step reaches, and their values, float32.

    Raises:
        ValueError: If the words do not belong to this kernel.
    """
    decoder, model = Decoder(coding.lanes, words), ProbabilityModel(coding.width, coding.offsets, coding.activity)
    index = np.empty(coding.rows * coding.width, "uint8")  # K is at most MOST_CODED
    chosen = np.empty(len(index), "float32")
    for first, last, stairs in coding.blocks(values):
        moves = model.code(stairs, lambda _, p: decoder.take(p))
        # A negative move counts from the end of the table.
        table = np.stack([stairs.start, *stairs.steps[0], *reversed(stairs.steps[1])], axis=1)
        index[first:last] = take(table, moves)
        chosen[first:last] = take(stairs.rows, index[first:last])
    decoder.check_end()
    return index, chosen


def moves_to_choices(stairs: ConnectionSteps, index: Array) -> tuple[Array, Array]:
    """The moves that reach these choices, and the connections whose choice no step reaches."""
    selected = take(stairs.rows, index)
    moves, known = np.zeros(len(index), "int64"), take(stairs.rows, stairs.start) == selected
    for side, sign in enumerate((1, -1)):
        for m, (step, threshold) in enumerate(zip(stairs.steps[side], stairs.thresholds[side], strict=True)):
            reached = (take(stairs.rows, step) == selected) & (threshold < NEVER) & ~known
            moves[reached] = sign * (m + 1)
            known |= reached
    return moves, np.flatnonzero(~known)


def pack(index: Array, num_values: int) -> bytes:
    """Packs each index into `ceil(log2 K)` bits, the lowest bit first."""
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
    """The inverse of `pack`: the indices, uint16.

    Raises:
        ValueError: If an index is not below K, or a bit after the last index is set.
    """
    bits = (num_values - 1).bit_length()
    data, index = np.frombuffer(packed, "uint8"), np.empty(count, "uint16")
    for low in range(0, count, _PACKED):
        here = index[low : low + _PACKED]
        flat = np.unpackbits(data[low * bits // 8 :][: packed_size(len(here), num_values)], bitorder="little")
        table = flat[: len(here) * bits].reshape(-1, bits)
        here[:] = table @ (1 << np.arange(bits, dtype="uint16"))
        if flat[len(here) * bits :].any() or here.max() >= num_values:
            raise ValueError("a packed choice that is not below K")
    return index
