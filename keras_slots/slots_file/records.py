"""One kernel as a record of a `.slots` file: how its values are drawn, its choices, and how these are coded."""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from keras_slots._checks import MAX_VALUES
from keras_slots.kernels.base import SlotKernel
from keras_slots.slots_file.coder import (
    BLOCK_VALUES,
    LARGEST_SHARE,
    MOST_CODED,
    SHARES,
    Coding,
    Start,
    cost,
    decode,
    encode,
    hull,
    moves_to_choices,
    pack,
    packed_size,
    unpack,
)
from keras_slots.slots_file.container import ByteReader, Record, damaged, number_to_bytes
from keras_slots.slots_file.values import KINDS, Stream, Values, take
from keras_slots.values import philox
from keras_slots.values.source import Description

Array = np.ndarray[Any, Any]

#: Dtypes to which the float32 values of a kernel convert exactly.
KERNEL_DTYPES = ("float32", "float64", "bfloat16")
#: Maximum number of coded connections per byte: a connection with a decision takes at least 1 / 22,700 of a byte.
_MOST_PER_BYTE = 2**15
_MOST_ROW_VALUES = 2**24
_MOST_LANES = 9  # base-2 logarithm
_FLAG_SHARED, _FLAG_ROUNDED = 16, 32  # beside the kind
_FLAG_ACTIVITY = 64  # beside lanes and offsets
_FLAG_OWN_SEED = 128  # beside the kind of the start


def write_kernel(name: str, selected: Array, index: Array, values: Values, coding: Coding | None) -> Record:
    """The record of a kernel: coded, or packed if that is shorter or the coded one does not decode correctly.

    `selected` has the shape and dtype of the kernel, `index` the shape `(n,)`. Without a `coding`, it is packed.
    """
    shape, dtype = selected.shape, str(selected.dtype)
    head = _values_to_bytes(values) + struct.pack("<H", _checksum(selected.reshape(-1)))
    if coding is not None:
        words, lost = encode(index, values, coding)
        tail = _coding_to_bytes(coding, values, index, words, lost)
        record = Record(name, shape, dtype, coding.stairs, head + tail)
        if len(tail) < packed_size(len(index), values.num_values):
            with contextlib.suppress(ValueError):
                if _decodes_to(record, selected):
                    return record
    record = Record(name, shape, dtype, "packed", head + pack(index, values.num_values))
    if not _decodes_to(record, selected):
        raise RuntimeError(
            f"The record of kernel '{name}' does not decode to it, so nothing was written. Please report this, "
            "and save `materialize(model)` as a .keras file."
        )
    return record


def _decodes_to(record: Record, selected: Array) -> bool:
    back = read_kernel(record).astype(record.dtype)
    return back.tobytes() == np.ascontiguousarray(selected).tobytes()


def read_kernel(record: Record) -> Array:
    """The selected values of a record, float32, in its shape.

    Raises:
        ValueError: If the record is damaged.
    """
    _, chosen, checksum = read_choices(record)
    if _checksum(chosen) != checksum:
        raise damaged(
            f"its kernel '{record.name}' differs from the saved one, or this machine computes other values"
        )
    return chosen.reshape(record.shape)


def read_choices(record: Record) -> tuple[Array, Array, int]:
    """The choices of a record: their indices, `(n,)`, their values, float32, and the expected checksum."""
    body = ByteReader(record.payload, f"'{record.name}'")
    with _damage_named(record):
        values = _values_from_bytes(body)
        (checksum,) = body.unpack("H")
        if record.dtype not in KERNEL_DTYPES or not 0 < record.size:
            raise ValueError(f"choices cannot have dtype {record.dtype} and shape {record.shape}")
        if record.form == "packed":
            if values.num_values == 1 or body.left != packed_size(record.size, values.num_values):
                raise ValueError("packed choices whose size does not fit the shape")
            index = unpack(body.take(body.left), record.size, values.num_values)
            return index, _values_at(index, values), checksum
        coding, lost, lost_index, words = _coding_from_bytes(body, record, values)
        index, chosen = decode(words, values, coding)
    index[lost] = lost_index
    for at in lost:
        chosen[at] = values.take(index[at : at + 1], int(at))[0]
    return index, chosen, checksum


