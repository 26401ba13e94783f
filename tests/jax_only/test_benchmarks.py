"""The benchmarks that run on JAX: `step_time.py --device-loop` and `first_try.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_step_time_device_loop_counts_the_bytes_of_states(tmp_path):
    command = [sys.executable, "benchmarks/step_time.py", "--device-loop", "--num-values", "8"]
    command += ["--variants", "plain,per_value", "--steps", "2", "--rounds", "1", "--copy-mb", "8"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "--out", str(tmp_path / "out")], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    result = json.loads((tmp_path / "out").read_text())
    plain, per_value = result["rows"]
    # Weights and momentum; scores, bank and momentum for each of 8 values, and the seeds of three layers; learning
    # rate and step count.
    assert plain["state_mb"] == pytest.approx(266_200 * 4 * 2 / 1e6, abs=1e-4)
    assert per_value["state_mb"] == pytest.approx((266_200 * 4 * 3 * 8 + 3 * 12 * 4) / 1e6, abs=1e-4)
    seconds = 266_200 * 28 * 8 / (1e9 * result["copy_gb_per_second"])
    assert per_value["limit_milliseconds"] == pytest.approx(1e3 * seconds)
    assert plain["ratio"] == 1 and per_value["milliseconds"] > 0
    assert result["command"].startswith("KERAS_BACKEND=jax python benchmarks/step_time.py")


def test_first_try_scores_what_fit_scores_and_measures_nothing_twice(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import first_try

    make, classes, _, _ = first_try.TASKS["wine"]
    monkeypatch.setitem(first_try.TASKS, "wine", (make, classes, 8, 2))
    monkeypatch.setitem(first_try.TASKS, "diabetes", (*first_try.TASKS["diabetes"][:2], 2, 2))
    monkeypatch.setattr(first_try, "LAYERS", [("plain", 0, 0.0), ("nearest", 8, 1.5)])
    out = tmp_path / "first_try.csv"
    command = ["--out", str(out), "--tasks", "wine,diabetes"]
    first_try.main(command)
    written = out.read_text(encoding="utf-8")
    rows = first_try.rows_of(out)
    assert len(rows) == 2 * 2 * 4

    # The second seed of momentum, by `fit`.
    for row in rows:
        if (row["task"], row["optimizer"]) == ("wine", "momentum 0.1"):
            keras.utils.set_random_seed(1)
            x, y, x_test, y_test = first_try.split("wine", 1)
            model = first_try.network((13,), 3, *first_try.layers_of(row))
            rng = np.random.default_rng(1)
            order = np.concatenate([rng.permutation(len(x))[: len(x) // 32 * 32] for _ in range(8)])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
            model.fit(x[order], y[order], batch_size=32, shuffle=False, verbose=0)
            right = model.predict(x_test, verbose=0).argmax(-1) == y_test
            assert 100 * right.mean() == pytest.approx(float(row["scores"].split()[1]), abs=1.7)  # one row of 60
            assert right.mean() > 0.8

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(first_try, "measure", refuse)
    first_try.main(command)
    assert out.read_text(encoding="utf-8") == written
    assert "nearest 8 x1.5" in capsys.readouterr().out
