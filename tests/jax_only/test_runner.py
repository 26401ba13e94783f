"""The paper's runner on JAX."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
from example_scripts import DIGITS

import training


def test_training_imports_no_tensorflow(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import train; train.app(sys.argv[2:]);"
        "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'"
    )
    results = tmp_path / "results.csv"
    flags = [*DIGITS, "--epochs", 1, "--run-dir", tmp_path / "run", "--results", results]
    command = [sys.executable, "-c", code, str(Path(training.__file__).parent), *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = pd.read_csv(results, dtype=str, keep_default_na=False).to_dict("records")
    assert row["backend"] == "jax" and row["jax"] and not row["tensorflow"]
