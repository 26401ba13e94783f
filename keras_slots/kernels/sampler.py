"""The random state of a kernel."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import keras
import numpy as np
from keras import ops

from keras_slots.values.stratified import (
    SPREAD,
    connection_state,
    count_connections,
    count_connections_of,
    mix,
    pair_hash,
    shifted,
)

Tensor = Any

#: Random numbers drawn in advance for the call in progress: `id` of a kernel -> tensors.
GIVEN: dict[int, tuple[Tensor, ...]] = {}


@contextmanager
def given(kernels: Sequence[Any], numbers: Sequence[tuple[Tensor, ...]]) -> Iterator[None]:
    """In this context the kernels select with these random numbers instead of drawing their own."""
    keys = [id(kernel) for kernel in kernels]
    before = {key: GIVEN[key] for key in keys if key in GIVEN}
    GIVEN.update(zip(keys, numbers, strict=True))
    try:
        yield
    finally:
        for key in keys:
            del GIVEN[key]
        GIVEN.update(before)


class Sampler(keras.random.SeedGenerator):
    """Random state of a kernel that advances once per forward pass, however often its layer is called in it."""

    def __init__(self, seed: int, **kwargs: Any):
        super().__init__(seed, **kwargs)
        self._seen: WeakSet = WeakSet()
        self._again = False

    def enter(self, current: Any) -> None:
        """Sets the forward pass for which the next numbers are drawn; None: a separate pass."""
        if _is_run_again():
            raise ValueError(
                "A slot layer with random selection was called inside another layer or a function that is "
                "rematerialized. TensorFlow would draw again in the backward pass and return the gradient "
                "of another selection. Use `keras.RematScope` around the slot layer itself, which keeps its draw."
            )
        self._again = current is not None and current in self._seen
        if current is not None:
            self._seen.add(current)

    def next(self, ordered: bool = True) -> Tensor:
        step = ops.convert_to_tensor(np.array([0, 1]), dtype=self.state.dtype)
        if self._again:
            return self.state.value - step
        drawn = self.state.value * 1  # a copy
        self.state.assign(ops.add(self.state, step))
        return drawn


@dataclass(frozen=True)
class UniformNumbers:
    """`(state of a Sampler, *rows) -> random numbers in [0, 1)`, the same bits on every backend.

    Each is 24 bits of the hash of a stratified bank, with keys from the seed, and with the number of the draw in
    the place of the number of the pair of values. Given some rows, it draws the numbers of these alone.
    """

    shape: tuple[int, ...]
    dtype: str

    def __call__(self, state: Tensor, *rows: Tensor) -> Tensor:
        seed, draw = ops.unstack(ops.cast(state, "int32"), 2)
        keys = mix(seed), mix(seed + SPREAD)
        counts = count_connections_of(rows[0], self.shape) if rows else count_connections(self.shape)
        bits = pair_hash(connection_state(keys, *counts), draw * SPREAD)
        return ops.cast(shifted(bits, 8), self.dtype) * 2.0**-24


def _is_run_again() -> bool:
    """Whether the call comes from `tf.recompute_grad`, which does not announce that it will call again."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "inner" and code.co_filename.endswith("custom_gradient.py"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
