"""`.slots` files: what is saved comes back bit for bit, and everything else is refused."""

import inspect
import json
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_slots
import make_dictionary
from backends import two_replicas
from comparisons import numpy_of
from keras_slots import SlotDense, load_slots, materialize, register, save_slots
from keras_slots.__main__ import main
from keras_slots._config import EqualByConfig
from keras_slots.kernels.envelope import envelope
from keras_slots.slots_file import container, name_records
from keras_slots.slots_file.coder import (
    NEVER,
    Coding,
    Decoder,
    Encoder,
    Start,
    decode,
    encode,
    hull,
    nearest,
    pack,
    size_class,
    unpack,
)
from keras_slots.slots_file.container import array_of, join, number_to_bytes, split, stored
from keras_slots.slots_file.records import read_choices, read_kernel, summary, write_kernel
from keras_slots.slots_file.values import Stream, Values
from keras_slots.values.source import Description, ValueSource
from make_fixtures import facts_of, model_of_all_forms
from slots_reference import plain_values, with_checksum
from small_models import KERNELS, conv_model, dense_model, moved, saved

FIXTURES = Path(__file__).parent / "fixtures"


def forms(path):
    return {record.name: record.form for record in name_records(split(path.read_bytes()))}


def assert_same_weights(a, b):
    assert len(a.variables) == len(b.variables)
    for x, y in zip(a.variables, b.variables, strict=True):
        x, y = numpy_of(x), numpy_of(y)
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


@pytest.mark.parametrize("name", KERNELS)
def test_load_slots_is_bitwise_what_materialize_gives(tmp_path, name):
    content, weights, config = saved(name)
    path = tmp_path / "m.slots"
    path.write_bytes(content)
    loaded = load_slots(path)
    for variable, (_, expected) in zip(loaded.variables, weights, strict=True):
        got = numpy_of(variable)
        assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes()
    assert forms(path)["dense0/kernel"] == KERNELS[name][1]
    assert loaded.to_json() == config


def test_load_slots_brings_back_choices_that_no_lever_reaches(tmp_path):
    model = dense_model((24,), 40, num_values=8)
    (layer,) = model.layers
    bank, scores = numpy_of(layer.bank), numpy_of(layer.scores).copy()
    _, steps = envelope(bank.reshape(-1, 8), scores.reshape(-1, 8))
    for connection in (0, 99, 959):
        below = ~np.isin(bank.reshape(-1, 8)[connection], steps[:, connection])
        scores.reshape(-1, 8)[connection, np.flatnonzero(below)[0]] = 10
    layer.scores.assign(scores)
    path = save_slots(model, tmp_path / "m.slots")
    assert forms(path)["dense0/kernel"] == "hull"
    np.testing.assert_array_equal(numpy_of(load_slots(path).layers[0].kernel), numpy_of(layer.kernel))


def test_load_slots_brings_back_biases_batch_norm_and_nested_models(tmp_path):
    model = moved(conv_model())
    path = save_slots(model, tmp_path / "m.slots")
    loaded, plain = load_slots(path), materialize(model)
    assert_same_weights(loaded, plain)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(numpy_of(loaded(x)), numpy_of(plain(x)))
    assert forms(path)["conv/kernel"] == "hull"
    assert not [x for x in loaded.layers if isinstance(x, keras_slots.SlotLayer)]
    text = json.dumps(split(path.read_bytes())[0])
    assert "keras_slots" not in text and "Slot" not in text


def test_save_slots_takes_the_seed_that_a_weights_file_has_brought(tmp_path):
    for arguments in ({"score_mode": "per_connection"}, KERNELS["strata"][0]):
        other = moved(dense_model(**arguments))
        other.save_weights(tmp_path / "w.weights.h5")
        model = keras.Sequential([keras.Input((40,)), SlotDense(24, **arguments), SlotDense(6, **arguments)])
        model.load_weights(tmp_path / "w.weights.h5")
        path = save_slots(model, tmp_path / "m.slots", overwrite=True)
        assert_same_weights(load_slots(path), materialize(other))
        assert "stored" not in {form for name, form in forms(path).items() if "kernel" in name}
        # The choices count from where the other one started.
        files = path, save_slots(other, tmp_path / "other.slots", overwrite=True)
        ours, its = ([r.payload for r in split(file.read_bytes())[1]] for file in files)
        assert ours == its


@pytest.mark.parametrize("policy", ["float64", "bfloat16", "float16"])
@pytest.mark.filterwarnings("ignore:The file stores the selected values:UserWarning")
def test_load_slots_keeps_the_dtype(tmp_path, policy, x64):
    model = moved(dense_model(dtype=policy, score_mode="per_connection"))
    path = save_slots(model, tmp_path / "m.slots")
    assert_same_weights(load_slots(path), materialize(model))
    assert forms(path)["dense0/kernel"] == ("stored" if policy == "float16" else "hull")


#: The dtype of the state of a random generator on TensorFlow, JAX and PyTorch.
RANDOM_STATES = ("int64", "uint32", "int32")


def integers_as(path, dtype, change=lambda array: array):
    """The `.slots` file with its integers, the state of dropout, in another type."""
    architecture, records, _ = split(path.read_bytes())
    assert any(record.dtype in RANDOM_STATES for record in records)
    records = [
        stored(record.name, change(array_of(record)).astype(dtype)) if record.dtype in RANDOM_STATES else record
        for record in records
    ]
    path.write_bytes(join(architecture, records))


@pytest.mark.parametrize("dtype", RANDOM_STATES)
def test_load_slots_reads_the_random_state_that_another_backend_wrote(tmp_path, dtype):
    model = conv_model()
    path = save_slots(model, tmp_path / "m.slots")
    integers_as(path, dtype)
    for one, other in zip(load_slots(path).variables, materialize(model).variables, strict=True):
        np.testing.assert_array_equal(numpy_of(one), numpy_of(other))
        assert one.dtype == other.dtype


def test_load_slots_refuses_integers_that_its_variable_cannot_hold(tmp_path):
    path = save_slots(conv_model(), tmp_path / "m.slots")
    integers_as(path, "uint64", lambda array: array.astype("uint64") + np.uint64(2**63))
    with pytest.raises(ValueError, match="cannot hold. Load the file on the backend that wrote it"):
        load_slots(path)


def test_load_slots_refuses_integers_where_the_architecture_has_floats(tmp_path):
    path = save_slots(conv_model(), tmp_path / "m.slots")
    architecture, records, _ = split(path.read_bytes())
    i = next(i for i, record in enumerate(records) if record.dtype == "float32")
    records[i] = stored("wrong", np.zeros(records[i].shape, "int32"))
    path.write_bytes(join(architecture, records))
    with pytest.raises(ValueError, match="which differ"):
        load_slots(path)


def test_save_slots_of_an_unseeded_model_that_was_saved_and_loaded_knows_its_seed(tmp_path):
    model = keras.Sequential([keras.Input((30,)), SlotDense(20, name="dense0", use_bias=False)])
    model.save(tmp_path / "m.keras")
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(tmp_path / "m.keras")
    path = save_slots(loaded, tmp_path / "m.slots")
    assert forms(path)["dense0/kernel"] == "hull"
    assert path.read_bytes() == save_slots(model, tmp_path / "n.slots").read_bytes()


