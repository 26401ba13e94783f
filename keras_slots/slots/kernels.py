"""One kernel as a record of a `.slots` file: its values, its choices, and how these are coded."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_slots.slots.choices import (
    BLOCK_VALUES,
    MOST_CODED,
    Coding,
    Progress,
    decode,
    encode,
    pack,
    packed_size,
    unpack,
)
from keras_slots.slots.container import Bytes, Record
from keras_slots.slots.stairs import Start
from keras_slots.slots.values import GIVEN, KINDS, STRATA, Stream, Values

Array = np.ndarray[Any, Any]

#: Dtypes of a kernel that its float32 values become without another rounding.
KERNEL_DTYPES = ("float32", "float64", "bfloat16")
#: A coded connection takes 1 / 22,700 of a byte at least; one that has a step to decide about.
_MOST_PER_BYTE = 2**15
_MOST_ROW_VALUES = 2**24
_MOST_LANES = 9  # base-2 logarithm
_EXPONENTS = 200
_FLAG_SHARED, _FLAG_ROUNDED = 1, 2


def write_kernel(
    name: str,
    selected: Array,
    index: Array,
    values: Values,
    coding: Coding | None,
    progress: Progress | None = None,
) -> Record:
    """The record of a kernel: coded, or packed where that is shorter or where the coded one does not come back.

    Args:
        name: Name of the kernel.
        selected: Its selected values, in its shape and dtype.
        index: Their indices, of shape `(n,)`.
        values: All its values.
        coding: How to code the choices; None: not at all.
        progress: Is told the number of connections done, twice for each.

    Raises:
        RuntimeError: If no record brings the selected values back.
    """
    shape, dtype = selected.shape, str(selected.dtype)
    head = _values_to_bytes(values) + struct.pack("<I", _checksum(selected.reshape(-1)))
    if coding is not None:
        words, lost = encode(index, values, coding, progress)
        tail = _coding_to_bytes(coding, index, words, lost)
        record = Record(name, shape, dtype, coding.stairs, head + tail)
        if len(tail) < packed_size(len(index), values.num_values):
            with contextlib.suppress(ValueError):
                if _comes_back(record, selected, progress):
                    return record
    record = Record(name, shape, dtype, "packed", head + pack(index, values.num_values))
    if not _comes_back(record, selected, None):
        raise RuntimeError(
            f"The kernel '{name}' does not come back from its record, so nothing was written. Please report this, "
            "and save `materialize(model)` as a .keras file."
        )
    return record


def _comes_back(record: Record, selected: Array, progress: Progress | None) -> bool:
    back = read_kernel(record, progress).astype(record.dtype)
    return back.tobytes() == np.ascontiguousarray(selected).tobytes()


def read_kernel(record: Record, progress: Progress | None = None) -> Array:
    """The chosen values of a record, float32, of its shape.

    Raises:
        ValueError: If the record is damaged.
    """
    _, chosen, checksum = read_choices(record, progress)
    if _checksum(chosen) != checksum:
        raise ValueError(
            f"The kernel '{record.name}' of the .slots file has other values than were saved: the file is "
            "damaged, or this machine computes them in another way. Copy or write the file again."
        )
    return chosen.reshape(record.shape)


def read_choices(record: Record, progress: Progress | None = None) -> tuple[Array, Array, int]:
    """The chosen indices of a record, of shape `(n,)`, their values, float32, and their right checksum."""
    body = Bytes(record.payload, f"'{record.name}'")
    values = _values_from_bytes(body)
    (checksum,) = body.unpack("I")
    if record.dtype not in KERNEL_DTYPES or not 0 < record.size:
        raise _damaged(body, f"choices cannot have dtype {record.dtype} and shape {record.shape}")
    if record.form == "packed":
        if values.num_values == 1 or body.left != packed_size(record.size, values.num_values):
            raise _damaged(body, "its packed choices have another size than its shape")
        index = _decoded(body, unpack, body.take(body.left), record.size, values.num_values)
        return index, _values_at(index, values), checksum
    coding, lost, lost_index, words = _coding_from_bytes(body, record, values)
    index, chosen = _decoded(body, decode, words, values, coding, progress)
    index[lost] = lost_index
    for at in lost:
        chosen[at] = values.take(index[at : at + 1], int(at))[0]
    return index, chosen, checksum


def _decoded(body: Bytes, decoder: Callable[..., Any], *arguments: Any) -> Any:
    """What a decoder returns; its complaints with the name of the weight."""
    try:
        return decoder(*arguments)
    except ValueError as error:
        raise _damaged(body, str(error)) from None


def _values_at(index: Array, values: Values) -> Array:
    out = np.empty(len(index), "float32")
    block = max(1, 4 * BLOCK_VALUES // values.num_values)
    for low in range(0, len(index), block):
        out[low : low + block] = values.take(index[low : low + block], low)
    return out


def _checksum(values: Array) -> int:
    """CRC-32 of values as little-endian float32."""
    return zlib.crc32(np.ascontiguousarray(values, "<f4").data)


def _values_to_bytes(values: Values) -> bytes:
    flags = _FLAG_SHARED * values.shared | _FLAG_ROUNDED * values.rounded
    kind, k = KINDS.index(values.kind), values.num_values
    head = struct.pack("<BBHfQ", kind, flags, k - 1, values.factor, values.seed)
    return head if values.given is None else head + values.given.astype("<f4").tobytes()


def _values_from_bytes(body: Bytes) -> Values:
    kind, flags, k, factor, seed = body.unpack("BBHfQ")
    k += 1
    if kind >= len(KINDS) or flags >= 4 or not 0 < factor < np.inf:
        raise _damaged(body, f"values of kind {kind} with flags {flags} and factor {factor}")
    given = None
    if kind == GIVEN:
        given = np.frombuffer(body.take(4 * k), "<f4").astype("float32")
        if flags & _FLAG_SHARED == 0 or not np.isfinite(given).all():
            raise _damaged(body, "given values that are not finite or not shared")
    shared, rounded = bool(flags & _FLAG_SHARED), bool(flags & _FLAG_ROUNDED)
    return Values(k, KINDS[kind], seed, factor, shared, rounded, given)


def _coding_to_bytes(coding: Coding, index: Array, words: Array, lost: Array) -> bytes:
    start, stream = coding.start, coding.start.stream
    offsets = coding.offsets
    lanes = coding.lanes.bit_length() - 1
    kind = KINDS.index(stream.kind)
    parts = [
        struct.pack("<IHBB", coding.width, coding.group, lanes, len(offsets)),
        struct.pack(f"<{len(offsets)}I", *offsets),
        struct.pack("<BBhffQ", kind, stream.stream, start.exponent, stream.factor, start.gain, stream.seed),
        struct.pack("<II", len(lost), len(words)),
        lost.astype("<u4").tobytes(),
        index[lost].astype("<u2").tobytes(),
        words.astype("<u2").tobytes(),
    ]  # fmt: skip
    return b"".join(parts)


def _coding_from_bytes(
    body: Bytes, record: Record, values: Values
) -> tuple[Coding, Array, Array, Array]:
    width, group, lanes, number = body.unpack("IHBB")
    k, n = values.num_values, record.size
    if number > 2 or lanes > _MOST_LANES or not 0 < width <= n or n % width or not group:
        raise _damaged(
            body,
            f"rows of {width}, {group} at once, {2**lanes} lanes, {number} rows looked back at",
        )
    offsets = body.unpack(f"{number}I")
    rows = n // width
    if not 2 <= k <= MOST_CODED or width * k > _MOST_ROW_VALUES or n > 2**32 - 1:
        raise _damaged(body, f"{k} values of each of {width} connections at once")
    if (group > 1 and group * width * k > BLOCK_VALUES) or 2**lanes > max(group * width, 1):
        raise _damaged(body, f"{group} rows of {width} at once, {2**lanes} lanes")
    if any(not group <= offset < max(rows, 1) for offset in offsets):
        raise _damaged(body, f"rows {offsets} back")
    kind, stream, exponent, factor, gain, seed = body.unpack("BBhffQ")
    fine = kind < STRATA and 0 < factor < np.inf and 0 <= gain < np.inf
    if (
        not fine
        or abs(exponent) > _EXPONENTS
        or (record.form == "hull" and (factor, gain) != (1, 0))
    ):
        raise _damaged(body, f"a start of kind {kind}, exponent {exponent}, {factor}, {gain}")
    lost_count, word_count = body.unpack("II")
    if body.left != 6 * lost_count + 2 * word_count or n > _MOST_PER_BYTE * 2 * word_count:
        raise _damaged(
            body, f"{word_count} words and {lost_count} single choices in {body.left} bytes"
        )
    lost = np.frombuffer(body.take(4 * lost_count), "<u4").astype("int64")
    choices = np.frombuffer(body.take(2 * lost_count), "<u2").astype("int32")
    if lost_count and (lost[-1] >= n or (np.diff(lost) <= 0).any() or choices.max() >= k):
        raise _damaged(body, "single choices that are out of order or do not exist")
    words = np.frombuffer(body.take(2 * word_count), "<u2").astype("uint16")
    start = Start(exponent, Stream(KINDS[kind], seed, stream, factor), gain)
    coding = Coding(record.form, start, rows, width, group, 2**lanes, offsets)
    return coding, lost, choices, words


def _damaged(body: Bytes, received: str) -> ValueError:
    return ValueError(
        f"The .slots file is damaged: its weight {body.what} cannot be read. Received: {received}. Copy or write "
        "the file again."
    )


def summary(record: Record) -> tuple[str, str]:
    """What a record says of its values and of its choices, in words; nothing is decoded."""
    if record.form == "stored":
        return record.dtype, "stored"
    body = Bytes(record.payload, f"'{record.name}'")
    values = _values_from_bytes(body)
    shared = ", shared" if values.shared else ""
    rounded = ", rounded" if values.rounded else ""
    return f"K = {values.num_values}, {values.kind}{shared}{rounded}", record.form
