"""reader/*.c: a second reader of `.slots` files, in another language, gives the same bits and refuses the same "
"files."""

import json
import zlib

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import materialize, save_slots
from keras_slots.slots_file.container import READERS
from slots_reference import READER, SANITIZERS, compile_program, run_program
from small_models import KERNELS, dense_model, moved, saved
from test_slots import DAMAGE, FIXTURES, GRID_DAMAGE

STATUS = {
    "foreign": 4,
    "empty": 4,
    "header_cut": 5,
    "truncated": 7,
    "longer": 7,
    "flipped": 7,
    "uncompressed_0": 0,  # what is in there concerns Keras alone
    "uncompressed_17": 0,
    "uncompressed_max": 8,
    "magic": 4,
    "version_0": 6,
    "version_1": 6,
    "version_max": 6,
    "count_max": 8,
    "compressed_max": 8,
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The reader as a user builds it."""
    return compile_program(tmp_path_factory.mktemp("fast"), READER / "slots.c", "-O2")


@pytest.fixture(scope="module")
def checked_reader(tmp_path_factory):
    """The reader under the sanitizers of addresses and of undefined behaviour."""
    return compile_program(tmp_path_factory.mktemp("checked"), READER / "slots.c", *SANITIZERS)


def assert_same_weights(program, content, folder, weights):
    folder.mkdir()
    (folder / "m.slots").write_bytes(content)
    done = run_program(program, folder / "m.slots", folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(weights) == len(list(folder.iterdir())) - 1
    for number, (name, expected) in enumerate(weights):
        shape = ",".join(map(str, expected.shape))
        assert f" shape={shape} " in f"{lines[number]} "
        if "form=0" not in lines[number]:
            expected = expected.astype("float32")
        assert (folder / f"{number}.bin").read_bytes() == expected.tobytes(), name


@pytest.mark.parametrize("name", [*KERNELS, "conv"])
def test_reader_writes_every_weight_bit_for_bit(tmp_path, reader, checked_reader, name):
    content, weights, _ = saved(name)
    assert_same_weights(reader, content, tmp_path / "fast", weights)
    assert_same_weights(checked_reader, content, tmp_path / "checked", weights)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_reader_reads_other_dtypes(tmp_path, checked_reader, dtype, x64):
    model = moved(dense_model(dtype=dtype, score_mode="per_connection"))
    content = save_slots(model, tmp_path / "m.slots").read_bytes()
    assert_same_weights(checked_reader, content, tmp_path / "out", weights_of(model))


def weights_of(model):
    return [(v.path, numpy_of(v)) for v in materialize(model).variables]


def test_reader_decodes_groups_of_rows_and_rows_alike(tmp_path, checked_reader):
    model = moved(dense_model((64,), 300, score_mode="per_connection", use_bias=False))
    content = save_slots(model, tmp_path / "m.slots").read_bytes()
    assert_same_weights(checked_reader, content, tmp_path / "out", weights_of(model))


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    model = moved(dense_model((24, 4), 40, score_mode="per_connection"))
    return save_slots(model, tmp_path_factory.mktemp("slots") / "m.slots").read_bytes()


@pytest.mark.parametrize("name", [*DAMAGE, *GRID_DAMAGE])
def test_reader_says_by_its_status_what_is_wrong(tmp_path, checked_reader, content, name):
    path = tmp_path / "m.slots"
    path.write_bytes(GRID_DAMAGE[name][0](saved("grid")[0]) if name in GRID_DAMAGE else DAMAGE[name][0](content))
    (tmp_path / "out").mkdir()
    done = run_program(checked_reader, path, tmp_path / "out")
    assert done.returncode == STATUS.get(name, 9)
    assert bool(done.stderr) == (done.returncode != 0)


def test_reader_says_what_is_wrong_with_its_arguments(tmp_path, checked_reader, content):
    assert run_program(checked_reader).returncode == 2
    assert run_program(checked_reader, tmp_path / "missing").returncode == 3
    path = tmp_path / "m.slots"
    path.write_bytes(content)
    assert run_program(checked_reader, path, tmp_path / "missing").returncode == 1
    assert run_program(checked_reader, path).returncode == 0


def fuzz(tmp_path, count):
    source = READER.parent / "tests" / "slots_fuzz.c"
    program = compile_program(tmp_path, source, *SANITIZERS)
    for number, name in enumerate(("lever", "strata", "grid", "bank", "many")):
        model = moved(dense_model((9,), 16, **KERNELS[name][0]))
        path = save_slots(model, tmp_path / f"{name}.slots")
        done = run_program(program, path, count, number + 1)
        assert done.returncode == 0, done.stderr[-2000:]
        seen = [int(x) for x in done.stdout.split()]
        assert sum(seen) == count
        # Damage of every kind gets through to where it is told: checksum, limits, records; and some is harmless.
        assert all(seen[status] for status in (0, 5, 6, 7, 8, 9)), seen
        assert not any(seen[status] for status in (1, 2, 3, 10)), seen


def test_reader_survives_thousands_of_changed_files_under_the_sanitizers(tmp_path):
    fuzz(tmp_path, 1000)


@pytest.mark.exhaustive
def test_reader_survives_a_million_changed_files_under_the_sanitizers(tmp_path):
    fuzz(tmp_path, 250_000)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    return compile_program(tmp_path_factory.mktemp("lenet"), READER / "lenet.c", *SANITIZERS)


@pytest.mark.quick("idx")
@pytest.mark.parametrize("form", ["idx", "raw"])
def test_lenet_program_classifies_as_the_model(tmp_path, lenet, form):
    model = moved(dense_model((30, 10), 784, score_mode="per_connection"), size=0.2)
    model.layers[0].activation = keras.activations.relu
    path = save_slots(model, tmp_path / "m.slots")
    # Few large pixels, lest all images look alike.
    pixels = np.random.default_rng(0).integers(0, 2, (50, 4, 4)) * 255
    images = pixels.repeat(7, axis=1).repeat(7, axis=2).astype("uint8")
    x = ((images.reshape(50, 784) / 255 - 0.1307) / 0.3081).astype("float32")
    logits = numpy_of(model(x))
    expected = logits.argmax(axis=1)
    margin = np.sort(logits, axis=1)
    assert (margin[:, -1] - margin[:, -2]).min() > 1e-4 and len(set(expected)) > 3
    heads = (b"\0\0\x08\x03", b"\0\0\x08\x01") if form == "idx" else (b"", b"")
    sizes = [np.array(s, ">i4").tobytes() if form == "idx" else b"" for s in ((50, 28, 28), (50,))]
    (tmp_path / "images").write_bytes(heads[0] + sizes[0] + images.tobytes())
    labels = np.where(np.arange(50) < 7, 255, expected).astype("uint8")
    (tmp_path / "labels").write_bytes(heads[1] + sizes[1] + labels.tobytes())
    files = path, tmp_path / "images", tmp_path / "labels"
    done = run_program(lenet, *files, 0.1307, 0.3081)
    assert done.stdout == "43 of 50 right\n", done.stderr
    done = run_program(lenet, path, tmp_path / "images")
    plain = numpy_of(model((images.reshape(50, 784) / 255).astype("float32"))).argmax(axis=1)
    assert [int(line) for line in done.stdout.split()] == plain.tolist()
    assert run_program(lenet, path).returncode == 2
    assert run_program(lenet, path, tmp_path / "missing").returncode == 1
    (tmp_path / "conv.slots").write_bytes(saved("conv")[0])
    assert run_program(lenet, tmp_path / "conv.slots", tmp_path / "images").returncode == 1


@pytest.mark.parametrize("version", READERS)
def test_reader_reads_the_stored_file_of_each_version(tmp_path, checked_reader, version):
    (tmp_path / "out").mkdir()
    done = run_program(checked_reader, FIXTURES / f"v{version}.slots", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    expected = json.loads((FIXTURES / f"v{version}.json").read_text())
    files = [(tmp_path / "out" / f"{i}.bin").read_bytes() for i in range(len(expected["forms"]))]
    assert zlib.crc32(b"".join(files)) == expected["crc32"]
