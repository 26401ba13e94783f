"""Exported models of all kinds of layers and operations, and what TensorFlow says while it traces."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from comparisons import arrays, assert_close
from keras_slots import SlotDense, export_selected, slotify
from layer_table import LAYER_AND_MODE, LAYERS, MODES, model_of, slot_layer
from plain_models import OPERATIONS, random_input, vocabulary_model

modes = pytest.mark.parametrize("mode", MODES)


def served(model, x, path):
    """What the exported file answers, in the order of the model's outputs."""
    signature = tf.saved_model.load(str(export_selected(model, path))).signatures
    inputs = {name: tf.constant(value) for name, value in _named(model, x).items()}
    answer = signature["serving_default"](**inputs)
    return [answer[name] for name in sorted(answer)]


def _named(model, x):
    if isinstance(x, dict):
        return x
    return dict(zip([t.name for t in model.inputs], keras.tree.flatten(x), strict=True))


@pytest.mark.quick("sum", "mask_and_lstm")
@pytest.mark.parametrize("name", OPERATIONS)
def test_export_selected_keeps_operations_and_masks(name, tmp_path):
    slot = slotify(OPERATIONS[name](), seed=1, filters=["last"])
    x = random_input(slot)
    assert_close(served(slot, x, tmp_path / "out"), slot(x, training=False))


@pytest.mark.quick("strings")
@pytest.mark.parametrize("name", ["text", "strings", "integers"])
def test_export_selected_keeps_an_adapted_vocabulary(name, tmp_path):
    plain, x = vocabulary_model(name)
    slot = slotify(plain, seed=1, filters=["last"])
    x = tf.constant(x)
    assert_close(served(slot, x, tmp_path / "out"), slot(x, training=False))


@pytest.mark.quick("dense-per_value", "separable1d-per_connection", "grouped_attention-per_connection")
@pytest.mark.parametrize(("name", "mode"), LAYER_AND_MODE)
def test_export_selected_takes_every_layer(name, mode, tmp_path):
    model = model_of(slot_layer(name, seed=1, score_mode=mode), LAYERS[name][-1])
    x = random_input(model)
    path = export_selected(model, tmp_path / "out")
    (y,) = tf.saved_model.load(str(path)).signatures["serving_default"](x=tf.constant(x)).values()
    assert_close(y, model(x, training=False))
    names = [n for n, _ in tf.train.list_variables(str(path / "variables" / "variables"))]
    assert not [n for n in names if any(w in n for w in ("bank", "scores", "lever", "sampler"))]


@pytest.mark.slow
@modes
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_layers_of_many_shapes_bring_no_warning_of_retracing(caplog, mode, selection):
    widths = [*range(3, 13), *range(3, 13)]
    layers = [SlotDense(w, score_mode=mode, selection=selection, seed=w) for w in widths]
    x = np.ones((2, 5), "float32")
    for layer in layers:
        x = layer(x, training=True)
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 5)), np.ones((4, 12)), batch_size=2, verbose=0)
    assert len(arrays([x.kernel for x in layers])) == 20
    # Of many models in one process TensorFlow says it too, whatever their layers: that one names Keras' trainer.
    said = [r.message for r in caplog.records if "TensorFlowTrainer" not in r.message]
    assert [message for message in said if "retracing" in message] == []
