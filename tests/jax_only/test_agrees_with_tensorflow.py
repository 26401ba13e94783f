"""In float64 both backends draw the same banks and select the same values, step after step."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import keras
import numpy as np
import pytest

import agreement_process

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def double_precision():
    jax.config.update("jax_enable_x64", True)
    keras.config.set_dtype_policy("float64")
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_fit_on_jax_selects_what_tensorflow_selects_after_470_steps(mode, tmp_path, double_precision):
    paths = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, agreement_process.__file__, mode, str(tmp_path / "tensorflow.npz")],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": paths},
        check=True,
        capture_output=True,
    )
    here = agreement_process.train(mode)
    with np.load(tmp_path / "tensorflow.npz") as there:
        assert here["loss"] == pytest.approx(float(there["loss"]), rel=1e-6)
        assert here["loss"] < 0.8  # it has learned
        for number in range(3):
            for part in ("bank", "kernel"):
                np.testing.assert_array_equal(here[f"{part}{number}"], there[f"{part}{number}"])
