"""Checks of single arguments, one wording for all."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np


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
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        result = -1
    if not 0 <= result < limit:
        raise ValueError(
            f"`{name}` must be an integer, at least 0 and below 2**{limit.bit_length() - 1}. "
            f"Received: {name}={value!r}. Pass for example `{name}=0`."
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


def check_name(value: Any, name: str, known: tuple[str, ...]) -> str:
    """Returns `value` if it is one of the `known` names, or says which these are."""
    if value not in known:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, known))}. Received: {name}={value!r}."
        )
    return str(value)
