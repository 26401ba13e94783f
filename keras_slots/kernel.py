"""The kernel of a slot layer: a Keras layer that holds bank and scores, and selects.

One subclass of `SlotKernel` for each score mode. A slot layer owns one for each kernel of its Keras layer, as
ordinary sub-layers, so that Keras tracks, freezes and saves their variables.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_slots.backend import compiled, initializer, straight_through
from keras_slots.banks import InitialValues
from keras_slots.initializers import compute_fans
from keras_slots.keras_internals import current_pass
from keras_slots.random_streams import derive_seed
from keras_slots.regularizers import OnKernel
from keras_slots.sampler import GIVEN, Sampler
from keras_slots.selection import Greedy, SelectionRule, greedy_index, lookup

Tensor = Any

if TYPE_CHECKING:
    from keras.layers import Layer as _Layer
else:
    _Layer = keras.layers.Layer


class SlotKernel(_Layer, ABC):
    """Base of the kernels: makes the variables, selects, saves and loads.

    Args:
        num_values: K.
        rule: `keras_slots.SelectionRule` of training calls.
        bank_initializer: Distribution or Keras initializer of the values.
        score_initializer: The same of the initial scores.
        sharing: `"connection"`, `"layer"` or a `keras_slots.ValueBank`.
        seed: Integer that bank, scores and sampler come from.
        fans: `(fan_in, fan_out)` of the kernel; None: by Keras' rule from its shape.
        regularizer: Keras regularizer of the greedily selected values, or None.
        move_regularizer: Keras regularizer of `moves`, or None.
        **kwargs: `name`, `dtype` and `trainable`, as of every Keras layer.
    """

    #: Whether `moves` tells how far each connection is from its start, so that a regularizer can act on it.
    measures_moves = False

    def __init__(
        self,
        *,
        num_values: int,
        rule: SelectionRule,
        bank_initializer: Any,
        score_initializer: Any,
        sharing: Any,
        seed: int,
        fans: tuple[int, int] | None = None,
        regularizer: Callable | None = None,
        move_regularizer: Callable | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_values = num_values
        self.rule = rule
        self.bank_initializer = bank_initializer
        self.score_initializer = score_initializer
        self.sharing = sharing
        self.seed = seed
        self.fans = fans
        self.regularizer = regularizer
        self.move_regularizer = move_regularizer
        #: Set by the layer that owns this kernel: it has refused the file that is being loaded.
        self.owner_refused = False
        # In half precision most updates would be lost: 1e-4 vanishes beside a score of 0.1.
        half = self.variable_dtype in ("float16", "bfloat16")
        self.score_dtype = "float32" if half else self.variable_dtype

    def build(self, kernel_shape: tuple[int, ...]) -> None:
        self.initial = InitialValues(
            kernel_shape=tuple(kernel_shape),
            num_values=self.num_values,
            fans=self.fans or compute_fans(kernel_shape),
            seed=self.seed,
            bank_initializer=self.bank_initializer,
            score_initializer=self.score_initializer,
            sharing=self.sharing,
        )
        self.random_shape = self.rule.random_shape(self.initial.kernel_shape, self.num_values)
        if self.random_shape is not None:
            # Keras takes 31 bits on every backend.
            self.sampler = Sampler(derive_seed(self.seed, "sampler") % 2**31)
        self.add_variables(self.initial)

    # What a score mode defines.

    @abstractmethod
    def add_variables(self, initial: InitialValues) -> None:
        """Makes the variables of a kernel that starts from `initial`."""

    @property
    @abstractmethod
    def bank(self) -> Tensor:
        """All values, `kernel_shape + (K,)`, or `(K,)` when shared."""

    @property
    @abstractmethod
    def scores(self) -> Tensor:
        """The score of each value, `kernel_shape + (K,)`."""

    @abstractmethod
    def select_greedily(self, trained: Tensor | None = None) -> Tensor:
        """The value with the highest score at each connection, `kernel_shape`.

        Args:
            trained: Stands for the first of `trained_variables`; None: that variable.
        """

    @abstractmethod
    def select_by_rule(self, *uniform: Tensor) -> Tensor:
        """The value that `rule` takes at each connection, `kernel_shape`."""

    @abstractmethod
    def trained_variables(self) -> list[keras.Variable]:
        """What training moves."""

    @abstractmethod
    def saved_state(self) -> dict[str, Any]:
        """Variables and arrays, by name, that a file must hold to bring this kernel back."""

    def moves(self, trained: Tensor) -> Tensor:
        """How far each connection is from its start, `kernel_shape`, where `measures_moves` is True."""
        raise NotImplementedError

    # The same for all.

    def select(self, training: bool | None = False) -> Tensor:
        """The selected values, `kernel_shape`: by `rule` when `training`, else greedily."""
        if id(self) in GIVEN:
            return self.select_by_rule(*GIVEN[id(self)])
        if not training or isinstance(self.rule, Greedy):
            return self.select_greedily()
        return self.select_by_rule(*self.draw())

    def draw(self) -> tuple[Tensor, ...]:
        """The random numbers that `rule` needs, if any, for a training call: one draw in a forward pass."""
        if self.random_shape is None or id(self) in GIVEN:
            return GIVEN.get(id(self), ())
        self.sampler.enter(current_pass(self))
        dtype = self.score_dtype
        return (keras.random.uniform(self.random_shape, dtype=dtype, seed=self.sampler),)

    @property
    def selected_indices(self) -> Tensor:
        """Index in [0, K) of the value that greedy selection takes, int32, `kernel_shape`."""
        return greedy_index(self.scores)

    def add_values(
        self,
        name: str,
        shape: tuple[int, ...],
        values: Callable[[], np.ndarray],
        dtype: str,
        trainable: bool = False,
        regularized: bool = False,
    ) -> keras.Variable:
        """A variable that starts as `values()` and is never cast.

        Args:
            name: Name of the variable.
            shape: Shape of the variable.
            values: A function, because Keras calls it later when the layer is built in a stateless scope.
            dtype: Dtype of the variable.
            trainable: Whether training moves it.
            regularized: Whether the regularizers of the kernel hang on it.
        """
        regularized = regularized and (self.regularizer or self.move_regularizer) is not None
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer(values),
            dtype=dtype,
            trainable=trainable,
            autocast=False,
            regularizer=OnKernel(self) if regularized else None,
        )

    def save_own_variables(self, store: Any) -> None:
        for name, value in self._state().items():
            store[name] = value

    def load_own_variables(self, store: Any) -> None:
        if self.owner_refused:
            raise ValueError(
                f"The kernel '{self.path}' stays as it is, for its layer does not fit."
            )
        given = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118
        self._check_state(self._state(), given)
        self.load_state(given)

    def load_state(self, given: dict[str, np.ndarray]) -> None:
        """Takes over what `saved_state` gave. Names and shapes have been checked."""
        for name, value in self._state().items():
            if isinstance(value, keras.Variable):
                value.assign(given[name])

    def _state(self) -> dict[str, Any]:
        if self.random_shape is None:
            return self.saved_state()
        return {**self.saved_state(), "sampler": self.sampler.state}

    def _check_state(self, expected: dict[str, Any], given: dict[str, np.ndarray]) -> None:
        if set(expected) != set(given):
            raise ValueError(
                f"The kernel '{self.path}' ({type(self).__name__}, selection {self.rule!r}) expects the variables "
                f"{sorted(expected)}. Received: {sorted(given)}. The file was written by another kind of layer: "
                "build the model with the same arguments, or load the whole model with "
                "`keras.models.load_model`."
            )
        for name, value in expected.items():
            shape, received = tuple(value.shape), tuple(given[name].shape)
            if shape != received:
                hint = ""
                if name in ("scores", "bank") and shape[:-1] == received[:-1]:
                    hint = f" The file holds K={received[-1]} values: build the layer with that `num_values`."
                raise ValueError(
                    f"Variable '{name}' of the kernel '{self.path}' has shape {shape} "
                    f"(num_values={self.num_values}). Received: shape {received}.{hint}"
                )

    def __dir__(self) -> list[str]:
        # Keras reads all that `dir` names when it saves, and these may be as large as the bank.
        return [name for name in super().__dir__() if name not in COSTLY]


#: Properties that compute or draw as much as a bank holds.
COSTLY = frozenset({"bank", "scores", "selected_indices", "kernel"})


class PerValueKernel(SlotKernel):
    """One trainable score for each value (`score_mode="per_value"`), the paper's own form.

    Forward `kernel[c] = bank[c, k*]`, greedily `k* = argmax_k scores[c, k]`. Backward
    `d scores[c, k] = d kernel[c] * bank[c, k]` for all k (paper, equation 3).
    """

    def add_variables(self, initial: InitialValues) -> None:
        self._scores = self.add_values(
            "scores",
            initial.score_shape,
            initial.scores,
            self.score_dtype,
            trainable=True,
            regularized=True,
        )
        self._bank = self.add_values("bank", initial.bank_shape, initial.bank, self.variable_dtype)
        self._greedy = straight_through(ByScores(Greedy()), scores_gradient)
        self._by_rule = straight_through(ByScores(self.rule), scores_gradient)

    @property
    def bank(self) -> keras.Variable:
        return self._bank

    @property
    def scores(self) -> keras.Variable:
        return self._scores

    def select_greedily(self, trained: Tensor | None = None) -> Tensor:
        return self._greedy(self._scores if trained is None else trained, self._bank)

    def select_by_rule(self, *uniform: Tensor) -> Tensor:
        return self._by_rule(self._scores, self._bank, *uniform)

    def trained_variables(self) -> list[keras.Variable]:
        return [self._scores]

    def saved_state(self) -> dict[str, Any]:
        return {"scores": self._scores, "bank": self._bank}


@dataclass(frozen=True)
class ByScores:
    """`(scores, bank, *uniform) -> kernel`; equal for equal rules, so that layers share what is compiled."""

    rule: SelectionRule

    def __call__(self, scores: Tensor, bank: Tensor, *uniform: Tensor) -> Tensor:
        return lookup(bank, self.rule.index(scores, *uniform))


def scores_gradient(upstream: Tensor, scores: Tensor, bank: Tensor, *uniform: Tensor) -> tuple:
    """`d scores[c, k] = d kernel[c] * bank[c, k]` for all k."""
    return (compiled(_spread)(upstream, ops.cast(bank, scores.dtype)),)


def _spread(upstream: Tensor, bank: Tensor) -> Tensor:
    return upstream[..., None] * bank
