"""The bank value nearest to a lever that is trained like an ordinary weight: `score_mode="nearest"`.

With the initial scores of `NearestScores` and a lever u, the highest of the scores `s_k + w_k u` belongs to the
value nearest to v = w0 + u. So only v has to be trained, which starts at w0: in this mode v is the lever.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_slots._backend import compiled, from_host, straight_through, take_rows
from keras_slots._registry import register
from keras_slots.kernels.envelope import NUDGE
from keras_slots.kernels.lever import LeverKernel, lever_gradient
from keras_slots.kernels.seed import decode_integer
from keras_slots.kernels.staircase import round_down
from keras_slots.selection import Greedy
from keras_slots.values.initial_values import InitialValues
from keras_slots.values.nearest_scores import NearestScores
from keras_slots.values.stratified import (
    SPREAD,
    Grid,
    StratifiedUniform,
    connection_state,
    count_connections,
    count_connections_of,
    offsets,
    pair_hash,
)
from keras_slots.values.value_bank import ValueBank

Tensor = Any
Array = np.ndarray[Any, Any]

# Adding it to a number below 2**21 rounds that number to quarters, which are then the last bits.
_QUARTERS = np.float32(1.5 * 2**21)


@register("nearest")
class NearestKernel(LeverKernel):
    """The bank value nearest to a lever that is trained like an ordinary weight (`score_mode="nearest"`).

    Forward `kernel[c] = bank[c, k*]`, `k* = argmin_k |bank[c, k] - v[c]|`, ties to the lowest index; v is the
    lever, which is initialized like the weight of the Keras layer. Backward `d v[c] = d kernel[c]`.

    A value of a stratified bank is a hash of (seed, connection, k) and is computed without the other values, so
    only the lever and the seed are stored. The values of a `ValueBank` are constants.
    """

    def __init__(self, *, kernel_initializer: Any, **arguments: Any):
        if arguments["bank_initializer"] is None:
            arguments["bank_initializer"] = StratifiedUniform(scale=1.5)
        arguments["score_initializer"] = NearestScores(kernel_initializer)
        super().__init__(kernel_initializer=kernel_initializer, **arguments)

    @classmethod
    def check_arguments(cls, rule: Any, bank_initializer: Any, score_initializer: Any, sharing: Any) -> None:
        if not isinstance(rule, Greedy):
            raise ValueError(
                '`selection` must be "greedy" for score_mode="nearest", because there are no scores to draw from. '
                f'Received: selection={rule!r}. Pass score_mode="per_value", or "per_connection" for one lever.'
            )
        if score_initializer is not None:
            raise ValueError(
                '`score_initializer` must be None for score_mode="nearest": levers start where '
                f"`kernel_initializer` puts them. Received: score_initializer={score_initializer!r}. Leave it out."
            )
        if bank_initializer is not None and not isinstance(bank_initializer, StratifiedUniform):
            raise ValueError(
                '`bank_initializer` must be a `StratifiedUniform` for score_mode="nearest", which finds the '
                f"nearest value on its own. Received: bank_initializer={bank_initializer!r}. Leave it "
                'out, or pass score_mode="per_value" with score_initializer="nearest", which takes any bank.'
            )

    def add_variables(self, initial: InitialValues) -> None:
        shape, dtype = initial.kernel_shape, self.score_dtype
        self._lever = self.add_values("lever", shape, initial.start, dtype, trainable=True, regularized=True)
        if self.move_regularizer is not None:
            # Stored, because drawing w0 in every step would cost more than the step.
            self._start = self.add_values("start", shape, initial.start, dtype)
        self._bank: SharedValues | StratifiedValues
        if isinstance(self.sharing, ValueBank):
            self._bank = SharedValues(tuple(self.sharing.values.tolist()))
        else:
            source = self.bank_initializer
            grid = Grid(self.num_values, source.bits)
            self._bank = StratifiedValues(grid, source.bound(initial.fans), initial.shared)
        self._greedy = straight_through(SelectNearest(self._bank, self.variable_dtype), lever_gradient)
        self._in_rows = straight_through(NearestInRows(self._bank, self.variable_dtype, shape), lever_gradient)

    def seed_numbers(self, seed: int) -> tuple[int, ...]:
        # Includes the keys of the hash, which traced code cannot draw from the seed.
        if isinstance(self.sharing, ValueBank):
            return (seed,)
        low, high = self.bank_initializer.words(seed)
        return seed, int(high) << 32 | int(low)

    @property
    def bank(self) -> Tensor:
        return ops.cast(self._exact_bank(), self.variable_dtype)

    def _exact_bank(self) -> Tensor:
        """The bank in float32, the dtype in which values are compared; the dtype of the layer may round them."""

        def draw(words: np.ndarray) -> tuple[np.ndarray]:
            return (self.initial_values_of(words).bank(),)

        return from_host(draw, self._seed, (keras.KerasTensor(self.initial.bank_shape, "float32"),))[0]

    @property
    def scores(self) -> Tensor:
        bank = ops.cast(self._exact_bank(), self.score_dtype)
        return bank * self._lever.value[..., None] - bank * bank / 2

    def select_greedily(self, trained: Tensor | None = None) -> Tensor:
        return self._greedy(self._lever if trained is None else trained, self._seed)

    def select_by_rule(self, *uniform: Tensor) -> Tensor:
        return self.select_greedily()

    def select_in(self, rows: Tensor, by_rule: bool, *uniform: Tensor) -> Tensor:
        return self._in_rows(take_rows(self._lever, rows), self._seed, rows)

    @property
    def selected_indices(self) -> Tensor:
        return compiled(IndexOfNearest(self._bank))(self._lever, self._seed)

    def moves(self, trained: Tensor) -> Tensor:
        return ops.convert_to_tensor(trained) - self._start.value

    def saved_state(self) -> dict[str, Any]:
        own = super().saved_state()
        keeps_start = self.move_regularizer is not None and not self.initial.rebuildable
        return {**own, "start": self._start} if keeps_start else own

    def load_state(self, given: dict[str, np.ndarray]) -> None:
        super().load_state(given)
        if self.move_regularizer is not None and self.initial.rebuildable:
            self._start.assign(self.current_initial_values().start())

    def positions(self, trained: Tensor | None = None) -> Tensor:
        lever = self._lever if trained is None else trained
        index = compiled(IndexOfNearest(self._bank))(lever, self._seed)
        if not isinstance(self.sharing, ValueBank):
            return index  # stratified values are sorted
        values = self.sharing.values
        return ops.take(np.searchsorted(np.sort(values), values).astype("int32"), index)

    def start_values(self) -> Tensor | None:
        if not self.initial.rebuildable:
            return None
        return ops.convert_to_tensor(self.current_initial_values().start(), self.score_dtype)

    def reach(self) -> float:
        return 1.0  # with nearest scores all values can be selected


@dataclass(frozen=True)
class StratifiedValues:
    """The values of a `StratifiedUniform` bank; equal objects share their compiled programs."""

    grid: Grid
    bound: float
    shared: bool = False

    def nearest(self, lever: Tensor, seed: Tensor, counts: Any = None) -> tuple[Tensor, Tensor]:
        """Values in float32 and indices in int32 that are nearest to each lever; see `nearest_in_strata`."""
        words = ops.convert_to_tensor(seed)
        # The keys are the second number in `seed`, see `NearestKernel.seed_numbers`.
        high, low = (decode_integer(words[i : i + 4]) for i in (8, 12))
        keys = ops.stack([low, high])
        return nearest_in_strata(lever, keys, self.grid, self.bound, shared=self.shared, counts=counts)


@dataclass(frozen=True)
class SharedValues:
    """The values of a `ValueBank`, shared by all connections."""

    values: tuple[float, ...]

    def nearest(self, lever: Tensor, seed: Tensor, counts: Any = None) -> tuple[Tensor, Tensor]:
        """Values in float32 and indices in int32 that are nearest to each lever, by binary search."""
        values, index = np.unique(np.array(self.values, "float32"), return_index=True)
        lever = ops.convert_to_tensor(lever)
        wide = values.astype("float64")
        middle = (wide[1:] + wide[:-1]) / 2
        # Ties go to the lower index. If that is the upper value, reaching the midpoint is enough.
        below = np.where(middle == 0, -NUDGE, np.nextafter(middle, -np.inf))
        middle = np.where(index[1:] < index[:-1], below, middle)
        dtype = np.dtype(keras.backend.standardize_dtype(lever.dtype))
        thresholds = ops.convert_to_tensor(round_down(middle, dtype))
        flat = ops.reshape(lever, (-1,))
        # A lever that is NaN selects the lowest value on every backend.
        place = ops.searchsorted(thresholds, ops.where(flat == flat, flat, values[0]), side="left")
        place = ops.reshape(place, ops.shape(lever))
        return ops.take(values, place), ops.take(index.astype("int32"), place)


@dataclass(frozen=True)
class SelectNearest:
    """`(lever, seed) -> kernel`."""

    bank: StratifiedValues | SharedValues
    dtype: str

    def __call__(self, lever: Tensor, seed: Tensor) -> Tensor:
        return ops.cast(self.bank.nearest(lever, seed)[0], self.dtype)


@dataclass(frozen=True)
class NearestInRows:
    """`(lever, seed, rows) -> kernel` for the levers of some rows of a kernel of this shape."""

    bank: StratifiedValues | SharedValues
    dtype: str
    kernel_shape: tuple[int, ...]

    def __call__(self, lever: Tensor, seed: Tensor, rows: Tensor) -> Tensor:
        values = self.bank.nearest(lever, seed, count_connections_of(rows, self.kernel_shape))[0]
        # JAX gives NaN for a row that does not exist, and a lever that is NaN would hide that.
        exists = ops.reshape(rows < self.kernel_shape[0], (-1, *[1] * (len(self.kernel_shape) - 1)))
        return ops.cast(ops.where(exists, values, np.float32(np.nan)), self.dtype)


@dataclass(frozen=True)
class IndexOfNearest:
    """`(lever, seed) -> selected_indices`."""

    bank: StratifiedValues | SharedValues

    def __call__(self, lever: Tensor, seed: Tensor) -> Tensor:
        return self.bank.nearest(lever, seed)[1]


def nearest_in_strata(
    lever: Tensor, words: Tensor, grid: Grid, bound: float, *, shared: bool = False, counts: Any = None
) -> tuple[Tensor, Tensor]:
    """Values, float32, and indices, int32, of a `StratifiedUniform` bank nearest to each lever; lowest on ties.

    The bank is not stored: the nearest value lies in the stratum of the lever or in a neighbouring one, and the
    values of the four strata around the lever are computed from the seed, whatever K is. Dividing the lever by
    the unit of the integers rounds it once; for the rounded lever the choice is exact. A lever beyond the
    bank selects its first or last value, a lever that is NaN the first.

    Args:
        lever: Tensor of shape `(...)`, float32 or float64.
        words: Integer tensor of shape `(2,)`: `StratifiedUniform.words`, modulo 2**32.
        grid: The integers that values are multiples of.
        bound: `StratifiedUniform.bound`.
        shared: Whether all connections have the values of the first.
        counts: The numbers of the connections, see `count_connections`; None: they are counted in C order.
    """
    lever = ops.convert_to_tensor(lever)
    dtype, bits, unit, num_values = lever.dtype, grid.stratum_bits, grid.unit(bound), grid.num_values
    last_pair = max((num_values - 3) // 2, 0)
    # Twice the integer, as midpoints of integers are integers then: below 2**24, so floats compare exactly.
    target = lever * ops.cast(2.0 / float(unit), dtype)
    pair = _first_pair(target, grid, last_pair)
    if shared or counts is None:
        counts = count_connections(() if shared else tuple(lever.shape))
    state = connection_state(ops.cast(words, "int32"), *counts)
    pairs = [pair_hash(state, (pair + j) * SPREAD) for j in range(1 if num_values <= 2 else 2)]
    within = [offset for word in pairs for offset in offsets(word, bits)][:num_values]
    start = pair * np.int32(grid.step << (bits + 1)) + np.int32(grid.lowest)
    candidates = [start + (offset + np.int32(k << bits)) * np.int32(grid.step) for k, offset in enumerate(within)]
    number, index = candidates[0] + ops.zeros_like(lever, dtype="int32"), 2 * pair
    for k, (below, above) in enumerate(pairwise(candidates), start=1):
        further = target > ops.cast(below + above, dtype)
        if k == 3 and num_values % 2:
            # For the last pair the fourth stratum is outside the bank.
            further = ops.logical_and(further, pair < np.int32(last_pair))
        number = ops.where(further, above, number)
        index = ops.where(further, 2 * pair + np.int32(k), index)
    return ops.cast(number, "float32") * unit, index + ops.zeros_like(lever, dtype="int32")


def _first_pair(target: Tensor, grid: Grid, last_pair: int) -> Tensor:
    """The j such that the nearest value lies in one of the strata 2 j to 2 j + 3.

    It is `floor(z - 1/2)`, where z is the target in pairs of strata from the lower end of the bank. An error of
    up to a quarter in z is allowed, so it does not matter whether a compiler fuses the multiplication with the
    addition.
    """
    if not last_pair:
        return ops.zeros((), "int32")
    # A power of two. With NumPy 1, `1 / np.float32(...)` would be float64, and so would the target on JAX.
    stratum = grid.step << grid.stratum_bits  # in units
    per_pair = np.float32(1 / (4 * stratum))
    lowest = np.float32((4.0 - grid.num_values) * stratum)
    # A comparison instead of `maximum`, so that NaN selects the lowest on every backend.
    target = ops.cast(target, "float32")
    target = ops.where(target > lowest, target, lowest)
    z = target * per_pair + (_QUARTERS + np.float32(grid.num_values / 4 - 0.5))
    # Positive floats, including infinity, are ordered like their bits.
    pair = ops.right_shift(ops.view(z, "int32") - _QUARTERS.view(np.int32), np.int32(2))
    return ops.minimum(pair, np.int32(last_pair))
