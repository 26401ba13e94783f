"""Levers under what TensorFlow offers: XLA, several replicas, checkpoints."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from backends import two_replicas
from keras_slots import SlotDense, export_selected, materialize


def network(selection="greedy", seed=1, **slot):
    slot |= {"score_mode": "per_connection", "use_bias": False, "selection": selection}
    model = keras.Sequential(
        [keras.Input((12,)), SlotDense(16, activation="relu", seed=seed, **slot), SlotDense(3, seed=2, **slot)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), loss)
    return model


def data():
    x = np.random.default_rng(0).standard_normal((64, 12)).astype("float32")
    return x, x[:, :3].argmax(-1)


def batches():
    return tf.data.Dataset.from_tensor_slices(data()).batch(16, drop_remainder=True)


PENALTY = {"move_regularizer": keras.regularizers.L1(1e-3)}
NEAREST = {"score_mode": "nearest", "bank_initializer": "stratified_uniform"}


@pytest.mark.quick("penalty, nearest")
@pytest.mark.parametrize("slot", [{}, PENALTY, PENALTY | NEAREST], ids=["plain", "penalty", "penalty, nearest"])
def test_mirrored_strategy_trains_levers_to_the_selections_of_one_device(slot):
    alone = network(**slot)
    alone.fit(batches(), epochs=4, verbose=0)
    with two_replicas().scope():
        mirrored = network(**slot)
    mirrored.fit(batches(), epochs=4, verbose=0)
    for a, b in zip(alone.layers, mirrored.layers, strict=True):
        np.testing.assert_allclose(a.lever.numpy(), b.lever.numpy(), atol=1e-5)
        assert (np.asarray(a.kernel) == np.asarray(b.kernel)).mean() > 0.99


def test_mirrored_strategy_holds_equal_levers_in_probabilistic_training():
    with two_replicas().scope():
        model = network("probabilistic")
    model.fit(batches(), epochs=2, verbose=0)
    for layer in model.layers:
        first, second = (v.numpy() for v in layer.lever.value.values)
        np.testing.assert_array_equal(first, second)
        assert np.abs(first).max() > 0


@pytest.mark.quick("probabilistic")
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_jit_compile_of_a_whole_step_trains_levers(selection):
    model = network(selection)
    model.jit_compile = True
    model.fit(batches(), epochs=2, verbose=0)
    assert all(np.abs(layer.lever.numpy()).max() > 0 for layer in model.layers)


def test_checkpoint_of_tensorflow_brings_levers_back(tmp_path):
    model, other = network(seed=1), network(seed=7)
    model.fit(batches(), epochs=1, verbose=0)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    for a, b in zip(model.layers, other.layers, strict=True):
        for name in ("kernel", "bank", "scores"):
            np.testing.assert_array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name)))
    other.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", compile=False)
    np.testing.assert_array_equal(np.asarray(again(data()[0])), np.asarray(model(data()[0])))


def test_export_selected_serves_what_the_lever_model_predicts(tmp_path):
    model = network(move_regularizer="l1")
    model.fit(batches(), epochs=1, verbose=0)
    x, _ = data()
    serve = tf.saved_model.load(export_selected(model, tmp_path / "e")).signatures
    (served,) = serve["serving_default"](tf.constant(x)).values()
    np.testing.assert_array_equal(served.numpy(), np.asarray(model(x, training=False)))
    np.testing.assert_array_equal(served.numpy(), np.asarray(materialize(model)(x)))


def test_export_selected_refuses_a_lever_that_is_not_finite(tmp_path):
    model = network()
    model.layers[1].lever.assign(np.full((16, 3), np.nan))
    with pytest.raises(ValueError, match="lever of layer .* holds NaN or infinity"):
        export_selected(model, tmp_path / "e")
    assert not list(tmp_path.iterdir())
