"""What each function of a backend owes, and what `keras.ops` alone can do: all but a gradient."""

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
    """Selection `f(*arrays) -> kernel` with a gradient of its own; here without one.

    Forward `kernel = select(*arrays)`; backward `gradient(upstream, *arrays)`, a tuple with the gradients of the
    first arrays. The others have none.

    Args:
        select: Pure function of tensors.
        gradient: Pure function of the upstream gradient, in the dtype of the first array, and of the arrays.
        exact: Whether no rounding can change what is selected.
    """
    return lambda *arrays: ops.stop_gradient(compiled(select)(*arrays))


def compiled(function: Function) -> Function:
    """`function` of tensors, compiled once for each combination of shapes and dtypes; here as it is."""
    return lambda *arrays: function(*(ops.convert_to_tensor(x) for x in arrays))


def initializer(array: Callable[[], Any]) -> Function:
    """Initializer of a variable with the values of `array()`, a NumPy array."""
    return lambda shape, dtype=None: ops.convert_to_tensor(array(), dtype)


def from_host(function: Callable[[np.ndarray], Any], argument: Any, like: Any) -> Any:
    """`function(argument)`, computed with NumPy, also where a program is traced.

    Args:
        function: Takes a NumPy array and returns a tuple of NumPy arrays.
        argument: Keras variable.
        like: Tuple of `keras.KerasTensor` with the shape and dtype of each result.
    """
    return tuple(ops.convert_to_tensor(x) for x in function(ops.convert_to_numpy(argument)))


def eager_scope() -> Any:
    """A context in which tensors have values, even while a program is traced."""
    return nullcontext()


def take_rows(variable: Any, rows: Tensor) -> Tensor:
    """The rows of a Keras variable with these numbers, an int32 tensor of numbers from 0."""
    return ops.take(variable, rows, axis=0)


def zero_gradient_at_zero(x: Tensor) -> Tensor:
    """`x`, whose `abs` has zero gradient where it is 0; here nothing has a gradient."""
    return x
