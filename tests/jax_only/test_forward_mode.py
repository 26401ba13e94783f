"""Forward-mode differentiation on JAX: what it refuses of a slot layer, and how to have it all the same."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from keras_slots import SlotDense

NEAREST = {"score_initializer": "nearest", "bank_initializer": "stratified_uniform"}
MODES = {
    "per_value": {"score_mode": "per_value"},
    "lever": {"score_mode": "per_connection"},
    "nearest": {"score_mode": "per_connection", **NEAREST},
}


def outputs_of(mode):
    """The outputs of a model as a function of its trained variables and its input, and these two."""
    layer = SlotDense(3, seed=1, activation="tanh", **MODES[mode])
    model = keras.Sequential([keras.Input((4,)), layer])
    trained, fixed = (
        [v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    return lambda trained, x: model.stateless_call(trained, fixed, x, training=True)[0], trained, x


def jvp_of_two_vjps(function, point, tangent):
    """The way that docs/support.md shows."""
    outputs, pull = jax.vjp(function, point)
    _, push = jax.vjp(lambda upstream: pull(upstream)[0], outputs)
    (product,) = push(tangent)
    return product


@pytest.mark.parametrize("mode", MODES)
def test_jvp_with_respect_to_what_is_trained_is_refused_by_jax_and_is_two_vjps(mode):
    function, trained, x = outputs_of(mode)
    rng = np.random.default_rng(1)
    tangent = [rng.normal(size=v.shape).astype(v.dtype) for v in trained]
    of_trained = lambda trained: function(trained, x)  # noqa: E731
    with pytest.raises(TypeError, match="can't apply forward-mode autodiff"):
        jax.jvp(of_trained, (trained,), (tangent,))
    jacobians = jax.jacrev(of_trained)(trained)
    expected = sum(jnp.tensordot(j, t, t.ndim) for j, t in zip(jacobians, tangent, strict=True))
    found = jvp_of_two_vjps(of_trained, trained, tangent)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_jvp_with_respect_to_the_input_is_that_of_two_vjps(mode):
    function, trained, x = outputs_of(mode)
    of_input = lambda x: function(trained, x)  # noqa: E731
    found = jax.jvp(of_input, (x,), (np.ones_like(x),))[1]
    expected = jvp_of_two_vjps(of_input, x, np.ones_like(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
