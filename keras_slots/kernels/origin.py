"""Where the values of a kernel come from, as numbers that a file can hold."""

import hashlib
import json

import numpy as np

from keras_slots.values.initial_values import InitialValues
from keras_slots.values.initializers import serialize
from keras_slots.values.value_bank import ValueBank


def to_words(number: int) -> np.ndarray:
    """A 64-bit number as four of 16 bits, which every backend, device and file format holds."""
    return np.array([number >> shift & 0xFFFF for shift in (48, 32, 16, 0)], "int32")


def from_words(words: np.ndarray) -> int:
    """The number that `to_words` took apart."""
    number = 0
    for word in words:
        number = number << 16 | int(word)
    return number


def origin_of(initial: InitialValues) -> np.ndarray:
    """Fingerprint of all that bank and initial scores come from beside the seed."""
    shared = isinstance(initial.sharing, ValueBank)
    parts = [
        initial.num_values,
        initial.fans,
        None if shared else serialize(initial.bank_initializer),
        serialize(initial.score_initializer),
        serialize(initial.sharing) if shared else initial.sharing,
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return to_words(int.from_bytes(digest[:8], "big"))


def check_origin(origin: np.ndarray, initial: InitialValues, path: str) -> None:
    """Raises an error if a file was written by a kernel with other arguments.

    Args:
        origin: What `origin_of` returned then.
        initial: What the kernel that is to take the file starts from.
        path: Path of that kernel, for the message.
    """
    if not np.array_equal(origin, origin_of(initial)):
        raise ValueError(
            f"The weights of the kernel '{path}' were trained with another `num_values`, "
            "`bank_initializer`, `score_initializer` or `sharing`, from which their values come back. "
            f"Received: num_values={initial.num_values}, bank_initializer={initial.bank_initializer!r}, "
            f"score_initializer={initial.score_initializer!r}, sharing={initial.sharing!r}. "
            "Build the layer with the arguments of the saved one."
        )
