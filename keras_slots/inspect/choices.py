"""What a kernel has selected so far, in numbers: read off in one compiled pass, without drawing its bank.

A choice is counted as a *position*: how many values of its connection are smaller than the selected one. Training
moves positions away from where the initial scores put them. The seed tells that place, so only distances are news.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, singledispatch
from itertools import pairwise
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_slots._backend import compiled
from keras_slots._keras import direct_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.kernels.envelope import envelope
from keras_slots.kernels.nearest import NearestKernel, SharedValues, Strata
from keras_slots.kernels.per_connection import PerConnectionKernel
from keras_slots.kernels.per_value import PerValueKernel
from keras_slots.kernels.seed import integer_of
from keras_slots.layers.base import SlotLayer
from keras_slots.layers.naming import unique_names


def named_kernels(model: keras.layers.Layer) -> dict[str, tuple[SlotLayer, SlotKernel]]:
    """All kernels of a model, at any depth, with the slot layers that own them, by names that no two share.

    A kernel is called as its layer; one of several kernels of a layer `layer/kernel`. Where two layers have one
    name, the names of the models and layers around them come before it, and a number behind it where these are the
    same too.

    Raises:
        ValueError: If a slot layer is not built.

    Example:

    >>> from keras_slots import SlotDense, SlotSeparableConv2D
    >>> layers = [SlotSeparableConv2D(4, 3, name="conv"), SlotDense(2, name="logits")]
    >>> list(named_kernels(keras.Sequential([keras.Input((8, 8, 3)), *layers])))
    ['conv/depthwise_kernel', 'conv/pointwise_kernel', 'logits']
    """
    found = list(_slot_layers(model, (), set()))
    short = [layer.name for _, layer in found]
    long = ["/".join((*path, layer.name)) for path, layer in found]
    names = [x if short.count(x) == 1 else y for x, y in zip(short, long, strict=True)]
    kernels: list[tuple[str, tuple[SlotLayer, SlotKernel]]] = []
    for name, (_, layer) in zip(unique_names(names), found, strict=True):
        if not layer.built:
            continue
        parts = layer.slot_kernels
        for part, kernel in parts.items():
            kernels.append((name if len(parts) == 1 else f"{name}/{part}", (layer, kernel)))
    unique = unique_names(name for name, _ in kernels)
    return dict(zip(unique, (pair for _, pair in kernels), strict=True))


def unbuilt_layers(model: keras.layers.Layer) -> list[str]:
    """Names of the slot layers of a model that no call has built."""
    return [layer.name for _, layer in _slot_layers(model, (), set()) if not layer.built]


def _slot_layers(
    layer: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for part in direct_layers(layer):
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, SlotLayer):
            yield path, part  # not those inside it: it names their kernels
        else:
            yield from _slot_layers(part, (*path, part.name), seen)


Tensor = Any
Array = np.ndarray[Any, Any]


def bits_per_choice(positions: Array, start: Array, num_values: int) -> float:
    """Entropy of how far the choices have moved, in bits a connection.

    `H = -sum_d p_d log2 p_d`, `p_d` the share of connections with `positions - start = d`. It is what an
    arithmetic coder needs that knows the seed and these shares, and nothing of where in the layer it is.

    Example:

    >>> bits_per_choice(np.array([0, 1, 2, 3], "uint8"), np.array([0, 1, 1, 2], "uint8"), 8)
    1.0
    """
    moved = positions.astype("int32") - start
    counts = np.bincount(moved + (num_values - 1)).astype("float64")
    shares = counts[counts > 0] / len(positions)
    return abs(float((shares * np.log2(shares)).sum()))


def by_bank(kernel: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the selected values in a bank `(..., K)` or `(K,)`, and their `magnitudes`."""
    smaller = ops.cast(bank < kernel[..., None], "int32")
    return _small(ops.sum(smaller, axis=-1), bank.shape[-1]), magnitudes(kernel)


def by_steps(
    kernel: Tensor, steps: Tensor, overflow_index: Tensor | None = None, overflow_steps: Any = None
) -> tuple[Tensor, Tensor]:
    """Positions on the staircases of `read_staircase`, the numbers of their steps, and `magnitudes`."""
    position, limit = _count_below(kernel, steps), steps.shape[0]
    if overflow_index is not None:
        limit += overflow_steps.shape[0]
        flat = ops.reshape(position, (-1,))
        index = integer_of(overflow_index, "int32")
        more = _count_below(ops.take(ops.reshape(kernel, (-1,)), index), overflow_steps)
        position = ops.scatter_update(flat, index[:, None], ops.take(flat, index) + more)
    return _small(position, limit), magnitudes(kernel)


