"""The benchmarks' arithmetic, and one small run of each script."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import networks, record

ROOT = Path(__file__).resolve().parent.parent.parent
CONNECTIONS = 784 * 300 + 300 * 100 + 100 * 10  # of LeNet-300-100


def test_side_by_side_gives_medians_over_the_rounds_of_what_ran_in_the_same_round(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    clock.process_time = lambda: 2 * clock.now  # two busy threads
    monkeypatch.setattr(record, "time", clock)
    # Two calls to warm up, then rounds of ratio 2, 3 and 10.
    seconds = {"plain": iter([0, 0, 4, 2, 6]), "slot": iter([0, 0, 8, 6, 60])}

    def run(name):
        clock.now += next(seconds[name])

    runs = {name: lambda name=name: run(name) for name in seconds}
    plain, slot = record.side_by_side(runs, steps=2, rounds=3)
    assert (plain["milliseconds"], plain["ratio"], plain["spread"]) == (2000, 1, [1, 1])
    assert (slot["milliseconds"], slot["ratio"], slot["cpu_ratio"]) == (4000, 3, 3)


def benchmark(script, *flags, status=0):
    """Runs a script; returns what it printed, on stderr if it must fail."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


@pytest.fixture
def rows(tmp_path):
    """Runs a script and returns the rows of its file, by variant."""

    def run(script, *flags):
        out = tmp_path / "new folder" / "rows.json"
        benchmark(script, *flags, "--out", str(out))
        result = json.loads(out.read_text())
        assert result["command"] == " ".join(["python", f"benchmarks/{script}", *flags])
        return {row["variant"]: row for row in result["rows"]}

    return run


@pytest.mark.slow
def test_step_time_predict_times_every_variant_and_its_plain_form(rows):
    found = rows("step_time.py", "--num-values", "2", "--rounds", "1", "--steps", "1", "--predict")
    assert found["plain"]["ratio"] == 1.0
    slots = {"per_connection K=2", "per_value K=2"}
    assert set(found) == {"plain", *slots, *(f"materialized {name}" for name in slots)}


def child(script, *task):
    """The row that a script measures in a process of its own."""
    return json.loads(benchmark(script, "--child", json.dumps(task)).splitlines()[-1])


@pytest.mark.slow
def test_size_counts_the_bytes_of_trained_state_and_gradients():
    row = child("size.py", "lenet300100", "per_value", 3)
    assert row["state_bytes_per_connection"] == 36  # score, gradient and momentum of three values
    assert row["connections"] == CONNECTIONS
    assert row["step_mib"] >= row["build_mib"] > 0


@pytest.mark.slow
def test_size_files_grow_with_k_but_for_the_selected_network(rows):
    found = rows("size.py", "--files", "--num-values", "2", "--variants", "plain,per_value")
    raw = 4 * CONNECTIONS / 1e6
    plain, slot = found["plain"], found["per_value K=2"]
    assert raw < slot["saved_model_mb"] < 1.1 * raw
    assert 2 * raw < plain["keras_mb"] < 2.1 * raw  # weights and momentum
    assert 6 * raw < slot["keras_mb"] < 6.1 * raw  # scores, bank and momentum of two values
    assert slot["model_export_mb"] > 4 * raw > plain["model_export_mb"]


@pytest.mark.slow
def test_size_says_when_a_network_does_not_fit(rows):
    flags = ("--num-values", "64", "--variants", "per_value", "--limit-gib", "0.01")
    assert rows("size.py", *flags)["per_value K=64"]["failed"] != 0


@pytest.mark.slow
def test_monitor_times_epochs_with_and_without_the_callback(rows):
    flags = ("--variants", "nearest", "--num-values", "2", "--images", "256", "--rounds", "1")
    (row,) = rows("monitor.py", *flags).values()
    assert row["share"] == pytest.approx(row["call_milliseconds"] / row["alone_milliseconds"], abs=1e-3)
    assert 0 < row["call_milliseconds"] < row["milliseconds"]
    assert row["setup_seconds"] > 0


@pytest.mark.slow
def test_build_counts_what_is_kept_beside_the_bank():
    row = child("build.py", "build", "lenet300100", "per_value", 2)
    assert row["bank_mib"] == 4 * CONNECTIONS * 2 / 2**20
    assert row["kept_mib"] == pytest.approx(2 * row["bank_mib"], rel=1e-3)  # bank and scores
    assert row["seconds"] > 0


@pytest.mark.slow
def test_build_draw_needs_little_more_memory_than_the_values():
    row = child("build.py", "draw", "glorot_normal", 40_000_000)
    assert 150 < row["peak_mib"] < 1.2 * 152  # MiB of 40 million float32
    assert row["seconds"] > 0


@pytest.mark.slow
def test_step_time_device_loop_asks_for_jax():
    printed = benchmark("step_time.py", "--device-loop", status=2)
    assert "--device-loop needs JAX: set KERAS_BACKEND=jax" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--networks", "lenet5"], "--networks: expected names out of lenet300100, conv6, vgg19"),
        (["--variants", "plain,levers"], "plain, per_connection, per_value, nearest. Received: lev"),
        (["--num-values", "8,0"], "--num-values: expected positive integers. Received: 0"),
    ],
)
def test_networks_parser_refuses_unknown_names(flags, message, capsys):
    defaults = {"networks": "conv6", "variants": "plain", "num_values": "8"}
    with pytest.raises(SystemExit):
        networks.parser("", **defaults).parse_args(flags)
    assert message in capsys.readouterr().err


def test_networks_labels_name_the_plain_network_once():
    found = networks.labels(["plain", "per_value"], [8, 64])
    assert found == {"plain": ("plain", 0), "per_value K=8": ("per_value", 8), "per_value K=64": ("per_value", 64)}
