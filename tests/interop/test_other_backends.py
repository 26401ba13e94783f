"""What one backend writes every other one reads, equal in every bit; NumPy too, where nothing can be trained."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import files_process
from backends import BACKENDS, NAME

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    files_process.write(folder)
    return folder


@pytest.fixture(scope="module")
def here(folder):
    return files_process.read(folder)


@pytest.mark.slow
@pytest.mark.parametrize("other", [*(name for name in BACKENDS if name != NAME), "numpy"])
def test_files_of_this_backend_hold_the_same_numbers_on_another(folder, here, other, tmp_path):
    if find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    paths = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, files_process.__file__, str(folder), str(tmp_path / "there.npz")],
        env={**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot train on the Keras backend") == (other not in BACKENDS)
    with np.load(tmp_path / "there.npz") as there:
        assert set(there) == set(here)
        for name, numbers in here.items():
            if name == "outputs":
                np.testing.assert_allclose(there[name], numbers, rtol=1e-4, atol=1e-5)
            elif "scores" in name.rpartition("/")[2]:
                # Computed from lever and bank, with a fused multiplication or without.
                np.testing.assert_allclose(there[name], numbers, rtol=1e-6, atol=1e-7)
            else:
                np.testing.assert_array_equal(there[name], numbers, err_msg=name)
