"""The seed of a kernel as one of its weights, and a fingerprint of the arguments that determine its values.

The seed has to travel with `get_weights()`, and people average, soft-update, cast and clip all weights of a
model. So a 64-bit number is stored as eight bytes, each an entry of a float32 variable, and rounded when it is
read: means of equal weights, soft updates, float16 and bfloat16 restore it exactly. Four more bytes are a
checksum, which detects a lost seed (clipped, noised, or the mean of two different seeds).
"""

import hashlib
import json
import zlib
from typing import Any

import numpy as np
from keras import ops

from keras_slots.values import initializers
from keras_slots.values.initial_values import InitialValues

Tensor = Any

_BYTES = 8  # of a number
_CHECKSUM_BYTES = 4


def encode_seed(*numbers: int) -> np.ndarray:
    """64-bit numbers and their checksum as bytes in float32, the highest byte first."""
    content = b"".join(number.to_bytes(_BYTES, "big") for number in numbers)
    content += zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big")
    return np.frombuffer(content, "uint8").astype("float32")


def decode_seed(words: Any) -> tuple[int, ...] | None:
    """The inverse of `encode_seed`; None if the checksum shows that the numbers are lost.

    Example:

    >>> decode_seed(encode_seed(7) + 0.25), decode_seed(encode_seed(7) / 2)
    ((7,), None)
    """
    words = np.asarray(words, "float64")
    if not np.isfinite(words).all():
        return None
    content = np.clip(np.rint(words), 0, 255).astype("uint8").tobytes()
    content, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if zlib.crc32(content) != int.from_bytes(checksum, "big"):
        return None
    parts = (content[i : i + _BYTES] for i in range(0, len(content), _BYTES))
    return tuple(int.from_bytes(part, "big") for part in parts)


def decode_integer(words: Tensor) -> Tensor:
    """The 32-bit integer of four words along the first axis, int32, also in traced code."""
    highest, *others = ops.unstack(ops.cast(ops.round(ops.convert_to_tensor(words)), "int32"), 4)
    for part in others:
        highest = ops.bitwise_or(ops.left_shift(highest, np.int32(8)), part)
    return highest


def fingerprint(initial: InitialValues) -> np.ndarray:
    """Eight bytes that identify everything, besides the seed, that determines bank and initial scores."""
    parts = [
        initial.num_values,
        initial.fans,
        initializers.serialize(initial.bank_initializer) if isinstance(initial.sharing, str) else None,
        initializers.serialize(initial.score_initializer),
        initializers.serialize(initial.sharing),
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return np.frombuffer(digest[:8], "uint8")


def check_fingerprint(received: np.ndarray, initial: InitialValues, path: str) -> None:
    """Raises an error if the fingerprint in a file differs from that of the kernel that loads it."""
    if not np.array_equal(received, fingerprint(initial)):
        raise ValueError(
            f"The weights of the kernel '{path}' were trained with another `num_values`, "
            "`bank_initializer`, `score_initializer` or `sharing`, which determine its values. "
            f"Received: num_values={initial.num_values}, bank_initializer={initial.bank_initializer!r}, "
            f"score_initializer={initial.score_initializer!r}, sharing={initial.sharing!r}. "
            "Build the layer with the arguments of the saved layer."
        )
