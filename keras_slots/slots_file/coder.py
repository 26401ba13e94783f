"""Codes the choices of a kernel: their steps, how probable each step is, and a range coder.

A connection starts training at one value. Its lever has to pass a threshold to reach the next larger value,
another for the one after, and likewise for smaller values (`ConnectionSteps`). Whether it passes a threshold is a
decision. `ProbabilityModel` learns how probable each decision is, and `Encoder` and `Decoder` convert between
decisions and 16-bit words. Everything is integer arithmetic, so that a decoder in any language computes the same.

The coder is the range variant of asymmetric numeral systems (Duda 2013), with several interleaved states as in
Giesen 2014, "Interleaved entropy coders", so that NumPy codes many decisions at once. A decision is 1 with
probability p / 4096, 0 < p < 4096. States are in [2**16, 2**32); decision i of a block belongs to lane i modulo
the number of lanes. Decoding one bit from state x:

    low = x % 4096; bit = low < p
    x = p * (x // 4096) + low                   if bit
    x = (4096 - p) * (x // 4096) + low - p      otherwise
    if x < 2**16: x = x * 2**16 + next word

After decoding everything, all states are 2**16 and no word is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_slots.slots_file.values import Stream, Values, to_integers

Array = np.ndarray[Any, Any]

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


@dataclass(frozen=True)
class Start:
    """Where connections start.

    Attributes:
        exponent: Values are converted to the integers `trunc(value * 2**exponent)`.
        stream: Initial scores in units of 2**-23 (`hull`), or w0 in the units of the values (`nearest`).
        gain: float32 that multiplies w0; 0: all connections start at zero.
    """

    exponent: int
    stream: Stream
    gain: float = 0.0


def hull(values: Values, start: Start, first: int, last: int) -> ConnectionSteps:
    """Steps along the upper envelope of the lines `score + value * lever`, from the value of highest score.

    From value c with score s_c the next larger value is the k with the largest `(w_k - w_c) / (s_c - s_k)`; of
    equal quotients, the lowest k. The threshold is the inverse, `floor(2**16 (s_c - s_k) / (w_k - w_c))`. float64
    orders quotients of integers below 2**26 exactly.
    """
    k = values.num_values
    rows = values.rows(first, last)
    bank = to_integers(rows, start.exponent)
    scores = to_integers(start.stream.draw((last - first) * k, first * k).reshape(-1, k), 23)
    begin = scores.argmax(axis=1)
    found = [_walk(bank, scores, begin, direction) for direction in (1, -1)]
    return ConnectionSteps(rows, begin, (found[0][0], found[1][0]), (found[0][1], found[1][1]))


def _walk(bank: Array, scores: Array, begin: Array, direction: int) -> tuple[list[Array], list[Array]]:
    count, k = bank.shape
    steps: list[Array] = []
    thresholds: list[Array] = []
    at, current = np.arange(count), begin
    while k > 1:
        line = np.arange(0, bank.size, k)
        value, score = (x.reshape(-1).take(line + current) for x in (bank, scores))
        gain = bank - value[:, None] if direction > 0 else value[:, None] - bank
        loss = np.maximum(score[:, None] - scores, 1)
        best = (gain / loss).argmax(axis=1)  # at most 0 for smaller values
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
    return ConnectionSteps(rows, order[at, begin], steps, thresholds)


BITS = 12
FULL = 1 << BITS
_LOWEST = 1 << 16


class Encoder:
    """Collects blocks of decisions, and codes them in reverse order when all are known.

    Args:
        lanes: Number of states, a power of two.
    """

    def __init__(self, lanes: int):
        self.lanes = lanes
        self._blocks: list[tuple[Array, Array]] = []

    def put(self, bits: Array, p: Array) -> None:
        """Adds a block: booleans, and for each the probability of True in units of 1/4096."""
        if len(bits):
            # The divisor of the state and the number to add; both are below 4096 and fit into 16 bits.
            size = np.where(bits, p, FULL - p).astype("uint16")
            self._blocks.append((size, np.where(bits, 0, p).astype("uint16")))

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
    """Decodes blocks of decisions, given the same probabilities as the `Encoder`.

    Args:
        lanes: Number of states, as in the `Encoder`.
        words: uint16 array.

    Raises:
        ValueError: If there are fewer words than the decisions need.
    """

    def __init__(self, lanes: int, words: Array):
        if len(words) < 2 * lanes:
            raise ValueError(_ENDED)
        first = words[: 2 * lanes].astype("uint64").reshape(lanes, 2)
        self._state = first[:, 0] | first[:, 1] << np.uint64(16)
        self.lanes = lanes
        self._words = np.concatenate([words[2 * lanes :], np.zeros(lanes, "uint16")])
        self._left, self._at = len(words) - 2 * lanes, 0

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
                if self._at + len(short) > self._left:
                    raise ValueError(_ENDED)
                x[short] = x[short] << np.uint64(16) | self._words[self._at : self._at + len(short)]
                self._at += len(short)
            self._state[: len(f)] = x
        return bits

    def _take_in_one_lane(self, p: Array) -> Array:
        x, bits = int(self._state[0]), []
        for f in p.tolist():
            rest = x & (FULL - 1)
            bits.append(rest < f)
            x = f * (x >> BITS) + rest if rest < f else (FULL - f) * (x >> BITS) + rest - f
            if x < _LOWEST:
                if self._at == self._left:
                    raise ValueError(_ENDED)
                x = x << 16 | int(self._words[self._at])
                self._at += 1
        self._state[0] = x
        return np.array(bits, bool)

    def check_end(self) -> None:
        """Raises a `ValueError` if words are left, or a state differs from the initial state of the encoder."""
        if self._at != self._left or (self._state != _LOWEST).any():
            raise ValueError("coded choices that do not end at the end of the words")


_ENDED = "too few words for the coded choices"


#: `(bits or None, p) -> bits`: encodes a block of known decisions, or decodes it.
Code = Callable[[Array | None, Array], Array]

_GAPS, _ACTIVITIES = 96, 12
_COUNT_BITS = 11  # counts are halved from 2**11 on, so that they adapt


def size_class(x: Array) -> Array:
    """`2 floor(log2 x)`, plus 1 if x is at least 1.5 times that power of two. x in [1, 2**53)."""
    # The exponent and the highest mantissa bit of a float64.
    return (x.astype("float64").view("int64") >> 51) - (1023 << 1)


class ProbabilityModel:
    """Adaptive probabilities of decisions: counts per context, and the levers of earlier rows.

    Args:
        rows: Number of rows of the kernel.
        width: Connections of a row.
        offsets: Distances in rows to earlier rows that resemble a row.
    """

    def __init__(self, rows: int, width: int, offsets: tuple[int, ...]):
        self.width, self.offsets = width, offsets
        self._ones = np.ones(4 * _GAPS * _ACTIVITIES, "int64")
        self._all = np.full(4 * _GAPS * _ACTIVITIES, 3, "int64")
        # Keep only the rows that the offsets reach.
        self._kept = max(offsets, default=0) + 1
        self._levers = np.zeros((0, width), "int64")
        self._moves = np.zeros(0, "int64")

    def code(self, stairs: ConnectionSteps, count: int, moves: Array | None, code: Code) -> Array:
        """Codes the next rows; returns the moves: positive numbers of steps to larger values, negative to smaller.

        Args:
            stairs: Steps of the connections of these rows.
            count: Number of rows.
            moves: The moves to encode, int64 of shape `(n,)`; None to decode.
            code: Function that encodes or decodes decisions.
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
                context = _context(2 * side + min(m, 1), far, sign * expected[where], activity[where])
                bits = self._decide(context, bits, code)
                # Levers that do not take the step are below the threshold, the others above it.
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
        """The expected levers of the next rows, and the activity, 0 to 11, of the row of each connection."""
        width, have = self.width, len(self._moves)
        total = np.zeros((count, width), "int64")
        moves, number = np.zeros(count, "int64"), np.zeros(count, "int64")
        for offset in self.offsets:
            # For the rows `first` to `count - 1`; there is nothing before the first row of the kernel.
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


