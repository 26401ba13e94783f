"""benchmarks/step_time.py --device-loop, which measures JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