def test_save_slots_writes_the_same_bytes_each_time(tmp_path):
    model = moved(conv_model())  # with dropout, whose random state Keras gives a new number in each copy
    files = [save_slots(model, tmp_path / f"{n}.slots").read_bytes() for n in range(2)]
    assert files[0] == files[1]


def test_save_slots_holds_values_that_no_seed_brings_back_and_says_so(tmp_path):
    model = dense_model((6,), bank_initializer=keras.initializers.RandomNormal(seed=1))
    with pytest.warns(UserWarning, match="selected values of kernel 'dense0/kernel'.*cannot be drawn from a seed"):
        save_slots(model, tmp_path / "m.slots")


@pytest.mark.usefixtures("own_registrations")
@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_save_slots_takes_a_source_that_gives_each_connection_the_same_values(tmp_path, mode):
    @register("table")
    class Table(EqualByConfig, ValueSource):
        roles = frozenset({"bank"})
        needs_seed = False
        values = np.array([-0.9, -0.5, -0.1, -0.05, 0.2, 0.3, 0.6, 0.8], "float32")

        def rows(self, seed, num_values, fans, start, stop):
            return np.tile(self.values, (stop - start, 1))

        def describe(self, seed, num_values, fans):
            return Description("given", given=self.values)

        def get_config(self):
            return {}

    model = moved(dense_model((6,), 4, bank_initializer="table", score_mode=mode))
    path = save_slots(model, tmp_path / "m.slots")
    assert_same_weights(load_slots(path), materialize(model))
    assert summary(split(path.read_bytes()).records[0]) == "K = 8, listed, shared"


def test_save_slots_warns_of_classes_that_keras_does_not_know_and_load_slots_takes_them(tmp_path):
    class Own(keras.layers.ReLU):
        pass

    model = keras.Sequential([keras.Input((4,)), SlotDense(3), Own()])
    with pytest.warns(UserWarning, match=r"classes that Keras does not know: \['Own'\]"):
        path = save_slots(model, tmp_path / "m.slots")
    with pytest.raises(ValueError, match="Could not locate class 'Own'(?s:.*)`custom_objects`"):
        load_slots(path)
    # Another class of the same configuration may stand in.
    assert_same_weights(load_slots(path, custom_objects={"Own": keras.layers.ReLU}), materialize(model))


@pytest.mark.usefixtures("own_registrations")
def test_save_slots_warns_of_no_registered_class_of_keras_slots(tmp_path):
    own = type("Own", (keras.layers.ReLU,), {"__module__": "keras_slots.layers.own"})
    keras.saving.register_keras_serializable(package="keras_slots")(own)
    model = keras.Sequential([keras.Input((4,)), SlotDense(3), own()])
    path = save_slots(model, tmp_path / "m.slots")  # it warns of nothing
    assert_same_weights(load_slots(path), materialize(model))


def test_save_slots_takes_less_than_the_entropy_of_the_moves(tmp_path):
    # Levers alike for neighbouring inputs, as those of neighbouring pixels are.
    model = moved(dense_model((100,), 200, score_mode="per_connection", use_bias=False))
    path = save_slots(model, tmp_path / "m.slots")
    (record,) = split(path.read_bytes())[1]
    index, _, _ = read_choices(record)
    initial = model.layers[0].slot_kernel.initial
    start = initial.scores().reshape(-1, 8).argmax(1)
    rank = initial.bank().reshape(-1, 8).argsort(axis=1).argsort(axis=1)
    at = np.arange(len(index))
    step = rank[at, index] - rank[at, start]
    share = np.unique(step, return_counts=True)[1] / len(step)
    entropy = -(share * np.log2(share)).sum()
    assert 8 * len(record.payload) / len(index) < 0.8 * entropy


@pytest.mark.quick
@pytest.mark.parametrize("share", [0.5, 1.0, 1.75])
@pytest.mark.parametrize("num_values", [2, 3, 8])
def test_save_slots_of_nearest_scores_that_select_by_a_share_of_their_start_costs_nothing(
    tmp_path, num_values, share
):
    # Nothing but the share is news, and the writer finds it, however wide the values are.
    layer = SlotDense(
        100,
        num_values=num_values,
        score_mode="per_connection",
        score_initializer="nearest",
        bank_initializer=keras_slots.StratifiedUniform(2.0),
        use_bias=False,
    )
    model = keras.Sequential([keras.Input((200,)), layer])
    layer.lever.assign(np.float32(share) * numpy_of(layer.lever))
    (record,) = split(save_slots(model, tmp_path / "m.slots").read_bytes())[1]
    assert record.form == "nearest" and len(record.payload) < 250  # of 20,000 connections


def test_save_slots_of_scores_off_the_line_falls_back_to_less_than_packed_and_a_head(tmp_path):
    model = dense_model((32,), 32, num_values=8, use_bias=False)
    scores = model.layers[0].scores
    scores.assign(np.random.default_rng(0).normal(size=scores.shape))
    path = save_slots(model, tmp_path / "m.slots")
    assert_same_weights(load_slots(path), materialize(model))
    (record,) = split(path.read_bytes())[1]
    assert len(record.payload) <= 32 * 32 * 3 / 8 + 20


# What is refused.


