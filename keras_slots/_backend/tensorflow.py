"""What only TensorFlow can say: the straight-through gradient, compilation, calls of the host."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

Tensor = Any
Function = Callable[..., Any]


@cache
def straight_through(select: Function, gradient: Function, exact: bool = True) -> Function:
    """Selection with a gradient of its own, `f(*arrays) -> kernel`, by `tf.custom_gradient`.

    Forward `kernel = select(*arrays)`; backward `gradient(upstream, *arrays)`, a tuple with the gradients of the
    first arrays. The others have none.

    Args:
        select: Pure function of tensors.
        gradient: Pure function of the upstream gradient, in the dtype of the first array, and of the arrays.
        exact: Of meaning on PyTorch alone.
    """
    forward = compiled(select)

    @tf.custom_gradient
    def selected(*arrays: Tensor) -> Any:
        def backward(upstream: Tensor) -> Any:
            # A gather of the kernel sends `tf.IndexedSlices`.
            upstream = tf.cast(tf.convert_to_tensor(upstream), arrays[0].dtype)
            gradients = gradient(upstream, *arrays)
            return *gradients, *(None for _ in arrays[len(gradients) :])

        # Nothing is to be differentiated inside: the tape would build the gradient of `select` for nothing.
        return forward(*(tf.stop_gradient(x) for x in arrays)), backward

    # As a program of its own: TensorFlow keeps every graph in which `tf.custom_gradient` is called for ever.
    return traced_once(selected, jit_compile=False)


@cache
def compiled(function: Function) -> Function:
    """`function`, compiled by itself: it fuses even where Keras leaves XLA off (on CPU, under `tf.distribute`)."""
    return traced_once(function, jit_compile=True)


def traced_once(function: Function, *, jit_compile: bool) -> Function:
    """`function` as one program for each combination of shapes and dtypes, for all layers of all models."""

    def call(*arrays: Tensor) -> Any:
        arrays = tuple(tf.convert_to_tensor(x) for x in arrays)
        signature = tuple(tf.TensorSpec(x.shape, x.dtype) for x in arrays)
        return _program(function, signature, jit_compile)(*arrays)

    return call


@cache
def _program(function: Function, signature: tuple, jit_compile: bool) -> Function:
    # Traced outside of any graph: a `tf.function` would keep each graph that it is called from.
    with tf.init_scope():
        traced = tf.function(function, jit_compile=(jit_compile and _xla_works()) or None, autograph=False)
        return traced.get_concrete_function(*signature)


def initializer(array: Callable[[], Any]) -> Function:
    """Initializer of a variable with the values of `array()`.

    Args:
        array: Function that returns the values as a NumPy array.
    """
    return lambda shape, dtype=None: ops.convert_to_tensor(array(), dtype)


def from_host(function: Callable[[np.ndarray], Any], argument: Any, like: Any) -> Any:
    """`function(argument)`, computed with NumPy, in eager and in traced code.

    XLA cannot call the host, so a graph captures the results for the value that `argument` has when it is traced.
    Running it with another value is an error; where XLA has dropped the check, the results are NaN.

    Args:
        function: Takes a NumPy array and returns a tuple of NumPy arrays.
        argument: Keras variable.
        like: Tuple of `keras.KerasTensor`, shape and dtype of each result.
    """
    with tf.init_scope():
        known = tf.constant(argument.value)
        results = tuple(tf.constant(x) for x in function(known.numpy()))
    if tf.executing_eagerly():
        return results
    same = tf.reduce_all(tf.equal(argument.value, known))
    text = (
        "`bank` or `scores` of a slot layer were read in a program that was traced when the layer had another "
        "seed. Trace the program again after loading weights: make a new `tf.function`, or compile the model anew."
    )
    with tf.control_dependencies([tf.debugging.Assert(same, [text])]):
        return tuple(tf.where(same, x, np.nan) for x in results)


def eager_scope() -> Any:
    """A context in which tensors have values, also while a program is traced."""
    return tf.init_scope()


def at_rest(x: Tensor) -> Tensor:
    """`x`, whose `abs` has no gradient where it is 0, by TensorFlow's own rule."""
    return x


@cache
def _xla_works() -> bool:
    # Some builds of TensorFlow (Windows) come without the compiler.
    with tf.init_scope():
        try:
            tf.function(lambda x: x + x, jit_compile=True)(tf.zeros(()))
        except (tf.errors.OpError, ValueError):
            return False
    return True
