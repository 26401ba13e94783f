"""Every check of an argument, one wording each: what was expected, what was received, what to do."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: The most values that a connection can have.
MAX_VALUES = 2**16
# Values and scores stay below it, so that float64 arithmetic on them cannot overflow.
LIMIT = 1e300
# What people call a slot argument, where it is not spelled nearly as it is called.
_OTHER_NAMES = {
    "bank": "bank_initializer",
    "k": "num_values",
    "lever_regularizer": "move_regularizer",
    "mode": "score_mode",
    "num_slots": "num_values",
    "random_seed": "seed",
    "rule": "selection",
    "scores": "score_initializer",
    "slots": "num_values",
    "values": "num_values",
    "values_initializer": "bank_initializer",
}


def check_seed(seed: Any, name: str = "seed") -> int:
    """Returns `seed` as a Python integer, or says what is wrong with it.

    Args:
        seed: Python or NumPy integer, `0 <= seed < 2**64`. Booleans are refused.
        name: name of the argument in the error message.

    Returns:
        The seed as a Python `int`.

    Raises:
        ValueError: if `seed` is no such integer.

    Example:

    >>> check_seed(7)
    7
    """
    return check_integer(seed, name, 2**64)


def check_integer(value: Any, name: str, limit: int) -> int:
    """Returns `value` as an `int` in `[0, limit)`, `limit` a power of two, or raises an error."""
    result = _as_integer(value)
    if result is None or not 0 <= result < limit:
        raise ValueError(
            f"`{name}` must be an integer, at least 0 and below 2**{limit.bit_length() - 1}. "
            f"Received: {name}={value!r}. Pass for example `{name}=0`."
        )
    return result


def check_num_values(num_values: Any) -> int:
    """Returns K as an `int` in `[1, MAX_VALUES]`, or says what is wrong with it."""
    result = _as_integer(num_values)
    if result is None or not 1 <= result <= MAX_VALUES:
        raise ValueError(
            f"`num_values` must be a positive integer, at most {MAX_VALUES}: the number of fixed "
            f"values of each connection. Received: num_values={num_values!r}. "
            "Pass for example `num_values=8`."
        )
    return result


def check_positive(value: Any, name: str) -> float:
    """Returns `value` as a positive finite `float`, or raises a `ValueError` that names it."""
    try:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:
        number = math.inf
    if isinstance(value, (bool, np.bool_)) or not 0.0 < number < math.inf:
        raise ValueError(
            f"`{name}` must be a positive finite number. Received: {name}={value!r}. "
            f"Pass for example `{name}=1.0`."
        )
    return number


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Returns `value` if it is one of `choices`, or says which these are."""
    if not isinstance(value, str) or value not in choices:
        *first, last = (f'"{choice}"' for choice in choices)
        expected = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}.")
    return value


def near_miss_error(
    cls: type, given: Mapping[str, Any], slot_arguments: Sequence[str], error: Exception
) -> ValueError | None:
    """Returns an error that says what the unknown arguments of a layer are called, or None if nobody can tell.

    Args:
        cls: class of the layer.
        given: the keyword arguments that it received.
        slot_arguments: names of the slot arguments.
        error: what Keras raised; it quotes the arguments that it does not know.

    Example:

    >>> near_miss_error(int, {"K": 8}, ["num_values"], TypeError("unexpected argument 'K'"))
    ValueError('int has no argument `K`. Did you mean `num_values`? Received: K=8.')
    """
    known = set(slot_arguments)
    for base in cls.__mro__[:-1]:
        known.update(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    unknown = [name for name in given if name not in known and f"'{name}'" in str(error)]
    lines, is_found = [], False
    for name in unknown:
        meant = _OTHER_NAMES.get(name.lower())
        near = [meant] if meant else difflib.get_close_matches(name.lower(), sorted(known), n=1)
        is_found = is_found or bool(near)
        lines += [f"{cls.__name__} has no argument `{name}`."]
        lines += [f"Did you mean `{near[0]}`?"] if near else []
    received = ", ".join(f"{name}={given[name]!r}" for name in unknown)
    return ValueError(f"{' '.join(lines)} Received: {received}.") if is_found else None


def check_finite(array: Any, name: str) -> np.ndarray[Any, Any]:
    """Returns `array` as floats, all finite, or says that they are not."""
    array = np.asarray(array)
    if array.dtype.kind in "iub":
        array = array.astype("float64")
    if array.size and not (-LIMIT < float(array.min()) and float(array.max()) < LIMIT):
        raise ValueError(
            f"`{name}` must be finite (and below {LIMIT:g}), but holds NaN, infinite or larger "
            f"entries. Check the initializer. Received: {name} from {array.min()} to {array.max()}."
        )
    return array


def _as_integer(value: Any) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
