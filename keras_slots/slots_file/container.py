"""The bytes of a `.slots` file: a header, the architecture, one record for each weight, and a checksum.

Records follow each other without a table of offsets, so there can be no holes and no overlaps. Every size is
checked against what is there before anything is allocated.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

MAGIC = b"\x89SLOTS\r\n"
VERSION = 1  # that is written
HEADER = struct.Struct("<8sIIQII")
#: How a weight is stored: as an array, or as choices that are packed or coded.
FORMS = ("stored", "packed", "hull", "nearest")
#: Dtypes, in the order of their numbers in the file.
DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool"),
)
MOST_TENSORS = 2**16
MOST_ARCHITECTURE = 2**26  # bytes of JSON
MOST_COMPRESSED = 2**24
MOST_AXES = 8
MOST_ELEMENTS = 2**32


@dataclass(frozen=True)
class Record:
    """One weight: `dtype` is one of `DTYPES`, `form` one of `FORMS`, `payload` the bytes of array or choices."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    form: str
    payload: Any

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the weight in memory, in bytes."""
        return self.size * itemsize(self.dtype)


class Contents(NamedTuple):
    """The contents of a file, with records that are not decoded yet."""

    architecture: dict[str, Any]
    records: list[Record]
    version: int


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return int(np.dtype(dtype).itemsize)  # NumPy knows bfloat16: Keras has imported ml_dtypes


def damaged(received: str) -> ValueError:
    """Returns the error for a damaged file."""
    return ValueError(f"The .slots file is damaged: {received}. Copy or write the file again.")


def join(architecture: dict[str, Any], records: list[Record]) -> bytes:
    """The bytes of a file."""
    text = json.dumps(architecture, separators=(",", ":"), ensure_ascii=True).encode()
    packed = zlib.compress(text, 9)
    parts = [_joined(record) for record in records]
    size = HEADER.size + len(packed) + sum(map(len, parts)) + 4
    head = HEADER.pack(MAGIC, VERSION, len(records), size, len(packed), len(text))
    content = b"".join([head, packed, *parts])
    return content + struct.pack("<I", zlib.crc32(content))


def _joined(record: Record) -> bytes:
    name = record.name.encode()
    name = name if len(name) < 256 else name[-255:].decode(errors="ignore").encode()
    form, dtype = FORMS.index(record.form), DTYPES.index(record.dtype)
    head = struct.pack("<BBBB", form, dtype, len(record.shape), len(name)) + name
    head += struct.pack(f"<{len(record.shape)}I", *record.shape)
    return struct.pack("<Q", len(head) + len(record.payload)) + head + bytes(record.payload)


class ByteReader:
    """Reads consecutive numbers, never beyond the end of the data; `what` is its name for errors."""

    def __init__(self, data: Any, what: str):
        self._data, self.what, self._at = memoryview(data), what, 0

    @property
    def left(self) -> int:
        """Number of bytes left."""
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if not 0 <= count <= self.left:
            raise ValueError(f"{self.what} needs {count} bytes where {self.left} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def unpack(self, form: str) -> tuple[Any, ...]:
        """The next numbers, by a `struct` format without the byte order."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))


def split(content: bytes) -> Contents:
    """The architecture and the records of a file of any known version.

    Raises:
        ValueError: If the bytes are not a complete, undamaged `.slots` file of a version in `READERS`.
    """
    if content[:8] != MAGIC[: len(content)] or not content:
        raise ValueError(
            f"`path` must be a .slots file, written by `keras_slots.save_slots`. Received: a file that begins "
            f"with {content[:8]!r}."
        )
    if len(content) < HEADER.size + 4:
        raise ValueError(
            f"The .slots file is truncated: it has {len(content)} bytes, fewer than its header. "
            "Copy or write the file again."
        )
    (version,) = struct.unpack_from("<I", content, len(MAGIC))
    if version not in READERS:
        known = ", ".join(map(str, READERS))
        raise ValueError(
            f"The .slots file has format version {version}, but this version of keras_slots reads {known}. "
            "Update keras_slots (`pip install -U keras-slots`)."
        )
    return READERS[version](content)