STAIRS = {"hull": hull, "nearest": nearest}
#: Maximum number of values that are processed at once, unless one row has more.
BLOCK_VALUES = 2**18
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
    """

    stairs: str
    start: Start
    rows: int
    width: int
    group: int
    lanes: int
    offsets: tuple[int, ...]

    def blocks(self, values: Values) -> Iterator[tuple[int, int, ConnectionSteps]]:
        """Yields first row, end row and steps of each group, computed one group ahead."""
        make, width = STAIRS[self.stairs], self.width
        edges = [(low, min(low + self.group, self.rows)) for low in range(0, self.rows, self.group)]

        def stairs(edge: tuple[int, int]) -> ConnectionSteps:
            return make(values, self.start, edge[0] * width, edge[1] * width)

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(stairs, edges[0])
            for number, edge in enumerate(edges):
                ready = coming.result()
                if number + 1 < len(edges):
                    coming = pool.submit(stairs, edges[number + 1])
                yield (*edge, ready)


def encode(index: Array, values: Values, coding: Coding) -> tuple[Array, Array]:
    """The words of the choices `index`, uint16, and the connections whose choice no step leads to."""
    encoder = Encoder(coding.lanes)
    lost = _put(index, values, coding, encoder.put)
    return encoder.words(), lost


def cost(index: Array, values: Values, coding: Coding) -> float:
    """An estimate of the bits that the choices would take."""
    bits_of = -np.log2(np.arange(FULL + 1).clip(1) / FULL)
    total = 0.0

    def put(bits: Array, p: Array) -> None:
        nonlocal total
        total += float(bits_of[np.where(bits, p, FULL - p)].sum())

    _put(index, values, coding, put)
    return total


def _put(index: Array, values: Values, coding: Coding, put: Callable[[Array, Array], None]) -> Array:
    """Passes all decisions and their probabilities to `put`; returns the choices that no step reaches."""
    model = ProbabilityModel(coding.rows, coding.width, coding.offsets)
    lost: list[Array] = []

    def code(bits: Array | None, p: Array) -> Array:
        assert bits is not None
        put(bits, p)
        return bits

    for low, high, stairs in coding.blocks(values):
        first, last = low * coding.width, high * coding.width
        moves, missed = moves_to_choices(stairs, index[first:last])
        lost.append(first + missed)
        model.code(stairs, high - low, moves, code)
    return np.concatenate(lost)


def decode(words: Array, values: Values, coding: Coding) -> tuple[Array, Array]:
    """Returns the indices that were encoded, except those that no step reaches, and their values.

    They are uint8 and float32, of shape `(n,)`.

    Raises:
        ValueError: If the words do not belong to this kernel.
    """
    decoder = Decoder(coding.lanes, words)
    model = ProbabilityModel(coding.rows, coding.width, coding.offsets)
    index = np.empty(coding.rows * coding.width, "uint8")  # K is at most MOST_CODED
    chosen = np.empty(len(index), "float32")
    for low, high, stairs in coding.blocks(values):
        moves = model.code(stairs, high - low, None, lambda _, p: decoder.take(p))
        first, last = low * coding.width, high * coding.width
        index[first:last] = _index(stairs, moves)
        chosen[first:last] = _take(stairs.rows, index[first:last])
    decoder.check_end()
    return index, chosen


def missed(index: Array, values: Values, coding: Coding, rows: int) -> int:
    """The number of choices in the first rows that no step reaches."""
    last = rows * coding.width
    stairs = STAIRS[coding.stairs](values, coding.start, 0, last)
    return len(moves_to_choices(stairs, index[:last])[1])


def moves_to_choices(stairs: ConnectionSteps, index: Array) -> tuple[Array, Array]:
    """The moves that reach these choices, and the connections whose choice no step reaches."""
    selected = _take(stairs.rows, index)
    moves, known = np.zeros(len(index), "int64"), _take(stairs.rows, stairs.start) == selected
    for side, sign in enumerate((1, -1)):
        for m, step in enumerate(stairs.steps[side]):
            here = (_take(stairs.rows, step) == selected) & ~known
            here &= stairs.thresholds[side][m] < NEVER
            moves[here] = sign * (m + 1)
            known |= here
    return moves, np.flatnonzero(~known)


def _index(stairs: ConnectionSteps, moves: Array) -> Array:
    index = stairs.start.copy()
    for side, sign in enumerate((1, -1)):
        for m, step in enumerate(stairs.steps[side]):
            here = moves == sign * (m + 1)
            index[here] = step[here]
    return index


def _take(rows: Array, index: Array) -> Array:
    return rows[np.arange(len(rows)), index]


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