def test_save_slots_refuses_what_materialize_refuses_and_leaves_nothing(tmp_path):
    class Own(keras.Model):
        pass

    unbuilt = keras.Sequential([SlotDense(3)])
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    poisoned = dense_model(score_mode="per_connection")
    poisoned.layers[1].lever.assign(np.full(poisoned.layers[1].lever.shape, np.nan))
    for model, text in (
        (Own(), "takes Keras models, and subclassed ones once they are built"),
        (unbuilt, "is not built yet"),
        (plain, "has no slot layer"),
        (poisoned, "lever of layer 'dense1' holds NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=text):
            save_slots(model, tmp_path / "m.slots")
    assert not list(tmp_path.iterdir())


def test_save_slots_refuses_a_vocabulary(tmp_path):
    words = keras.Input((1,), dtype="string")
    lookup = keras.layers.StringLookup(output_mode="one_hot", vocabulary=["a", "b"])
    model = keras.Model(words, SlotDense(3)(lookup(words)))
    with pytest.raises(ValueError, match="'string_lookup.*' has a vocabulary"):
        save_slots(model, tmp_path / "m.slots")


def test_save_slots_keeps_what_exists_unless_told_otherwise(tmp_path):
    path = tmp_path / "m.slots"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=False"):
        save_slots(dense_model(), path)
    assert path.read_text() == "precious"
    save_slots(dense_model(), path, overwrite=True)
    assert load_slots(path).name == "small"
    (tmp_path / "folder.slots").mkdir()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_slots(dense_model(), tmp_path / "folder.slots", overwrite=True)


def by_main(command):
    def write(source, target):
        main([command, str(source), str(target), "--overwrite"])

    return write


def by_save_slots(source, target):
    save_slots(keras.models.load_model(source), target, overwrite=True)


#: What writes a file, its source and the file.
WRITERS = {
    "save_slots": (by_save_slots, "model.keras", "m.slots"),
    "pack": (by_main("pack"), "model.keras", "m.slots"),
    "unpack": (by_main("unpack"), "model.slots", "m.keras"),
}
every_writer = pytest.mark.parametrize(("write", "source", "name"), WRITERS.values(), ids=WRITERS)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    dense_model().save(folder / "model.keras")
    save_slots(dense_model(), folder / "model.slots")
    return folder


def half_of_it(model, path):
    Path(path).write_bytes(b"PK\3\4")
    raise KeyboardInterrupt


@pytest.mark.quick
@every_writer
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_files_are_the_old_ones_when_a_step_fails(
    tmp_path, sources, monkeypatch, write, source, name, step, error
):
    path = tmp_path / name
    path.write_bytes(b"precious")

    def fails(*args):
        raise error("no space left")

    monkeypatch.setattr(step, fails)
    # The command line turns an `OSError` into exit status 1.
    with pytest.raises((error, SystemExit)):
        write(sources / source, path)
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


def test_unpack_leaves_the_old_file_when_it_is_interrupted_in_the_middle(tmp_path, sources, monkeypatch):
    path = tmp_path / "m.keras"
    path.write_bytes(b"precious")
    monkeypatch.setattr(keras.Model, "save", half_of_it)
    with pytest.raises(KeyboardInterrupt):
        by_main("unpack")(sources / "model.slots", path)
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


@every_writer
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_files_have_the_mode_that_open_gives_and_the_umask_is_left_alone(
    tmp_path, sources, monkeypatch, write, source, name, mask
):
    former = os.umask(mask)
    try:
        (tmp_path / "by_open").write_text("")
        # It is one for the whole process: whoever sets it sets it for all threads.
        monkeypatch.setattr(os, "umask", None)
        write(sources / source, tmp_path / name)
    finally:
        monkeypatch.undo()
        os.umask(former)
    assert (tmp_path / name).stat().st_mode == (tmp_path / "by_open").stat().st_mode


@pytest.mark.parametrize("name", ["m.keras", "m", "m.slots.gz", "m.SLOTS", "m.h5"])
def test_only_slots_files_are_written_as_such(tmp_path, name):
    model, path = dense_model(), tmp_path / name
    text = rf"`path` must end in .slots.*Received: path='{path}'. Pass for example 'm.*.slots'"
    with pytest.raises(ValueError, match=text):
        save_slots(model, path)
    model.save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match=f"keras-slots pack: {text}"):
        main(["pack", str(tmp_path / "model.keras"), str(path)])
    assert [x.name for x in tmp_path.iterdir()] == ["model.keras"]


def test_overwrite_and_format_are_given_by_name(tmp_path):
    for call in (
        lambda: save_slots(dense_model(), tmp_path / "m.slots", True),
        lambda: keras_slots.export_selected(dense_model(), tmp_path / "m", "litert"),
    ):
        with pytest.raises(TypeError, match="takes 2 positional arguments"):
            call()
    assert not list(tmp_path.iterdir())


def test_save_slots_names_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="`path` must be a place where this process can write"):
        save_slots(dense_model(), tmp_path / "file" / "m.slots")


# Damage.


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    model = moved(dense_model((24, 4), 40, score_mode="per_connection"))
    return save_slots(model, tmp_path_factory.mktemp("slots") / "m.slots").read_bytes()


def fields(content):
    """Where the parts of the file and of its first kernel are, by name, read as docs/slots_format.md says."""
    at, found = len(container.MAGIC), {"magic": slice(0, 8)}

    def take(name, size=None):
        nonlocal at
        end = at + size if size is not None else next(i for i in range(at, len(content)) if content[i] < 128) + 1
        found[name] = slice(at, end)
        at = end
        return sum((byte & 127) << 7 * i for i, byte in enumerate(content[found[name]]))

    take("version", 1)
    take("count")
    compressed = take("compressed")
    take("uncompressed")
    take("architecture", compressed)
    form = take("form", 1) & 3
    take("rows")
    take("columns")
    take("payload", 0)
    end = take("payload_size") + at
    kind = take("kind", 1) & 15
    take("k")
    take("factor", 4)
    take("seed")
    if kind == 6:
        take("bits", 1)
    take("check", 2)
    offsets = content[at] >> 4 & 3
    take("lanes", 1)
    take("start", 1)
    for name in ("width", "group", *(f"offset_{i}" for i in range(offsets))):
        take(name)
    take("exponent", 1)
    if form == 3:
        take("start_factor", 4)
        take("share")
    take("lost")
    take("words", end - at)
    take("bias_form", 1)
    take("bias_size")
    return found


def changed(content, field, new):
    """The content with other bytes in a field, and with sizes and checksum that are right for them."""
    places = fields(content)
    place, size = places[field], places["payload_size"]
    content = bytearray(content)
    content[place] = new
    if size.stop <= place.start < places["words"].stop:
        more = len(new) - (place.stop - place.start)
        content[size] = number_to_bytes(places["words"].stop - size.stop + more)
    return with_checksum(content)


def single(x):
    return struct.pack("<f", x)


