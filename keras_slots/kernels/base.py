"""The kernel of a slot layer: a Keras layer that holds bank and scores, and selects.

One subclass of `SlotKernel` for each score mode. A slot layer owns one for each kernel of its Keras layer, as
ordinary sub-layers, so that Keras tracks, freezes and saves their variables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_slots._backend import at_rest, compiled, initializer
from keras_slots._keras import current_pass, passed_over_when_saving
from keras_slots._registry import Registrable
from keras_slots.kernels.envelope import envelope
from keras_slots.kernels.sampler import GIVEN, Sampler, UniformNumbers
from keras_slots.kernels.seed import from_words, to_words, words_length
from keras_slots.selection import Greedy, SelectionRule, greedy_index
from keras_slots.values import initializers
from keras_slots.values.initial_values import InitialValues
from keras_slots.values.initializers import compute_fans
from keras_slots.values.philox import derive_seed

Tensor = Any

if TYPE_CHECKING:
    from keras.layers import Layer as _Layer
else:
    _Layer = keras.layers.Layer


# Of which `reach` computes the envelopes, in a few milliseconds.
_SAMPLED_LINES, _FEWEST_CONNECTIONS = 2**15, 256


class SlotKernel(_Layer, Registrable, ABC):
    """Base of the kernels: makes the variables, selects, saves and loads.

    Args:
        num_values: K.
        rule: `keras_slots.SelectionRule` of training calls.
        kernel_initializer: Initializer of the kernel of the Keras layer.
        bank_initializer: Distribution or Keras initializer of the values; None: what `kernel_initializer` names.
        score_initializer: What the initial scores are drawn from; None: `UniformScores()`.
        sharing: `"connection"`, `"layer"` or a `keras_slots.ValueBank`.
        seed: Integer that bank, scores and sampler come from.
        fans: `(fan_in, fan_out)` of the kernel; None: by Keras' rule from its shape.
        regularizer: Keras regularizer of the greedily selected values, or None.
        move_regularizer: Keras regularizer of `moves`, or None.
        **kwargs: `name`, `dtype` and `trainable`, as of every Keras layer.
    """

    registry: ClassVar[dict[str, type[SlotKernel]]] = {}
    kind_of_class = "score mode"
    #: Whether the values that are selected from come from the seed in the weights.
    needs_seed = False
    #: Whether `moves` tells how far each connection is from its start, so that a regularizer can act on it.
    measures_moves = False

    @classmethod
    def check_registration(cls, key: Any) -> None:
        super().check_registration(key)
        missing = sorted(cls.__abstractmethods__)
        if cls.measures_moves and cls.moves is SlotKernel.moves:
            missing.append("moves")
        if missing:
            raise ValueError(
                f"A score mode must have all methods that a kernel needs. Received: {cls.__name__} without "
                f"{missing}. Write them as docs/extending.md shows."
            )

    @classmethod
    def on_registration(cls, key: Any) -> None:
        """Nothing: a file names the score mode, not the class."""

    def __init__(
        self,
        *,
        num_values: int,
        rule: SelectionRule,
        kernel_initializer: Any,
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
        if bank_initializer is None:
            bank_initializer = initializers.get(kernel_initializer)
        self.bank_initializer = bank_initializer
        self.score_initializer = score_initializer or initializers.get_scores(None)
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
        self._seed = self.add_values(
            "seed",
            (words_length(len(self.seed_numbers(self.seed))),),
            lambda: self.seed_words(self.seed),
            "float32",
        )
        # Without what a Keras initializer drew, which the variables hold by now.
        self.initial = replace(self.initial)

    # What a score mode defines.

    @classmethod
    def check_arguments(
        cls, rule: SelectionRule, bank_initializer: Any, score_initializer: Any, sharing: Any
    ) -> None:
        """Raises a `ValueError` for slot arguments that this score mode cannot have, naming the mode that can.

        Args:
            rule: The selection rule.
            bank_initializer: As the layer received it; None where it was not given.
            score_initializer: As the layer received it; None where it was not given.
            sharing: `"connection"`, `"layer"` or a `keras_slots.ValueBank`.
        """

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

    def seed_numbers(self, seed: int) -> tuple[int, ...]:
        """The 64-bit numbers that travel with the weights: the seed first, and what traced code needs of it."""
        return (seed,)

    # What a kernel tells of its choices. A score mode that knows a shorter way than its bank overrides these.

    def positions(self, trained: Tensor | None = None) -> Tensor:
        """How many values of its connection are smaller than the selected one, int32, `kernel_shape`.

        Args:
            trained: Stands for the first of `trained_variables`; None: that variable.
        """
        return compiled(count_smaller)(self.select_greedily(trained), self.bank)

    def start_values(self) -> Tensor | None:
        """What the first of `trained_variables` started from; None where nothing brings it back."""
        return None

    def sample_values(self, count: int) -> np.ndarray:
        """About the first `count` values of the bank, which are as random as all others, in one dimension."""
        rows = ops.reshape(self.bank, (-1, self.num_values))[: -(-count // self.num_values)]
        return ops.convert_to_numpy(rows).reshape(-1)

    def reach(self) -> float:
        """Share of the values that greedy selection can still take: those on the upper envelope of their lines.

        The lines `s_k + w_k u` are what the scores follow under an optimizer that is linear in the gradients. In a
        large kernel a sample of connections, evenly spaced, tells.
        """
        k, connections = self.num_values, self.initial.num_connections
        count = min(connections, max(_FEWEST_CONNECTIONS, _SAMPLED_LINES // k))
        at = np.linspace(0, connections - 1, count).astype("int32")
        bank, scores = (ops.reshape(lines, (-1, k)) for lines in (self.bank, self.scores))
        scores = ops.convert_to_numpy(ops.take(scores, at, axis=0)).astype("float64")
        bank = bank if self.initial.shared else ops.take(bank, at, axis=0)
        bank = np.broadcast_to(ops.convert_to_numpy(bank).astype("float64"), scores.shape)
        if not (np.isfinite(scores).all() and np.isfinite(bank).all()):
            return float("nan")
        thresholds, _ = envelope(bank, scores)
        return float(((thresholds < np.inf).sum(axis=0) + 1).mean() / k)

    # What all score modes share.

    def current_seed(self) -> int | None:
        """The seed of the values that the weights belong to; None where averaging or noise has destroyed it."""
        numbers = from_words(ops.convert_to_numpy(self._seed))
        return None if numbers is None else numbers[0]

    def current_initial_values(self) -> InitialValues:
        """What the weights of now started from, whose seed another model may have brought.

        Raises:
            ValueError: If the seed is lost.
        """
        return self.initial_values_of(ops.convert_to_numpy(self._seed))

    def initial_values_of(self, words: np.ndarray) -> InitialValues:
        """What weights whose variable `seed` is `words` started from, or an error where that seed is lost."""
        numbers = from_words(words)
        if numbers is None:
            raise ValueError(lost_seed(self.path))
        return replace(self.initial, seed=numbers[0])

    def seed_words(self, seed: int) -> np.ndarray:
        """The value of the variable `seed` for that seed."""
        return to_words(*self.seed_numbers(seed))

    def not_finite(self) -> str | None:
        """The name of what holds NaN or infinity, so that a selection means nothing; None for nothing."""
        # A bank can be overwritten, or come from a damaged file. Thresholds that float16 made infinite are never
        # passed, as before.
        for variable in self.variables:
            if variable.name == "seed" or "float" not in variable.dtype:
                continue
            bad = ops.isnan(variable)
            if not variable.name.endswith("thresholds"):
                bad = ops.logical_not(ops.isfinite(variable))
            if bool(ops.any(bad)):
                return variable.name
        return None if bool(ops.all(ops.isfinite(self.select()))) else "kernel"

    def check_seed(self) -> int:
        """The seed of the values that the weights belong to, or an error where it is lost."""
        return self.current_initial_values().seed

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
        return (compiled(UniformNumbers(self.random_shape, self.score_dtype))(self.sampler.next()),)

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
        if self.needs_seed:
            self.check_seed()
        for name, value in self._state().items():
            store[name] = value

    def load_own_variables(self, store: Any) -> None:
        if self.owner_refused:
            raise ValueError(f"The kernel '{self.path}' was not loaded: its layer rejected the file.")
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
        if (given and "seed" not in given) or "decay" in given:
            raise ValueError(
                f"The weights of the kernel '{self.path}' were written by keras_slots 0.2 or earlier, whose "
                f"layout is not read any more. Received: the variables {sorted(given)}. Train the model again, or "
                "load and `materialize` it with the version that wrote it."
            )
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
        return passed_over_when_saving(type(self), super().__dir__())


def count_smaller(kernel: Tensor, bank: Tensor) -> Tensor:
    """How many values of each connection are smaller than the selected one; the bank may be `(K,)`."""
    return ops.sum(ops.cast(bank < kernel[..., None], "int32"), axis=-1)


class OnKernel(keras.regularizers.Regularizer):
    """Hangs on the trained variable of a kernel, and adds up the regularizers of its values and of its moves."""

    def __init__(self, kernel: SlotKernel):
        self.kernel = kernel

    def __call__(self, trained: Tensor) -> Tensor:
        kernel = self.kernel
        losses = []
        if kernel.regularizer is not None:
            losses.append(kernel.regularizer(kernel.select_greedily(trained)))
        if kernel.move_regularizer is not None:
            # What has not moved, for example because its input is always 0, is not pushed.
            losses.append(kernel.move_regularizer(at_rest(kernel.moves(trained))))
        return losses[0] if len(losses) == 1 else sum(losses)


def lost_seed(path: str) -> str:
    """What to say of a kernel whose seed is lost."""
    return (
        f"The seed in the weights of the kernel '{path}' is lost, so nothing tells which values it selects from. "
        "Weights of models with different seeds were averaged, or all weights were clipped or noised. Load an "
        "earlier state, and leave variables named 'seed' as they are; average only models that began as copies."
    )
