"""Losses, gradients and policies of slot layers against the same model of plain Keras layers."""

import keras
import numpy as np
import pytest
from keras import ops

from comparisons import assert_close, numpy_of
from keras_slots import SlotConv2D, SlotDense, ValueBank, materialize, slotify
from layer_table import LAYERS, MODES, L, plain_layer, slot_layer
from plain_models import give_kernels, kernel_layers, kernels, random_input

modes = pytest.mark.parametrize("mode", MODES)
every_layer = pytest.mark.parametrize("name", LAYERS)


# Regularizers.


def _tower_twice(layer):
    tower = keras.Sequential([keras.Input((4,)), layer], name="tower")
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, tower(tower(inputs)))


def _layer_twice(layer):
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, layer(layer(inputs)))


def _over_time(layer):
    inputs = keras.Input((7, 4), name="x")
    return keras.Model(inputs, L.TimeDistributed(layer)(inputs))


def regularized(make, mode):
    plain = make(L.Dense(4, kernel_regularizer=keras.regularizers.L1L2(0.3, 0.2), name="dense"))
    slot = slotify(plain, seed=1, score_mode=mode)
    return slot, give_kernels(slot, plain)


def evaluate(model, learning_rate=None):
    """The loss of one batch, from `evaluate`, or from a training step that changes nothing."""
    x = random_input(model, 4)
    y = np.zeros((4, *model.output.shape[1:]))
    model.compile(keras.optimizers.SGD(learning_rate or 0.0), "mse")
    if learning_rate is None:
        return model.evaluate(x, y, verbose=0)
    return model.fit(x, y, verbose=0).history["loss"][0]


@pytest.mark.quick
@modes
@pytest.mark.parametrize("make", [_tower_twice, _layer_twice, _over_time])
def test_regularizer_counts_once_however_often_a_layer_is_called(make, mode):
    slot, plain = regularized(make, mode)
    np.testing.assert_allclose(evaluate(slot), evaluate(plain), rtol=1e-5)
    np.testing.assert_allclose(evaluate(slot, 1e-9), evaluate(plain, 1e-9), rtol=1e-5)


@pytest.mark.quick
@modes
@pytest.mark.parametrize("make", [_tower_twice, _over_time])
def test_materialize_keeps_the_loss_of_the_model(make, mode):
    slot, _ = regularized(make, mode)
    np.testing.assert_allclose(evaluate(materialize(slot)), evaluate(slot), rtol=1e-5)


@pytest.mark.quick
@modes
@every_layer
def test_regularizer_losses_are_there_after_build(name, mode):
    arguments = {"kernel_regularizer": keras.regularizers.L2(0.5)}
    slot = slot_layer(name, arguments, seed=1, score_mode=mode)
    plain = plain_layer(name, **arguments)
    shape = LAYERS[name][-1]
    for layer in (slot, plain):
        layer.build(*(2 * [shape] if "attention" in name else [shape]))
    for ours, theirs in zip(kernel_layers(slot), kernel_layers(plain), strict=True):
        for kernel_name, kernel in kernels(ours).items():
            getattr(theirs, kernel_name).assign(kernel)
    assert len(slot.losses) == len(plain.losses) > 0
    assert_close(sorted(arrays_of(slot.losses)), sorted(arrays_of(plain.losses)))


def arrays_of(losses):
    return [float(numpy_of(x)) for x in losses]


@modes
def test_regularizer_of_a_frozen_layer_is_no_loss(mode):
    slot, plain = regularized(_layer_twice, mode)
    for model in (slot, plain):
        model.get_layer("dense").trainable = False
        model(random_input(model))
    assert plain.losses == [] and slot.losses == []
    np.testing.assert_allclose(evaluate(slot), evaluate(plain), rtol=1e-5)


@modes
def test_losses_are_numbers_after_fit_and_predict(mode):
    slot, plain = regularized(_layer_twice, mode)
    for use in (lambda model: evaluate(model, 0.1), lambda m: m.predict(random_input(m), verbose=0)):
        for model in (slot, plain):
            use(model)
        give_kernels(slot, plain)
        np.testing.assert_allclose(float(sum(slot.losses)), float(sum(plain.losses)), rtol=1e-5, atol=0)


@modes
def test_regularizer_has_the_straight_through_gradient(mode):
    layer = SlotDense(3, kernel_regularizer=keras.regularizers.L2(0.5), seed=1, score_mode=mode)
    model = keras.Sequential([keras.Input((4,)), layer])
    kernel, bank = numpy_of(layer.kernel), numpy_of(layer.bank)
    trained = layer.scores if mode == "per_value" else layer.lever
    before = numpy_of(trained)
    model.compile(keras.optimizers.SGD(1.0), lambda y, p: 0 * ops.mean(p))
    model.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
    # The loss is the sum of w**2 / 2, so the gradient of a weight is the weight.
    step = kernel[..., None] * bank if mode == "per_value" else kernel
    trained = layer.scores if mode == "per_value" else layer.lever
    np.testing.assert_allclose(numpy_of(trained), before - step, rtol=1e-5, atol=1e-7)


# Layers in which nothing can be chosen.

EQUAL = {
    "zeros": {"kernel_initializer": "zeros"},
    "ones": {"kernel_initializer": "ones"},
    "constant": {"kernel_initializer": keras.initializers.Constant(0.3)},
    "bank_of_zeros": {"bank_initializer": "zeros"},
    "one_set_of_zeros": {"kernel_initializer": "zeros", "sharing": "layer"},
    "identity": {"kernel_initializer": "identity"},
}


@modes
@pytest.mark.parametrize("arguments", EQUAL.values(), ids=EQUAL)
def test_slot_layer_says_when_no_bank_has_two_different_values(arguments, mode):
    layer = SlotDense(3, name="hopeless", seed=1, score_mode=mode, **arguments)
    # Every warning is an error in these tests.
    with pytest.raises((ValueError, UserWarning), match=r"(?s)hopeless.*(bank|sharing)") as caught:
        layer.build((None, 3))
    assert "initializer" in str(caught.value) or "sharing" in str(caught.value)


def test_value_bank_without_two_different_values_is_refused():
    with pytest.raises(ValueError, match="`values` must hold two different"):
        ValueBank(values=[0.5, 0.5])


@pytest.mark.quick("per_connection")
@modes
def test_slotify_says_when_no_bank_has_two_different_values(mode):
    plain = keras.Sequential(
        [keras.Input((3,)), L.Dense(32, name="fine"), L.Dense(1, kernel_initializer="zeros", name="gate")]
    )
    with pytest.raises((ValueError, UserWarning), match="gate"):
        slotify(plain, score_mode=mode)
    slot = slotify(plain, bank_initializer="glorot_uniform", score_mode=mode, seed=2)
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    y = x[:, :1] - x[:, 1:2]
    slot.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse")
    losses = slot.fit(x, y, epochs=50, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


# Policies that quantize.


@pytest.mark.parametrize("policy", ["int8_from_float32", "int4_from_float32", "float8_from_float32"])
@pytest.mark.parametrize("make", [lambda p: SlotDense(3, dtype=p), lambda p: SlotConv2D(3, 2, dtype=p)])
def test_slot_layer_refuses_a_policy_that_quantizes(make, policy):
    with pytest.raises(ValueError, match=r"(?s)quantize.*materialize"):
        make(policy)


def test_slotify_refuses_a_quantized_layer_by_its_name():
    plain = keras.Sequential([keras.Input((8,)), L.Dense(4, name="first"), L.Dense(4, name="small")])
    plain.get_layer("small").quantize("int8")
    with pytest.raises(ValueError, match="'small'"):
        slotify(plain)
