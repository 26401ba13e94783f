"""The exported SavedModel: the same predictions, no slot variables, small, and free of keras_slots."""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from comparisons import numpy_of
from keras_slots import SlotDense, export, export_selected, materialize, slotify
from small_models import small_data, small_model


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


NAMES = {("my input",): ["my_input"], ("größe",): ["gr_e"], ("_x",): ["x"], ("ä", "ö"): ["input", "input_2"]}
NAMES |= {("a b", "a_b"): ["a_b_2", "a_b"], ("a.b", "1x"): ["a_b", "arg_1x"], ("a.b", "a_b"): ["a_b_2", "a_b"]}


@pytest.mark.parametrize("structure", [list, dict])
@pytest.mark.parametrize(("names", "expected"), NAMES.items(), ids=map(",".join, NAMES))
def test_export_selected_gives_inputs_names_that_tensorflow_takes(tmp_path, names, expected, structure):
    inputs = [keras.Input((number + 2,), name=name) for number, name in enumerate(names)]
    y = sum(SlotDense(3)(x) for x in inputs)
    model = keras.Model(inputs if structure is list else dict(zip(names, inputs, strict=True)), y)
    signature = serve(export_selected(model, tmp_path / "out"))
    x = [np.random.default_rng(0).normal(size=(2, number + 2)).astype("float32") for number in range(len(names))]
    (found,) = signature(**{name: tf.constant(one) for name, one in zip(expected, x, strict=True)}).values()
    np.testing.assert_allclose(
        found, model(x if structure is list else dict(zip(names, x, strict=True))), rtol=1e-5
    )


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


@pytest.mark.slow
def test_export_selected_needs_no_keras_slots(tmp_path):
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
        text = rf"`path` must be a place where this process can write\. Received: path='{folder}/out'"
        with as_ordinary_user(), pytest.raises(PermissionError, match=text):
            export_selected(model, folder / "out")
        folder.chmod(0o755)
        assert not list(folder.iterdir())


