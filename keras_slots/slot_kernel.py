"""Bank, scores and selection as the one thing that a slot layer owns."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_slots.backend import initializer, straight_through_scores
from keras_slots.banks import InitialValues
from keras_slots.selection import greedy_index, selector

Tensor = Any


class SlotKernel(ABC):
    """The kernel of a slot layer: makes the variables, selects, saves and loads. One subclass per score mode.

    Args:
        layer: The slot layer, which owns the variables.
        initial: `InitialValues` of this kernel.
    """

    def __init__(self, layer: Any, initial: InitialValues):
        self.layer = layer
        self.initial = initial
        # In half precision most updates would be lost: 1e-4 vanishes beside a score of 0.1.
        half = layer.variable_dtype in ("float16", "bfloat16")
        self.score_dtype = "float32" if half else layer.variable_dtype

    def seed(self) -> int:
        """The seed that bank and scores come from."""
        return self.initial.seed

    @abstractmethod
    def bank(self) -> Tensor:
        """All values, `kernel_shape + (K,)`, or `(K,)` when shared."""

    @abstractmethod
    def scores(self) -> Tensor:
        """The score of each value, `kernel_shape + (K,)`."""

    @abstractmethod
    def select(self, training: bool) -> Tensor:
        """The selected values, `kernel_shape`; one draw when `training` and the rule is probabilistic."""

    @abstractmethod
    def trained(self) -> list[tuple[str, Any]]:
        """Name and variable of what training moves."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Name -> variable or array: all that `load_state` needs to bring this kernel back."""

    @abstractmethod
    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state` gave. The shapes have been checked."""

    def selected_indices(self) -> Tensor:
        """Index in [0, K) of the value that greedy selection takes, int32, `kernel_shape`."""
        return greedy_index(self.scores())

    def _add_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        array: Callable,
        dtype: str,
        trainable: bool = False,
    ) -> keras.Variable:
        variable = self.layer.add_weight(
            name=name,
            shape=shape,
            # A function, because Keras calls it later when the layer is built in a stateless scope.
            initializer=initializer(array),
            dtype=dtype,
            trainable=trainable,
            autocast=False,
        )
        # An attribute of the layer, by which `tf.train.Checkpoint` finds its variables.
        setattr(self.layer, f"_slot_{name}", variable)
        return variable

    def _uniform(self, training: bool) -> tuple[Tensor, ...]:
        """The random numbers of this call; none when it is greedy."""
        if not training or self.layer.selection == "greedy":
            return ()
        shape, sampler = self.initial.kernel_shape, self.layer.sampler
        return (keras.random.uniform(shape, dtype=self.score_dtype, seed=sampler),)


class PerValueKernel(SlotKernel):
    """One trainable score for each value (`score_mode="per_value"`), the paper's own form."""

    def __init__(self, layer: Any, initial: InitialValues):
        super().__init__(layer, initial)
        self._scores = self._add_weight(
            "scores", initial.score_shape, initial.scores, self.score_dtype, trainable=True
        )
        self._bank = self._add_weight(
            "bank", initial.bank_shape, initial.bank, layer.variable_dtype
        )
        self._greedy = straight_through_scores(selector("greedy"))
        self._probabilistic = straight_through_scores(selector("probabilistic"))

    def bank(self) -> Tensor:
        return self._bank

    def scores(self) -> Tensor:
        return self._scores

    def select(self, training: bool) -> Tensor:
        uniform = self._uniform(training)
        rule = self._probabilistic if uniform else self._greedy
        return rule(self._scores, self._bank, *uniform)

    def trained(self) -> list[tuple[str, Any]]:
        return [("scores", self._scores)]

    def state(self) -> dict[str, Any]:
        return {"scores": self._scores, "bank": self._bank}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self._scores.assign(state["scores"])
        self._bank.assign(state["bank"])
