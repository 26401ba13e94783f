"""Probabilistic selection draws one network for each forward pass, however often a layer is called in it."""

import keras
import numpy as np
import pytest
from keras import ops

from comparisons import numpy_of
from keras_slots import SlotConv1D, SlotDense
from layer_table import MODES, L

modes = pytest.mark.parametrize("mode", MODES)
STEPS = 7


def small_layer(mode, **arguments):
    return SlotDense(5, selection="probabilistic", score_mode=mode, seed=1, **arguments)


def over_time(mode):
    inputs = keras.Input((STEPS, 4))
    return keras.Model(inputs, L.TimeDistributed(small_layer(mode))(inputs))


def over_time_in_a_model(mode):
    inner = keras.Sequential([keras.Input((4,)), small_layer(mode), small_layer(mode, name="two")])
    inputs = keras.Input((STEPS, 4))
    return keras.Model(inputs, L.TimeDistributed(inner)(inputs))


def shared_layer(mode):
    inputs, layer = keras.Input((STEPS, 4)), small_layer(mode)
    calls = [layer(inputs[:, step]) for step in range(STEPS)]
    return keras.Model(inputs, ops.stack(calls, axis=1))


def shared_model(mode):
    inputs = keras.Input((STEPS, 4))
    tower = keras.Sequential([keras.Input((1, 4)), SlotConv1D(5, 1, selection="probabilistic")])
    calls = [tower(inputs[:, step : step + 1]) for step in range(STEPS)]
    return keras.Model(inputs, ops.concatenate(calls, axis=1))


MODELS = (over_time, over_time_in_a_model, shared_layer, shared_model)
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


def equal_steps(count=3):
    """Inputs that are the same in all steps: one network gives the same outputs in all steps."""
    x = np.random.default_rng(0).normal(size=(count, 1, 4)).astype("float32")
    return np.repeat(x, STEPS, axis=1)


@pytest.mark.quick
@modes
@every_model
def test_training_call_uses_one_network_for_all_calls_of_a_layer(make, mode):
    model, x = make(mode), equal_steps()
    first, second = (numpy_of(model(x, training=True)) for _ in range(2))
    for y in (first, second):
        np.testing.assert_array_equal(y, np.repeat(y[:, :1], STEPS, axis=1))
    assert np.any(first != second)
    assert np.any(first != numpy_of(model(x, training=False)))


def spread(y, p):
    """Zero if all steps have the same output."""
    return ops.mean(ops.max(p, axis=1) - ops.min(p, axis=1), axis=-1)


@pytest.mark.quick
@modes
@every_model
def test_fit_uses_one_network_for_all_calls_of_a_layer(make, mode):
    model, x = make(mode), equal_steps(4)
    seen = []

    def loss(y, p):
        return ops.mean(p, axis=(1, 2)) + 0 * y[:, 0]

    model.compile(keras.optimizers.SGD(0.0), loss, metrics=[spread])
    for _ in range(3):
        history = model.fit(x, np.zeros((4, 1)), batch_size=4, verbose=0).history
        seen.append(history["loss"][0])
        assert history["spread"][0] == 0
    # Each step has a network of its own.
    assert len(set(seen)) == 3


@modes
def test_gradient_of_one_draw_is_the_sum_over_all_calls(mode):
    layer = small_layer(mode, use_bias=False)
    inputs = keras.Input((STEPS, 4))
    model = keras.Model(inputs, L.TimeDistributed(layer)(inputs))
    bank = numpy_of(layer.bank)
    trained = layer.scores if mode == "per_value" else layer.lever
    before = numpy_of(trained).copy()
    x = np.random.default_rng(0).normal(size=(2, STEPS, 4)).astype("float32")
    model.compile(keras.optimizers.SGD(1.0), lambda y, p: ops.sum(p, axis=(1, 2)))
    model.fit(x, np.zeros((2, 1)), verbose=0)
    upstream = np.repeat(x.sum(1).mean(0)[:, None], 5, axis=1)
    step = upstream[..., None] * bank if mode == "per_value" else upstream
    after = numpy_of(layer.scores if mode == "per_value" else layer.lever)
    np.testing.assert_allclose(after, before - step, rtol=1e-4, atol=1e-5)
