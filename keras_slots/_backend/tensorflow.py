"""TensorFlow code; `generic.py` says what each function owes."""

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
    """Selection with a gradient of its own, by `tf.custom_gradient`."""
    forward = compiled(select)

    @tf.custom_gradient
    def selected(*arrays: Tensor) -> Any:
        def backward(upstream: Tensor) -> Any:
            # The gradient of a gather of the kernel is `tf.IndexedSlices`.
            upstream = tf.cast(tf.convert_to_tensor(upstream), arrays[0].dtype)
            gradients = gradient(upstream, *arrays)
            return *gradients, *(None for _ in arrays[len(gradients) :])

        # Stop recording: the tape would record `select`, whose gradient is never used.
        return forward(*(tf.stop_gradient(x) for x in arrays)), backward

    # A separate program, because TensorFlow never frees a graph in which `tf.custom_gradient` is called.
    return traced_once(selected, jit_compile=False)


@cache
def compiled(function: Function) -> Function:
    """Compiles `function` separately with XLA, also where Keras does not use it (CPU, `tf.distribute`)."""
    return traced_once(function, jit_compile=True)


def traced_once(function: Function, *, jit_compile: bool) -> Function:
    """Traces `function` once for each combination of shapes and dtypes, for all layers of all models."""

    def call(*arrays: Tensor) -> Any:
        arrays = tuple(tf.convert_to_tensor(x) for x in arrays)
        signature = tuple(tf.TensorSpec(x.shape, x.dtype) for x in arrays)
        return _program(function, signature, jit_compile)(*arrays)

    return call


@cache
def _program(function: Function, signature: tuple, jit_compile: bool) -> Function:
    # Traced outside of any graph, because a `tf.function` keeps each graph that it is called from.
    with tf.init_scope():
        traced = tf.function(function, jit_compile=(jit_compile and _xla_works()) or None, autograph=False)
        return traced.get_concrete_function(*signature)


def initializer(array: Callable[[], Any]) -> Function:
    """Initializer of a variable with the values of `array()`."""
    return lambda shape, dtype=None: ops.convert_to_tensor(array(), dtype)


def from_host(function: Callable[[np.ndarray], Any], argument: Any, like: Any) -> Any:
    """`function(argument)`, computed with NumPy.

    XLA cannot call the host, so a graph captures the results for the value of `argument` at trace time. Running
    the graph with another value is an error; XLA drops this check, and then the results are NaN.
    """
    with tf.init_scope():
        known = tf.constant(argument.value)
        results = tuple(tf.constant(x) for x in function(known.numpy()))
    if tf.executing_eagerly():
        return results
    same = tf.reduce_all(tf.equal(argument.value, known))
    text = (
        "`bank` or `scores` of a slot layer were read in a program that was traced while the layer had another "
        "seed. After loading weights, trace the program again: make a new `tf.function` or recompile the model."
    )
    with tf.control_dependencies([tf.debugging.Assert(same, [text])]):
        return tuple(tf.where(same, x, np.nan) for x in results)


def eager_scope() -> Any:
    """A context in which tensors have values, even while a program is traced."""
    return tf.init_scope()


def take_rows(variable: Any, rows: Tensor) -> Tensor:
    """The rows of a Keras variable with these numbers, whose gradient holds these rows alone.

    Of the variable, not of its value: TensorFlow copies a variable that an optimizer updates in some rows whenever
    it is read as a whole.
    """
    return tf.gather(variable.value, rows)


def zero_gradient_at_zero(x: Tensor) -> Tensor:
    """Returns `x` unchanged: in TensorFlow `abs` already has zero gradient at 0."""
    return x


@cache
def _xla_works() -> bool:
    # Some builds of TensorFlow (Windows) lack the compiler, and some GPU machines the library of `exp`.
    with tf.init_scope():
        try:
            tf.function(lambda x: tf.exp(x) + x, jit_compile=True)(tf.zeros(()))
        except (tf.errors.OpError, ValueError):
            return False
    return True