CANNOT = "'dense0/kernel' cannot be read. Received: "
ENDS = f"{CANNOT}(too few words for the coded choices|coded choices)"
OTHER = "its architecture has 4 weights and the file 4, which differ"
#: What is read in the place of a shape depends on what follows.
MISPLACED = rf"{OTHER}|is damaged"
#: Name -> field, bytes that are put there, words of the refusal.
FIELDS = {
    "magic": ("magic", b"\0SLOTS\r\n", r"must be a \.slots file"),
    "version_0": ("version", b"\0", "format version 0.*Write the file again"),
    "version_1": ("version", b"\1", "format version 1, .*no release wrote"),
    "version_max": ("version", b"\xff", "format version 255.*Update keras_slots"),
    "count_0": ("count", number_to_bytes(0), "trailing bytes"),
    "count_less": ("count", number_to_bytes(3), "trailing bytes"),
    "count_more": ("count", number_to_bytes(5), "weight 4 needs 1 bytes where 0"),
    "count_max": ("count", number_to_bytes(2**64 - 1), "header is too large.*Received: 18446744073709551615"),
    "compressed_0": ("compressed", number_to_bytes(0), "architecture cannot be read"),
    "compressed_more": ("compressed", number_to_bytes(2**12), "the file needs 4096 bytes where"),
    "compressed_max": ("compressed", number_to_bytes(2**24 + 1), "its header is too large"),
    "uncompressed_0": ("uncompressed", number_to_bytes(0), "architecture cannot be read"),
    "uncompressed_17": ("uncompressed", number_to_bytes(17), "architecture cannot be read"),
    "uncompressed_max": ("uncompressed", number_to_bytes(2**26 + 1), "header is too large"),
    "form_stored": ("form", bytes([0 | 2 << 2]), MISPLACED),
    "form_packed": ("form", bytes([1 | 2 << 2]), f"{CANNOT}packed choices whose size does not fit"),
    "form_nearest": ("form", bytes([3 | 2 << 2]), f"{CANNOT}"),
    "form_unknown": ("form", bytes([2 | 2 << 2 | 2 << 6]), "weight 0 has 2 axes, dtype 40 and flag 2"),
    "dtype_int8": ("form", bytes([2 | 2 << 2 | 1 << 6, 4]), OTHER),
    "dtype_max": ("form", bytes([2 | 2 << 2 | 1 << 6, 13]), "dtype 13"),
    "axes_0": ("form", bytes([2]), MISPLACED),
    "axes_3": ("form", bytes([2 | 3 << 2]), MISPLACED),
    "axes_max": ("form", bytes([2 | 15 << 2]), "15 axes"),
    "shape_0": ("rows", number_to_bytes(0), OTHER),
    "shape_17": ("rows", number_to_bytes(17), OTHER),
    "shape_huge": ("rows", number_to_bytes(2**31), r"over \d+ elements"),
    "shape_empty_and_huge": ("rows", number_to_bytes(0) + number_to_bytes(2**32), r"over \d+ elements"),
    "shape_1": ("columns", number_to_bytes(1), OTHER),
    "bias_shape": ("bias_size", number_to_bytes(13), "damaged|differ"),
    "payload_0": ("payload_size", number_to_bytes(0), MISPLACED),
    "payload_less": ("payload_size", number_to_bytes(20), MISPLACED),
    "payload_max": ("payload_size", number_to_bytes(2**64 - 1), "weight 0 needs 18446744073709551615 bytes"),
    "kind_max": ("kind", bytes([15]), f"{CANNOT}values of kind 15"),
    "kind_given": ("kind", bytes([5]), f"{CANNOT}given values that are not"),
    "kind_grid": ("kind", bytes([6]), f"{CANNOT}8 values that are integers of"),
    "kind_unknown": ("kind", bytes([64]), f"{CANNOT}values of kind 64"),
    "kind_shared": ("kind", bytes([16]), ENDS),
    "k_less": ("k", number_to_bytes(6), ENDS),
    "k_1": ("k", number_to_bytes(0), f"{CANNOT}1 values for each of 24"),
    "k_large": ("k", number_to_bytes(65_535), f"{CANNOT}65536 values for each"),
    "k_max": ("k", number_to_bytes(65_536), f"{CANNOT}65537 values a connection"),
    "factor_0": ("factor", single(0.0), f"{CANNOT}.*factor 0.0"),
    "factor_negative": ("factor", single(-1.0), f"{CANNOT}.*factor -1.0"),
    "factor_nan": ("factor", single(float("nan")), f"{CANNOT}.*factor nan"),
    "factor_infinite": ("factor", single(float("inf")), f"{CANNOT}.*factor inf"),
    "factor_other": ("factor", single(0.5), ENDS),
    "seed": ("seed", number_to_bytes(12_345), ENDS),
    "seed_max": ("seed", number_to_bytes(2**64 - 1), ENDS),
    "values_checksum": ("check", b"\0\0", "differs from the saved one"),
    "width_0": ("width", number_to_bytes(0), f"{CANNOT}rows of 0"),
    "width_max": ("width", number_to_bytes(2**64 - 1), f"{CANNOT}rows of 18446744073709551615"),
    "width_odd": ("width", number_to_bytes(7), f"{CANNOT}rows of 7"),
    "group_0": ("group", number_to_bytes(0), f"{CANNOT}rows of 24 connections, groups of 0 rows"),
    "group_max": ("group", number_to_bytes(2**64 - 1), f"{CANNOT}groups of 18446744073709551615 rows"),
    "lanes_most": ("lanes", bytes([10 | 2 << 4]), f"{CANNOT}.*1024 lanes"),
    "lanes_many": ("lanes", bytes([9 | 2 << 4]), f"{CANNOT}.*512 lanes"),
    "lanes_flag": ("lanes", bytes([2 << 4 | 128]), f"{CANNOT}rows of 24"),
    "back_3": ("lanes", bytes([3 << 4]), f"{CANNOT}.*3 offsets"),
    "back_0_rows": ("offset_0", number_to_bytes(0), rf"{CANNOT}row offsets \(0, \d+\)"),
    "back_max_rows": (
        "offset_0",
        number_to_bytes(2**64 - 1),
        rf"{CANNOT}row offsets \(18446744073709551615, \d+\)",
    ),
    "start_none": ("start", bytes([0]), f"{CANNOT}a start of kind 0"),
    "start_kind": ("start", bytes([5]), f"{CANNOT}a start of kind 5"),
    "start_flag": ("start", bytes([2 | 16]), f"{CANNOT}a start of kind 18"),
    "start_seed": ("start", bytes([2 | 128]), CANNOT),
    "start_other": ("start", bytes([3]), ENDS),
    "lost_1": ("lost", number_to_bytes(1), f"{CANNOT}"),
    "lost_max": ("lost", number_to_bytes(2**64 - 1), f"{CANNOT}18446744073709551615 single choices"),
    "words_odd": ("words", b"\0\1\2", f"{CANNOT}0 single choices in 3 bytes"),
    "words_less": ("words", b"\0\1", f"{CANNOT}too few words"),
}
DAMAGE = {
    "empty": (lambda c: b"", r"must be a \.slots file"),
    "foreign": (lambda c: b"PK\3\4" + c[4:], r"must be a \.slots file"),
    "header_cut": (lambda c: c[:15], "truncated: it has 15 bytes"),
    "truncated": (lambda c: c[:-9], "its checksum differs, because bytes are missing"),
    "longer": (lambda c: c + b"\0", "its checksum differs"),
    "flipped": (lambda c: c[:99] + bytes([c[99] ^ 4]) + c[100:], "its checksum differs"),
}


def _in_field(field, new):
    return lambda content: changed(content, field, new)


DAMAGE |= {name: (_in_field(field, new), text) for name, (field, new, text) in FIELDS.items()}
#: The same for fields that only a kernel of stratified integers and nearest scores has.
GRID_DAMAGE = {
    name: (_in_field(field, new), text)
    for name, (field, new, text) in {
        "bits_3": ("bits", bytes([3]), f"{CANNOT}8 values that are integers of 3 bits"),
        "bits_17": ("bits", bytes([17]), f"{CANNOT}8 values that are integers of 17 bits"),
        "bits_few": ("k", number_to_bytes(128), f"{CANNOT}129 values that are integers of 8 bits"),
        "bits_other": ("bits", bytes([9]), ENDS),
        "start_factor_0": ("start_factor", single(0.0), f"{CANNOT}a start with factor 0.0"),
        "start_factor_nan": ("start_factor", single(float("nan")), f"{CANNOT}a start with factor nan"),
        "share_more": ("share", number_to_bytes(1025), f"{CANNOT}a start .* share of 1025"),
        "share_max": ("share", number_to_bytes(2**64 - 1), f"{CANNOT}a start .* share of 18446744073709551615"),
        "exponent": ("exponent", bytes([128]), CANNOT),
    }.items()
}


@pytest.fixture(scope="module")
def grid_content():
    return saved("grid")[0]


def test_damage_cases_know_where_the_fields_are(content, grid_content):
    for file, form, kind, k, factor, seed in (
        (content, 2, 0, 8, np.sqrt(6 / 64), 11),
        (grid_content, 3, 6, 8, 1.5 * np.sqrt(6 / 64) / 128, 11),
    ):
        parts = {name: file[place] for name, place in fields(file).items()}
        assert (parts["version"], parts["count"]) == (bytes([container.VERSION]), b"\4")
        assert (parts["rows"], parts["columns"], parts["bias_size"]) == (b"\x28", b"\x18", b"\x18")
        assert (parts["form"][0], parts["kind"][0], parts["k"][0]) == (form | 2 << 2, kind, k - 1)
        assert (parts["factor"], parts["seed"]) == (struct.pack("<f", np.float32(factor)), bytes([seed]))
    assert (parts["bits"], parts["start"]) == (b"\x08", b"\1")
    assert parts["start_factor"] == struct.pack("<f", np.float32(np.sqrt(6 / 64)))


