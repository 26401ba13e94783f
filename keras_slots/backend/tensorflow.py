"""Straight-through selection on TensorFlow, with `tf.custom_gradient`."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import tensorflow as tf
from keras import ops

Tensor = Any


def straight_through_scores(select: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Selection whose gradient passes to every score: `f(scores, bank, *uniform) -> kernel`.

    Forward `kernel = select(scores, bank, *uniform)`; backward `d scores = upstream[..., None] * bank` for all K
    values (paper, equation 3). The bank and the random numbers have no gradient.

    Args:
        select: Pure function of `(scores, bank, *uniform)`, see `keras_slots.selection`.
    """
    forward = _compiled(select)
    spread = _compiled(lambda upstream, bank: upstream[..., None] * bank)

    @tf.custom_gradient
    def selected(scores: Tensor, bank: Tensor, *uniform: Tensor) -> Any:
        def gradient(upstream: Tensor) -> Any:
            upstream, values = tf.cast(upstream, scores.dtype), tf.cast(bank, scores.dtype)
            return spread(upstream, values), None, *(None for _ in uniform)

        return forward(scores, bank, *uniform), gradient

    return _on_tensors(selected)


def straight_through_lever(select: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Selection whose gradient passes to the lever: `f(lever, decay, *constants) -> kernel`.

    Forward `kernel = select(lever, decay, *constants)`; backward `d lever = upstream`, `d decay = 0` (a zero, not
    None: the optimizer must see `decay` to apply its weight decay).

    Args:
        select: Pure function of `(lever, decay, *constants)`, see `keras_slots.selection`.
    """
    forward = _compiled(select)

    @tf.custom_gradient
    def selected(lever: Tensor, decay: Tensor, *constants: Tensor) -> Any:
        def gradient(upstream: Tensor) -> Any:
            none = (None for _ in constants)
            return tf.cast(upstream, lever.dtype), tf.zeros_like(decay), *none

        return forward(lever, decay, *constants), gradient

    return _on_tensors(selected)


def initializer(array: Callable[[], Any]) -> Callable[..., Tensor]:
    """Initializer of a variable with the values of `array()`.

    Args:
        array: Function that returns the values as a NumPy array.
    """
    return lambda shape, dtype=None: ops.convert_to_tensor(array(), dtype)


def _on_tensors(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Given a variable, `tf.custom_gradient` would demand a gradient function that takes `variables`, eagerly only.
    return lambda *arguments: function(*(tf.convert_to_tensor(x) for x in arguments))


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Compiled by itself, so that it fuses even where Keras leaves XLA off (on CPU, under tf.distribute).
    # A partial for each layer: TensorFlow warns when what it takes for one function is traced by many layers.
    return tf.function(partial(function), jit_compile=_xla_works(), autograph=False)


@cache
def _xla_works() -> bool:
    # Some builds of TensorFlow (Windows) come without the compiler.
    with tf.init_scope():
        try:
            tf.function(lambda x: x + x, jit_compile=True)(tf.zeros(()))
        except (tf.errors.OpError, ValueError):
            return False
    return True