@contextlib.contextmanager
def _damage_named(record: Record) -> Iterator[None]:
    """Turns a `ValueError` about a payload into that of a damaged file, with the name of the weight."""
    try:
        yield
    except ValueError as error:
        raise damaged(f"its weight '{record.name}' cannot be read. Received: {error}") from None


def _values_at(index: Array, values: Values) -> Array:
    out = np.empty(len(index), "float32")
    block = max(1, 4 * BLOCK_VALUES // values.num_values)
    for low in range(0, len(index), block):
        out[low : low + block] = values.take(index[low : low + block], low)
    return out


def _checksum(values: Array) -> int:
    """The low half of the CRC-32 of values as little-endian float32."""
    return zlib.crc32(np.ascontiguousarray(values, "<f4").data) & 0xFFFF


def _values_to_bytes(values: Values) -> bytes:
    flags = _FLAG_SHARED * values.shared | _FLAG_ROUNDED * values.rounded
    head = bytes([KINDS.index(values.kind) | flags]) + number_to_bytes(values.num_values - 1)
    if values.given is not None:
        return head + values.given.astype("<f4").tobytes()
    head += struct.pack("<f", values.factor) + number_to_bytes(values.seed)
    return head if values.bits is None else head + bytes([values.bits])


def _values_from_bytes(body: ByteReader) -> Values:
    (first,) = body.take(1)
    number, shared, rounded = first & 15, bool(first & _FLAG_SHARED), bool(first & _FLAG_ROUNDED)
    if number >= len(KINDS) or first >= 64:
        raise ValueError(f"values of kind {first}, which this version of keras_slots does not know")
    kind, k = KINDS[number], body.number() + 1
    if k > MAX_VALUES:
        raise ValueError(f"{k} values a connection")
    if kind == "given":
        given = np.frombuffer(body.take(4 * k), "<f4").astype("float32")
        if not shared or not np.isfinite(given).all():
            raise ValueError("given values that are not finite or not shared")
        return Values(k, kind, shared=shared, rounded=rounded, given=given)
    (factor,), seed, bits = body.unpack("f"), body.number(), None
    if not 0 < factor < np.inf:
        raise ValueError(f"values of kind {number} with factor {factor}")
    if kind == "grid":
        (bits,) = body.take(1)
        if not 4 <= bits <= 16 or k > 2 ** (bits - 1):
            raise ValueError(f"{k} values that are integers of {bits} bits")
    return Values(k, kind, seed, factor, shared, rounded, bits=bits)


def _coding_to_bytes(coding: Coding, values: Values, index: Array, words: Array, lost: Array) -> bytes:
    start, stream = coding.start, coding.start.stream
    flags = len(coding.offsets) << 4 | _FLAG_ACTIVITY * coding.activity
    drawn, own_seed = coding.stairs == "hull" or start.share > 0, stream.seed != values.seed
    of_start = KINDS.index(stream.kind) + 1 | _FLAG_OWN_SEED * own_seed if drawn else 0
    parts = [
        bytes([coding.lanes.bit_length() - 1 | flags, of_start]),
        *map(number_to_bytes, (coding.width, coding.group, *coding.offsets)),
        struct.pack("<b", start.exponent),
    ]
    if drawn:
        parts += [number_to_bytes(stream.seed)] if own_seed else []
        if coding.stairs == "nearest":
            parts += [struct.pack("<f", stream.factor), number_to_bytes(start.share)]
    parts += [
        number_to_bytes(len(lost)),
        lost.astype("<u4").tobytes(),
        index[lost].astype("<u2").tobytes(),
        words.astype("<u2").tobytes(),
    ]
    return b"".join(parts)


def _coding_from_bytes(body: ByteReader, record: Record, values: Values) -> tuple[Coding, Array, Array, Array]:
    first, of_start = body.take(2)
    lanes, number, activity = first & 15, first >> 4 & 3, bool(first & _FLAG_ACTIVITY)
    width, group = body.number(), body.number()
    k, n = values.num_values, record.size
    if first >= 128 or number > 2 or lanes > _MOST_LANES or not 0 < width <= n or n % width or not group:
        raise ValueError(
            f"rows of {width} connections, groups of {group} rows, {2**lanes} lanes, {number} offsets"
        )
    offsets = tuple(body.number() for _ in range(number))
    rows = n // width
    if not 2 <= k <= MOST_CODED or width * k > _MOST_ROW_VALUES or n > 2**32 - 1:
        raise ValueError(f"{k} values for each of {width} connections per row")
    if (group > 1 and group * width * k > BLOCK_VALUES) or 2**lanes > group * width:
        raise ValueError(f"groups of {group} rows of {width} connections, {2**lanes} lanes")
    if any(not group <= offset < rows for offset in offsets):
        raise ValueError(f"row offsets {offsets}")
    start = _start_from_bytes(body, of_start, record.form, values.seed)
    lost_count = body.number()
    word_count, odd = divmod(body.left - 6 * lost_count, 2)
    if word_count < 0 or odd or n > _MOST_PER_BYTE * 2 * word_count:
        raise ValueError(f"{lost_count} single choices in {body.left} bytes")
    lost = np.frombuffer(body.take(4 * lost_count), "<u4").astype("int64")
    choices = np.frombuffer(body.take(2 * lost_count), "<u2").astype("int32")
    if lost_count and (lost[-1] >= n or (np.diff(lost) <= 0).any() or choices.max() >= k):
        raise ValueError("single choices that are out of order or do not exist")
    words = np.frombuffer(body.take(2 * word_count), "<u2").astype("uint16")
    return Coding(record.form, start, rows, width, group, 2**lanes, offsets, activity), lost, choices, words


def _start_from_bytes(body: ByteReader, of_start: int, form: str, seed: int) -> Start:
    """Where connections start; `seed` is that of their values."""
    (exponent,) = body.unpack("b")
    if not of_start and form == "nearest":
        return Start(exponent)
    kind = (of_start & ~_FLAG_OWN_SEED) - 1
    if not 0 <= kind < len(KINDS) or KINDS[kind] not in philox.KINDS:
        raise ValueError(f"a start of kind {of_start}")
    seed = body.number() if of_start & _FLAG_OWN_SEED else seed
    if form == "hull":
        return Start(exponent, Stream(KINDS[kind], seed, philox.SCORE_STREAM, 1.0))
    (factor,), share = body.unpack("f"), body.number()
    if not 0 < factor < np.inf or share > LARGEST_SHARE:
        raise ValueError(f"a start with factor {factor} and a share of {share}")
    return Start(exponent, Stream(KINDS[kind], seed, philox.START_STREAM, factor), share)


def summary(record: Record) -> str:
    """Describes the values of a record in words, without decoding its choices."""
    if record.form == "stored":
        return record.dtype
    with _damage_named(record):
        values = _values_from_bytes(ByteReader(record.payload, f"'{record.name}'"))
    names = {"strata": "stratified", "given": "listed", "grid": f"stratified in {values.bits} bits"}
    kind = names.get(values.kind, values.kind.replace("_", " "))
    return f"K = {values.num_values}, {kind}{', shared' * values.shared}{', bfloat16' * values.rounded}"


_MANY = 2**15  # connections, from which contexts by activity pay
_MOST_OFFSETS = 64  # maximum number of offsets to try
_ALIKE = 0.05  # minimum correlation of similar rows
_MOST_TRIED = 2**19  # maximum number of connections for which several codings are tried
_PREDICTABLE = 64  # at most one choice in that many may be off the envelope


def values_of(kernel: SlotKernel) -> Values:
    """The values of a kernel, described by a few numbers.

    Raises:
        ValueError: If that is not possible; says why.
    """
    k = kernel.num_values
    if kernel.variable_dtype == "float16":
        raise ValueError("a .slots file cannot describe values in float16")
    initial, source = kernel.initial, kernel.initial.bank_source
    rounded, shared = kernel.variable_dtype == "bfloat16", initial.shared
    seed = kernel.current_seed()
    if source.needs_seed and seed is None:
        raise ValueError(
            "its seed is lost, by averaging models of different seeds, or clipping or noising all weights"
        )
    described = source.describe(seed or 0, k, initial.fans)
    if described is None and shared:
        described = Description("given", given=np.asarray(kernel.bank))
    if described is None:
        raise ValueError(f"the values of {kernel.bank_initializer!r} cannot be drawn from a seed")
    kind, seed, factor, given, bits = described
    if given is not None:
        # They are those of all connections, even if the bank repeats them for each.
        given, shared = given.astype("float32"), True
    return Values(k, kind, seed, factor, shared, rounded, given, bits)


@dataclass(frozen=True)
class KernelChoices:
    """The choices of a kernel, and how to predict them.

    Attributes:
        index: int64 of shape `(n,)`.
        on_hull: Whether the envelope of the scores predicts the choices.
        starts: Where connections start, the likeliest first, and how far from there the selected values are,
            float32 of shape `(n,)`.
    """

    index: Array
    on_hull: bool
    starts: list[tuple[Start, Array]]


def find_choices(kernel: SlotKernel, values: Values, selected: Array) -> KernelChoices | None:
    """The choices of the selected values, float32 of shape `(n,)`; None if one is not bitwise one of `values`."""
    stream, on_hull = _start_stream(kernel)
    n, k = len(selected), values.num_values
    staying = np.zeros(LARGEST_SHARE + 2, "int64")
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
        if stream and on_hull:
            scores = stream.draw((high - low) * k, low * k).reshape(-1, k).argmax(axis=1)
            begin[low:high] = take(rows, scores)
        elif stream:
            begin[low:high] = stream.draw(high - low, low)
            staying += _staying(rows, selected[low:high], begin[low:high])
    exponent = 24 - math.frexp(largest)[1] if largest else 0
    exponent = min(max(exponent, -128), 127)
    if stream is None:
        return KernelChoices(index, False, [(Start(exponent), selected)])
    if on_hull:
        return KernelChoices(index, True, [(Start(exponent, stream), selected - begin)])
    shares = _shares_of_start(begin.astype("float64"), selected, np.cumsum(staying))
    starts = [
        (Start(exponent, stream, share), selected - np.float32(share / SHARES) * begin)
        for share in (shares if n <= _MOST_TRIED else shares[:1])
    ]
    return KernelChoices(index, False, starts)


def _shares_of_start(w0: Array, selected: Array, stay: Array) -> list[int]:
    """Shares of w0 near which weights may have ended, the likeliest first: decay or rounding changes it from 1.

    One is that at which most connections stay, the other the least-squares fit.
    """
    most = int(stay.argmax())
    fitted = round(SHARES * float(w0 @ selected) / max(float(w0 @ w0), 1e-300))
    shares = [most, min(max(fitted, 0), LARGEST_SHARE)]
    if 2 * stay[most] < len(w0):
        shares.reverse()
    return list(dict.fromkeys(shares))


def _staying(rows: Array, selected: Array, w0: Array) -> Array:
    """For each share i / 256 of w0 (i from 0 to 1024): the change in the number of connections that stay.

    A connection stays at a share if its selected value is the one nearest to `share * w0`. That holds in an
    interval of shares, in which `share * w0` is between the midpoints to the neighbouring values.
    """
    value = selected.astype("float64")
    above = np.where(rows > selected[:, None], rows, np.inf).min(axis=1)
    below = np.where(rows < selected[:, None], rows, -np.inf).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = [(value + other) / 2 / w0 * SHARES for other in (below, above)]
    most = LARGEST_SHARE
    first = np.ceil(np.clip(np.fmin(*ends), 0, most + 1)).astype("int64")
    last = np.floor(np.clip(np.fmax(*ends), -1, most)).astype("int64") + 1
    count = partial(np.bincount, minlength=most + 2)
    return count(first) - count(np.maximum(first, last))


def _start_stream(kernel: SlotKernel) -> tuple[Stream | None, bool]:
    """The stream of the initial scores and True; the stream of w0 and False; or None and False."""
    initial, seed = kernel.initial, kernel.current_seed()
    nearest = initial.score_source.from_start
    drawn = initial.start_source if nearest else initial.score_source
    described = None if seed is None else drawn.describe(seed, 1, initial.fans)
    if described is None or described.kind not in philox.KINDS:
        return None, False
    if nearest:
        return Stream(described.kind, described.seed, philox.START_STREAM, described.factor), False
    return Stream(described.kind, described.seed, philox.SCORE_STREAM, 1.0), True


def coding_of(found: KernelChoices, values: Values, shape: tuple[int, ...]) -> Coding | None:
    """How to code the choices of a kernel; None if coding cannot save anything."""
    n, k = len(found.index), values.num_values
    width = 1
    for axis, size in enumerate(reversed(shape)):
        if width >= 16 and axis:
            break
        width *= size
    if k > MOST_CODED or width * k > _MOST_ROW_VALUES:
        return None
    rows = n // width
    # Without the envelope, the values nearest to zero: the gain of the start is 0.
    stairs = "hull" if found.on_hull and _is_mostly_on_envelope(found, values, rows, width) else "nearest"
    codings = []
    for start, shift in found.starts:
        for offsets in _most_similar_distances(shift.reshape(rows, width), _distances(shape, rows, width)):
            coding = Coding(stairs, start, rows, width, 1, 1, offsets, n >= _MANY)
            codings.append(_grouped(coding, k))
    if len(codings) == 1 or n > _MOST_TRIED:
        return codings[0]
    return min(codings, key=lambda coding: cost(found.index, values, coding))


def _grouped(coding: Coding, num_values: int) -> Coding:
    """The coding with about 128 groups of rows, and few lanes, because each takes four bytes."""
    n, width = coding.rows * coding.width, coding.width
    most = max(1, BLOCK_VALUES // (width * num_values))
    group = min(max(1, n // (128 * width)), most, *coding.offsets, 2**16 - 1)
    lanes = 1 << min(_MOST_LANES, (n // 8192).bit_length())
    while lanes > group * width:
        lanes //= 2
    return replace(coding, group=group, lanes=lanes)


def _is_mostly_on_envelope(found: KernelChoices, values: Values, rows: int, width: int) -> bool:
    """Whether nearly all choices of the first connections are on the envelope."""
    last = width * min(rows, max(1, 2**15 // width))
    stairs = hull(values, found.starts[0][0], 0, last)
    _, missed = moves_to_choices(stairs, found.index[:last])
    return len(missed) * _PREDICTABLE <= last


def _distances(shape: tuple[int, ...], rows: int, width: int) -> list[int]:
    """Candidate distances between similar rows."""
    if len(shape) > 2 and width == shape[-1]:
        # The same input channel at the neighbouring position of a convolution, in each direction.
        steps = [math.prod(shape[axis:-1]) for axis in range(1, len(shape) - 1)]
        return [step for step in steps if step < rows]
    return list(range(1, min(_MOST_OFFSETS, rows - 1) + 1))


def _most_similar_distances(shift: Array, distances: list[int]) -> list[tuple[int, ...]]:
    """The best one or two distances, whose rows, averaged, correlate most with a row; and the next best ones.

    The correlation of a row with the sum of two earlier rows is `(c_a + c_b) / sqrt(2 + 2 c_(a - b))`, where c_a
    is the correlation of rows at distance a. So two rows that are less similar to each other can predict better
    together: the pixel to the left with the one to the upper right, instead of the one above.
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
