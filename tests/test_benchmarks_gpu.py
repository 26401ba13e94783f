"""benchmarks/gpu.sh: what it starts, keeps and reports. A recorder stands in for Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Writes down how it was called, and leaves the file that proves a finished job.
RECORDER = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
script, flags = sys.argv[1], sys.argv[2:]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([script, flags, os.environ["KERAS_BACKEND"]]) + "\\n")
name = "--out" if "step_time" in script or "finetune" in script else "--run-dir"
proof = Path(flags[flags.index(name) + 1])
if proof.name == os.environ.get("FAILS"):
    sys.exit(3)
if "step_time" not in script:
    proof.mkdir(exist_ok=True)
    proof = proof / "results.json"
proof.write_text("{{}}")
"""


@pytest.fixture
def gpu(tmp_path):
    """Runs gpu.sh into a folder whose name has a space; returns status, output and the calls."""
    recorder, calls = tmp_path / "recorder", tmp_path / "calls"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    (tmp_path / "cifar10.npz").touch()

    def run(**environment):
        calls.write_text("")
        names = {"DATA", "JOBS", "NETWORKS", "VARIANTS", "NUM_VALUES", "STEP_FLAGS", "TRAIN_FLAGS"}
        kept = {key: value for key, value in os.environ.items() if key not in names}
        own = {"PYTHON": str(recorder), "CALLS": str(calls)}
        command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "the results"]
        done = subprocess.run(
            command, cwd=tmp_path, env=kept | own | environment, capture_output=True, text=True, check=False
        )
        return done, [json.loads(line) for line in calls.read_text().splitlines()]

    return run


def test_gpu_sh_measures_each_network_together_and_each_variant_alone(gpu):
    done, calls = gpu(NETWORKS="lenet300100 vgg19")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2 + 2 * (1 + 2 + 2 + 2)
    assert {(script, backend) for script, _, backend in calls} == {("benchmarks/step_time.py", "jax")}
    variants = [flags[flags.index("--variants") + 1] for _, flags, _ in calls]
    assert variants[:2] == ["plain,per_connection,per_value,nearest"] * 2
    assert variants[2:7] == ["plain", *["per_connection"] * 2, *["per_value"] * 2]


def test_gpu_sh_trains_only_with_data_and_fine_tunes_what_was_selected(gpu):
    done, calls = gpu(DATA="cifar10.npz", NETWORKS="lenet300100", VARIANTS="plain", JOBS="1")
    assert done.returncode == 0, done.stderr
    scripts = [script for script, _, _ in calls if "step_time" not in script]
    assert scripts[:8] == ["examples/paper/train.py"] * 8
    assert scripts.count("examples/paper/train.py") == 8 + 9
    assert scripts.count("examples/paper/finetune.py") == 3
    assert all(Path(flags[flags.index("--data-dir") + 1]).is_file() for _, flags, _ in calls[2:])


def test_gpu_sh_does_not_measure_again_what_is_there(gpu):
    gpu(NETWORKS="lenet300100")
    done, calls = gpu(NETWORKS="lenet300100 conv6", VARIANTS="plain")
    assert done.returncode == 0
    assert [flags[flags.index("--networks") + 1] for _, flags, _ in calls] == ["conv6"] * 2


def test_gpu_sh_goes_on_after_a_failed_training_and_says_so(gpu):
    done, calls = gpu(DATA="cifar10.npz", NETWORKS="lenet300100", VARIANTS="plain", FAILS="conv4-gs-k8")
    assert done.returncode == 1
    assert "conv4-gs-k8: failed or stopped" in done.stdout
    assert "conv2-learned: finished" in done.stdout and "conv6-finetuned: finished" in done.stdout
    assert not any("conv4-finetuned" in flag for _, flags, _ in calls for flag in flags)


def test_gpu_sh_without_a_folder_says_how_to_call_it(tmp_path):
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "bash benchmarks/gpu.sh FOLDER" in done.stderr


@pytest.mark.slow
def test_gpu_sh_gives_only_flags_that_the_scripts_take(gpu):
    done, calls = gpu(
        DATA="cifar10.npz", STEP_FLAGS="--steps 2", TRAIN_FLAGS="--epochs 60 --dtype-policy mixed_bfloat16"
    )
    assert done.returncode == 0, done.stderr
    code = (
        "import json, sys\n"
        "sys.path[:0] = [sys.argv[1] + '/benchmarks']\n"
        "import step_time\n"
        "for name in ('networks', 'step_time'): sys.modules.pop(name, None)\n"
        "sys.path[:0] = [sys.argv[1] + '/examples/paper']\n"
        "import finetune, train\n"
        "for script, flags, _ in json.load(sys.stdin):\n"
        "    if 'step_time' in script: step_time.parse(flags)\n"
        "    elif 'train' in script: train.app([*flags, '--show'])\n"
        "    else: finetune.app.parse_args(flags)\n"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(ROOT)]
    checked = subprocess.run(
        command, env=environment, input=json.dumps(calls), capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
