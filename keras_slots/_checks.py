"""All checks of arguments, and their errors: what was expected, what was received, what to do."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

#: Maximum number of values of a connection.
MAX_VALUES = 2**16
# Values and scores stay below it, so that float64 arithmetic on them cannot overflow.
LIMIT = 1e300


def check_seed(seed: Any, name: str = "seed") -> int:
    """Returns a Python or NumPy integer, `0 <= seed < 2**64`, as an `int`, or raises an error."""
    return check_integer(seed, name, 2**64)


def check_integer(value: Any, name: str, limit: int) -> int:
    """Returns `value` as an `int` in `[0, limit)`, `limit` a power of two, or raises an error."""
    result = _integer_or_none(value)
    if result is None or not 0 <= result < limit:
        raise ValueError(
            f"`{name}` must be an integer, at least 0 and below 2**{limit.bit_length() - 1}. "
            f"Received: {name}={value!r}. Pass for example `{name}=0`."
        )
    return result


def check_num_values(num_values: Any) -> int:
    """Returns K as an `int` in `[1, MAX_VALUES]`, or raises an error."""
    result = _integer_or_none(num_values)
    if result is None or not 1 <= result <= MAX_VALUES:
        raise ValueError(
            f"`num_values` must be a positive integer, at most {MAX_VALUES}: the number of fixed "
            f"values of each connection. Received: num_values={num_values!r}. "
            "Pass for example `num_values=8`."
        )
    return result


def check_bits(bits: Any) -> int:
    """Returns the size of an integer in bits as an `int` in [4, 16], or raises an error."""
    result = _integer_or_none(bits)
    if result is None or not 4 <= result <= 16:
        raise ValueError(
            "`bits` must be None or an integer from 4 to 16: the size of the integers that the values are "
            f"multiples of. Received: bits={bits!r}. Pass for example `bits=8`."
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
    """Returns `value` if it is one of `choices`, or raises an error that lists them."""
    if not isinstance(value, str) or value not in choices:
        *first, last = (f'"{choice}"' for choice in choices)
        expected = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}.")
    return value


def check_finite(array: Any, name: str) -> np.ndarray[Any, Any]:
    """Returns `array` as floats, or raises an error if they are not all finite."""
    array = np.asarray(array)
    if array.dtype.kind in "iub":
        array = array.astype("float64")
    if array.size and not (-LIMIT < float(array.min()) and float(array.max()) < LIMIT):
        raise ValueError(
            f"`{name}` must be finite (and below {LIMIT:g}), but holds NaN, infinite or larger "
            f"entries. Check the initializer. Received: {name} from {array.min()} to {array.max()}."
        )
    return array


def check_calibration_data(data: Any, shape: tuple[int | None, ...]) -> np.ndarray[Any, Any]:
    """Returns inputs of a model as an array, or raises an error if they do not have the shape of its input."""
    try:
        array = np.asarray(data)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    fits = array.ndim == len(shape) + 1 and all(
        size in (None, length) for size, length in zip(shape, array.shape[1:], strict=True)
    )
    if not fits or not array.size or array.dtype.kind not in "iubf":
        raise ValueError(
            "`calibration_data` must be an array of inputs of the model, of shape "
            f"({', '.join(map(str, ('n', *shape)))}). Received: shape {array.shape} and dtype {array.dtype}. Pass "
            "for example the first 500 training inputs."
        )
    if not (np.abs(array) < 3e38).all():
        raise ValueError(
            "`calibration_data` must be finite, but holds NaN, infinity or numbers beyond float32. Leave these "
            "inputs out, and scale all as in training."
        )
    return array


def _integer_or_none(value: Any) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
