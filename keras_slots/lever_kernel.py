"""One lever a connection in place of its K scores: `score_mode="per_connection"`."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_slots.backend import straight_through_lever
from keras_slots.banks import InitialValues
from keras_slots.capacity import Capacity, capacity
from keras_slots.initializers import serialize
from keras_slots.selection import climb, greedy_index, lookup, probabilistic_index
from keras_slots.sharing import ValueBank
from keras_slots.slot_kernel import SlotKernel
from keras_slots.staircase import build_staircase

Tensor = Any


class LeverKernel(SlotKernel):
    """One trainable number u a connection, from which all K scores follow.

    `scores_k = c * initial_scores_k + bank_k * u`, c the `decay`: 1 unless the optimizer decays its weights.
    Greedy selection is then a staircase in u, built once; the bank is not kept where the seed brings it back.
    """

    def __init__(self, layer: Any, initial: InitialValues):
        super().__init__(layer, initial)
        shape, dtype = initial.kernel_shape, self.score_dtype
        self._lever = self._add_weight(
            "lever", shape, lambda: np.zeros(shape), dtype, trainable=True
        )
        # Trainable with a gradient of zero: the optimizer's own weight decay keeps it right.
        self._decay = self._add_weight("decay", (), lambda: np.ones(()), dtype, trainable=True)
        # A variable, so that a checkpoint of variables alone knows which bank its levers belong to.
        self._seed = self._add_weight("seed", (4,), lambda: _words(initial.seed), "int32")
        self._lines: tuple[keras.Variable, ...] = ()
        if layer.selection == "probabilistic" or not initial.rebuildable:
            self._lines = (
                self._add_weight("initial_scores", initial.score_shape, initial.scores, dtype),
                self._add_weight("bank", initial.bank_shape, initial.bank, layer.variable_dtype),
            )
        thresholds, steps = (array.reshape(-1, *shape) for array in self._staircase(initial))
        self._thresholds = self._add_weight(
            "thresholds", thresholds.shape, lambda: thresholds, dtype
        )
        self._steps = self._add_weight("steps", steps.shape, lambda: steps, layer.variable_dtype)
        self._greedy = straight_through_lever(climb)
        self._probabilistic = straight_through_lever(_draw)

    def lever(self) -> keras.Variable:
        """The trainable number of each connection, of the kernel's shape."""
        return self._lever

    def seed(self) -> int:
        return _from_words(ops.convert_to_numpy(self._seed))

    def bank(self) -> Tensor:
        return self._initial_scores_and_bank()[1]

    def scores(self) -> Tensor:
        initial_scores, bank = self._initial_scores_and_bank()
        return _line(self._lever, self._decay, initial_scores, bank)

    def select(self, training: bool) -> Tensor:
        uniform = self._uniform(training)
        if uniform:
            return self._probabilistic(self._lever, self._decay, *self._lines, *uniform)
        return self._greedy(self._lever, self._decay, self._thresholds, self._steps)

    def selected_indices(self) -> Tensor:
        # Read off the selected value itself, lest rounding put another line on top.
        initial_scores, bank = self._initial_scores_and_bank()
        scores = _line(self._lever, self._decay, initial_scores, bank)
        is_selected = ops.equal(bank, self.select(training=False)[..., None])
        return greedy_index(ops.where(is_selected, scores, float("-inf")))

    def trained(self) -> list[tuple[str, Any]]:
        return [("lever", self._lever), ("decay", self._decay)]

    def state(self) -> dict[str, Any]:
        state = dict(self.trained())
        if self.initial.rebuildable:
            return {
                **state,
                "seed": self._seed,
                "origin": _origin(self.initial),
            }
        initial_scores, bank = self._lines
        return {**state, "initial_scores": initial_scores, "bank": bank}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        if self.initial.rebuildable:
            self._take_seed(state)
        else:
            given = self.initial.with_arrays(state["bank"], state["initial_scores"])
            staircase = self._staircase(given)
            for variable, name in zip(self._lines, ("initial_scores", "bank"), strict=True):
                variable.assign(state[name])
            self._assign_staircase(staircase)
        self._lever.assign(state["lever"])
        self._decay.assign(state["decay"])

    def _take_seed(self, state: dict[str, np.ndarray]) -> None:
        if not np.array_equal(state["origin"], _origin(self.initial)):
            raise ValueError(
                f"The weights of layer '{self.layer.name}' were trained with another `num_values`, "
                "`bank_initializer`, `score_initializer` or `sharing`, from which their values come back. "
                f"Received: num_values={self.initial.num_values}, "
                f"bank_initializer={self.initial.bank_initializer!r}, "
                f"score_initializer={self.initial.score_initializer!r}, "
                f"sharing={self.initial.sharing!r}. Build the layer with the arguments of the saved one."
            )
        seed = _from_words(state["seed"])
        if seed == self.seed():
            return
        initial = replace(self.initial, seed=seed)
        self._assign_staircase(self._staircase(initial))
        if self._lines:
            self._lines[0].assign(initial.scores())
            self._lines[1].assign(ops.convert_to_tensor(initial.bank(), self.layer.variable_dtype))
        self._seed.assign(_words(seed))

    def _staircase(self, initial: Any) -> tuple[np.ndarray, np.ndarray]:
        levels, tall_levels, _ = capacity(self.initial)
        built = build_staircase(
            initial,
            self.score_dtype,
            bank_dtype=self.layer.variable_dtype,
            size=Capacity(levels + tall_levels, 0, 0),
        )
        return built.thresholds, built.steps

    def _assign_staircase(self, staircase: tuple[np.ndarray, np.ndarray]) -> None:
        shape = self.initial.kernel_shape
        for variable, array in zip((self._thresholds, self._steps), staircase, strict=True):
            variable.assign(array.reshape(-1, *shape))

    def _initial_scores_and_bank(self) -> tuple[Tensor, Tensor]:
        if self._lines:
            return self._lines[0].value, self._lines[1].value
        initial = replace(self.initial, seed=self.seed())
        return (
            ops.convert_to_tensor(initial.scores(), self.score_dtype),
            ops.convert_to_tensor(initial.bank(), self.layer.variable_dtype),
        )


def _line(lever: Tensor, decay: Tensor, initial_scores: Tensor, bank: Tensor) -> Tensor:
    lever = ops.convert_to_tensor(lever)
    bank = ops.cast(bank, lever.dtype)
    return ops.convert_to_tensor(decay) * initial_scores + bank * lever[..., None]


def _draw(
    lever: Tensor, decay: Tensor, initial_scores: Tensor, bank: Tensor, uniform: Tensor
) -> Tensor:
    scores = _line(lever, decay, initial_scores, bank)
    return lookup(bank, probabilistic_index(scores, uniform))


def _words(number: int) -> np.ndarray:
    """A 64-bit number as four of 16 bits, which every backend, device and file format holds."""
    return np.array([number >> shift & 0xFFFF for shift in (48, 32, 16, 0)], "int32")


def _from_words(words: np.ndarray) -> int:
    number = 0
    for word in words:
        number = number << 16 | int(word)
    return number


def _origin(initial: InitialValues) -> np.ndarray:
    """Fingerprint of all that bank and scores come from beside the seed."""
    shared = isinstance(initial.sharing, ValueBank)
    parts = [
        initial.num_values,
        initial.fans,
        None if shared else serialize(initial.bank_initializer),
        serialize(initial.score_initializer),
        serialize(initial.sharing) if shared else initial.sharing,
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return np.frombuffer(digest[:8], "<u4")
