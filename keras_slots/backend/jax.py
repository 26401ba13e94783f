"""Straight-through selection on JAX, with `jax.custom_vjp`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from keras import ops

Tensor = Any


def straight_through_scores(select: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Selection whose gradient passes to every score: `f(scores, bank, *uniform) -> kernel`.

    Forward `kernel = select(scores, bank, *uniform)`; backward `d scores = upstream[..., None] * bank` for all K
    values (paper, equation 3). The bank and the random numbers have no gradient.

    Args:
        select: Pure function of `(scores, bank, *uniform)`, see `keras_slots.selection`.
    """

    @jax.custom_vjp
    def selected(scores: Tensor, bank: Tensor, uniform: tuple) -> Tensor:
        return select(scores, bank, *uniform)

    def forward(scores: Tensor, bank: Tensor, uniform: tuple) -> Any:
        # An empty array carries the dtype of the scores to the backward pass.
        return select(scores, bank, *uniform), (bank, jnp.zeros(0, scores.dtype))

    def backward(kept: Any, upstream: Tensor) -> Any:
        bank, like = kept
        return upstream.astype(like.dtype)[..., None] * bank.astype(like.dtype), None, None

    selected.defvjp(forward, backward)
    compiled = jax.jit(selected)
    return lambda scores, bank, *uniform: compiled(*_tensors(scores, bank), _tensors(*uniform))


def straight_through_lever(select: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Selection whose gradient passes to the lever: `f(lever, decay, *constants) -> kernel`.

    Forward `kernel = select(lever, decay, *constants)`; backward `d lever = upstream`, `d decay = 0`.

    Args:
        select: Pure function of `(lever, decay, *constants)`, see `keras_slots.selection`.
    """

    @jax.custom_vjp
    def selected(lever: Tensor, decay: Tensor, constants: tuple) -> Tensor:
        return select(lever, decay, *constants)

    def forward(lever: Tensor, decay: Tensor, constants: tuple) -> Any:
        return select(lever, decay, *constants), (jnp.zeros(0, lever.dtype), decay)

    def backward(kept: Any, upstream: Tensor) -> Any:
        like, decay = kept
        return upstream.astype(like.dtype), jnp.zeros_like(decay), None

    selected.defvjp(forward, backward)
    compiled = jax.jit(selected)
    return lambda lever, decay, *constants: compiled(*_tensors(lever, decay), _tensors(*constants))


def initializer(array: Callable[[], Any]) -> Callable[..., Tensor]:
    """Initializer of a variable with the values of `array()`.

    Args:
        array: Function that returns the values as a NumPy array.
    """

    def values(shape: tuple, dtype: Any = None, layout: Any = None) -> Tensor:
        if layout is None:
            return ops.convert_to_tensor(array(), dtype)
        # Each device gets its own part, straight from the host. Without a `layout` to take, Keras would
        # compile the values of a large variable into a program, which functions do not survive.
        whole = array().astype(dtype)
        sharding = jax.sharding.NamedSharding(jax.sharding.get_mesh(), layout.spec)
        return jax.make_array_from_callback(shape, sharding, lambda part: whole[part])

    return values


def _tensors(*arguments: Any) -> tuple:
    return tuple(ops.convert_to_tensor(x) for x in arguments)
