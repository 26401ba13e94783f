"""The random state of a kernel."""

from typing import Any
from weakref import WeakSet

import keras
import numpy as np
from keras import ops

Tensor = Any


class Sampler(keras.random.SeedGenerator):
    """Random state of a kernel that moves once for each forward pass, however often its layer is called in it."""

    def __init__(self, seed: int, **kwargs: Any):
        super().__init__(seed, **kwargs)
        self._seen: WeakSet = WeakSet()
        self._again = False

    def enter(self, current: Any) -> None:
        """Tells in which forward pass the next numbers are drawn; None: in a pass of their own."""
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