def _read(content: bytes, read_record: Callable[[ByteReader], Record]) -> Contents:
    _, version, count, size, compressed, uncompressed = HEADER.unpack_from(content)
    if size != len(content):
        raise ValueError(
            f"The .slots file is {'truncated' if size > len(content) else 'damaged'}: it should have {size} "
            f"bytes. Received: {len(content)} bytes. Copy or write the file again."
        )
    if zlib.crc32(memoryview(content)[:-4]) != struct.unpack("<I", content[-4:])[0]:
        raise damaged("its checksum differs")
    if count > MOST_TENSORS or compressed > MOST_COMPRESSED or uncompressed > MOST_ARCHITECTURE:
        raise ValueError(
            f"The .slots file is damaged or hostile: its header is too large. Expected at most {MOST_TENSORS} "
            f"weights and {MOST_COMPRESSED} bytes of architecture, {MOST_ARCHITECTURE} once decompressed. "
            f"Received: {count}, {compressed} and {uncompressed}."
        )
    body = ByteReader(memoryview(content)[HEADER.size : -4], "the file")
    records = []
    try:
        architecture = _architecture(body.take(compressed), uncompressed)
        for number in range(count):
            body.what = f"weight {number}"
            (length,) = body.unpack("Q")
            records.append(read_record(ByteReader(body.take(length), body.what)))
        if body.left:
            raise ValueError(f"it has {body.left} trailing bytes")
    except ValueError as error:
        raise damaged(str(error)) from None
    return Contents(architecture, records, version)


def _architecture(packed: memoryview, size: int) -> dict[str, Any]:
    unpacker = zlib.decompressobj()
    try:
        # Decompress at most one byte more than stated, which detects excess data without the risk of a zip bomb.
        text = unpacker.decompress(packed, size + 1)
        if len(text) != size or not unpacker.eof or unpacker.unused_data:
            raise ValueError("its size differs from that in the header")
        architecture = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"its architecture cannot be read ({error})") from None
    if not isinstance(architecture, dict) or not isinstance(architecture.get("class_name"), str):
        raise ValueError("its architecture is not that of a Keras model")
    return architecture


def _head(body: ByteReader) -> tuple[str, tuple[int, ...], str, str]:
    """Name, shape, dtype and form of a weight."""
    form, dtype, axes, length = body.unpack("BBBB")
    if form >= len(FORMS) or dtype >= len(DTYPES) or axes > MOST_AXES:
        raise ValueError(f"{body.what} has form {form}, dtype {dtype} and {axes} axes")
    try:
        name = bytes(body.take(length)).decode()
    except UnicodeDecodeError:
        raise ValueError(f"the name of {body.what} is not UTF-8") from None
    return name, body.unpack(f"{axes}I"), DTYPES[dtype], FORMS[form]


def _with_payload(name: str, shape: tuple[int, ...], dtype: str, form: str, body: ByteReader) -> Record:
    """The weight with all that is left of its record."""
    record = Record(name, shape, dtype, form, body.take(body.left))
    if record.size > MOST_ELEMENTS:
        raise ValueError(f"{body.what} has the shape {shape}, over {MOST_ELEMENTS} elements")
    if form == "stored" and len(record.payload) != record.nbytes:
        needed = f"its shape {shape} and dtype {dtype} need {record.nbytes}"
        raise ValueError(f"'{name}' has {len(record.payload)} bytes, but {needed}")
    return record


def _record(body: ByteReader) -> Record:
    return _with_payload(*_head(body), body)


#: Format version -> function that reads such a file. Released versions are never removed.
READERS: dict[int, Callable[[bytes], Contents]] = {1: partial(_read, read_record=_record)}


def stored(name: str, array: Array) -> Record:
    """The record of a weight that is stored as an array."""
    shape, dtype = array.shape, str(array.dtype)
    if dtype not in DTYPES:
        raise ValueError(
            f"The weight '{name}' has the dtype {dtype}, which a .slots file cannot hold. Expected one of "
            f"{', '.join(DTYPES)}. Save `materialize(model)` as a .keras file instead."
        )
    return Record(name, shape, dtype, "stored", _little_endian(array).tobytes())


def array_of(record: Record) -> Array:
    """The array of a stored record."""
    array = np.frombuffer(record.payload, np.dtype(record.dtype)).reshape(record.shape)
    return _little_endian(array)


def _little_endian(array: Array) -> Array:
    little = np.dtype("<u2").isnative
    return array if little or array.dtype.itemsize == 1 else array.byteswap()
