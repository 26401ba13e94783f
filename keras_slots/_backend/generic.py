"""What `keras.ops` alone can say, for backends that nobody wrote for: all but a gradient."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any
Function = Callable[..., Any]

warnings.warn(
    f"keras_slots cannot train on the Keras backend '{keras.backend.backend()}', where nothing gives a selection "
    "its gradient. Models load, predict and are materialized there. Train on TensorFlow, JAX or PyTorch: set "
    "KERAS_BACKEND before importing keras.",
    stacklevel=2,
)


def straight_through(select: Function, gradient: Function, exact: bool = True) -> Function:
    """Selection without a gradient, `f(*arrays) -> kernel`."""
    return lambda *arrays: ops.stop_gradient(compiled(select)(*arrays))


def compiled(function: Function) -> Function:
    """`function` of tensors, as it is."""
    return lambda *arrays: function(*(ops.convert_to_tensor(x) for x in arrays))


def initializer(array: Callable[[], Any]) -> Function:
    """Initializer of a variable with the values of `array()`."""
    return lambda shape, dtype=None: ops.convert_to_tensor(array(), dtype)


def from_host(function: Callable[[np.ndarray], Any], argument: Any, like: Any) -> Any:
    """`function(argument)`, computed with NumPy; see the other backends."""
    return tuple(ops.convert_to_tensor(x) for x in function(ops.convert_to_numpy(argument)))


def eager_scope() -> Any:
    """A context in which tensors have values."""
    return nullcontext()


def zero_gradient_at_zero(x: Tensor) -> Tensor:
    """`x`, of whose `abs` nobody asks a gradient."""
    return x