DAMAGED = [("content", DAMAGE, name) for name in DAMAGE] + [
    ("grid_content", GRID_DAMAGE, name) for name in GRID_DAMAGE
]


@pytest.mark.parametrize(
    ("file", "damages", "name"), DAMAGED, ids=[f"{name} of {file}" for file, _, name in DAMAGED]
)
def test_load_slots_names_the_damage(tmp_path, file, damages, name, request):
    damage, text = damages[name]
    path = tmp_path / "m.slots"
    path.write_bytes(damage(request.getfixturevalue(file)))
    with pytest.raises(ValueError, match=text):
        load_slots(path)


def test_load_slots_refuses_two_rows_at_once_that_are_too_wide_together(tmp_path):
    model = dense_model((2**14,), 2, num_values=16, score_mode="per_connection")
    path = save_slots(model, tmp_path / "m.slots")
    content = path.read_bytes()
    path.write_bytes(changed(content, "group", number_to_bytes(2)))
    with pytest.raises(ValueError, match="groups of 2 rows of 16384"):
        load_slots(path)


def test_load_slots_refuses_every_truncation_and_every_flipped_bit(content):
    for end in range(len(content)):
        with pytest.raises(ValueError, match=r"\.slots file"):
            split(content[:end])
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"\.slots file"):
            split(bytes(flipped))


def decode_all(content):
    return [array_of(r) if r.form == "stored" else read_kernel(r) for r in split(content)[1]]


@settings(max_examples=120)
@given(st.data())
def test_read_kernel_of_mutated_files_with_right_checksums_raises_value_errors_alone(content, data):
    new, first = bytearray(content), fields(content)["form"].start
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(first, len(new) - 5))
        new[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255, new[at] ^ 1, new[at] ^ 16]))
    records = given_or_refused(lambda: split(with_checksum(new))[1]) or []
    # A shape is compared with the architecture before a kernel is decoded.
    for record in (r for r in records if r.size <= 4096 and r.form != "stored"):
        given_or_refused(lambda record=record: read_kernel(record))


def given_or_refused(function):
    """What a function returns, or None if it says that the file is damaged."""
    try:
        return function()
    except ValueError as error:
        if "damaged" not in str(error):
            raise
        return None


def test_load_slots_compares_shapes_before_it_decodes_or_allocates(tmp_path, monkeypatch, content):
    architecture, records, _ = split(content)
    other = dense_model((24, 5), 40, score_mode="per_connection")
    wrong = keras.saving.serialize_keras_object(materialize(other))
    path = tmp_path / "m.slots"
    path.write_bytes(join(wrong, records))
    monkeypatch.setattr("keras_slots.slots_file.read_kernel", None)
    with pytest.raises(ValueError, match=r"which differ: .*\(24, 5\).*\(24, 4\)"):
        load_slots(path)
    path.write_bytes(join(architecture, records[:-1]))
    with pytest.raises(ValueError, match="its architecture has 4 weights and the file 3"):
        load_slots(path)
    huge = json.loads(json.dumps(architecture).replace('"units": 4', f'"units": {2**26}'))
    path.write_bytes(join(huge, records))
    with pytest.raises(ValueError, match="which differ"):
        load_slots(path)


@pytest.mark.parametrize(("written", "read"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_load_slots_refuses_weights_of_another_dtype(tmp_path, written, read):
    files = [
        save_slots(dense_model(dtype=dtype), tmp_path / f"{dtype}.slots").read_bytes() for dtype in (written, read)
    ]
    path = tmp_path / "m.slots"
    path.write_bytes(join(split(files[1])[0], split(files[0])[1]))
    with pytest.raises(ValueError, match=f"which differ: .*'{read}'.*'{written}'"):
        load_slots(path)


def test_load_slots_takes_8_gib_of_weights_unless_told_otherwise():
    assert inspect.signature(load_slots).parameters["max_bytes"].default == 8 * 2**30


def test_save_slots_of_a_fresh_kernel_that_is_drawn_in_parts_costs_nothing(tmp_path):
    model = dense_model((272,), 64, num_values=64, score_mode="per_connection")
    path = save_slots(model, tmp_path / "m.slots")
    (record, *_) = split(path.read_bytes())[1]
    assert record.form == "hull" and len(record.payload) < 0.01 * record.size
    np.testing.assert_array_equal(numpy_of(load_slots(path).layers[0].kernel), numpy_of(model.layers[0].kernel))


def test_save_slots_looks_back_no_further_than_the_first_row(tmp_path):
    model = dense_model((48,), 3, num_values=8, score_mode="per_connection")
    moves = np.random.default_rng(0).normal(size=48)
    model.layers[0].lever.assign(np.outer([1, -1, 1], moves))  # alike at a distance of two
    loaded = load_slots(save_slots(model, tmp_path / "m.slots"))
    kernels = [numpy_of(x.layers[0].kernel) for x in (loaded, model)]
    np.testing.assert_array_equal(*kernels)


def copies_of_the_dictionary(count):
    """A bomb made of references into the preset dictionary."""
    packer = zlib.compressobj(9, wbits=-15, zdict=container._dictionary())
    return packer.compress(container._dictionary() * count) + packer.flush()


def test_split_unpacks_no_more_of_an_architecture_than_its_header_says():
    zeros = zlib.compressobj(wbits=-15)
    bombs = zeros.compress(bytes(2**26)) + zeros.flush(), copies_of_the_dictionary(2**10)
    tracemalloc.start()
    try:
        for bomb in bombs:
            with pytest.raises(ValueError, match="its size differs from that in the header"):
                container._architecture(memoryview(bomb), 100)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def small_convnet(functional):
    """A small network for images of digits: convolutions with batch norm, pooling, dense layers."""
    x = inputs = keras.Input((28, 28, 1))
    for filters in (8, 16, 32):
        x = keras_slots.SlotConv2D(filters, 3, use_bias=False, padding="same")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.MaxPooling2D()(x)
    x = SlotDense(28, activation="relu")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, SlotDense(10)(x))
    return model if functional else keras.Sequential([inputs, *model.layers[1:]])


@pytest.mark.parametrize(("functional", "most"), [(False, 300), (True, 450)])
def test_save_slots_writes_a_small_convnet_with_few_bytes_beside_its_weights(tmp_path, functional, most):
    keras.backend.clear_session()
    path = save_slots(small_convnet(functional), tmp_path / "m.slots")
    records = split(path.read_bytes())[1]
    assert path.stat().st_size - sum(len(record.payload) for record in records) <= most


def test_the_dictionary_of_architectures_never_changes_and_is_what_keras_writes():
    dictionary = container._dictionary()
    assert (len(dictionary), zlib.crc32(dictionary)) == (32_242, 0x2404EB66)
    written = json.loads(f"[{dictionary.decode().rstrip(',')}]")
    classes = {layer["class_name"] for model in written for layer in model["config"]["layers"]}
    assert classes >= {"Conv2D", "DepthwiseConv2D", "Dense", "BatchNormalization", "MaxPooling2D", "LSTM"}
    for config, own in zip(written, make_dictionary.models(), strict=True):
        own = keras.Sequential([keras.Input(own[0]), *own[1:]]) if isinstance(own, list) else own
        model = keras.saving.deserialize_keras_object(config)
        assert [type(layer) for layer in model.layers] == [type(layer) for layer in own.layers]
        assert [x.shape for x in model.weights] == [x.shape for x in own.weights]


def test_load_slots_never_draws_the_weights_that_a_file_holds(tmp_path, monkeypatch):
    path, expected = save_slots(dense_model(), tmp_path / "m.slots"), materialize(dense_model())
    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", None)
    assert_same_weights(load_slots(path), expected)


def test_load_slots_gives_a_model_that_trains_and_saves(tmp_path):
    model = load_slots(save_slots(conv_model(), tmp_path / "m.slots"))
    before = model.get_weights()
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 8, 8, 3), "float32"), np.ones((4, 5), "float32"), verbose=0)
    assert not any(map(np.array_equal, before[:1], model.get_weights()))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    # Not all variables: Keras leaves the state of dropout out.
    for a, b in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(a), numpy_of(b))


