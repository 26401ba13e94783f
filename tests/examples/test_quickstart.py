"""examples/quickstart.py, with few epochs: what it writes, and how it fails."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
from pages import EXAMPLES, load_page

pytestmark = pytest.mark.tensorflow

NETWORKS = ["untrained", "selected", "learned", "fine-tuned"]


@pytest.fixture(scope="module")
def quickstart():
    return load_page("quickstart")


@pytest.fixture(scope="module")
def written(quickstart, tmp_path_factory):
    """The folder of a run of two epochs, and of a second one over it."""
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    for _ in range(2):
        assert quickstart.main(["--out", str(folder), "--epochs", "2"]) == 0
    return folder


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_quickstart_writes_a_saved_model_results_and_a_figure(written):
    assert {path.name for path in written.iterdir()} == {"selected", "results.json", "figure.png"}
    assert (written / "selected" / "saved_model.pb").is_file()
    assert (written / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_quickstart_results_hold_accuracies_and_what_led_to_them(written):
    import keras

    results = results_of(written)
    assert list(results["accuracy_percent"]) == NETWORKS
    assert results["saved_model_agrees"] is True and results["seconds"] > 0
    assert results["settings"] == {"num_values": 8, "epochs": 2, "seed": 0}
    assert results["versions"]["keras"] == keras.__version__
    epochs = {name: len(curves["val_accuracy"]) for name, curves in results["history"].items()}
    assert epochs == {"selected": 2, "learned": 2, "fine-tuned": 1}
    for curves in results["history"].values():
        assert all(math.isfinite(loss) for loss in curves["loss"])
    for name in NETWORKS[1:]:
        last = 100 * results["history"][name]["val_accuracy"][-1]
        assert results["accuracy_percent"][name] == pytest.approx(last, abs=0.3)  # one image


def test_quickstart_selects_a_better_network_in_two_epochs(written):
    accuracies = results_of(written)["accuracy_percent"]
    assert accuracies["untrained"] < 30
    assert accuracies["selected"] > 50


def test_quickstart_saved_model_has_the_accuracy_that_the_results_state(quickstart, written):
    import tensorflow as tf

    _, (x, y) = quickstart.load_images(seed=0)
    serving = tf.saved_model.load(str(written / "selected")).signatures["serving_default"]
    (name,) = serving.structured_input_signature[1]
    (logits,) = serving(**{name: tf.constant(x)}).values()
    right = 100 * np.mean(logits.numpy().argmax(-1) == y)
    assert round(float(right), 2) == results_of(written)["accuracy_percent"]["selected"]


def test_quickstart_holds_out_a_fifth_of_each_digit(quickstart):
    (x, y), (x_test, y_test) = quickstart.load_images(seed=0)
    assert len(x) == 1437 and len(x_test) == 360
    share = np.bincount(y_test) / (np.bincount(y) + np.bincount(y_test))
    assert np.all(np.abs(share - 0.2) < 0.01)
    train_images = {image.tobytes() for image in x}
    assert not any(image.tobytes() in train_images for image in x_test)


@pytest.mark.parametrize("flags", [["--epochs", "0"], ["--seed", "-1"], ["--out", __file__]])
def test_quickstart_refuses_wrong_flags_in_one_line(quickstart, flags, capsys):
    with pytest.raises(SystemExit) as leave:
        quickstart.main(flags)
    assert leave.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--epochs from 1, --seed in [0, 2**32), --out a folder. Received" in line


def test_quickstart_leaves_no_trace_of_a_stopped_run(tmp_path):
    """And what it says before is its own: TensorFlow is silent."""
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "--out", str(tmp_path / "out")]
    paths = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "selected: 40 epochs" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    if version("tensorflow").startswith("2.20."):
        # It says that it compiled something, whatever its level of logging.
        errors = re.sub(r"(?m)^.*(absl::Init|using XLA!).*\n", "", errors)
    assert errors == "\nquickstart.py: stopped\n"
    assert not (tmp_path / "out").exists()