def test_export_selected_refuses_a_model_without_slot_layers_and_leaves_nothing(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="`model` has no slot layer"):
        export_selected(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# Overwriting.


def tree(folder):
    """What a folder holds: the content of each file, None for each folder, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")


SAVED_MODEL = ["saved_model.pb", "variables/variables.index"]


@pytest.mark.parametrize(
    "names",
    [[], SAVED_MODEL, [*SAVED_MODEL, "keras_metadata.pb", "assets/words.txt", "assets.extra/requests", "debug/x"]],
    ids=["empty", "saved_model", "with_all_it_may_have"],
)
def test_export_selected_overwrite_replaces_an_earlier_export_or_an_empty_folder(tmp_path, names):
    path, model = tmp_path / "out", small_model(seed=5)
    path.mkdir()
    fill(path, names)
    with pytest.raises(FileExistsError, match="overwrite=False"):
        export_selected(model, path)
    assert {name for name, content in tree(path).items() if content} == set(names)
    export_selected(model, path, overwrite=True)
    x, _ = small_data(2)
    (y,) = serve(path)(tf.constant(x)).values()
    np.testing.assert_allclose(y, numpy_of(model(x, training=False)), rtol=1e-5, atol=1e-6)
    assert b"precious" not in tree(path).values() and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["thesis.tex"], "'thesis.tex'"),
        (["variables/variables.index"], "'variables'"),
        ([*SAVED_MODEL, "notes", "model.keras"], "'model.keras', 'notes'"),
        ([*SAVED_MODEL, "variables/data.npz"], "'variables/data.npz'"),
        ([*SAVED_MODEL, ".git/config"], "'.git'"),
        ([f"{n}.png" for n in range(9)], "'0.png', .* '4.png' and 4 more"),
    ],
    ids=["another", "no_graph", "more_files", "more_variables", "hidden", "many"],
)
def test_export_selected_overwrite_names_what_else_a_folder_holds_and_keeps_it(tmp_path, names, named):
    fill(tmp_path / "out", names)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=f"earlier export to replace.* also holds {named}"):
        export_selected(small_model(), tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == before


def test_export_selected_overwrite_takes_a_folder_for_a_folder_only(tmp_path):
    fill(tmp_path, ["file", *(f"real/{name}" for name in SAVED_MODEL)])
    (tmp_path / "link").symlink_to(tmp_path / "real")
    before = tree(tmp_path)
    for name, received in (("file", "overwrite=True"), ("link", "a symbolic link")):
        with pytest.raises(FileExistsError, match=f"be a folder that `overwrite=True` may replace.*', {received}"):
            export_selected(small_model(), tmp_path / name, overwrite=True)
    assert tree(tmp_path) == before


def test_export_selected_keeps_what_came_into_the_folder_while_it_wrote(tmp_path, monkeypatch):
    path = tmp_path / "out"

    def writes(model, new):
        fill(new, SAVED_MODEL)
        fill(path, ["from_another_process"])

    monkeypatch.setitem(export._WRITERS, "tf_saved_model", writes)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError):
            export_selected(small_model(), path, overwrite=overwrite)
        assert list(tree(tmp_path)) == ["out", "out/from_another_process"]
        (path / "from_another_process").unlink()
        path.rmdir()


def test_export_selected_knows_the_folder_that_it_is_in(tmp_path, monkeypatch):
    fill(tmp_path / "out", ["precious"])
    (tmp_path / "out" / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "out" / "inner")
    for path in ("..", "../../out", "../inner/.."):
        with pytest.raises(FileExistsError, match="'inner', 'precious'"):
            export_selected(small_model(), path, overwrite=True)
    assert list(tree(tmp_path)) == ["out", "out/inner", "out/precious"]


class Faults:
    """Fails before or after call number `at` of what changes the disk; with `and_on`, all later ones fail too."""

    places = ("tempfile.mkdtemp", "os.replace", "os.fsync", "shutil.rmtree", "os.path.lexists")

    def __init__(self, monkeypatch, error, at, after, and_on):
        self.error, self.at, self.after, self.and_on, self.count = error, at, after, and_on, 0
        for place in self.places:
            module, name = place.rsplit(".", 1)
            honest = getattr(sys.modules[module], name)
            monkeypatch.setattr(place, lambda *a, honest=honest, **k: self.call(honest, *a, **k))

    def call(self, honest, *args, **kwargs):
        self.count += 1
        now = self.count == self.at or (self.and_on and self.count > self.at)
        if now and not (self.after and self.count == self.at):
            raise self.error("injected")
        value = honest(*args, **kwargs)
        if now:
            raise self.error("injected")
        return value


@pytest.mark.parametrize("and_on", [False, True], ids=["once", "from_then_on"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("format", ["tf_saved_model", "litert"])
def test_export_selected_leaves_the_old_or_the_new_export_whole_whatever_step_fails(
    tmp_path, monkeypatch, format, error, after, and_on
):
    # `from_then_on` is what a kill leaves: nothing more happens on the disk.
    def writes(model, new):
        if format == "litert":
            new.write_text("new")
        else:
            fill(new, SAVED_MODEL)
            (new / "saved_model.pb").write_text("new")

    plain = keras.Sequential([keras.Input((2,))])
    monkeypatch.setitem(export._WRITERS, format, writes)
    for at in range(1, 99):
        folder = tmp_path / str(at)
        path = folder / "out"
        if format == "litert":
            fill(folder, ["out"])
        else:
            fill(path, SAVED_MODEL)
        old = tree(folder)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, error, at, after, and_on)
            with contextlib.suppress(error):
                export.write_export(plain, path, format, overwrite=True)
        now = tree(folder)
        written = path if path.exists() else next(folder.glob("out.replaced-*"))
        assert and_on or written == path
        if format == "litert":
            assert written.read_text() in ("precious", "new")
        else:
            marks = {"precious", (written / "saved_model.pb").read_text()}
            assert tree(written).keys() == {"saved_model.pb", "variables", "variables/variables.index"}
            assert marks <= {"precious", "new"}
        if faults.count < at:
            break
        # What is left over is in nobody's way.
        export.write_export(plain, path, format, overwrite=True)
        assert (path if format == "litert" else path / "saved_model.pb").read_text() == "new"
    assert 5 < at < 98 and now != old and next(iter(now)) == "out"


# Errors.


class Raises(keras.layers.Layer):
    """A layer that fails where it meets the free batch size of an exported model."""

    error = None

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        if x.shape[0] is None and self.error is not None:
            raise self.error
        return 2 * x


@pytest.mark.quick
@pytest.mark.parametrize("format", [x for x in export.FORMATS if x != "c"])  # C never calls a model
@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InvalidArgumentError(None, None, "of the model"),
        tf.errors.ResourceExhaustedError(None, None, "of the model"),
        tf.errors.PermissionDeniedError(None, None, "of the model"),
        OSError("of the model"),
        FileNotFoundError("of the model"),
        RuntimeError("of the model"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_export_selected_lets_an_error_of_the_model_through(tmp_path, monkeypatch, format, error):
    model = keras.Sequential([keras.Input((3,)), Raises(), SlotDense(2)])
    monkeypatch.setattr(Raises, "error", error)
    with pytest.raises(type(error), match="of the model") as caught:
        export_selected(model, tmp_path / "out", format=format)
    assert "`path`" not in str(caught.value) and "hold operations" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.quick("tf_saved_model")
@pytest.mark.parametrize("format", export.FORMATS)
def test_export_selected_says_that_the_disk_is_full(tmp_path, format):
    model = keras.Sequential([keras.Input((300,)), SlotDense(200, bank_initializer="stratified_uniform")])
    path = tmp_path / "first.h"
    export_selected(model, path, format=format)
    before = tree(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="`path` must be a place where.*(?i:too large|make room)"):
            export_selected(model, path, format=format, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == before


@pytest.mark.quick("18")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_export_selected_gives_files_the_mode_that_open_gives(tmp_path, mask):
    former = os.umask(mask)
    try:
        (tmp_path / "by_open").write_text("")
        export_selected(small_model(), tmp_path / "file", format="litert")
    finally:
        os.umask(former)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "by_open").stat().st_mode


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


class Inner(keras.Model):
    """A subclassed model, and a composite layer inside another model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_export_selected_takes_slot_layers_inside_a_composite_and_refuses_a_subclassed_model(tmp_path):
    inputs = keras.Input((4,))
    inner = Inner()
    slot = slotify(keras.Model(inputs, inner(inputs)))
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    (y,) = serve(export_selected(slot, tmp_path / "out"))(tf.constant(x)).values()
    np.testing.assert_allclose(y, numpy_of(slot(x)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"of type Inner.*materialize\(model\).export"):
        export_selected(slotify(inner), tmp_path / "subclassed")
