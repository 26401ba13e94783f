"""In float64 every backend draws the same banks and selects the same values as TensorFlow, step after step."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import agreement_process
from mode_table import MODE_AND_RULE

ROOT = str(Path(__file__).parents[2])


@pytest.mark.jax
@pytest.mark.torch
@pytest.mark.parametrize(("mode", "selection"), MODE_AND_RULE)
def test_fit_selects_what_tensorflow_selects_after_470_steps(mode, selection, tmp_path, x64):
    keras.config.set_dtype_policy("float64")
    paths = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, agreement_process.__file__, mode, selection, str(tmp_path / "tensorflow.npz")],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": paths},
        check=True,
        capture_output=True,
    )
    here = agreement_process.train(mode, selection)
    with np.load(tmp_path / "tensorflow.npz") as there:
        assert here["loss"] == pytest.approx(float(there["loss"]), rel=1e-6)
        # It has learned: chance is 2.3.
        assert here["loss"] < (0.8 if selection == "greedy" else 1.3)
        for number in range(3):
            for part in ("bank", "kernel"):
                np.testing.assert_array_equal(here[f"{part}{number}"], there[f"{part}{number}"])
