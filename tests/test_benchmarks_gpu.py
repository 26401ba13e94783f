"""benchmarks/gpu.py: what it starts, skips, stops and reports; benchmarks/device_step.py: what its figures are."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu

ROOT = Path(__file__).resolve().parent.parent


def job(folder, name, code="", **arguments):
    """A job that runs `code` and then writes its proof."""
    proof = folder / name
    return gpu.Job(name, ["-c", f"{code}\nopen({str(proof)!r}, 'w')"], proof, **arguments)


def run(jobs, folder, minutes=1.0, at_once=2):
    runner = gpu.Runner(jobs, SimpleNamespace(out=folder, minutes=minutes, jobs=at_once))
    return runner.run(), json.loads((folder / "status.json").read_text())


def test_what_is_finished_is_not_repeated(tmp_path):
    (tmp_path / "old").touch()
    jobs = [job(tmp_path, "old", "raise SystemExit(3)"), job(tmp_path, "new")]
    left, status = run(jobs, tmp_path)
    assert left == []
    assert status["old"] == "finished before" and status["new"].startswith("finished after")


def test_a_job_waits_for_what_it_needs_and_for_a_free_place(tmp_path):
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'b')!r}): time.sleep(0.01)"
    look = f"import os; assert os.path.exists({str(tmp_path / 'a')!r})"
    jobs = [
        job(tmp_path, "a", wait),  # ends only when b runs beside it
        job(tmp_path, "c", look, needs=tmp_path / "a"),
        job(tmp_path, "b"),
        job(tmp_path, "d", look, alone=True),
    ]
    left, _ = run(jobs, tmp_path)
    assert left == []


def test_a_failed_job_is_reported_and_what_needs_it_is_not_started(tmp_path):
    jobs = [
        job(tmp_path, "bad", "raise SystemExit(3)"),
        job(tmp_path, "after", needs=tmp_path / "bad"),
        job(tmp_path, "other"),
    ]
    left, status = run(jobs, tmp_path)
    assert left == ["bad", "after"]
    assert status["bad"].startswith("failed with status 3")
    assert status["after"] == "not started"


def test_the_time_limit_interrupts_what_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 5)
    jobs = [job(tmp_path, "long", "import time; time.sleep(60)"), job(tmp_path, "next")]
    left, status = run(jobs, tmp_path, minutes=6 / 60, at_once=1)
    assert left == ["long", "next"]
    assert status == {"long": "stopped by the time limit", "next": "not started"}
    assert "KeyboardInterrupt" in (tmp_path / "long.log").read_text()


def test_the_stages_begin_with_the_measurements_and_keep_their_order(tmp_path):
    args = gpu.parse(["--out", str(tmp_path), "--data", str(tmp_path), "--stages", "1,2,3"])
    jobs = [job for stage in args.stages for job in gpu.STAGES[stage](args)]
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == 3 + 15 + 2 + 6 + 3 + 6 + 3
    assert names[0] == "time-lenet300100" and names[18:21] == [
        "vgg19-gs-k8",
        "vgg19-learned",
        "conv6-gs-k8",
    ]
    assert [job.alone for job in jobs] == [True] * 18 + [False] * 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stages", "5"], "--stages must be out of 1,2,3,4. Received: 5"),
        (
            ["--stages", "2"],
            "stages 2 to 4 need --data with a file or folder. Received: --data None",
        ),
    ],
)
def test_refuses_wrong_flags_in_one_line(tmp_path, flags, message, capsys):
    with pytest.raises(SystemExit) as leave:
        gpu.main([*flags, "--out", str(tmp_path / "out")])
    assert leave.value.code == 2
    assert capsys.readouterr().err == f"gpu.py: error: {message}\n"


@pytest.mark.jax
def test_device_step_counts_the_bytes_of_states_and_relates_times_to_the_first_variant(tmp_path):
    command = [sys.executable, "benchmarks/device_step.py", "--variants", "plain,per_value:8"]
    command += ["--steps", "2", "--rounds", "1", "--copy-mb", "8", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    plain, per_value = json.loads((tmp_path / "out").read_text())["rows"]
    # Weights and momentum; scores, bank and momentum for each of 8 values; learning rate and step count.
    assert plain["state_mb"] == pytest.approx(266_200 * 4 * 2 / 1e6, abs=1e-4)
    assert per_value["state_mb"] == pytest.approx(266_200 * 4 * 3 * 8 / 1e6, abs=1e-4)
    assert per_value["least_mb"] == pytest.approx(266_200 * 28 * 8 / 1e6)
    assert plain["ratio"] == 1 and per_value["milliseconds"] > 0
