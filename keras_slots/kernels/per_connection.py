"""One lever per connection instead of K scores: `score_mode="per_connection"`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_slots._backend import compiled, from_host, straight_through, take_rows
from keras_slots._registry import register
from keras_slots.kernels.lever import LeverKernel, lever_gradient
from keras_slots.kernels.staircase import build_staircase, levels_of
from keras_slots.selection import Greedy, SelectionRule, greedy_index, lookup
from keras_slots.values.initial_values import InitialValues

Tensor = Any


@register("per_connection")
class PerConnectionKernel(LeverKernel):
    """One trained number u per connection, the lever, from which all K scores follow.

    Forward `scores[c, k] = initial_scores[c, k] + bank[c, k] * u[c]`. Greedy selection is then a staircase in u,
    computed once; the bank is not stored if it can be drawn from the seed. Backward `d u[c] = d kernel[c]`.
    """

    def add_variables(self, initial: InitialValues) -> None:
        shape, dtype = initial.kernel_shape, self.score_dtype
        self._lever = self.add_values(
            "lever", shape, lambda: np.zeros(shape), dtype, trainable=True, regularized=True
        )
        # From the arguments of the layer, so that values from a file get arrays of the same shape.
        self._levels = levels_of(initial)
        if not initial.rebuildable:
            # From the scores as a file stores them, so that a loaded kernel has the same thresholds.
            scores = initial.scores().astype(dtype)
            initial = initial.with_arrays(initial.bank(), scores)
        arrays = self._staircase(initial)
        self._steps = tuple(
            self.add_values(name, array.shape, partial(arrays.__getitem__, name), str(array.dtype))
            for name, array in arrays.items()
        )
        # Kept in memory only where a rule draws from them, or they cannot be drawn again from the seed.
        self._lines: tuple[keras.Variable, ...] = ()
        if not (self.initial.rebuildable and isinstance(self.rule, Greedy)):
            self._lines = (
                self.add_values("initial_scores", initial.score_shape, initial.scores, dtype),
                self.add_values("bank", initial.bank_shape, initial.bank, self.variable_dtype),
            )
        self._greedy = straight_through(read_staircase, lever_gradient)
        self._by_rule = straight_through(SelectFromLeverScores(self.rule), lever_gradient, exact=False)

    def _staircase(self, initial: InitialValues) -> dict[str, np.ndarray]:
        """The arrays of the staircase by variable name, in the order of the arguments of `read_staircase`."""
        staircase = build_staircase(initial, self.score_dtype, bank_dtype=self.variable_dtype, levels=self._levels)
        steps = staircase.steps.astype(np.dtype(self.variable_dtype))
        return {
            "thresholds": staircase.thresholds.reshape(self._levels, *initial.kernel_shape),
            "steps": steps.reshape(self._levels + 1, *initial.kernel_shape),
        }

    @property
    def bank(self) -> Tensor:
        return self._initial_scores_and_bank()[1]

    @property
    def scores(self) -> Tensor:
        return score_lines(self._lever, *self._initial_scores_and_bank())

    def select_greedily(self, trained: Tensor | None = None) -> Tensor:
        return self._greedy(self._lever if trained is None else trained, *self._steps)

    def select_by_rule(self, *uniform: Tensor) -> Tensor:
        return self._by_rule(self._lever, *self._lines, *uniform)

    def select_in(self, rows: Tensor, by_rule: bool, *uniform: Tensor) -> Tensor:
        lever = take_rows(self._lever, rows)
        if not by_rule:
            return self._greedy(lever, *(ops.take(x, rows, axis=1) for x in self._steps))
        scores, bank = self._lines
        bank = bank if self.initial.shared else take_rows(bank, rows)
        return self._by_rule(lever, take_rows(scores, rows), bank, *uniform)

    @property
    def selected_indices(self) -> Tensor:
        # From the selected value itself, because rounding could put another line on top.
        initial_scores, bank = self._initial_scores_and_bank()
        scores = score_lines(self._lever, initial_scores, bank)
        is_selected = ops.equal(bank, self.select_greedily()[..., None])
        lowest = float(np.finfo(self.score_dtype).min)
        return greedy_index(ops.where(is_selected, scores, lowest))

    def moves(self, trained: Tensor) -> Tensor:
        return ops.convert_to_tensor(trained)  # at a lever of 0 the initial scores decide

    def saved_state(self) -> dict[str, Any]:
        if self.initial.rebuildable:
            return super().saved_state()  # the staircase is computed from the seed
        initial_scores, bank = self._lines
        return {"lever": self._lever, "seed": self._seed, "initial_scores": initial_scores, "bank": bank}

    def load_state(self, given: dict[str, np.ndarray]) -> None:
        before = self.current_seed()
        staircase: dict[str, np.ndarray] = {}
        if not self.initial.rebuildable:
            staircase = self._staircase(self.initial.with_arrays(given["bank"], given["initial_scores"]))
        super().load_state(given)
        if self.initial.rebuildable and self.current_seed() != before:
            initial = self.current_initial_values()
            staircase = self._staircase(initial)
            if self._lines:
                self._lines[0].assign(initial.scores())
                self._lines[1].assign(ops.cast(initial.bank(), self.variable_dtype))
        for variable in self._steps if staircase else ():
            variable.assign(staircase[variable.name])

    def positions(self, trained: Tensor | None = None) -> Tensor:
        return compiled(count_steps)(self.select_greedily(trained), self._steps[1])

    def start_values(self) -> Tensor:
        return ops.zeros_like(self._lever.value)

    def reach(self) -> float:
        steps = ops.convert_to_numpy(self._steps[1]).astype("float32")
        connections = self.initial.num_connections
        higher = np.count_nonzero(steps[1:] > steps[:-1])
        return (higher + connections) / (connections * self.num_values)

    def _initial_scores_and_bank(self) -> tuple[Tensor, Tensor]:
        if self._lines:
            return self._lines[0].value, self._lines[1].value
        initial = self.initial

        def draw(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            seeded = self.initial_values_of(words)
            scores = np.asarray(seeded.scores(), self.score_dtype)
            return scores, np.asarray(seeded.bank(), "float32")

        # Also in traced code, where the seed is not known yet.
        like = (KerasTensor(initial.score_shape, self.score_dtype), KerasTensor(initial.bank_shape, "float32"))
        scores, bank = from_host(draw, self._seed, like)
        return scores, ops.cast(bank, self.variable_dtype)


def read_staircase(lever: Tensor, thresholds: Tensor, steps: Tensor) -> Tensor:
    """Greedy selection with one lever per connection: the value of its staircase, bitwise one of `steps`.

    `kernel[c] = steps[h, c]`, where h is the number of thresholds with `lever[c] > thresholds[h, c]`.

    Args:
        lever: Tensor of shape `(...)`.
        thresholds: Tensor of shape `(levels, ...)`, non-decreasing along the first axis.
        steps: Tensor of shape `(levels + 1, ...)`, the values of the staircase.
    """
    lever, thresholds, steps = (ops.convert_to_tensor(x) for x in (lever, thresholds, steps))
    value = steps[0]
    for h in range(thresholds.shape[0]):
        value = ops.where(lever > thresholds[h], steps[h + 1], value)
    return value


def count_steps(kernel: Tensor, steps: Tensor) -> Tensor:
    """The step of its staircase on which each selected value is, int32."""
    return ops.sum(ops.cast(steps < kernel, "int32"), axis=0)


def score_lines(lever: Tensor, initial_scores: Tensor, bank: Tensor) -> Tensor:
    """All K scores of each connection: `initial_scores[c, k] + bank[c, k] * lever[c]`."""
    lever = ops.convert_to_tensor(lever)
    return initial_scores + ops.cast(bank, lever.dtype) * lever[..., None]


@dataclass(frozen=True)
class SelectFromLeverScores:
    """`(lever, initial_scores, bank, *uniform) -> kernel`; objects of equal rules are equal."""

    rule: SelectionRule

    def __call__(self, lever: Tensor, initial_scores: Tensor, bank: Tensor, *uniform: Tensor) -> Tensor:
        scores = score_lines(lever, initial_scores, bank)
        return lookup(bank, self.rule.index(scores, *uniform))
