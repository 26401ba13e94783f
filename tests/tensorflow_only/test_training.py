"""Training with Keras' own loop: optimizers, compilation, policies, two devices, backup and restore."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from backends import two_replicas
from comparisons import numpy_of
from keras_slots import SlotConv2D, SlotDense, materialize
from small_models import compiled_model, small_data, small_model


@pytest.mark.quick("sgd-arguments0")
@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [("sgd", {"jit_compile": True}), ("adam", {"jit_compile": False}), ("adam", {"steps_per_execution": 2})],
)
def test_fit_moves_scores_and_leaves_the_bank(optimizer, arguments):
    model = compiled_model(small_model(), optimizer=optimizer, **arguments)
    layer = model.get_layer("conv")
    bank, scores = numpy_of(layer.bank).copy(), numpy_of(layer.scores).copy()
    x, y = small_data()
    history = model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    np.testing.assert_array_equal(numpy_of(layer.bank), bank)
    assert np.any(numpy_of(layer.scores) != scores)
    assert np.isfinite(model.evaluate(x, y, verbose=0)).all()


@pytest.mark.quick("probabilistic-per_value")
@pytest.mark.parametrize("score_mode", ["per_value", "per_connection"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_mirrored_strategy_selects_what_one_device_selects_and_draws_one_network(selection, score_mode):
    # In float64, where the order of a sum over two devices tips no selection.
    x, y = small_data()
    slots = {"num_values": 4, "selection": selection, "score_mode": score_mode, "dtype": "float64"}

    def slot_layers(model):
        return [model.layers[1], model.layers[-1]]

    def train(strategy):
        with strategy.scope():
            outputs = inputs = keras.Input((6, 6, 2), dtype="float64")
            outputs = SlotConv2D(4, 3, activation="relu", seed=1, **slots)(outputs)
            outputs = keras.layers.Flatten(dtype="float64")(outputs)
            outputs = SlotDense(3, seed=2, **slots)(outputs)
            model = compiled_model(keras.Model(inputs, outputs))
        data = tf.data.Dataset.from_tensor_slices((x.astype("float64"), y)).batch(16)
        start = [numpy_of(layer.selected_indices) for layer in slot_layers(model)]
        model.fit(data, epochs=2, verbose=0)
        assert all(
            np.any(numpy_of(layer.selected_indices) != old)
            for layer, old in zip(slot_layers(model), start, strict=True)
        )
        return slot_layers(model)

    one, two = train(tf.distribute.get_strategy()), train(two_replicas())
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(numpy_of(b.selected_indices), numpy_of(a.selected_indices))
        np.testing.assert_allclose(numpy_of(b.scores), numpy_of(a.scores), rtol=1e-9, atol=1e-12)


def test_backup_and_restore_resumes_an_interrupted_run(tmp_path):
    x, y = small_data()
    arguments = {"batch_size": 16, "verbose": 0, "shuffle": False, "epochs": 3}
    whole = compiled_model(small_model(selection="probabilistic"))
    whole.fit(x, y, **arguments)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(*more):
        model = compiled_model(small_model(selection="probabilistic"))
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        model.fit(x, y, callbacks=[backup, *more], **arguments)
        return model

    with pytest.raises(KeyboardInterrupt):
        run(Interrupt())
    resumed = run()
    for old, new in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(numpy_of(new), numpy_of(old), err_msg=old.path)


@pytest.mark.quick
@pytest.mark.parametrize("score_mode", ["per_value", "per_connection"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_fit_and_predict_under_mixed_precision_use_the_stored_arg_max(policy, score_mode):
    model = keras.Sequential(
        [
            keras.Input((72,)),
            SlotDense(8, activation="relu", seed=1, dtype=policy, score_mode=score_mode),
            SlotDense(3, seed=2, dtype=policy, score_mode=score_mode),
        ]
    )
    x, y = small_data()
    x = x.reshape(len(x), -1)
    model = compiled_model(model)
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    plain = materialize(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), plain.predict(x, verbose=0))
    layer = model.layers[0]
    assert layer.scores.dtype == "float32"
    chosen = np.take_along_axis(numpy_of(layer.bank), numpy_of(layer.scores).argmax(-1)[..., None], -1)[..., 0]
    assert (numpy_of(layer.kernel) == chosen).mean() > 0.999


@pytest.mark.quick("per_connection")
@pytest.mark.parametrize("score_mode", ["per_value", "per_connection"])
def test_materialize_of_many_layers_traces_without_a_warning_of_tensorflow(caplog, score_mode):
    x = inputs = keras.Input((6,))
    for units in range(3, 15):
        x = SlotDense(units, score_mode=score_mode)(x)
    model = keras.Model(inputs, x)
    materialize(model)
    model(np.ones((2, 6), "float32"))
    assert [record.message for record in caplog.records if "retracing" in record.message] == []
