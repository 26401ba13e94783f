"""Shared values: the argument `sharing`, and `ValueBank`, a set of values for several layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_slots._checks import MAX_VALUES, check_num_values, check_positive, check_seed
from keras_slots.values.philox import VALUE_BANK_STREAM, Float32Array, draw, draw_seed
from keras_slots.values.source import Description, ValueSource

SHARINGS = ("connection", "layer")


@keras.saving.register_keras_serializable(package="keras_slots")
class ValueBank(ValueSource):
    """One set of K values for several layers: pass the same object as `sharing` to each of them.

    Values can be drawn or given. `ValueBank(8, bound=0.1)` draws `float32(bound) * (2 u_i - 1)`, uniform on
    `[-bound, bound)`; `ValueBank(values=[-0.1, 0.1])` takes the given ones. Banks of equal values are equal.

    Args:
        num_values: Number of values, K, at most 65536; may be omitted if `values` is given.
        values: The values themselves: one-dimensional, finite, not empty, not all equal; rounded to float32.
        bound: Largest magnitude of drawn values. There is no default, because layers of different sizes may
            share them; start with `sqrt(6 / (fan_in + fan_out))` of the largest layer.
        seed: Integer, `0 <= seed < 2**64`; None draws one, which `keras.utils.set_random_seed` determines.

    Attributes:
        values: Read-only `float32` array of shape `(num_values,)`.
        num_values: Number of values, K.

    Raises:
        ValueError: If an argument is invalid, or the arguments contradict each other.

    Example:

    >>> ValueBank(values=[-0.5, 0.25]).values
    array([-0.5 ,  0.25], dtype=float32)
    >>> ValueBank(4, bound=0.1, seed=3) == ValueBank(4, bound=0.1, seed=3)
    True

    Source: Aladago and Torresani, 2021, section "shared values", which shares one set over the whole network.
    """

    needs_seed = False

    def __init__(
        self,
        num_values: int | None = None,
        *,
        values: Any = None,
        bound: float | None = None,
        seed: int | None = None,
    ) -> None:
        if values is None:
            num_values, bound = check_num_values(num_values), _check_bound(bound)
            seed = draw_seed() if seed is None else check_seed(seed)
            self._config = {"num_values": num_values, "bound": bound, "seed": seed}
            self.values = draw("uniform", seed, VALUE_BANK_STREAM, num_values, scale=bound)
        else:
            if bound is not None or seed is not None:
                raise ValueError(
                    "`values` cannot be combined with `bound` or `seed`, which draw values. Received: "
                    f"bound={bound!r}, seed={seed!r}. Pass one or the other."
                )
            self.values = _given_values(values, num_values)
            self._config = {"values": self.values.tolist()}
        self.values.flags.writeable = False

    @property
    def num_values(self) -> int:
        return int(self.values.size)

    @property
    def spread(self) -> str | None:  # type: ignore[override]
        return "independent" if "seed" in self._config else None

    def rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Float32Array:
        return self.values[None]

    def describe(self, seed: int, num_values: int, fans: tuple[int, int]) -> Description | None:
        return Description("given", given=self.values)

    def get_config(self) -> dict[str, Any]:
        return dict(self._config)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ValueBank):
            return NotImplemented
        return self.values.tobytes() == other.values.tobytes()

    def __hash__(self) -> int:
        return hash(self.values.tobytes())

    def __repr__(self) -> str:
        return f"ValueBank({', '.join(f'{k}={v!r}' for k, v in self._config.items())})"


def check_sharing(sharing: Any, num_values: int, bank_initializer: Any) -> str | ValueBank:
    """Returns a valid `sharing`, or raises an error if it contradicts the other arguments."""
    if isinstance(sharing, dict):
        sharing = keras.saving.deserialize_keras_object(sharing)
    if isinstance(sharing, str) and sharing in SHARINGS:
        return sharing
    if not isinstance(sharing, ValueBank):
        raise ValueError(
            f'`sharing` must be "connection", "layer" or a `keras_slots.ValueBank`. Received: sharing={sharing!r}.'
        )
    if sharing.num_values != num_values:
        raise ValueError(
            f"`sharing` has {sharing.num_values} values, but the layer has `num_values`={num_values}. "
            f"Received: sharing={sharing!r}. Pass num_values={sharing.num_values}."
        )
    if bank_initializer is not None:
        raise ValueError(
            "`bank_initializer` must be None if `sharing` is a `ValueBank`, which already has the values. "
            f"Received: bank_initializer={bank_initializer!r}. Leave it out."
        )
    return sharing


def _check_bound(bound: Any) -> float:
    if bound is None:
        raise ValueError(
            "`bound` is required to draw values. Received: bound=None. Pass for "
            "example `bound=0.1`, or `sqrt(6 / (fan_in + fan_out))` of the largest layer."
        )
    bound = check_positive(bound, "bound")
    if not 2.0**-102 <= bound < 2.0**127:
        raise ValueError(
            f"`bound` must be a number that float32 can hold. Received: bound={bound!r}. "
            "Choose a `bound` nearer to 1."
        )
    return bound


def _given_values(values: Any, num_values: Any) -> Float32Array:
    try:
        given = np.array(values)
        with np.errstate(over="ignore"):  # becomes infinite and is refused below
            array = given.astype(np.float32) if given.dtype.kind in "iuf" else None
    except (TypeError, ValueError):
        array = None
    if array is None or array.ndim != 1 or not 1 <= array.size <= MAX_VALUES or not np.isfinite(array).all():
        raise ValueError(
            f"`values` must be 1 to {MAX_VALUES} finite numbers in one dimension. Received: "
            f"values={values!r}. Pass for example `values=[-0.1, 0.1]`."
        )
    if num_values is not None and num_values != array.size:
        raise ValueError(
            f"`num_values` must be the number of `values`, {array.size}. Received: "
            f"num_values={num_values!r}. Leave it out."
        )
    if array.size > 1 and (array == array[0]).all():
        raise ValueError(
            f"`values` must hold two different values, or there is nothing to select. Received: values={values!r}."
        )
    return array
