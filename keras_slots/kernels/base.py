"""The kernel of a slot layer: a Keras layer that holds bank and scores, and selects.

Each score mode is a subclass of `SlotKernel`. A slot layer owns one for each kernel of its Keras layer, as
ordinary sub-layers, so that Keras tracks, freezes and saves their variables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_slots._backend import compiled, initializer, zero_gradient_at_zero
from keras_slots._keras import current_call, names_hidden_from_saving
from keras_slots._registry import Registrable
from keras_slots.kernels.envelope import envelope
from keras_slots.kernels.sampler import GIVEN, Sampler, UniformNumbers
from keras_slots.kernels.seed import decode_seed, encode_seed
from keras_slots.selection import Greedy, SelectionRule, greedy_index
from keras_slots.values import initializers
from keras_slots.values.initial_values import InitialValues
from keras_slots.values.initializers import compute_fans
from keras_slots.values.philox import derive_seed

Tensor = Any

# Sizes of the sample of `reach`: computing its envelopes takes a few milliseconds.
_SAMPLED_LINES, _FEWEST_CONNECTIONS = 2**15, 256
# What counts for a size that is not known while a program is traced: Keras' batch size.
_USUAL_SIZE = 32


class SlotKernel(keras.layers.Layer, Registrable, ABC):
    """Base of the kernels: creates the variables, selects, saves and loads.

    Args:
        num_values: K.
        rule: `keras_slots.SelectionRule` of training calls.
        kernel_initializer: Initializer of the kernel of the Keras layer.
        bank_initializer: Distribution or Keras initializer of the values; None: that of `kernel_initializer`.
        score_initializer: What the initial scores are drawn from; None: `UniformScores()`.
        sharing: `"connection"`, `"layer"` or a `keras_slots.ValueBank`.
        seed: Integer that determines bank, scores and sampler.
        fans: `(fan_in, fan_out)` of the kernel; None: computed from its shape by Keras' rule.
        regularizer: Keras regularizer of the greedily selected values, or None.
        move_regularizer: Keras regularizer of `moves`, or None.
        **kwargs: `name`, `dtype` and `trainable` of the Keras layer.
    """

    registry: ClassVar[dict[str, type[SlotKernel]]] = {}
    kind_of_class = "score mode"
    #: Whether the bank is drawn from the seed in the weights.
    needs_seed = False
    #: Whether `moves` returns how far each connection is from its start, so that a regularizer can act on it.
    measures_moves = False

    @classmethod
    def check_registration(cls, key: Any) -> None:
        super().check_registration(key)
        missing = sorted(cls.__abstractmethods__)
        if cls.measures_moves and cls.moves is SlotKernel.moves:
            missing.append("moves")
        if missing:
            raise ValueError(
                f"A score mode must define all methods of a kernel. Received: {cls.__name__} without "
                f"{missing}. See docs/extending.md."
            )

    @classmethod
    def on_registration(cls, key: Any) -> None:
        """Does nothing: files refer to the score mode, not to the class."""

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
            bank_initializer = initializers.of_kernel(kernel_initializer)
        self.bank_initializer = bank_initializer
        self.score_initializer = score_initializer or initializers.get_scores(None)
        self.sharing = sharing
        self.seed = seed
        self.fans = fans
        self.regularizer = regularizer
        self.move_regularizer = move_regularizer
        #: Set by the layer that owns this kernel, if it has refused the file that is being loaded.
        self.owner_refused = False
        # In half precision most updates would be lost: adding 1e-4 to a score of 0.1 changes nothing.
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
            # Keras accepts 31 bits on every backend.
            self.sampler = Sampler(derive_seed(self.seed, "sampler") % 2**31)
        self.add_variables(self.initial)
        encoded = encode_seed(*self.seed_numbers(self.seed))
        self._seed = self.add_values("seed", encoded.shape, lambda: encoded, "float32")
        # Drops what a Keras initializer drew, because the variables hold it now.
        self.initial = replace(self.initial)

    # To be defined by a score mode.

    @classmethod
    def check_arguments(
        cls, rule: SelectionRule, bank_initializer: Any, score_initializer: Any, sharing: Any
    ) -> None:
        """Raises a `ValueError` for slot arguments that this score mode refuses; names a mode that takes them.

        The arguments are those of the layer: an initializer that was not given is None.
        """

    @abstractmethod
    def add_variables(self, initial: InitialValues) -> None:
        """Creates the variables of a kernel that starts from `initial`."""

    @property
    @abstractmethod
    def bank(self) -> Tensor:
        """All values, `kernel_shape + (K,)`, or `(K,)` if they are shared."""

    @property
    @abstractmethod
    def scores(self) -> Tensor:
        """The score of each value, `kernel_shape + (K,)`."""

    @abstractmethod
    def select_greedily(self, trained: Tensor | None = None) -> Tensor:
        """The value with the highest score at each connection, `kernel_shape`.

        If `trained` is given, it is used instead of the first of `trained_variables`.
        """

    @abstractmethod
    def select_by_rule(self, *uniform: Tensor) -> Tensor:
        """The value that `rule` selects at each connection, `kernel_shape`."""

    @abstractmethod
    def trained_variables(self) -> list[keras.Variable]:
        """The variables that training changes."""

    @abstractmethod
    def saved_state(self) -> dict[str, Any]:
        """Variables and arrays, by name, that a file must hold to restore this kernel."""

    def moves(self, trained: Tensor) -> Tensor:
        """How far each connection is from its start, `kernel_shape`, if `measures_moves` is True."""
        raise NotImplementedError

    def seed_numbers(self, seed: int) -> tuple[int, ...]:
        """The 64-bit numbers in the variable `seed`: the seed, and what traced code needs to derive from it."""
        return (seed,)

    def select_in(self, rows: Tensor, by_rule: bool, *uniform: Tensor) -> Tensor | None:
        """The values in these rows of the kernel, `(n, ...)`, by `rule` or greedily; None: `select` has to do it.

        Args:
            rows: int32 tensor of shape `(n,)`.
            by_rule: Whether `rule` selects.
            *uniform: The random numbers of these rows, if it needs any.
        """
        return None

    # The choices of a kernel. A score mode overrides these methods if it can do without its bank.

    def positions(self, trained: Tensor | None = None) -> Tensor:
        """The number of values of each connection below the one selected greedily, int32, `kernel_shape`."""
        return compiled(count_smaller)(self.select_greedily(trained), self.bank)

    def start_values(self) -> Tensor | None:
        """The initial value of the first of `trained_variables`; None if it cannot be restored."""
        return None

    def sample_values(self, count: int) -> np.ndarray:
        """About the first `count` values of the bank, a random sample of it, in one dimension."""
        rows = ops.reshape(self.bank, (-1, self.num_values))[: -(-count // self.num_values)]
        return ops.convert_to_numpy(rows).reshape(-1)

    def reach(self) -> float:
        """Share of the values that greedy selection can still take: those on the upper envelope of their lines.

        Under an optimizer that is linear in the gradients the scores follow the lines `s_k + w_k u`. For a large
        kernel the share is that of an evenly spaced sample of connections.
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

    # Shared by all score modes.

    def current_seed(self) -> int | None:
        """The seed of the values that the weights belong to; None if averaging or noise has destroyed it."""
        numbers = decode_seed(ops.convert_to_numpy(self._seed))
        return None if numbers is None else numbers[0]

    def current_initial_values(self) -> InitialValues:
        """The initial values of the current weights, whose seed may be that of another model; an error if lost."""
        return self.initial_values_of(ops.convert_to_numpy(self._seed))

    def initial_values_of(self, words: np.ndarray) -> InitialValues:
        """The initial values of weights whose variable `seed` is `words`; an error if that seed is lost."""
        numbers = decode_seed(words)
        if numbers is None:
            raise ValueError(
                f"The seed in the weights of the kernel '{self.path}' is lost, so the values it selects from are "
                "unknown. Models with different seeds were averaged, or all weights were clipped or noised. Load "
                "an earlier state, do not change variables named 'seed', and average only models that began as "
                "copies."
            )
        return replace(self.initial, seed=numbers[0])

    def find_non_finite(self) -> str | None:
        """The name of a part that holds NaN or infinity, which makes selection meaningless; None if none does."""
        # A bank can be overwritten, or come from a damaged file. Thresholds that float16 made infinite are
        # harmless: like the original ones, they are never passed.
        for variable in self.variables:
            if variable.name == "seed" or "float" not in variable.dtype:
                continue
            bad = ops.isnan(variable)
            if not variable.name.endswith("thresholds"):
                bad = ops.logical_not(ops.isfinite(variable))
            if bool(ops.any(bad)):
                return variable.name
        return None if bool(ops.all(ops.isfinite(self.select()))) else "kernel"

    def check_seed(self) -> None:
        """Raises an error if the values are drawn from a seed that is lost."""
        if self.needs_seed:
            self.current_initial_values()

    def select(self, training: bool | None = False) -> Tensor:
        """The selected values, `kernel_shape`: by `rule` when `training`, else greedily."""
        if id(self) not in GIVEN and (not training or isinstance(self.rule, Greedy)):
            return self.select_greedily()
        return self.select_by_rule(*self.draw())

    def select_rows(self, rows: Tensor, training: bool | None = False) -> Tensor:
        """What `select` gives in these rows of the kernel, `rows.shape + kernel_shape[1:]`, without the others.

        Args:
            rows: int32 tensor of any shape; negative numbers count from the end.
            training: As for `select`.
        """
        shape = self.initial.kernel_shape
        by_rule = bool(training) and not isinstance(self.rule, Greedy)
        # Random numbers of one row can be drawn only if they are numbered like its connections.
        separable = not by_rule or self.random_shape is None or self.random_shape[: len(shape)] == shape
        few = prod(_USUAL_SIZE if size is None else size for size in rows.shape) < shape[0]
        few = few and hasattr(rows, "ndim")  # TensorFlow's ragged and sparse tensors have none
        selected = None
        if few and separable and id(self) not in GIVEN:
            flat = ops.reshape(rows, (-1,))
            flat = ops.where(flat < 0, flat + shape[0], flat)
            selected = self.select_in(flat, by_rule, *(self.draw(flat) if by_rule else ()))
        if selected is None:
            return ops.take(self.select(training), rows, axis=0)
        return ops.reshape(selected, (*ops.shape(rows), *shape[1:]))

    def draw(self, rows: Tensor | None = None) -> tuple[Tensor, ...]:
        """The random numbers that `rule` needs, if any, for a training call: one draw per forward pass.

        If `rows` is given, they are those of these rows of the kernel.
        """
        if self.random_shape is None or id(self) in GIVEN:
            return GIVEN.get(id(self), ())
        self.sampler.enter(current_call(self))
        numbers = compiled(UniformNumbers(self.random_shape, self.score_dtype))
        return (numbers(self.sampler.next(), *(() if rows is None else (rows,))),)

    @property
    def selected_indices(self) -> Tensor:
        """Index in [0, K) of the greedily selected value, int32, `kernel_shape`."""
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
        """Adds a variable with the initial value `values()`, which is never cast.

        It is a function, because Keras calls it later if the layer is built in a stateless scope. The regularizers
        of the kernel are attached to a variable that is `regularized`.
        """
        regularized = regularized and (self.regularizer or self.move_regularizer) is not None
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer(values),
            dtype=dtype,
            trainable=trainable,
            autocast=False,
            regularizer=KernelRegularizer(self) if regularized else None,
        )

    def save_own_variables(self, store: Any) -> None:
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
        """Restores the result of `saved_state`. Names and shapes have been checked."""
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
                f"layout is no longer read. Received: the variables {sorted(given)}. Train the model again, or "
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
                    hint = f" The file has num_values={received[-1]}: build the layer with that."
                raise ValueError(
                    f"Variable '{name}' of the kernel '{self.path}' has shape {shape} "
                    f"(num_values={self.num_values}). Received: shape {received}.{hint}"
                )

    def __dir__(self) -> list[str]:
        return names_hidden_from_saving(type(self), super().__dir__())


def count_smaller(kernel: Tensor, bank: Tensor) -> Tensor:
    """The number of values of each connection below the selected one; the bank may be `(K,)`."""
    return ops.sum(ops.cast(bank < kernel[..., None], "int32"), axis=-1)


class KernelRegularizer(keras.regularizers.Regularizer):
    """Regularizer of the trained variable of a kernel: that of its selected values plus that of its moves."""

    def __init__(self, kernel: SlotKernel):
        self.kernel = kernel

    def __call__(self, trained: Tensor) -> Tensor:
        kernel = self.kernel
        losses = []
        if kernel.regularizer is not None:
            losses.append(kernel.regularizer(kernel.select_greedily(trained)))
        if kernel.move_regularizer is not None:
            # A connection that has not moved, for example because its input is always 0, gets no gradient.
            losses.append(kernel.move_regularizer(zero_gradient_at_zero(kernel.moves(trained))))
        return losses[0] if len(losses) == 1 else sum(losses)
