"""Selection: scores -> index -> value. The rules, and pure functions of tensors, without layers or variables.

K, the number of values of a connection, is always the last axis.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from itertools import accumulate
from typing import Any, ClassVar

import keras
from keras import ops

from keras_slots._config import EqualByConfig, check_config
from keras_slots._registry import Registrable, register

Tensor = Any

# Branching factor of the tournament below. Eight scores are half a cache line; measured fastest for K = 8 to 64.
_RADIX = 8
# Up to this K a chain of `where` beats a gather once the compiler has fused it.
_MAX_UNROLLED_LOOKUP = 16
# Up to this K a running sum beats `cumsum`, because XLA on CPU sums every prefix from the start.
_MAX_UNROLLED_SUM = 64


class _Immutable(ABCMeta):
    """Metaclass of classes whose objects are immutable after the constructor."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        vars(made)["_is_made"] = True
        return made


class SelectionRule(EqualByConfig, Registrable, metaclass=_Immutable):
    """How a training call picks one value per connection: the base of `Greedy`, `Probabilistic` and custom rules.

    Pass an object of a subclass as `selection`. The rule acts only in training calls: inference, `materialize` and
    every export take the value with the highest score (paper, section 3). The gradient is straight-through for
    every rule.

    Rules are immutable, because rules of one class and configuration share their compiled programs. So
    `get_config` must return all arguments of the constructor, and attributes cannot be set after it; objects that
    an attribute refers to, such as a list, must not change either. To change a rule, make another one and a layer
    with it.

    Example:

    >>> from keras import ops
    >>> from keras_slots import SelectionRule, SlotDense, register
    >>> @register("noisy")
    ... class Noisy(SelectionRule):
    ...     def random_shape(self, kernel_shape, num_values):
    ...         return (*kernel_shape, num_values)
    ...     def index(self, scores, uniform):
    ...         return ops.cast(ops.argmax(scores + 0.1 * uniform, axis=-1), "int32")
    >>> SlotDense(3, selection="noisy").selection
    'noisy'
    """

    registry: ClassVar[dict[str, type[SelectionRule]]] = {}
    kind_of_class = "selection rule"

    def random_shape(self, kernel_shape: tuple[int, ...], num_values: int) -> tuple[int, ...] | None:
        """Shape of the random numbers that one training call needs; None if it needs none.

        Args:
            kernel_shape: Shape of the kernel.
            num_values: K.
        """
        return None

    @abstractmethod
    def index(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Index of the value to take, int32 in [0, K), of shape `(...)`.

        Args:
            scores: Tensor of shape `(..., K)`.
            uniform: Random numbers in [0, 1) of the shape that `random_shape` asked for, in the dtype of `scores`;
                not passed if it returned None.
        """

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments of an equal rule."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SelectionRule:
        """Makes a rule from the result of `get_config`."""
        return cls(**config)

    def __setattr__(self, name: str, value: Any) -> None:
        self._check_still_constructing(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._check_still_constructing(name)
        super().__delattr__(name)

    def _check_still_constructing(self, name: str) -> None:
        if "_is_made" in vars(self):
            raise AttributeError(
                f"The selection rule {self!r} cannot be changed, because compiled programs depend on it. "
                f"Received: an assignment to `{name}`. Make another rule, and a layer with it."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


@register("greedy")
class Greedy(SelectionRule):
    """The value with the highest score: `selection="greedy"` (paper, section 3, "greedy selection").

    `index[c] = min { k : scores[c, k] = max_j scores[c, j] }`: ties go to the lowest index.

    Example:

    >>> import numpy as np
    >>> from keras_slots import Greedy
    >>> np.asarray(Greedy().index(np.array([[0.1, 0.7, 0.7]])))
    array([1], dtype=int32)
    """

    def index(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        return greedy_index(scores)


@register("probabilistic")
class Probabilistic(SelectionRule):
    """One draw from softmax(scores): `selection="probabilistic"` (paper, section 3, "probabilistic sampling").

    `P(index[c] = k) = exp(scores[c, k]) / sum_j exp(scores[c, j])`, by inversion: the first k whose cumulative
    probability exceeds the random number of the connection. The Gumbel trick would take K random numbers.

    Example:

    >>> import numpy as np
    >>> from keras_slots import Probabilistic
    >>> rule = Probabilistic()
    >>> rule.random_shape((2, 3), 8)
    (2, 3)
    >>> np.asarray(rule.index(np.log(np.array([[0.25, 0.75]])), np.array([0.3])))
    array([1], dtype=int32)
    """

    def random_shape(self, kernel_shape: tuple[int, ...], num_values: int) -> tuple[int, ...]:
        return kernel_shape

    def index(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        scores = ops.convert_to_tensor(scores)
        weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
        uniform = ops.convert_to_tensor(uniform, weights.dtype)
        # `uniform * total` may round up to the total: then the last value is taken.
        if scores.shape[-1] > _MAX_UNROLLED_SUM:
            sums = ops.cumsum(weights, axis=-1)
            target = uniform * sums[..., -1]
            return ops.sum(ops.cast(sums[..., :-1] <= target[..., None], "int32"), axis=-1)
        *sums, total = accumulate(weights[..., k] for k in range(scores.shape[-1]))
        target = uniform * total
        index = ops.zeros_like(target, dtype="int32")
        for passed in sums:
            index = index + ops.cast(passed <= target, "int32")
        return index


def get_rule(identifier: Any) -> SelectionRule:
    """The rule for a name, a serialized rule, or a rule itself whose `get_config` is complete."""
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, str) and identifier in SelectionRule.registry:
        return SelectionRule.registry[identifier]()
    if isinstance(identifier, SelectionRule):
        check_config(identifier, "selection")
        return identifier
    names = ", ".join(f'"{name}"' for name in SelectionRule.registry)
    raise ValueError(
        f"`selection` must be one of {names}, or a `keras_slots.SelectionRule`. "
        f'Received: selection={identifier!r}. Pass for example selection="greedy".'
    )


def serialize_rule(rule: SelectionRule) -> Any:
    """The name of a rule, or the serialized rule if it has no name; both fit into JSON."""
    for name, cls in SelectionRule.registry.items():
        # The name alone would lose the arguments of a rule.
        if type(rule) is cls and not rule.get_config():
            return name
    return keras.saving.serialize_keras_object(rule)


def greedy_index(scores: Tensor) -> Tensor:
    """Index of the highest score of each connection, int32 of shape `(...)`, for `scores` of shape `(..., K)`.

    Computed as a tournament over blocks of scores with a strict `>`: one pass over memory without a reduction,
    which XLA on CPU fuses far better than an arg-max. `-0.0` and `+0.0` tie, as in NumPy (`keras.ops.argmax`
    orders them).
    """
    scores = ops.convert_to_tensor(scores)
    num_values = scores.shape[-1]
    if num_values <= _RADIX:
        best = scores[..., 0]
        index = ops.zeros_like(best, dtype="int32")
        for k in range(1, num_values):
            higher = scores[..., k] > best
            best = ops.where(higher, scores[..., k], best)
            index = ops.where(higher, k, index)
        return index
    whole = num_values - num_values % _RADIX
    blocks = ops.reshape(scores[..., :whole], (*ops.shape(scores)[:-1], whole // _RADIX, _RADIX))
    within = greedy_index(blocks)
    best = [_unrolled_lookup(blocks, within)]
    if whole < num_values:
        rest = scores[..., whole:]
        last = greedy_index(rest)
        within = ops.concatenate([within, last[..., None]], axis=-1)
        best.append(_unrolled_lookup(rest, last)[..., None])
    # Pad to whole blocks for the next round; the repeated last score never wins a strict comparison.
    if within.shape[-1] > _RADIX:
        best += [best[-1][..., -1:]] * (-within.shape[-1] % _RADIX)
    block = greedy_index(ops.concatenate(best, axis=-1) if len(best) > 1 else best[0])
    return block * _RADIX + lookup(within, block)


def lookup(values: Tensor, index: Tensor) -> Tensor:
    """The value at `index` of each connection, `values[c, index[c]]`: bitwise entries of `values`.

    Args:
        values: Tensor of shape `(..., K)`, or `(K,)` if all connections share their values.
        index: int32 tensor of shape `(...)`, entries in [0, K).
    """
    values = ops.convert_to_tensor(values)
    index = ops.convert_to_tensor(index)
    if len(values.shape) == 1:
        return ops.take(values, index, axis=0)
    if values.shape[-1] <= _MAX_UNROLLED_LOOKUP:
        return _unrolled_lookup(values, index)
    return ops.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _unrolled_lookup(values: Tensor, index: Tensor) -> Tensor:
    value = values[..., 0]
    for k in range(1, values.shape[-1]):
        value = ops.where(index == k, values[..., k], value)
    return value