@pytest.mark.tensorflow
def test_load_slots_gives_every_replica_of_a_strategy_the_weights(tmp_path):
    path = save_slots(dense_model(), tmp_path / "m.slots")
    with two_replicas().scope():
        model = load_slots(path)
    assert_same_weights(model, materialize(dense_model()))
    for variable in model.weights:
        first, second = (np.asarray(copy) for copy in variable.value.values)
        np.testing.assert_array_equal(first, second)


class Hidden(keras.layers.Layer):
    """Adds a variable that Keras does not know as a weight."""

    def build(self, shape):
        self.box = type("Box", (), {})()
        self.box.ones = keras.Variable("ones", shape=(1,), trainable=False)

    def call(self, x):
        return x + self.box.ones


@pytest.mark.filterwarnings("ignore:The model has layer classes:UserWarning")
def test_load_slots_initializes_variables_that_are_no_weights(tmp_path):
    layers = [keras.Input((3,)), SlotDense(2, seed=1), Hidden()]
    model = keras.Sequential(layers)
    path = save_slots(model, tmp_path / "m.slots")
    loaded = load_slots(path, custom_objects={"Hidden": Hidden})
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(numpy_of(loaded(x)), numpy_of(model(x)))
    assert numpy_of(loaded.layers[-1].box.ones) == 1


@keras.saving.register_keras_serializable("slots")
class Held(keras.layers.Layer):
    """Makes variables of values, in `__init__` and in `build`, and gives one that Keras does not know another."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = keras.Variable(np.full(4, 2.0, "float32"), name="scale")
        self.count = keras.Variable(3, dtype="int32", trainable=False, name="count")

    def build(self, shape):
        self.shift = keras.Variable(keras.ops.ones(4), name="shift")
        self.box = type("Box", (), {})()
        self.box.twos = keras.Variable(np.ones(4, "float32"), trainable=False)
        self.box.twos.assign(2 * self.box.twos)

    def call(self, x):
        return x * self.scale + self.shift * self.box.twos + keras.ops.cast(self.count, x.dtype)


@keras.saving.register_keras_serializable("slots")
class Noisy(keras.layers.Layer):
    """Draws from a generator of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(4)

    def call(self, x):
        return x + keras.random.normal((4,), seed=self.generator)


def adapted(layer):
    layer.adapt(np.random.default_rng(0).normal(size=(50, 4)).astype("float32"))
    return layer


#: Layers that hold more than weights that `build` makes, and the shape of an input.
HOLDERS = {
    "LSTM": (lambda: keras.layers.LSTM(5, stateful=True), (2, 3, 4)),
    "GRU": (lambda: keras.layers.GRU(5, stateful=True, return_sequences=True), (2, 3, 4)),
    "SimpleRNN": (lambda: keras.layers.SimpleRNN(5, stateful=True), (2, 3, 4)),
    "RNN": (
        lambda: keras.layers.RNN([keras.layers.LSTMCell(5), keras.layers.GRUCell(3)], stateful=True),
        (2, 3, 4),
    ),
    "Bidirectional": (lambda: keras.layers.Bidirectional(keras.layers.LSTM(5, stateful=True)), (2, 3, 4)),
    "ConvLSTM1D": (lambda: keras.layers.ConvLSTM1D(3, 2, stateful=True), (2, 3, 4, 2)),
    "Held": (Held, (2, 4)),
    "Noisy": (Noisy, (2, 4)),
    "Dropout": (lambda: keras.layers.Dropout(0.5), (2, 4)),
    "RandomFlip": (keras.layers.RandomFlip, (2, 4, 4, 3)),
    "Normalization": (lambda: adapted(keras.layers.Normalization()), (2, 4)),
    "Normalization_given": (lambda: keras.layers.Normalization(mean=[1.0] * 4, variance=[2.0] * 4), (2, 4)),
    "Discretization": (lambda: adapted(keras.layers.Discretization(num_bins=3)), (2, 4)),
    "Embedding": (lambda: keras.layers.Embedding(10, 3), (2, 4)),
    "SpectralNormalization": (lambda: keras.layers.SpectralNormalization(keras.layers.Dense(4)), (2, 4)),
}


@pytest.mark.quick(
    "LSTM", "Bidirectional", "Held", "Noisy", "Normalization_given", "Discretization", "SpectralNormalization"
)
@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.filterwarnings("ignore:The model has layer classes:UserWarning")
def test_load_slots_reads_every_layer_that_holds_variables(tmp_path, name):
    make, shape = HOLDERS[name]
    layers = [make(), keras.layers.Flatten(), SlotDense(3, seed=1)]
    model = keras.Sequential([keras.Input(batch_shape=shape), *layers])
    for variable in model.layers[0].variables:
        if "float" in variable.dtype:
            variable.assign(variable + 0.5)
    loaded = load_slots(save_slots(model, tmp_path / "m.slots"))
    expected = materialize(model)
    for one, other in zip(loaded.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(numpy_of(one), numpy_of(other))
        assert one.dtype == other.dtype
    x = np.random.default_rng(2).uniform(0, 3, size=shape).astype("float32")
    outputs = numpy_of(model(x))
    np.testing.assert_array_equal(numpy_of(loaded(x)), outputs)
    np.testing.assert_array_equal(numpy_of(expected(x)), outputs)


def test_load_slots_counts_the_state_of_recurrent_layers_as_memory(tmp_path):
    layers = [keras.layers.SimpleRNN(8, stateful=True), SlotDense(2)]
    model = keras.Sequential([keras.Input(batch_shape=(1000, 2, 3)), *layers])
    path = save_slots(model, tmp_path / "m.slots")
    with pytest.raises(ValueError, match="take 32.* bytes in memory, more than `max_bytes`"):
        load_slots(path, max_bytes=32_000)
    load_slots(path, max_bytes=33_000)


def test_load_slots_refuses_more_memory_than_allowed(tmp_path, content):
    path = tmp_path / "m.slots"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="take 4336 bytes in memory, more than `max_bytes`"):
        load_slots(path, max_bytes=4335)
    assert load_slots(path, max_bytes=4336).name == "small"


