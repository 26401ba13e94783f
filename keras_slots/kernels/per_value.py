"""One trained score per value: `score_mode="per_value"`, the form of the paper."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_slots._backend import compiled, straight_through, take_rows
from keras_slots._registry import register
from keras_slots.kernels.base import SlotKernel
from keras_slots.selection import Greedy, SelectionRule, lookup
from keras_slots.values.initial_values import InitialValues

Tensor = Any


@register("per_value")
class PerValueKernel(SlotKernel):
    """One trained score per value (`score_mode="per_value"`), the form of the paper: for SGD, not for Adam.

    Adam divides the gradient of a score by its size, which cancels |w_k|: all scores of a connection move by the
    same step, up or down by the sign of w_k. So values of the same sign never overtake each other.

    Forward `kernel[c] = bank[c, k*]`, for greedy selection with `k* = argmax_k scores[c, k]`. Backward
    `d scores[c, k] = d kernel[c] * bank[c, k]` for all k (paper, equation 3).
    """

    def add_variables(self, initial: InitialValues) -> None:
        self._scores = self.add_values(
            "scores", initial.score_shape, initial.scores, self.score_dtype, trainable=True, regularized=True
        )
        self._bank = self.add_values("bank", initial.bank_shape, initial.bank, self.variable_dtype)
        self._greedy = straight_through(SelectFromScores(Greedy()), scores_gradient)
        self._by_rule = straight_through(SelectFromScores(self.rule), scores_gradient, exact=False)

    @property
    def bank(self) -> Tensor:
        # A tensor, as in every score mode: a variable could be assigned.
        return ops.stop_gradient(self._bank.value)

    @property
    def scores(self) -> keras.Variable:
        return self._scores

    def select_greedily(self, trained: Tensor | None = None) -> Tensor:
        return self._greedy(self._scores if trained is None else trained, self._bank)

    def select_by_rule(self, *uniform: Tensor) -> Tensor:
        return self._by_rule(self._scores, self._bank, *uniform)

    def select_in(self, rows: Tensor, by_rule: bool, *uniform: Tensor) -> Tensor:
        scores = take_rows(self._scores, rows)
        bank = self._bank if self.initial.shared else take_rows(self._bank, rows)
        return self._by_rule(scores, bank, *uniform) if by_rule else self._greedy(scores, bank)

    def trained_variables(self) -> list[keras.Variable]:
        return [self._scores]

    def start_values(self) -> Tensor | None:
        if not self.initial.rebuildable or self.current_seed() is None:
            return None
        initial = self.current_initial_values()
        first = initial.bank_rows(0, 1).astype(self.variable_dtype).reshape(-1)
        if not np.array_equal(first, self.sample_values(1)):
            return None  # the drawn bank was replaced
        return ops.convert_to_tensor(initial.scores(), self.score_dtype)

    def saved_state(self) -> dict[str, Any]:
        return {"scores": self._scores, "bank": self._bank, "seed": self._seed}


@dataclass(frozen=True)
class SelectFromScores:
    """`(scores, bank, *uniform) -> kernel`; objects of equal rules are equal and share their programs."""

    rule: SelectionRule

    def __call__(self, scores: Tensor, bank: Tensor, *uniform: Tensor) -> Tensor:
        return lookup(bank, self.rule.index(scores, *uniform))


def scores_gradient(upstream: Tensor, scores: Tensor, bank: Tensor, *uniform: Tensor) -> tuple:
    """`d scores[c, k] = d kernel[c] * bank[c, k]` for all k."""
    return (compiled(_spread)(upstream, ops.cast(bank, scores.dtype)),)


def _spread(upstream: Tensor, bank: Tensor) -> Tensor:
    return upstream[..., None] * bank
