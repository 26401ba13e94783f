"""JAX code; `generic.py` says what each function owes."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from keras import ops

Tensor = Any
Function = Callable[..., Any]


@cache
def straight_through(select: Function, gradient: Function, exact: bool = True) -> Function:
    """Selection with a gradient of its own, by `jax.custom_vjp`."""

    @jax.custom_vjp
    def selected(*arrays: Tensor) -> Tensor:
        return select(*arrays)

    def forward(*arrays: Tensor) -> Any:
        return select(*arrays), arrays

    def backward(arrays: Any, upstream: Tensor) -> Any:
        gradients = gradient(upstream.astype(arrays[0].dtype), *arrays)
        return *gradients, *(None for _ in arrays[len(gradients) :])

    selected.defvjp(forward, backward)
    return compiled(selected)


@cache
def compiled(function: Function) -> Function:
    """Compiles `function` separately; one program for each combination of shapes and dtypes."""
    program = jax.jit(function)
    return lambda *arrays: program(*(ops.convert_to_tensor(x) for x in arrays))


def initializer(array: Callable[[], Any]) -> Function:
    """Initializer of a variable with the values of `array()`."""
    return _Values(array)


class _Values:
    """A callable object, because Keras 3.14 compiles the initializer of a large variable if it is a function."""

    def __init__(self, array: Callable[[], Any]):
        self.array = array

    def __call__(self, shape: tuple, dtype: Any = None, layout: Any = None) -> Tensor:
        if layout is None:
            return ops.convert_to_tensor(self.array(), dtype)
        # Each device gets only its part, directly from the host. Without the parameter `layout`, Keras 3.15 would
        # also compile the values of a large variable into a program.
        whole = self.array().astype(dtype)
        sharding = jax.sharding.NamedSharding(jax.sharding.get_mesh(), layout.spec)
        return jax.make_array_from_callback(shape, sharding, lambda part: whole[part])


def from_host(function: Callable[[np.ndarray], Any], argument: Any, like: Any) -> Any:
    """`function(argument)`, computed with NumPy in eager and in traced code."""
    if not isinstance(argument.value, jax.core.Tracer):
        return tuple(ops.convert_to_tensor(x) for x in function(np.asarray(argument.value)))
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like)
    return jax.pure_callback(lambda x: function(np.asarray(x)), shapes, argument.value)


def eager_scope() -> Any:
    """A context in which tensors have values, even while a program is traced."""
    return jax.ensure_compile_time_eval()


def take_rows(variable: Any, rows: Tensor) -> Tensor:
    """The rows of a Keras variable with these numbers."""
    return ops.take(variable, rows, axis=0)


def zero_gradient_at_zero(x: Tensor) -> Tensor:
    """Returns `x` with zero gradient where it is 0; JAX would give `abs` a slope of 1 there."""
    return ops.where(x == 0, ops.stop_gradient(x), x)
