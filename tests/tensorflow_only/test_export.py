"""The exported SavedModel: the same predictions, no slot variables, small, and free of keras_slots."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_slots import SlotDense, export_selected, materialize
from slot_cases import numpy_of, small_data, small_model


def serve(path):
    return tf.saved_model.load(str(path)).signatures["serving_default"]


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_export_selected_predicts_as_the_model_for_any_batch_size(tmp_path, selection):
    model = small_model(selection=selection)
    signature = serve(export_selected(model, tmp_path / "out"))
    for count in (1, 5):
        x, _ = small_data(count)
        (y,) = signature(tf.constant(x)).values()
        np.testing.assert_allclose(y, numpy_of(model(x, training=False)), rtol=1e-5, atol=1e-6)


def test_export_selected_takes_several_inputs_as_a_dictionary(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    model = keras.Model({"a": a, "b": b}, {"y": SlotDense(4, name="y")(joined)})
    signature = serve(export_selected(model, tmp_path / "out"))
    x = {"a": tf.ones((3, 3)), "b": tf.ones((3, 2))}
    np.testing.assert_allclose(signature(**x)["y"], model(x)["y"], rtol=1e-6)


def test_export_selected_is_small_and_holds_no_slot_variables(tmp_path):
    model = keras.Sequential([keras.Input((784,))])
    for units in (300, 100, 10):
        model.add(SlotDense(units, activation="relu"))
    path = export_selected(model, tmp_path / "out")
    raw = 4 * ((784 + 1) * 300 + (300 + 1) * 100 + (100 + 1) * 10)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert size <= 1.1 * raw + 100_000
    names = [n for n, _ in tf.train.list_variables(str(path / "variables" / "variables"))]
    assert not [n for n in names if any(w in n for w in ("bank", "scores", "sampler", "seed"))]


def test_export_selected_loads_where_keras_slots_cannot_be_imported(tmp_path):
    model = small_model()
    export_selected(model, tmp_path / "out")
    x, _ = small_data(2)
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys; sys.modules['keras_slots'] = None\n"
        "import numpy as np, tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1] + '/out').signatures['serving_default']\n"
        "(y,) = serve(tf.constant(np.load(sys.argv[1] + '/x.npy'))).values()\n"
        "np.save(sys.argv[1] + '/y.npy', y)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=tmp_path)
    expected = numpy_of(model(x, training=False))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)


def test_export_selected_refuses_and_keeps_a_path_that_exists(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(FileExistsError, match="`path` must not exist"):
        export_selected(small_model(), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_export_selected_refuses_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="`path` must be a place where this process can write"):
        export_selected(small_model(), tmp_path / "file" / "out")


@contextlib.contextmanager
def as_ordinary_user():
    """The rights of folders count for this process; for root they do not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("mode", [0o555, 0o600], ids=["read_only", "closed"])
def test_export_selected_refuses_a_folder_without_the_rights_and_leaves_it_as_it_is(mode):
    model = small_model()
    materialize(model)  # whatever is imported on the way is imported now
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "folder")
        folder.mkdir()
        os.chmod(parent, 0o755)
        folder.chmod(mode)
        text = (
            rf"`path` must be a place where this process can write\. Received: path='{folder}/out'"
        )
        with as_ordinary_user(), pytest.raises(PermissionError, match=text):
            export_selected(model, folder / "out")
        folder.chmod(0o755)
        assert not list(folder.iterdir())


def test_export_selected_refuses_a_model_without_slot_layers_and_leaves_nothing(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="`model` holds no slot layer"):
        export_selected(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_export_selected_overwrite_replaces_a_folder_and_nothing_else(tmp_path):
    old, new = small_model(seed=1), small_model(seed=5)
    path = export_selected(old, tmp_path / "out")
    (path / "note").write_text("of the old export")
    export_selected(new, path, overwrite=True)
    x, _ = small_data(2)
    (y,) = serve(path)(tf.constant(x)).values()
    np.testing.assert_allclose(y, numpy_of(new(x, training=False)), rtol=1e-5, atol=1e-6)
    assert not (path / "note").exists() and [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="be a folder to replace with `overwrite=True`"):
        export_selected(new, tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "precious"


def test_export_selected_keeps_the_old_folder_when_the_new_one_cannot_take_its_place(
    tmp_path, monkeypatch
):
    path = export_selected(small_model(seed=1), tmp_path / "out")
    moves = []

    def second_move_fails(source, target):
        moves.append((source, target))
        if len(moves) == 2:
            raise OSError("no space left")
        os.rename(source, target)

    monkeypatch.setattr("keras_slots.export.os.replace", second_move_fails)
    with pytest.raises(OSError, match="no space left"):
        export_selected(small_model(seed=5), path, overwrite=True)
    monkeypatch.undo()
    x, _ = small_data(2)
    (y,) = serve(path)(tf.constant(x)).values()
    expected = numpy_of(small_model(seed=1)(x, training=False))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_export_selected_serves_the_vocabulary_of_a_lookup(tmp_path):
    words = keras.Input((1,), dtype="string", name="word")
    lookup = keras.layers.StringLookup(output_mode="one_hot")
    lookup.adapt(np.array(["yes", "no", "perhaps"]))
    model = keras.Model(words, SlotDense(3, seed=1)(lookup(words)))
    given = tf.constant([["no"], ["yes"], ["never heard of"]])
    expected = numpy_of(model(given))
    np.testing.assert_array_equal(numpy_of(materialize(model)(given)), expected)
    (y,) = serve(export_selected(model, tmp_path / "out"))(given).values()
    np.testing.assert_allclose(y, expected, rtol=1e-6)
