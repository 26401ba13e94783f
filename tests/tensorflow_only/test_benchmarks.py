"""The benchmarks' arithmetic, and one small run of those that train."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from benchmarks import record

ROOT = Path(__file__).resolve().parent.parent.parent


def test_ratios_are_medians_over_the_rounds_of_what_ran_in_the_same_round(monkeypatch):
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


def benchmark(script, *flags):
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_benchmark_of_predict_times_every_variant_and_its_plain_form(tmp_path):
    out = tmp_path / "rows.json"
    flags = ("--num-values", "2", "--rounds", "1", "--steps", "1", "--out", str(out))
    benchmark("step_time.py", *flags, "--predict")
    rows = {row["variant"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["plain"]["ratio"] == 1.0
    slots = {"per_connection K=2", "per_value K=2"}
    assert set(rows) == {"plain", *slots, *(f"materialized {name}" for name in slots)}
