"""LiteRT and ONNX files, run with the real interpreters and compared with Keras."""

import sys

import keras
import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_slots
from comparisons import numpy_of
from keras_slots import SlotDense, export_selected
from layer_table import SLOT_CLASSES
from small_models import compiled_model, small_data, small_model

FORMATS = ("litert", "onnx")
every_format = pytest.mark.parametrize("format", FORMATS)


def run_litert(path, inputs):
    runner = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
    return runner(**inputs)


def run_onnx(path, inputs):
    session = onnxruntime.InferenceSession(str(path))
    names = [x.name for x in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def run(format, path, inputs):
    """The outputs of a file by name, for inputs by name."""
    return {"litert": run_litert, "onnx": run_onnx}[format](path, inputs)


def lenet():
    layers = [SlotDense(u, activation="relu", score_mode="per_connection") for u in (30, 10)]
    return keras.Sequential([keras.Input((36,), name="x"), *layers, keras.layers.Softmax()])


def all_kinds():
    """One of each kind of slot layer, with dropout and normalization between them."""
    x = inputs = keras.Input((8, 8, 4), name="x")
    for layer in (
        keras_slots.SlotSeparableConv2D(4, 3, padding="same"),
        keras_slots.SlotDepthwiseConv2D(3, padding="same"),
        keras_slots.SlotConv2DTranspose(4, 3, strides=2, padding="same"),
        keras.layers.Reshape((4, 8, 8, 4)),
        keras_slots.SlotConv3D(4, 2, padding="same"),
        keras_slots.SlotConv3DTranspose(4, 2, padding="same"),
        keras.layers.Reshape((64, 16)),
        keras.layers.Dropout(0.5),
        keras_slots.SlotConv1D(8, 3, padding="causal"),
        keras_slots.SlotDepthwiseConv1D(3),
        keras_slots.SlotConv1DTranspose(8, 3, strides=2),
        keras_slots.SlotSeparableConv1D(8, 3),
        keras.layers.LayerNormalization(),
        keras_slots.SlotEinsumDense("abc,cd->abd", output_shape=(None, 8)),
    ):
        x = layer(x)
    x = keras_slots.SlotMultiHeadAttention(2, 4)(x, x)
    x = keras_slots.SlotGroupQueryAttention(4, 4, 2)(x, x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))


def sequences():
    """One of each kind of slot layer over time. LiteRT has no loop over time, so they are unrolled."""
    x = inputs = keras.Input((5,), name="x")
    tied = keras_slots.SlotReversibleEmbedding(20, 4)
    x = keras_slots.SlotEmbedding(20, 4)(x) + tied(x)
    for layer in (keras_slots.SlotSimpleRNN, keras_slots.SlotLSTM, keras_slots.SlotGRU):
        x = keras.layers.Bidirectional(layer(3, return_sequences=True, unroll=True))(x)
    cells = [keras_slots.SlotSimpleRNNCell(3), keras_slots.SlotLSTMCell(3), keras_slots.SlotGRUCell(4)]
    return keras.Model(inputs, tied(keras.layers.RNN(cells, unroll=True)(x), reverse=True))


def test_a_loop_over_time_is_refused_by_litert_and_taken_by_onnx(tmp_path):
    inputs = keras.Input((5, 2), name="x")
    model = keras.Model(inputs, keras_slots.SlotLSTM(3)(inputs))
    with pytest.raises(ValueError, match="only have operations that LiteRT has"):
        export_selected(model, tmp_path / "model", format="litert")
    path = export_selected(model, tmp_path / "model", format="onnx")
    x = np.random.default_rng(0).normal(size=(2, 5, 2)).astype("float32")
    (y,) = run_onnx(path, {"x": x}).values()
    np.testing.assert_allclose(y, numpy_of(model(x)), rtol=1e-5, atol=1e-6)


def test_all_kinds_has_every_slot_layer():
    kinds = {type(layer) for model in (all_kinds(), sequences()) for layer in model._flatten_layers()}
    # `SlotConv2D` is in `small_model`, `SlotDense` in `lenet`.
    assert set(SLOT_CLASSES.values()) - kinds == {keras_slots.SlotConv2D, SlotDense}


