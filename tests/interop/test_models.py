"""Functional models that hold more than layers: operations, masks, lookups, wrappers, frozen parts."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_slots
from comparisons import assert_close, assert_same, numpy_of
from keras_slots import SlotConv1D, SlotDense, materialize, slotify
from layer_table import MODES, L
from plain_models import OPERATIONS, give_kernels, random_input, slot_layers, vocabulary_model, without_seeds

operations = pytest.mark.parametrize("make", OPERATIONS.values(), ids=OPERATIONS)


def frozen_base(**arguments):
    """A frozen sub-model with a slot layer, and a head."""
    base = keras.Sequential(
        [keras.Input((5, 4)), SlotConv1D(3, 2, seed=1, name="inner", **arguments), L.Flatten()], name="base"
    )
    base.trainable = False
    inputs = keras.Input((5, 4))
    return keras.Model(inputs, SlotDense(2, seed=2, name="head", **arguments)(base(inputs)))


def fit(model, x=None, epochs=2):
    x = random_input(model, 8) if x is None else x
    y = np.random.default_rng(1).normal(size=(8, *model.output.shape[1:]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, y, epochs=epochs, batch_size=4, verbose=0)


# Operations and masks.


@pytest.mark.quick("sum", "ops_concatenate", "where", "mask_and_lstm", "masking_layer")
@operations
def test_slotify_keeps_operations_and_masks(make):
    plain = make()
    slot = slotify(plain, num_values=3, seed=1, filters=_has_slot_version)
    assert [x.name for x in slot.layers] == [x.name for x in plain.layers]
    x = random_input(plain)
    assert_close(slot(x), give_kernels(slot, plain)(x))


@pytest.mark.quick("number_first", "reshape_and_matmul", "mask_and_bidirectional", "masking_layer")
@operations
def test_materialize_keeps_operations_and_masks(make):
    plain = make()
    slot = slotify(plain, num_values=3, seed=1, filters=_has_slot_version)
    back = materialize(slot)
    assert without_seeds(back.get_config()) == without_seeds(plain.get_config())
    x = random_input(plain)
    assert_same(back(x), slot(x, training=False))


def _has_slot_version(layer):
    return hasattr(keras_slots, f"Slot{type(layer).__name__}")


@pytest.mark.parametrize("mode", MODES)
def test_slotify_model_with_operations_trains_and_is_saved(mode, tmp_path):
    model = slotify(OPERATIONS["where"](), num_values=3, seed=1, score_mode=mode)
    before = [numpy_of(x.kernel) for x in slot_layers(model)]
    fit(model)
    after = [numpy_of(x.kernel) for x in slot_layers(model)]
    assert any(np.any(a != b) for a, b in zip(after, before, strict=True))
    model.save(tmp_path / "model.keras")
    x = random_input(model)
    assert_same(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


# What is not the kernel's business stays as it was.


@pytest.mark.parametrize("mode", MODES)
def test_materialize_leaves_a_frozen_base_frozen(mode):
    model = frozen_base(score_mode=mode)
    plain = materialize(model)
    kernel = numpy_of(model.get_layer("base").get_layer("inner").kernel)
    inner = plain.get_layer("base").get_layer("inner")
    assert not inner.trainable and plain.get_layer("head").trainable
    fit(plain)
    np.testing.assert_array_equal(numpy_of(inner.kernel), kernel)


def test_materialize_leaves_a_frozen_slot_layer_frozen():
    model = keras.Sequential([keras.Input((3,)), SlotDense(4, name="a"), SlotDense(2, name="b")])
    model.get_layer("a").trainable = False
    plain = materialize(model)
    assert [x.trainable for x in plain.layers] == [False, True]


def test_slotify_leaves_a_frozen_layer_frozen():
    model = keras.Sequential([keras.Input((3,)), L.Dense(4, name="a"), L.Dense(2, name="b")])
    model.get_layer("a").trainable = False
    assert [x.trainable for x in slotify(model).layers] == [False, True]


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["text", "strings", "integers"])
def test_slotify_and_materialize_keep_an_adapted_vocabulary(name):
    plain, x = vocabulary_model(name)
    x = ops.convert_to_tensor(x)
    slot = slotify(plain, seed=1, filters=["last"])
    assert_close(slot(x), give_kernels(slot, plain)(x))
    assert_same(materialize(slot)(x), slot(x, training=False))


def test_slotify_and_materialize_keep_the_statistics_of_a_normalization():
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (50, 2)))
    plain = keras.Sequential([keras.Input((2,)), normalization, L.Dense(3)])
    slot = slotify(plain, seed=1)
    x = random_input(plain)
    assert_close(slot(x), give_kernels(slot, plain)(x))
    assert_same(materialize(slot)(x), slot(x))


# Wrappers.


def _inner_model():
    return keras.Sequential(
        [keras.Input((4,)), L.Dense(3, activation="relu", name="inner"), L.Dense(2, name="out")], name="inside"
    )


@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [(_inner_model, (7, 4), 2), (lambda: L.TimeDistributed(L.Dense(3), name="inside"), (7, 2, 4), 1)],
    ids=["model", "time_distributed"],
)
def test_slotify_reaches_into_time_distributed(make, shape, count):
    inputs = keras.Input(shape)
    plain = keras.Model(inputs, L.TimeDistributed(make(), name="steps")(inputs))
    slot = slotify(plain, seed=1)
    assert len(slot_layers(slot)) == count
    x = random_input(plain)
    assert_close(slot(x), give_kernels(slot, plain)(x))
    back = materialize(slot)
    assert not slot_layers(back) and back.get_config() == plain.get_config()
    assert_same(back(x), slot(x))


def test_transforms_keep_a_lambda():
    inputs = keras.Input((4,))
    twice = L.Lambda(lambda x: 2 * x, name="twice")
    plain = keras.Model(inputs, twice(L.Dense(3)(inputs)))
    slot = slotify(plain)
    x = random_input(plain)
    for copy in (slot, materialize(slot)):
        assert copy.get_layer("twice").function is twice.function
        assert_same(copy(x), slot(x))
