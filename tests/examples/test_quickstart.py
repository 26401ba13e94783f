"""examples/quickstart.py, with few epochs: what it writes, and how it fails."""

import csv
import json
import math

import keras
import numpy as np
import pytest

import quickstart

pytestmark = pytest.mark.tensorflow

NETWORKS = ["untrained", "selected", "learned", "fine-tuned"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    assert quickstart.main(["--out", str(folder), "--epochs", "2"]) == 0
    return folder


def test_writes_the_saved_model_the_history_the_results_and_a_figure(written):
    files = {path.name for path in written.iterdir()}
    assert files == {"selected", "history.csv", "results.json", "figure.png"}
    assert (written / "selected" / "saved_model.pb").is_file()
    assert (written / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_results_hold_the_accuracy_of_each_network_and_what_led_to_it(written):
    results = json.loads((written / "results.json").read_text(encoding="utf-8"))
    assert list(results["test_accuracy_percent"]) == NETWORKS
    assert all(0 <= value <= 100 for value in results["test_accuracy_percent"].values())
    assert results["saved_model_predicts_the_same"] is True
    assert (results["num_values"], results["selection"]) == (8, "greedy")
    assert (results["epochs"], results["seed"]) == (2, 0)
    assert results["seconds"] > 0
    assert results["versions"]["keras"] == keras.__version__


def test_two_epochs_of_selection_beat_the_untrained_network(written):
    results = json.loads((written / "results.json").read_text(encoding="utf-8"))
    accuracies = results["test_accuracy_percent"]
    assert accuracies["untrained"] < 30
    assert accuracies["selected"] > 50


def test_the_history_has_one_row_for_each_epoch_of_each_trained_network(written):
    with (written / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [(row["network"], int(row["epoch"])) for row in rows]
    assert epochs == [
        ("selected", 1),
        ("selected", 2),
        ("learned", 1),
        ("learned", 2),
        ("fine-tuned", 1),
    ]
    for row in rows:
        assert math.isfinite(float(row["loss"])) and 0 <= float(row["val_accuracy"]) <= 1


def test_the_saved_model_has_the_accuracy_that_the_results_state(written):
    results = json.loads((written / "results.json").read_text(encoding="utf-8"))
    _, (x, y) = quickstart.load_images(seed=0)
    right = quickstart.serve(written / "selected", x).argmax(-1) == y
    stated = results["test_accuracy_percent"]["selected"]
    assert round(100 * float(np.mean(right)), 2) == stated


def test_a_fifth_of_each_digit_is_held_out():
    (x, y), (x_test, y_test) = quickstart.load_images(seed=0)
    assert len(x) == 1437 and len(x_test) == 360
    share = np.bincount(y_test) / (np.bincount(y) + np.bincount(y_test))
    assert np.all(np.abs(share - 0.2) < 0.01)
    train_images = {image.tobytes() for image in x}
    assert not any(image.tobytes() in train_images for image in x_test)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    wanted = tmp_path / "out"
    wanted.mkdir()
    (wanted / "mine.txt").write_text("mine")
    assert quickstart.make_folder(wanted) == tmp_path / "out-2"
    assert quickstart.make_folder(wanted) == tmp_path / "out-3"
    assert [path.name for path in wanted.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken_as_it_is(tmp_path):
    assert quickstart.make_folder(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        (["--seed", "-1"], "--seed must be in [0, 2**32). Received: -1"),
    ],
)
def test_refuses_bad_numbers_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as leave:
        quickstart.main(flags)
    assert leave.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith(message)


def test_refuses_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as leave:
        quickstart.main(["--out", str(tmp_path / "file")])
    assert leave.value.code == 2
    assert "is a file; expected a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