@pytest.mark.quick("lenet-litert", "lenet-onnx")
@every_format
@pytest.mark.parametrize("make", [lenet, all_kinds, sequences])
def test_export_selected_predicts_as_the_model_in_the_real_interpreter(tmp_path, make, format):
    model = make()
    path = export_selected(model, tmp_path / "model", format=format)
    for count in (1, 5):
        x = np.random.default_rng(count).normal(size=(count, *model.input_shape[1:]))
        x = x.astype("float32")
        (y,) = run(format, path, {"x": x}).values()
        np.testing.assert_allclose(y, numpy_of(model(x, training=False)), rtol=1e-4, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.quick("onnx")
@every_format
def test_export_selected_predicts_as_a_trained_network_with_batch_norm(tmp_path, format):
    model = compiled_model(small_model())
    x, y = small_data()
    model.fit(x, y, verbose=0)
    path = export_selected(model, tmp_path / "model", format=format)
    (found,) = run(format, path, {model.layers[0].name: x}).values()
    expected = numpy_of(model(x, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.quick("litert")
@every_format
def test_export_selected_takes_and_gives_dictionaries_by_name(tmp_path, format):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    y = SlotDense(4, name="y")(keras.layers.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, {"y": y, "z": a + 1})
    x = {"a": np.ones((3, 3), "float32"), "b": np.full((3, 2), 2, "float32")}
    found = run(format, export_selected(model, tmp_path / "model", format=format), x)
    expected = model(x)
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


@every_format
def test_export_selected_file_is_small(tmp_path, format):
    model = keras.Sequential([keras.Input((784,)), SlotDense(300), SlotDense(100), SlotDense(10)])
    raw = 4 * (784 * 300 + 300 * 100 + 100 * 10)
    size = export_selected(model, tmp_path / "model", format=format).stat().st_size
    assert raw < size < 1.01 * raw + 10_000


@every_format
def test_export_selected_refuses_what_computes_in_another_dtype(tmp_path, format):
    model = small_model(dtype="mixed_bfloat16")
    with pytest.raises(ValueError, match=r"must compute in float32.*'conv': 'bfloat16'"):
        export_selected(model, tmp_path / "model", format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "name"), [("litert", "LiteRT"), ("onnx", "ONNX")])
def test_export_selected_refuses_an_operation_that_the_format_lacks(tmp_path, format, name):
    inputs = keras.Input((4,))
    outputs = keras.ops.erfinv(SlotDense(4, activation="tanh")(inputs))
    (tmp_path / "model").write_text("the old one")
    with pytest.raises(ValueError, match=f"may only have operations that {name} has.*Erfinv"):
        export_selected(keras.Model(inputs, outputs), tmp_path / "model", format=format, overwrite=True)
    assert (tmp_path / "model").read_text() == "the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_export_selected_overwrite_replaces_a_file_by_a_file_only(tmp_path):
    model, x = lenet(), np.ones((2, 36), "float32")
    path = tmp_path / "model.tflite"
    path.write_text("the old one")
    with pytest.raises(FileExistsError, match="be a file that `overwrite=True` may replace"):
        export_selected(model, path, format="litert")
    assert path.read_text() == "the old one"
    export_selected(model, path, format="litert", overwrite=True)
    (y,) = run_litert(path, {"x": x}).values()
    np.testing.assert_allclose(y, model(x), rtol=1e-4, atol=1e-5)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="be a file that"):
        export_selected(model, tmp_path / "folder", format="litert", overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"model.tflite", "folder"}


def test_export_selected_keeps_the_old_file_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    def fails(source, target):
        raise OSError("no space left")

    (tmp_path / "model").write_text("the old one")
    monkeypatch.setattr("keras_slots.export.os.replace", fails)
    with pytest.raises(OSError, match="no space left"):
        export_selected(lenet(), tmp_path / "model", format="litert", overwrite=True)
    assert (tmp_path / "model").read_text() == "the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_export_selected_names_the_extra_of_a_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    expected = r'^`format="onnx"` needs pip install "keras-slots\[onnx\]"$'
    with pytest.raises(ImportError, match=expected):
        export_selected(lenet(), tmp_path / "model", format="onnx")
    assert not list(tmp_path.iterdir())


def test_export_selected_refuses_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match='`format` must be "tf_saved_model", "litert", "onnx" or "c"'):
        export_selected(lenet(), tmp_path / "model", format="torch")
