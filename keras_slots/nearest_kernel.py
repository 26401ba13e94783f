"""One lever a connection, nearest scores and a bank in strata: selection that does not know K."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_slots.backend import compiled, from_host, straight_through
from keras_slots.banks import InitialValues
from keras_slots.kernel import SlotKernel
from keras_slots.lever import LeverKernel, lever_gradient, remaining
from keras_slots.nearest import nearest_in_strata, nearest_index_in_strata
from keras_slots.origin import check_origin, from_words, origin_of, to_words
from keras_slots.scores import NearestScores
from keras_slots.selection import Greedy
from keras_slots.strata import StratifiedUniform

Tensor = Any


class NearestKernel(SlotKernel):
    """The bank value nearest to a lever that moves like an ordinary weight, found without the other values.

    With the scores of `NearestScores` a connection has, but for a number that all K share, the scores `-d *
    (bank[c, k] - v[c] / d)**2 / 2`, v its lever and d the `decay`. Forward `kernel[c]` is the bank value
    nearest to `v[c] / d`, ties to the lowest index. Backward `d v[c] = d kernel[c]`. The lever starts at w0,
    where the weight of the Keras layer would start. A value is a hash of (seed, c, k), so nothing but the lever
    and the seed is kept.
    """

    measures_moves = True

    def add_variables(self, initial: InitialValues) -> None:
        shape, dtype = initial.kernel_shape, self.score_dtype
        self._lever = self.add_values(
            "lever", shape, initial.start, dtype, trainable=True, regularized=True
        )
        # Trainable with a gradient of zero: the optimizer's own weight decay keeps it right.
        self._decay = self.add_values("decay", (), lambda: np.ones(()), dtype, trainable=True)
        # The keys of the hash, and the seed that they and w0 come from.
        self._seed = self.add_values("seed", (8,), self._first_seed, "int32")
        if self.move_regularizer is not None:
            # Kept: a draw of w0 in every step would cost more than the step.
            self._start = self.add_values("start", shape, initial.start, dtype)
        where = self.num_values, self.bank_initializer.bound(initial.fans)
        self._greedy = straight_through(NearestValue(*where), lever_gradient)
        self._index = compiled(NearestIndex(*where))

    def _first_seed(self) -> np.ndarray:
        low, high = self.bank_initializer.words(self.initial.seed)
        keys = to_words(int(high) << 32 | int(low))
        return np.concatenate([keys, to_words(self.initial.seed)])

    @property
    def lever(self) -> keras.Variable:
        """The trainable number of each connection, of the kernel's shape: what is rounded to a value."""
        return self._lever

    @property
    def bank(self) -> Tensor:
        initial = self.initial

        def draw(words: np.ndarray) -> tuple[np.ndarray]:
            keys = _keys(words)
            size = self.num_values, initial.fans, 0, initial.num_connections
            rows = self.bank_initializer.rows_of_words(keys, *size)
            return (rows.reshape(initial.bank_shape),)

        (values,) = from_host(draw, self._seed, (keras.KerasTensor(initial.bank_shape, "float32"),))
        return ops.cast(values, self.variable_dtype)

    def held(self) -> InitialValues:
        """What the levers started from: another seed than `initial` has where the weights of one were loaded."""
        words = keras.ops.convert_to_numpy(self._seed)
        return replace(self.initial, seed=from_words(words[4:]))

    def words(self) -> np.ndarray:
        """The two keys of the hash that the values are."""
        return _keys(keras.ops.convert_to_numpy(self._seed))

    @property
    def scores(self) -> Tensor:
        bank = ops.cast(self.bank, self.score_dtype)
        return bank * self._lever.value[..., None] - remaining(self._decay) * bank * bank / 2

    def select_greedily(self, trained: Tensor | None = None) -> Tensor:
        return self._greedy(self._lever if trained is None else trained, self._decay, self._seed)

    def select_by_rule(self, *uniform: Tensor) -> Tensor:
        return self.select_greedily()

    @property
    def selected_indices(self) -> Tensor:
        return self._index(self._lever, self._decay, self._seed)

    def moves(self, trained: Tensor) -> Tensor:
        # The lever u of `LeverKernel`. No gradient for the decay, which the optimizer alone moves.
        start = ops.stop_gradient(remaining(self._decay)) * self._start.value
        return ops.convert_to_tensor(trained) - start

    def trained_variables(self) -> list[keras.Variable]:
        return [self._lever, self._decay]

    def saved_state(self) -> dict[str, Any]:
        state = {"lever": self._lever, "decay": self._decay, "seed": self._seed}
        if self.move_regularizer is not None and not self.initial.rebuildable:
            state["start"] = self._start
        return {**state, "origin": origin_of(self.initial)}

    def load_state(self, given: dict[str, np.ndarray]) -> None:
        check_origin(given["origin"], self.initial, self.path)
        super().load_state(given)
        if self.move_regularizer is not None and self.initial.rebuildable:
            self._start.assign(self.held().start())


@dataclass(frozen=True)
class Strata:
    """Where the values of a kernel lie."""

    num_values: int
    bound: float

    def nearest(self, lever: Tensor, decay: Tensor, seed: Tensor) -> Tensor:
        """The selected values, in the dtype of the lever."""
        where = lever, remaining(decay), _hash_words(seed)
        values = nearest_in_strata(*where, num_values=self.num_values, bound=self.bound)
        return ops.cast(values, lever.dtype)

    def nearest_index(self, lever: Tensor, decay: Tensor, seed: Tensor) -> Tensor:
        """Their indices."""
        where = lever, remaining(decay), _hash_words(seed)
        return nearest_index_in_strata(*where, num_values=self.num_values, bound=self.bound)


class NearestValue(Strata):
    """`Strata.nearest` as a function that equals those of equal strata, so that layers share what is compiled.

    Methods of two equal objects are not equal.
    """

    def __call__(self, lever: Tensor, decay: Tensor, seed: Tensor) -> Tensor:
        return self.nearest(lever, decay, seed)


class NearestIndex(Strata):
    """`Strata.nearest_index` in the same way."""

    def __call__(self, lever: Tensor, decay: Tensor, seed: Tensor) -> Tensor:
        return self.nearest_index(lever, decay, seed)


def _keys(words: np.ndarray) -> np.ndarray:
    number = from_words(words[:4])
    return np.array([number & 0xFFFFFFFF, number >> 32], "uint32")


def _hash_words(seed: Tensor) -> Tensor:
    """The two words of the hash, of the first four of 16 bits that the variable holds."""
    parts = ops.cast(ops.convert_to_tensor(seed), "uint32")
    high, low = (
        ops.bitwise_or(ops.left_shift(parts[i], np.uint32(16)), parts[i + 1]) for i in (0, 2)
    )
    return ops.stack([low, high])


def per_connection_kernel(**arguments: Any) -> SlotKernel:
    """The kernel of `score_mode="per_connection"`: a `NearestKernel` where its values can be computed one by one.

    Args:
        **arguments: As of `SlotKernel`.
    """
    kernel = LeverKernel(**arguments)
    if (
        isinstance(kernel.score_initializer, NearestScores)
        and isinstance(kernel.bank_initializer, StratifiedUniform)
        and isinstance(kernel.rule, Greedy)
        and kernel.sharing == "connection"
        and kernel.score_dtype == kernel.variable_dtype  # values are not rounded to half precision
    ):
        return NearestKernel(**arguments)
    return kernel


per_connection_kernel.measures_moves = True  # type: ignore[attr-defined]
