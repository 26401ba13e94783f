"""One lever a connection in place of its K scores: `score_mode="per_connection"`."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_slots.backend import from_host, straight_through
from keras_slots.values.initial_values import InitialValues
from keras_slots.kernels.base import SlotKernel
from keras_slots.kernels.origin import check_origin, from_words, origin_of, to_words
from keras_slots.selection import Greedy, SelectionRule, greedy_index, lookup
from keras_slots.kernels.staircase import build_staircase

Tensor = Any


class LeverKernel(SlotKernel):
    """One trainable number u a connection, the lever, from which all K scores follow.

    Forward `scores[c, k] = d * initial_scores[c, k] + bank[c, k] * u[c]`, with d the `decay`: 1 unless the
    optimizer decays its weights. Greedy selection is then a staircase in u, built once; the bank is not kept where
    the seed brings it back. Backward `d u[c] = d kernel[c]`.
    """

    measures_moves = True

    def add_variables(self, initial: InitialValues) -> None:
        shape, dtype = initial.kernel_shape, self.score_dtype
        self._lever = self.add_values(
            "lever", shape, lambda: np.zeros(shape), dtype, trainable=True, regularized=True
        )
        # Trainable with a gradient of zero: the optimizer's own weight decay keeps it right.
        self._decay = self.add_values("decay", (), lambda: np.ones(()), dtype, trainable=True)
        # A variable, so that a checkpoint of variables alone knows which bank its levers belong to.
        self._seed = self.add_values("seed", (4,), lambda: to_words(initial.seed), "int32")
        self._lines: tuple[keras.Variable, ...] = ()
        if not (initial.rebuildable and isinstance(self.rule, Greedy)):
            self._lines = (
                self.add_values("initial_scores", initial.score_shape, initial.scores, dtype),
                self.add_values("bank", initial.bank_shape, initial.bank, self.variable_dtype),
            )
        self._steps = self._add_staircase(initial)
        select = ClimbWidened(self.variable_dtype) if initial.rounded else climb
        self._greedy = straight_through(select, lever_gradient)
        self._by_rule = straight_through(ByLines(self.rule), lever_gradient)

    def _add_staircase(self, initial: InitialValues) -> tuple[keras.Variable, ...]:
        arrays = self._staircase(initial)
        return tuple(
            self.add_values(name, array.shape, partial(arrays.__getitem__, name), str(array.dtype))
            for name, array in arrays.items()
        )

    def _staircase(self, initial: InitialValues) -> dict[str, np.ndarray]:
        """The arrays of the staircase by the names of their variables, in the order that `climb` takes them."""
        staircase = build_staircase(initial, self.score_dtype, bank_dtype=self.variable_dtype)
        shape, dtype = initial.kernel_shape, np.dtype(self.variable_dtype)
        if initial.rounded:
            dtype = staircase.steps.dtype
        arrays = {
            "thresholds": staircase.thresholds.reshape(-1, *shape),
            "steps": staircase.steps.astype(dtype).reshape(-1, *shape),
        }
        if staircase.tall_index.size:
            arrays["tall_index"] = staircase.tall_index
            arrays["tall_thresholds"] = staircase.tall_thresholds
            arrays["tall_steps"] = staircase.tall_steps.astype(dtype)
        return arrays

    @property
    def lever(self) -> keras.Variable:
        """The trainable number of each connection, of the kernel's shape."""
        return self._lever

    @property
    def bank(self) -> Tensor:
        return self._initial_scores_and_bank()[1]

    @property
    def scores(self) -> Tensor:
        return score_lines(self._lever, self._decay, *self._initial_scores_and_bank())

    def select_greedily(self, trained: Tensor | None = None) -> Tensor:
        lever = self._lever if trained is None else trained
        return self._greedy(lever, self._decay, *self._steps)

    def select_by_rule(self, *uniform: Tensor) -> Tensor:
        return self._by_rule(self._lever, self._decay, *self._lines, *uniform)

    @property
    def selected_indices(self) -> Tensor:
        # Read off the selected value itself, lest rounding put another line on top.
        initial_scores, bank = self._initial_scores_and_bank()
        scores = score_lines(self._lever, self._decay, initial_scores, bank)
        is_selected = ops.equal(bank, self.select_greedily()[..., None])
        return greedy_index(ops.where(is_selected, scores, float("-inf")))

    def moves(self, trained: Tensor) -> Tensor:
        return ops.convert_to_tensor(trained)  # at a lever of 0 the initial scores decide

    def trained_variables(self) -> list[keras.Variable]:
        return [self._lever, self._decay]

    def saved_state(self) -> dict[str, Any]:
        state = {"lever": self._lever, "decay": self._decay, "seed": self._seed}
        if self.initial.rebuildable:
            # The staircase is not saved: the seed brings it back.
            return {**state, "origin": origin_of(self.initial)}
        initial_scores, bank = self._lines
        return {**state, "initial_scores": initial_scores, "bank": bank}

    def load_state(self, given: dict[str, np.ndarray]) -> None:
        if self.initial.rebuildable:
            self._take_seed(from_words(given["seed"]), given["origin"])
        else:
            values = self.initial.with_arrays(given["bank"], given["initial_scores"])
            self._assign_staircase(values)
        super().load_state(given)

    def _take_seed(self, seed: int, origin: np.ndarray) -> None:
        check_origin(origin, self.initial, self.path)
        if seed == from_words(ops.convert_to_numpy(self._seed)):
            return
        initial = replace(self.initial, seed=seed)
        self._assign_staircase(initial)
        if self._lines:
            self._lines[0].assign(initial.scores())
            self._lines[1].assign(ops.cast(initial.bank(), self.variable_dtype))

    def _assign_staircase(self, initial: InitialValues) -> None:
        arrays = self._staircase(initial)
        for variable in self._steps:
            variable.assign(arrays[variable.name])

    def _initial_scores_and_bank(self) -> tuple[Tensor, Tensor]:
        if self._lines:
            return self._lines[0].value, self._lines[1].value
        initial = self.initial

        def draw(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            seeded = replace(initial, seed=from_words(words))
            return np.asarray(seeded.scores(), self.score_dtype), np.asarray(
                seeded.bank(), "float32"
            )

        # In traced code too, where the seed is not known yet.
        like = (
            KerasTensor(initial.score_shape, self.score_dtype),
            KerasTensor(initial.bank_shape, "float32"),
        )
        scores, bank = from_host(draw, self._seed, like)
        return scores, ops.cast(bank, self.variable_dtype)


def climb(
    lever: Tensor,
    decay: Tensor,
    thresholds: Tensor,
    steps: Tensor,
    tall_index: Tensor | None = None,
    tall_thresholds: Tensor | None = None,
    tall_steps: Tensor | None = None,
) -> Tensor:
    """Greedy selection with one lever a connection: the value of its staircase at the lever.

    `kernel[c] = steps[h, c]`, h the number of thresholds with `lever[c] > decay * thresholds[h, c]`. The few
    connections with more steps than the arrays hold go on with thresholds and steps of their own.

    Args:
        lever: Tensor of shape `(...)`, u of the module `keras_slots.kernels.staircase`.
        decay: Scalar tensor: what weight decay has left of the initial scores. An optimizer that sets a variable
            without gradient to exactly 0 (Ftrl, ScheduleFreeAdamW) does not decay it: 0 counts as 1.
        thresholds: Tensor of shape `(levels, ...)`, non-decreasing along the first axis.
        steps: Tensor of shape `(levels + 1, ...)`, the values of the staircase.
        tall_index: int32 tensor of shape `(n,)`, which connections have more steps, counted in C order.
        tall_thresholds: Tensor of shape `(more, n)`, their further thresholds.
        tall_steps: Tensor of shape `(more, n)`, the values above these.

    Returns:
        Tensor of shape `(...)`, bitwise entries of `steps` and `tall_steps`.

    Example:

    >>> import numpy as np
    >>> from keras_slots.kernels.per_connection import climb
    >>> thresholds, steps = np.array([[0.0], [1.0]]), np.array([[-2.0], [0.5], [3.0]])
    >>> [float(climb(np.array([u]), np.array(1.0), thresholds, steps)[0]) for u in (-1.0, 0.5, 2.0)]
    [-2.0, 0.5, 3.0]
    """
    lever, steps = ops.convert_to_tensor(lever), ops.convert_to_tensor(steps)
    decay = remaining(decay)
    thresholds = decay * ops.convert_to_tensor(thresholds)
    kernel = _climb_on(lever, thresholds, steps[0], steps[1:])
    if tall_index is None:
        return kernel
    flat = ops.reshape(kernel, (-1,))
    found = ops.take(flat, tall_index)
    tall_lever = ops.take(ops.reshape(lever, (-1,)), tall_index)
    found = _climb_on(tall_lever, decay * tall_thresholds, found, tall_steps)
    return ops.reshape(ops.scatter_update(flat, tall_index[:, None], found), kernel.shape)


def _climb_on(lever: Tensor, thresholds: Tensor, value: Tensor, steps: Tensor) -> Tensor:
    for h in range(thresholds.shape[0]):
        value = ops.where(lever > thresholds[h], steps[h], value)
    return value


@dataclass(frozen=True)
class ClimbWidened:
    """`climb` on a staircase of 16 bits, widened as it is read; equal for equal dtypes of the kernel."""

    dtype: str

    def __call__(self, lever: Tensor, decay: Tensor, *steps: Tensor) -> Tensor:
        dtype = lever.dtype
        wide = (x if i == 2 else ops.cast(x, dtype) for i, x in enumerate(steps))  # 2: tall_index
        return ops.cast(climb(lever, decay, *wide), self.dtype)


def remaining(decay: Tensor) -> Tensor:
    """What weight decay has left of the initial scores, see `climb`."""
    decay = ops.convert_to_tensor(decay)
    return ops.where(decay == 0, ops.ones_like(decay), decay)


def score_lines(lever: Tensor, decay: Tensor, initial_scores: Tensor, bank: Tensor) -> Tensor:
    """All K scores of each connection: `decay * initial_scores[c, k] + bank[c, k] * lever[c]`."""
    lever = ops.convert_to_tensor(lever)
    return remaining(decay) * initial_scores + ops.cast(bank, lever.dtype) * lever[..., None]


@dataclass(frozen=True)
class ByLines:
    """`(lever, decay, initial_scores, bank, *uniform) -> kernel`; equal for equal rules."""

    rule: SelectionRule

    def __call__(
        self, lever: Tensor, decay: Tensor, initial_scores: Tensor, bank: Tensor, *uniform: Tensor
    ) -> Tensor:
        scores = score_lines(lever, decay, initial_scores, bank)
        return lookup(bank, self.rule.index(scores, *uniform))


def lever_gradient(upstream: Tensor, lever: Tensor, decay: Tensor, *others: Tensor) -> tuple:
    """`d lever[c] = d kernel[c]`, `d decay = 0`: a zero, not None, for the optimizer must see `decay`."""
    return upstream, ops.zeros_like(decay)
