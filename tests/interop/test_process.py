"""What slot layers leave behind: memory of dropped models, and words on the terminal."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import SlotDense
from mode_table import SCORE_MODES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MEGABYTE = 2**20


@pytest.mark.slow
def test_dropped_models_leave_no_more_memory_than_plain_ones():
    script = subprocess.run(
        [sys.executable, str(HERE / "dropped_models.py")],
        check=True,
        capture_output=True,
        text=True,
        env=_environment(),
    )
    lines = [json.loads(line) for line in script.stdout.splitlines()]
    growth = {line["kind"]: line["growth"] for line in lines}
    assert set(growth) == {"plain", *SCORE_MODES}
    for mode in SCORE_MODES:
        assert growth[mode] <= growth["plain"] + 6 * MEGABYTE, growth


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": keras.backend.backend()}


def test_build_prints_nothing_off_a_terminal(monkeypatch, capfd):
    # A clock by which every step of the build takes ten seconds.
    began = time.time()
    for name in ("monotonic", "time", "perf_counter"):
        clock = itertools.count(began, 10.0)
        monkeypatch.setattr(time, name, lambda clock=clock: next(clock))
    layer = SlotDense(200, num_values=64, score_mode="per_connection", seed=1)
    layer.build((None, 500))
    monkeypatch.undo()
    assert capfd.readouterr() == ("", "")
    assert np.isfinite(numpy_of(layer.kernel)).all()