def test_load_slots_runs_no_code_of_a_file(tmp_path, content):
    architecture, records, _ = split(content)
    function = keras.layers.Lambda(lambda x: x)
    config = keras.saving.serialize_keras_object(function)
    architecture["config"]["layers"].append(config)
    path = tmp_path / "m.slots"
    path.write_bytes(join(architecture, records))
    with pytest.raises(ValueError, match="Keras cannot create the model.*`Lambda` layer.*disallowed"):
        load_slots(path)
    path.write_bytes(join({"class_name": "Dense", "config": {"units": 3}, "module": "keras.layers"}, []))
    with pytest.raises(ValueError, match="describes a Dense, not a model"):
        load_slots(path)


# The pieces.


@pytest.mark.parametrize("name", [name for name, (_, form) in KERNELS.items() if form != "stored"])
def test_values_rows_are_those_of_the_specification_in_plain_python(name):
    from keras_slots.slots_file.records import values_of

    kernel = dense_model(**KERNELS[name][0]).layers[0].slot_kernel
    values = values_of(kernel)
    expected = plain_values(values, 7, 40)
    np.testing.assert_array_equal(values.rows(7, 40), expected)
    np.testing.assert_array_equal(values.take(np.full(3, 1), 8), expected[1:4, 1])
    bank = np.broadcast_to(numpy_of(kernel.bank), kernel.initial.score_shape).reshape(-1, values.num_values)
    np.testing.assert_array_equal(bank[7:40], expected)


def test_hull_leads_where_levers_lead():
    values = Values(6, "uniform", seed=1, factor=0.5)
    stream = Stream("positive_uniform", 1, 1, 1.0)
    stairs = hull(values, Start(24, stream), 0, 300)
    bank = values.rows(0, 300).astype("float64")
    scores = stream.draw(1800, 0).reshape(300, 6).astype("float64")
    unit = 2.0**16 * 2.0**23 / 2.0**24  # of a threshold, in units of score per value
    for sign, side in ((1, 0), (-1, 1)):
        for c in range(300):
            reached = [stairs.start[c]]
            for step, far in zip(stairs.steps[side], stairs.thresholds[side], strict=True):
                if far[c] == NEVER:
                    continue
                below, above = ((scores[c] + sign * bank[c] * (far[c] + d) / unit).argmax() for d in (-1, 2))
                assert (below, above) == (reached[-1], step[c])
                reached.append(step[c])
            assert reached[-1] == (sign * bank[c]).argmax()


def test_nearest_leads_to_every_value_in_order():
    values = Values(5, "truncated_normal", seed=3, factor=0.25)
    start = Start(24, Stream("uniform", 3, 4, 0.3), 256)
    stairs = nearest(values, start, 10, 60)
    bank, w0 = values.rows(10, 60).astype("float64"), start.stream.draw(50, 10).astype("float64")
    for c in range(50):
        order = bank[c].argsort()
        down = [s[c] for s, t in zip(stairs.steps[1], stairs.thresholds[1], strict=True) if t[c] < NEVER]
        up = [s[c] for s, t in zip(stairs.steps[0], stairs.thresholds[0], strict=True) if t[c] < NEVER]
        assert [*reversed(down), stairs.start[c], *up] == order.tolist()
        assert stairs.start[c] == np.abs(bank[c] - w0[c]).argmin()
        for far, value in zip(stairs.thresholds[0], up, strict=False):
            middle = (bank[c][value] + bank[c][order[order.tolist().index(value) - 1]]) / 2
            assert abs(far[c] / 2**25 - (middle - w0[c])) < 1e-6


def test_size_class_counts_half_octaves():
    x = np.array([1, 2, 3, 4, 5, 6, 7, 8, 2**40, 3 * 2**39, 2**53 - 1])
    assert size_class(x).tolist() == [0, 2, 3, 4, 4, 5, 5, 6, 80, 81, 105]


@pytest.mark.parametrize("lanes", [1, 4, 64])
def test_rans_decoder_gives_back_every_block_at_about_the_entropy(lanes):
    random = np.random.default_rng(lanes)
    blocks = []
    for size in (1, 3, 200, 64, 5000):
        p = random.integers(1, 4096, size)
        blocks.append((random.random(size) < p / 4096, p))
    encoder = Encoder(lanes)
    for bits, p in blocks:
        encoder.put(bits, p)
    words = encoder.words()
    decoder = Decoder(lanes, words)
    for bits, p in blocks:
        np.testing.assert_array_equal(decoder.take(p), bits)
    decoder.check_end()
    share = np.concatenate([np.where(bits, p, 4096 - p) for bits, p in blocks]) / 4096
    assert 16 * len(words) < -np.log2(share).sum() * 1.002 + 32 * lanes + 16
    with pytest.raises(ValueError, match=r"too few words|coded choices"):
        take_all(Decoder(lanes, words[:-1]), blocks)
    with pytest.raises(ValueError, match="do not end at the end of the words"):
        take_all(Decoder(lanes, np.append(words, np.uint16(0))), blocks)


@pytest.mark.parametrize(("lanes", "crc"), [(1, 0x79E2C54F), (4, 0xA9839442), (64, 0x725E20B1)])
def test_rans_encoder_gives_the_same_words_for_ever(lanes, crc):
    i = np.arange(3000)
    p = i * 37 % 4095 + 1
    bits, encoder = i * 101 % 4096 < p, Encoder(lanes)
    for part in np.split(i, [1, 8, 300]):
        encoder.put(bits[part], p[part])
    assert zlib.crc32(encoder.words().astype("<u2").tobytes()) == crc


def take_all(decoder, blocks):
    for _, p in blocks:
        decoder.take(p)
    decoder.check_end()


@pytest.mark.parametrize(("stairs", "activity"), [("hull", False), ("hull", True), ("nearest", True)])
@pytest.mark.parametrize(("group", "offsets"), [(1, (1, 7)), (4, (5,)), (16, ()), (60, ())])
def test_decode_gives_back_any_choices_whatever_the_rows_alike(stairs, group, offsets, activity):
    values = Values(7, "uniform", seed=9, factor=0.5)
    kind, stream = ("positive_uniform", 1) if stairs == "hull" else ("uniform", 4)
    start = Start(24, Stream(kind, 9, stream, 1.0), 0 if stairs == "hull" else 64)
    coding = Coding(stairs, start, 60, 9, group, 4, offsets, activity)
    index = np.random.default_rng(0).integers(0, 7, 540)
    words, lost = encode(index, values, coding)
    back, chosen = decode(words, values, coding)
    np.testing.assert_array_equal(chosen, values.take(back, 0))
    reached = np.setdiff1d(np.arange(540), lost)
    np.testing.assert_array_equal(back[reached], index[reached])
    assert (len(lost) == 0) == (stairs == "nearest")


@pytest.mark.parametrize("k", [2, 3, 8, 300, 65536])
def test_unpack_gives_back_what_pack_took(k):
    index = np.append(np.random.default_rng(k).integers(0, k, 77), k - 1).astype("int32")
    packed = pack(index, k)
    np.testing.assert_array_equal(unpack(packed, 78, k), index)
    wrong = bytearray(packed)
    wrong[-1] |= 0x80
    if 78 * (k - 1).bit_length() % 8:
        with pytest.raises(ValueError, match="not below K"):
            unpack(wrong, 78, k)