def _count_below(kernel: Tensor, steps: Tensor) -> Tensor:
    position = ops.zeros(kernel.shape, "int32")
    for h in range(steps.shape[0]):
        position = position + ops.cast(ops.cast(steps[h], kernel.dtype) < kernel, "int32")
    return position


@dataclass(frozen=True)
class PositionsOfNearest:
    """`(lever, seed) -> positions, magnitudes` of a `NearestKernel`; equal for equal values."""

    bank: Strata | SharedValues
    num_values: int

    def __call__(self, lever: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        values, index = self.bank.nearest(lever, seed)
        if isinstance(self.bank, SharedValues):
            return by_bank(values, np.array(self.bank.values, "float32"))
        return _small(index, self.num_values), magnitudes(values)


def _small(position: Tensor, limit: int) -> Tensor:
    """As few bytes as numbers below `limit` need: they travel to the host."""
    return ops.cast(position, "uint8" if limit <= 2**8 else "int32")


def magnitudes(values: Tensor) -> Tensor:
    """Sums of `|values|` over the last axis; the rest is for the host to add in float64."""
    return ops.sum(
        ops.abs(ops.cast(values, keras.backend.result_type(values.dtype, "float32"))), axis=-1
    )


def position_dtype(num_values: int) -> str:
    """The unsigned integers that hold the positions of K values."""
    return "uint8" if num_values <= 2**8 else "uint16"


_SAMPLED_VALUES = 2**20  # of which the mean magnitude is known to a thousandth
_BLOCK_VALUES = 2**20  # drawn at once
_SAMPLED_LINES = 2**15  # whose envelopes are computed in every epoch, in a few milliseconds
_FEWEST_CONNECTIONS = 256


class ChoiceSnapshot(NamedTuple):
    """The choices of a kernel at one moment.

    Attributes:
        positions: Unsigned integers, one for each connection in C order.
        magnitude: Mean magnitude of the selected values.
    """

    positions: Array
    magnitude: float


class Observer:
    """Reads the choices of a kernel of any score mode, by its bank.

    Args:
        kernel: A built kernel.
    """

    def __init__(self, kernel: SlotKernel):
        self.kernel = kernel
        self.size = kernel.initial.num_connections
        self.num_values = kernel.num_values

    def snapshot(self) -> ChoiceSnapshot:
        """The choices of now."""
        return self._snapshot(*compiled(by_bank)(self.kernel.select_greedily(), self.kernel.bank))

    @cached_property
    def start(self) -> Array | None:
        """The positions that the initial scores choose; None where no seed brings them back."""
        return None

    @cached_property
    def available(self) -> float:
        """Mean magnitude of all values."""
        sums, count = compiled(magnitudes)(self.kernel.bank), np.prod(self.kernel.bank.shape)
        return float(_wide(sums).sum() / count)

    def sample(self) -> Array:
        """Values of the bank, a million at most: as random as all others."""
        bank = self.kernel.bank
        if len(bank.shape) > 1:
            bank = ops.reshape(bank, (-1, self.num_values))[: self._rows]
        return keras.ops.convert_to_numpy(bank).reshape(-1)

    @property
    def _rows(self) -> int:
        return min(self.size, max(1, _SAMPLED_VALUES // self.num_values))

    def reach(self) -> float:
        """Share of the values that greedy selection can still take: those on the upper envelope of their lines.

        Scores on lines `s_k + w_k u` are what an optimizer makes that is linear in the gradients. Of more than
        2**15 values a sample of connections, evenly spaced, tells.
        """
        k = self.num_values
        count = min(self.size, max(_FEWEST_CONNECTIONS, _SAMPLED_LINES // k))
        at = np.linspace(0, self.size - 1, count).astype("int32")
        scores = _wide(ops.take(ops.reshape(self.kernel.scores, (-1, k)), at, axis=0))
        bank = self.kernel.bank
        if len(bank.shape) > 1:
            bank = ops.take(ops.reshape(bank, (-1, k)), at, axis=0)
        bank = np.broadcast_to(_wide(bank), scores.shape)
        if not (np.isfinite(scores).all() and np.isfinite(bank).all()):
            return float("nan")
        thresholds, _ = envelope(bank, scores)
        return float(((thresholds < np.inf).sum(axis=0) + 1).mean() / k)

    def _snapshot(self, positions: Tensor, sums: Tensor) -> ChoiceSnapshot:
        flat = keras.ops.convert_to_numpy(positions).reshape(-1)
        flat = flat.astype(position_dtype(self.num_values), copy=False)
        return ChoiceSnapshot(flat, float(_wide(sums).sum() / self.size))


class _PerValueObserver(Observer):
    """Draws bank and initial scores once, some connections at a time, for the start."""

    kernel: PerValueKernel

    @cached_property
    def start(self) -> Array | None:
        initial = self.kernel.initial
        if not initial.rebuildable:
            return None
        block = max(1, _BLOCK_VALUES // self.num_values)
        found = np.empty(self.size, position_dtype(self.num_values))
        for begin in range(0, self.size, block):
            end = min(begin + block, self.size)
            bank, scores = initial.rows(begin, end)
            bank = bank.astype(self.kernel.variable_dtype)
            if begin == 0 and not np.array_equal(bank, self._held(end)):
                return None  # the weights of another seed were loaded
            bank = np.broadcast_to(bank, scores.shape)
            best = scores.astype(self.kernel.score_dtype).argmax(axis=-1)
            value = np.take_along_axis(bank, best[:, None], axis=-1)
            found[begin:end] = (bank < value).sum(axis=-1)
        return found

    def _held(self, end: int) -> Array:
        bank = self.kernel.bank
        if len(bank.shape) > 1:
            bank = ops.reshape(bank, (-1, self.num_values))[:end]
        return keras.ops.convert_to_numpy(bank)


class _LeverObserver(Observer):
    """Reads positions off the staircase, which says what is within reach, too."""

    kernel: PerConnectionKernel

    def snapshot(self) -> ChoiceSnapshot:
        return self._snapshot_at(self.kernel.select_greedily())

    @cached_property
    def start(self) -> Array | None:
        lever = self.kernel.lever.value
        return self._snapshot_at(self.kernel.select_greedily(ops.zeros_like(lever))).positions

    @cached_property
    def available(self) -> float:
        if self.kernel._lines:
            return super().available
        return float(np.abs(self.sample().astype("float64")).mean())

    def sample(self) -> Array:
        kernel = self.kernel
        if kernel._lines:
            return super().sample()
        rows = kernel.current_initial_values().bank_rows(0, self._rows)
        return rows.astype(kernel.variable_dtype).reshape(-1)

    def reach(self) -> float:
        return self._reach

    @cached_property
    def _reach(self) -> float:
        steps, *tall = (keras.ops.convert_to_numpy(v) for v in self._tables)
        steps = steps.reshape(len(steps), -1)
        higher = sum(int((b > a).sum()) for a, b in pairwise(steps))
        if tall:
            words, further = tall
            index = keras.ops.convert_to_numpy(integer_of(words, "int32"))
            walk = np.concatenate([steps[-1:, index].astype(further.dtype), further])
            higher += int((walk[1:] > walk[:-1]).sum())
        return (higher + self.size) / (self.size * self.num_values)

    @property
    def _tables(self) -> list[keras.Variable]:
        """Steps, and of connections with overflow their numbers and further steps."""
        return [
            v for v in self.kernel._steps if v.name in ("steps", "overflow_index", "overflow_steps")
        ]

    def _snapshot_at(self, kernel: Tensor) -> ChoiceSnapshot:
        return self._snapshot(*compiled(by_steps)(kernel, *self._tables))


class _NearestObserver(Observer):
    """Computes index and value together; every value is within reach."""

    kernel: NearestKernel

    def snapshot(self) -> ChoiceSnapshot:
        return self._snapshot_at(self.kernel.lever)

    @cached_property
    def start(self) -> Array | None:
        kernel = self.kernel
        start = kernel.current_initial_values().start().astype(kernel.score_dtype)
        return self._snapshot_at(ops.convert_to_tensor(start)).positions

    @cached_property
    def available(self) -> float:
        if isinstance(self.kernel._bank, SharedValues):
            return super().available
        # One value in each stratum, taken together uniform on [-b, b).
        return self.kernel._bank.bound / 2

    def sample(self) -> Array:
        if self.kernel.initial.shared:
            return super().sample()
        return self.kernel.current_initial_values().bank_rows(0, self._rows).reshape(-1)

    def reach(self) -> float:
        return 1.0

    def _snapshot_at(self, lever: Tensor) -> ChoiceSnapshot:
        positions = PositionsOfNearest(self.kernel._bank, self.num_values)
        return self._snapshot(*compiled(positions)(lever, self.kernel._seed))


def _wide(tensor: Tensor) -> Array:
    return keras.ops.convert_to_numpy(tensor).astype("float64")


@singledispatch
def observer(kernel: SlotKernel) -> Observer:
    """The observer of a kernel: that of its score mode, or one that reads the bank.

    Example:

    >>> from keras_slots import SlotDense
    >>> layer = SlotDense(300, num_values=8, score_mode="per_connection", seed=0)
    >>> layer.build((None, 784))
    >>> seen = observer(layer.slot_kernel)
    >>> bool((seen.snapshot().positions == seen.start).all()), round(seen.reach() * 8, 1)
    (True, 3.7)
    """
    return Observer(kernel)


observer.register(PerValueKernel, _PerValueObserver)
observer.register(PerConnectionKernel, _LeverObserver)
observer.register(NearestKernel, _NearestObserver)
