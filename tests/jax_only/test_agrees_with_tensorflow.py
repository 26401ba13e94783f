"""In float64 both backends draw the same banks and select the same values, step after step."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import keras
import pytest

import engine
from example_scripts import assert_same_run, run
from runfolder import read_extra

EXAMPLES = Path(engine.__file__).parent
# 1,222 images in batches of 13: 94 steps an epoch, 470 in all.
FLAGS = ["--dataset", "digits", "--batch-size", "13", "--epochs", "5", "--verbose", "0"]
FLAGS += ["--dtype-policy", "float64", "--augmentation", "shift1", "--learning-rate", "0.1"]
MODES = ("per_value", "per_connection")


def flags(folder, mode):
    places = ["--run-dir", folder / mode, "--results", folder / f"{mode}.csv"]
    return [str(flag) for flag in [*FLAGS, "--score-mode", mode, *places]]


@pytest.fixture(scope="module")
def on_tensorflow(tmp_path_factory):
    """Both score modes, trained by another process on TensorFlow."""
    folder = tmp_path_factory.mktemp("tensorflow")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import train\n"
    code += f"for flags in {[flags(folder, mode) for mode in MODES]!r}: train.main(flags)"
    subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        check=True,
        capture_output=True,
    )
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_jax_and_tensorflow_select_the_same_after_470_steps(on_tensorflow, tmp_path, mode):
    try:
        assert run("train", *flags(tmp_path, mode)) == 0  # which has JAX hold float64
        assert_same_run(tmp_path / mode, on_tensorflow / mode)
    finally:
        keras.config.set_dtype_policy("float32")
        jax.config.update("jax_enable_x64", False)
    states = [read_extra(folder / mode / "last.npz") for folder in (tmp_path, on_tensorflow)]
    assert states[0]["bank"] == states[1]["bank"]  # a checksum of all bits
    assert len(states[0]["history"]) == 5
