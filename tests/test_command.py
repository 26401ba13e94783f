"""The command `keras-slots`: what each way to call it prints, and that it prints nothing else."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

import keras_slots
from keras_slots import load_slots, save_slots
from keras_slots.slots_file import container
from small_models import conv_model, dense_model

ROOT = Path(__file__).parents[1]
USAGE = r"usage: keras-slots .*\n(.*\n)*keras-slots{}: error: .*\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    dense_model().save(folder / "model.keras")
    save_slots(dense_model(), folder / "model.slots")
    # What pip writes for an entry point.
    module, function = re.search(r'"keras-slots = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text()).groups()
    (folder / "keras-slots").write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return folder


def called(folder, *words, start=("keras-slots",)):
    """Exit status, stdout and stderr of the command in a process in which nothing was set."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "PYTEST_"))}
    environment |= {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": keras.backend.backend(), "COLUMNS": "100"}
    command = [sys.executable, *start, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


MODULE = ("-m", "keras_slots")
every_start = pytest.mark.parametrize("start", [("keras-slots",), MODULE], ids=" ".join)


@pytest.mark.slow
def test_command_prints_the_file_that_it_wrote_and_nothing_else(folder, tmp_path):
    packed, plain = tmp_path / "m.slots", tmp_path / "plain.keras"
    status, out, errors = called(folder, "pack", "model.keras", str(packed))
    assert (status, out, errors) == (0, f"{packed}: {packed.stat().st_size:,} bytes\n", "")
    status, out, errors = called(folder, "unpack", str(packed), str(plain))
    assert (status, out, errors) == (0, f"{plain}: {plain.stat().st_size:,} bytes\n", "")


def test_command_prints_its_answer_and_nothing_else(folder):
    status, out, errors = called(folder, "info", "model.slots", start=MODULE)
    assert (status, errors) == (0, "")
    assert re.fullmatch(
        r"weight +shape +values +coding +bytes +bits per weight\n"
        r"dense0/kernel +40 x 24 +K = 8, uniform +lever steps +[\d,]+ +\d\.\d\d\n"
        r"(.*\n){3}\n"
        rf"Sequential 'small', .slots format version {container.VERSION}\n"
        r"[\d,]+ bytes, of which \d+ are architecture and headers, "
        r"\d+\.\d times smaller than its weights in memory \(4,536 bytes\)\n",
        out,
    )
    assert len({len(line) for line in out.splitlines()[:5]}) == 1  # numbers end at the same column


@pytest.mark.slow
@pytest.mark.tensorflow
def test_command_prints_nothing_else_as_it_exports(folder, tmp_path):
    served = tmp_path / "served"
    assert called(folder, "export", "model.slots", str(served)) == (0, f"{served}\n", "")


@every_start
@pytest.mark.parametrize(
    ("words", "status", "out", "errors"),
    [
        ("--help", 0, r"usage: keras-slots (.*\n)+.*2 for a wrong command line.\n", ""),
        ("pack --help", 0, r"usage: keras-slots pack (.*\n)+", ""),
        ("--version", 0, rf"keras-slots {keras_slots.__version__}\n", ""),
        ("", 2, "", USAGE.format("")),
        ("pack model.keras", 2, "", USAGE.format(" pack")),
        ("info none.slots", 1, "", r"keras-slots info: no such file: 'none.slots'\n"),
        ("pack model.keras model.slots", 1, "", r"keras-slots pack: 'model.slots' exists.*\n"),
        ("pack model.keras model.h5", 1, "", r"keras-slots pack: `path` must end in .slots.*\n"),
    ],
)
def test_command_answers_without_keras(folder, start, words, status, out, errors):
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        found = called(folder, *words.split(), start=start)
        seconds.append(time.perf_counter() - began)
        assert found[0] == status
        assert re.fullmatch(out, found[1]) and re.fullmatch(errors, found[2])
    assert min(seconds) < 1  # Keras takes several, and this less than 0.1 on a machine that is not busy


@pytest.mark.slow
@pytest.mark.parametrize("start", [["other"], ["-m", "other", "keras_slots"]])
def test_other_programs_can_have_the_arguments_of_the_command(folder, start):
    (folder / "other.py").write_text("import keras_slots\n")
    (folder / "other").write_text("import keras_slots\n")
    assert called(folder, "info", "--wrong", start=start)[:2] == (0, "")


@pytest.mark.slow
def test_command_shows_a_warning_in_one_line(folder, tmp_path):
    model = dense_model(bank_initializer=keras.initializers.RandomNormal(seed=1))
    model.save(tmp_path / "m.keras")
    status, out, errors = called(folder, "pack", str(tmp_path / "m.keras"), str(tmp_path / "m.slots"))
    assert status == 0 and out.count("\n") == 1 and load_slots(tmp_path / "m.slots")
    lines = errors.splitlines()
    assert len(lines) == 2 and all(x.startswith("keras-slots pack: The file stores the selected") for x in lines)


def test_info_makes_no_small_file_smaller_and_no_name_an_escape_sequence(folder, tmp_path):
    from keras_slots.__main__ import info

    path = tmp_path / "m.slots"
    layer = keras_slots.SlotDense(2, name="a\x1b[31mb")
    save_slots(keras.Sequential([keras.Input((2,)), layer], name="m\x1b"), path)
    text = info(path)
    assert "not smaller than" in text and "\x1b" not in text
    save_slots(conv_model(), path, overwrite=True)
    assert "one number" not in info(path)
