"""Shared by the score modes that train one number per connection, the lever."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_slots.kernels.base import SlotKernel
from keras_slots.kernels.seed import check_fingerprint, fingerprint

Tensor = Any
Array = np.ndarray[Any, Any]


class LeverKernel(SlotKernel):
    """Base of the kernels that train one lever per connection and draw their values from the seed."""

    measures_moves = True
    needs_seed = True
    _lever: keras.Variable

    @property
    def lever(self) -> keras.Variable:
        """The trained number of each connection, of the kernel's shape."""
        return self._lever

    def trained_variables(self) -> list[keras.Variable]:
        return [self._lever]

    def saved_state(self) -> dict[str, Any]:
        return {"lever": self._lever, "seed": self._seed, "fingerprint": fingerprint(self.initial)}

    def load_state(self, given: dict[str, np.ndarray]) -> None:
        self.initial_values_of(given["seed"])  # an error if the seed is lost
        if "fingerprint" in given:
            check_fingerprint(given["fingerprint"], self.initial, self.path)
        super().load_state(given)

    def sample_values(self, count: int) -> Array:
        if not self.initial.bank_source.rebuildable:
            return super().sample_values(count)
        rows = min(self.initial.num_connections, -(-count // self.num_values))
        values = self.current_initial_values().bank_rows(0, rows)
        return values.astype(self.variable_dtype).reshape(-1)


def lever_gradient(upstream: Tensor, *arrays: Tensor) -> tuple:
    """`d lever[c] = d kernel[c]`."""
    return (upstream,)
