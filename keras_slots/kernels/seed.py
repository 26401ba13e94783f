"""The seed of a kernel as one of its weights, and the fingerprint of what else its values come from.

The seed has to travel with `get_weights()`, and people average, soft-update, cast and clip all weights of a model.
So a 64-bit number is held as eight words of 8 bits in a float32 variable, rounded when it is read: means of equal
weights, soft updates, float16 and bfloat16 bring it back exactly. Four words of checksum follow, by which a seed
that is lost (clipped, noised, the mean of two different seeds) is noticed.
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


def words_length(count: int) -> int:
    """Number of words that hold `count` numbers."""
    return _BYTES * count + _CHECKSUM_BYTES


def to_words(*numbers: int) -> np.ndarray:
    """64-bit numbers and their checksum as float32 words from 0 to 255, the highest byte first.

    Example:

    >>> to_words(258)[:8]
    array([0., 0., 0., 0., 0., 0., 1., 2.], dtype=float32)
    """
    content = b"".join(number.to_bytes(_BYTES, "big") for number in numbers)
    content += zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big")
    return np.frombuffer(content, "uint8").astype("float32")


def from_words(words: Any) -> tuple[int, ...] | None:
    """The numbers that `to_words` was given, or None where the checksum says that they are lost.

    Example:

    >>> from_words(to_words(7) + 0.25), from_words(to_words(7) / 2)
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


def integer_of(words: Tensor) -> Tensor:
    """In traced code: the 32-bit integer of four words along the first axis, int32."""
    highest, *others = ops.unstack(ops.cast(ops.round(ops.convert_to_tensor(words)), "int32"), 4)
    for part in others:
        highest = ops.bitwise_or(ops.left_shift(highest, np.int32(8)), part)
    return highest


def fingerprint(initial: InitialValues) -> np.ndarray:
    """Eight bytes that tell apart all that bank and initial scores come from besides the seed."""
    shared = not isinstance(initial.sharing, str)
    parts = [
        initial.num_values,
        initial.fans,
        None if shared else initializers.serialize(initial.bank_initializer),
        initializers.serialize(initial.score_initializer),
        initializers.serialize(initial.sharing) if shared else initial.sharing,
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return np.frombuffer(digest[:8], "uint8")


def check_fingerprint(received: np.ndarray, initial: InitialValues, path: str) -> None:
    """Raises an error if a file was written by a kernel with other arguments.

    Args:
        received: What `fingerprint` returned then.
        initial: What the kernel that is to take the file starts from.
        path: Path of that kernel, for the message.
    """
    if not np.array_equal(received, fingerprint(initial)):
        raise ValueError(
            f"The weights of the kernel '{path}' were trained with another `num_values`, "
            "`bank_initializer`, `score_initializer` or `sharing`, which determine its values. "
            f"Received: num_values={initial.num_values}, bank_initializer={initial.bank_initializer!r}, "
            f"score_initializer={initial.score_initializer!r}, sharing={initial.sharing!r}. "
            "Build the layer with the arguments of the saved one."
        )
