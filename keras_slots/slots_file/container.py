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
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

MAGIC = b"\x89SLOTS\r\n"
VERSION = 2  # that is written
_SMALLEST = len(MAGIC) + 8  # the smallest of all versions: version, three numbers, checksum
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
    """One weight: `dtype` is one of `DTYPES`, `form` one of `FORMS`, `payload` the bytes of array or choices.

    A file holds no names. Those of its weights follow from the architecture.
    """

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


@cache
def _dictionary() -> bytes:
    """The preset dictionary of the compressor, a part of the format: the lines of `dictionary.txt`."""
    return resources.files(__package__).joinpath("dictionary.txt").read_bytes().replace(b"\n", b"")


def join(architecture: dict[str, Any], records: list[Record]) -> bytes:
    """The bytes of a file."""
    text = json.dumps(architecture, separators=(",", ":"), ensure_ascii=True).encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=_dictionary())
    packed = packer.compress(text) + packer.flush()
    sizes = map(number_to_bytes, (len(records), len(packed), len(text)))
    content = b"".join([MAGIC, bytes([VERSION]), *sizes, packed, *map(_joined, records)])
    return content + struct.pack("<I", zlib.crc32(content))


def _joined(record: Record) -> bytes:
    dtype, axes = DTYPES.index(record.dtype), len(record.shape)
    head = bytes([FORMS.index(record.form) | axes << 2 | (dtype > 0) << 6])
    head += bytes([dtype] if dtype else []) + b"".join(map(number_to_bytes, record.shape))
    if record.form != "stored":
        head += number_to_bytes(len(record.payload))
    return head + bytes(record.payload)


def number_to_bytes(number: int) -> bytes:
    r"""A number below 2**64 in one to nine bytes: seven bits in each, the lowest first, and eight in the ninth.

    Example:

    >>> number_to_bytes(127), number_to_bytes(300), len(number_to_bytes(2**64 - 1))
    (b'\x7f', b'\xac\x02', 9)
    """
    out: list[int] = []
    while number >= 128 and len(out) < 8:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


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

    def number(self) -> int:
        """The next number that `number_to_bytes` wrote."""
        number = 0
        for shift in range(0, 57, 7):
            (byte,) = self.take(1)
            if byte < 128 or shift == 56:
                break
            number |= (byte & 127) << shift
        return number | byte << shift


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
    if len(content) < _SMALLEST:
        raise ValueError(
            f"The .slots file is truncated: it has {len(content)} bytes, fewer than its header. "
            "Copy or write the file again."
        )
    version = content[len(MAGIC)]
    if version not in READERS:
        known = ", ".join(map(str, READERS))
        older = "Write the file again with `save_slots`; no release wrote that version."
        newer = "Update keras_slots (`pip install -U keras-slots`)."
        raise ValueError(
            f"The .slots file has format version {version}, but this version of keras_slots reads {known}. "
            f"{older if version < min(READERS) else newer}"
        )
    return READERS[version](content)


def _read(content: bytes, read_record: Callable[[ByteReader], Record]) -> Contents:
    if zlib.crc32(memoryview(content)[:-4]) != struct.unpack("<I", content[-4:])[0]:
        raise damaged("its checksum differs, because bytes are missing or changed")
    body = ByteReader(memoryview(content)[len(MAGIC) + 1 : -4], "the file")
    records = []
    try:
        count, compressed, uncompressed = (body.number() for _ in range(3))
        if count > MOST_TENSORS or compressed > MOST_COMPRESSED or uncompressed > MOST_ARCHITECTURE:
            raise ValueError(
                f"its header is too large. Expected at most {MOST_TENSORS} weights and {MOST_COMPRESSED} bytes of "
                f"architecture, {MOST_ARCHITECTURE} once decompressed. Received: {count}, {compressed} and "
                f"{uncompressed}"
            )
        architecture = _architecture(body.take(compressed), uncompressed)
        for number in range(count):
            body.what = f"weight {number}"
            records.append(read_record(body))
        if body.left:
            raise ValueError(f"it has {body.left} trailing bytes")
    except ValueError as error:
        raise damaged(str(error)) from None
    return Contents(architecture, records, content[len(MAGIC)])


def _architecture(packed: memoryview, size: int) -> dict[str, Any]:
    unpacker = zlib.decompressobj(-15, zdict=_dictionary())
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


def _record(body: ByteReader) -> Record:
    (first,) = body.take(1)
    form, axes, other = first & 3, first >> 2 & 15, first >> 6
    dtype = body.take(1)[0] if other else 0
    if other > 1 or dtype >= len(DTYPES) or axes > MOST_AXES:
        raise ValueError(f"{body.what} has {axes} axes, dtype {dtype} and flag {other}")
    shape = tuple(body.number() for _ in range(axes))
    record = Record(body.what, shape, DTYPES[dtype], FORMS[form], b"")
    if record.size > MOST_ELEMENTS or any(size >= MOST_ELEMENTS for size in shape):
        raise ValueError(f"{body.what} has the shape {shape}, over {MOST_ELEMENTS} elements")
    return replace(record, payload=body.take(body.number() if form else record.nbytes))


#: Format version -> function that reads such a file. Released versions are never removed.
READERS: dict[int, Callable[[bytes], Contents]] = {2: partial(_read, read_record=_record)}


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