def test_write_kernel_packs_what_does_not_come_back(monkeypatch):
    values = Values(4, "uniform", seed=2, factor=1.0)
    start = Start(23, Stream("positive_uniform", 2, 1, 1.0))
    coding = Coding("hull", start, 40, 25, 4, 1, (), False)
    index = start.stream.draw(4000, 0).reshape(-1, 4).argmax(axis=1)
    selected = values.take(index, 0).reshape(40, 25)
    assert write_kernel("k", selected, index, values, coding).form == "hull"
    monkeypatch.setattr("keras_slots.slots_file.records.decode", lambda *a: (index, 0 * index.astype("float32")))
    record = write_kernel("k", selected, index, values, coding)
    assert record.form == "packed"
    np.testing.assert_array_equal(read_kernel(record), selected)


def test_stored_arrays_of_every_dtype_come_back():
    for dtype in container.DTYPES:
        array = np.arange(6).reshape(2, 3).astype(dtype)
        (back,) = (array_of(r) for r in split(join({"class_name": "x"}, [stored("a", array)]))[1])
        assert back.dtype == array.dtype and back.tobytes() == array.tobytes()
    with pytest.raises(ValueError, match="dtype complex64, which a .slots file cannot hold"):
        stored("a", np.zeros(2, "complex64"))


@pytest.mark.parametrize("bits", range(65))
def test_numbers_take_seven_bits_a_byte_and_come_back(bits):
    for x in {max(2**bits - 1, 0), 2 ** min(bits, 63)}:
        coded = number_to_bytes(x)
        assert len(coded) == min(max(-(-x.bit_length() // 7), 1), 9)
        body = container.ByteReader(coded + b"\7", "it")
        assert (body.number(), body.left) == (x, 1)
        with pytest.raises(ValueError, match="it needs 1 bytes where 0 are left"):
            container.ByteReader(coded[:-1], "it").number()


def test_name_records_leaves_the_weights_of_unknown_classes_without_a_name():
    records = [stored("", np.zeros(2, "float32"))]
    contents = split(join({"class_name": "Strange", "config": {}}, records))
    assert [record.name for record in name_records(contents)] == ["weight 0"]


# The command line, and files of old versions.


def test_main_info_tells_the_format_version_of_the_file(tmp_path, capsys, monkeypatch):
    content = save_slots(dense_model(), tmp_path / "m.slots").read_bytes()
    newer = content[:8] + bytes([container.VERSION + 1]) + content[9:-4]
    (tmp_path / "m.slots").write_bytes(newer + struct.pack("<I", zlib.crc32(newer)))
    monkeypatch.setitem(container.READERS, container.VERSION + 1, container.READERS[container.VERSION])
    main(["info", str(tmp_path / "m.slots")])
    assert f"format version {container.VERSION + 1}\n" in capsys.readouterr().out


def test_main_packs_lists_unpacks_and_refuses(tmp_path, capsys):
    model = moved(dense_model(score_mode="per_connection"))
    model.save(tmp_path / "m.keras")
    main(["pack", str(tmp_path / "m.keras"), str(tmp_path / "m.slots")])
    main(["info", str(tmp_path / "m.slots")])
    out = capsys.readouterr().out
    assert "dense0/kernel" in out and "K = 8, uniform" in out and f"format version {container.VERSION}" in out
    main(["unpack", str(tmp_path / "m.slots"), str(tmp_path / "plain.keras")])
    again, plain = keras.models.load_model(tmp_path / "plain.keras"), materialize(model)
    for a, b in zip(again.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(SystemExit, match="unpack: `path` must end in .keras"):
        main(["unpack", str(tmp_path / "m.slots"), str(tmp_path / "plain.h5")])
    with pytest.raises(SystemExit, match="pack: '.*m.slots' exists. Pass --overwrite"):
        main(["pack", str(tmp_path / "m.keras"), str(tmp_path / "m.slots")])
    (tmp_path / "m.slots").write_bytes(b"nothing of this kind")
    with pytest.raises(SystemExit, match="info: `path` must be a .slots file"):
        main(["info", str(tmp_path / "m.slots")])
    with pytest.raises(SystemExit, match="2"):
        main(["pack"])


@pytest.mark.tensorflow
def test_main_exports_a_saved_model(tmp_path):
    import tensorflow as tf

    model = moved(dense_model(score_mode="per_connection"))
    path = save_slots(model, tmp_path / "m.slots")
    main(["export", str(path), str(tmp_path / "served")])
    x = np.random.default_rng(0).normal(size=(3, 40)).astype("float32")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    (y,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(y, numpy_of(model(x)), rtol=1e-5, atol=1e-6)
    with pytest.raises(SystemExit, match="served' exists"):
        main(["export", str(path), str(tmp_path / "served")])


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["m.slots", "m.keras"])
def test_main_exports_a_litert_file_of_either_kind_of_file(tmp_path, name):
    from ai_edge_litert.interpreter import Interpreter

    model = moved(dense_model())
    model.save(tmp_path / "m.keras")
    save_slots(model, tmp_path / "m.slots")
    main(["export", str(tmp_path / name), str(tmp_path / "m.tflite")])
    x = np.random.default_rng(0).normal(size=(3, 40)).astype("float32")
    runner = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner("serving_default")
    (y,) = runner(**dict.fromkeys(runner.get_input_details(), x)).values()
    np.testing.assert_allclose(y, numpy_of(model(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("calibrated", [False, True])
def test_main_exports_c_code_as_export_selected_does(tmp_path, calibrated):
    bank = keras_slots.StratifiedUniform(1.5, bits=8)
    model = moved(dense_model(score_mode="nearest", bank_initializer=bank))
    model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(30, 40)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    flags = ["--calibration-data", str(tmp_path / "x.npy")] if calibrated else []
    main(["export", str(tmp_path / "m.keras"), str(tmp_path / "m.h"), *flags])
    (tmp_path / "expected").mkdir()
    expected = tmp_path / "expected" / "m.h"
    keras_slots.export_selected(model, expected, format="c", calibration_data=x if calibrated else None)
    assert (tmp_path / "m.h").read_text() == expected.read_text()


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("kind", ["truncated_normal", "strata", "grid"])
def test_values_of_a_hostile_factor_are_infinite_and_warn_of_nothing(kind, rounded):
    bits = {"bits": 8} if kind == "grid" else {}
    values = Values(4, kind, factor=3e38, rounded=rounded, **bits).rows(0, 100)
    assert np.isinf(values).any() and not np.isnan(values).any()


def test_save_slots_writes_the_records_of_the_stored_file(tmp_path):
    content = save_slots(model_of_all_forms(), tmp_path / "m.slots").read_bytes()
    stored = split((FIXTURES / f"v{container.VERSION}.slots").read_bytes())
    assert split(content).records == stored.records
    expected = [KERNELS[record.name.split("/")[0]][1] for record in name_records(stored)[:-2:2]]
    assert [record.form for record in stored.records[:-2:2]] == expected


@pytest.mark.parametrize("version", container.READERS)
def test_load_slots_reads_the_stored_file_of_each_version(version):
    path = FIXTURES / f"v{version}.slots"
    assert split(path.read_bytes()).version == version
    expected = json.loads((FIXTURES / f"v{version}.json").read_text())
    assert facts_of(path) == expected
    assert {"stored", "packed", "hull", "nearest"} <= set(expected["forms"])
