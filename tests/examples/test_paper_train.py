"""train.py end to end: results, resuming, refusing."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from example_scripts import DIGITS, run

import cli
import recipes
import runs
import training
from data import read_arrays
from keras_slots._files import temporary_path_beside

PAPER = Path(training.__file__).parent
LEARNED = ["--method", "learned"]


def flags(tmp_path, *more, epochs=2, folder="run"):
    places = ["--run-dir", tmp_path / folder, "--results", tmp_path / "results.csv"]
    return [*DIGITS, "--epochs", epochs, *places, *more]


def rows_of(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def trained(tmp_path, *more, **places):
    """Trains, and returns the last row of the results file."""
    run("train", *flags(tmp_path, *more, **places))
    return rows_of(tmp_path / "results.csv")[-1]


def state(folder, name="last"):
    """The arrays of a state file without its JSON part, which holds times."""
    return runs.read_state(folder / "state" / f"{name}.npz")[0]


def assert_equal_states(folder, *run_dirs):
    for name in ("last", "best"):
        np.testing.assert_equal(*(state(folder / run_dir, name) for run_dir in run_dirs))


def recipe_of(**fields):
    fields = {"dataset": "digits", "batch_size": 64, "epochs": 3} | fields
    return dataclasses.replace(recipes.make_recipe("ours-lenet300100-gs"), **fields)


def options_of(tmp_path, **more):
    return cli.Options(results=str(tmp_path / "r.csv"), verbose=0, **more)


SLOT = {"method": "slot", "score_mode": "per_value", "num_values": 4}
VARIANTS = {
    "learned with dropout": {"method": "learned", "dropout": 0.3, "weight_decay": 1e-3},
    "greedy": SLOT,
    "greedy by lever": SLOT | {"score_mode": "per_connection", "averaging": 0.9},
    "probabilistic": SLOT | {"selection": "probabilistic", "learning_rate": 20.0},
    "network-shared values": SLOT | {"sharing": "network", "num_values": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, variant, monkeypatch):
    recipe, rows = recipe_of(**VARIANTS[variant]), []
    for folder in ("whole", "broken"):
        if folder == "broken":
            with monkeypatch.context() as patched:
                patched.setattr(training.Run, "on_epoch_end", dies_after(2))
                with pytest.raises(KeyboardInterrupt):
                    training.train(recipe, tmp_path / folder, options_of(tmp_path))
            assert not (tmp_path / folder / "results.json").exists()
        rows.append(training.train(recipe, tmp_path / folder, options_of(tmp_path)))
    assert_equal_states(tmp_path, "whole", "broken")
    for column, value in rows[0].items():
        if column.startswith(("train_last", "val_", "test_", "best_epoch")):
            assert rows[1][column] == value


def dies_after(last, on_epoch_end=training.Run.on_epoch_end):
    """An `on_epoch_end` that saves the epoch and then dies."""

    def die(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        if epoch + 1 == last:
            raise KeyboardInterrupt

    return die


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end_and_leaves_no_unfinished_files(tmp_path):
    """By SIGKILL, in a process of its own, wherever it comes."""
    more = ["--num-values", "4", "--dropout", "0.2"]
    trained(tmp_path, *more, epochs=6, folder="whole")
    command = [sys.executable, "-u", PAPER / "train.py"]
    command += flags(tmp_path, *more, epochs=6, folder="killed")
    command[command.index("--verbose") + 1] = 2
    process = subprocess.Popen(
        [str(word) for word in command],
        env=os.environ | {"PYTHONPATH": str(PAPER.parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    while "Epoch 4/6" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    unfinished = [temporary_path_beside(tmp_path / "killed" / name) for name in ("run.json", "state/best.npz")]
    for path in unfinished:
        path.touch()
    trained(tmp_path, *more, epochs=6, folder="killed")
    assert not any(path.exists() for path in unfinished)
    assert_equal_states(tmp_path, "whole", "killed")


def test_a_run_learns_the_digits_and_reports_what_its_saved_weights_reach(tmp_path, capsys):
    row = trained(tmp_path, *LEARNED, "--data-dir", "/somewhere/private", epochs=12)
    assert f"| {100 * float(row['test_best']):.2f} |" in capsys.readouterr().out
    assert float(row["test_best"]) > 0.9
    assert row["name"] == "ours-lenet300100-learned" and row["dataset"] == "digits"
    assert row["keras"] == keras.__version__ and row["epochs_done"] == "12"
    assert row["command"].startswith("python examples/paper/train.py --dataset digits")
    assert "--data-dir DIR" in row["command"] and "private" not in row["command"]
    assert str(tmp_path) not in row["command"]
    assert row["device"].endswith(f", {os.cpu_count()} cores")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert list(history["epoch"]) == list(range(1, 13))
    assert history["learning_rate"].is_monotonic_decreasing
    assert float(row["val_best"]) == pytest.approx(history["val_accuracy"].max())
    # The network by hand, out of the saved state.
    weights = state(tmp_path / "run", "best")[:3]
    _, _, x_test, y_test = read_arrays("digits")
    data = training.load_data(training.recipe_of(tmp_path / "run"), cli.Options())
    hidden = ((x_test / 255.0 - data.mean) / data.std).reshape(len(x_test), -1)
    for weight in weights[:2]:
        hidden = np.maximum(hidden @ weight, 0)
    accuracy = np.mean((hidden @ weights[2]).argmax(-1) == y_test)
    assert float(row["test_best"]) == pytest.approx(accuracy, abs=1.5 / len(y_test))


def test_a_finished_run_is_reported_again_and_its_row_stays_alone_or_comes_back(tmp_path):
    first = trained(tmp_path, *LEARNED)
    for lost in (False, True):
        if lost:
            (tmp_path / "results.csv").unlink()
        assert trained(tmp_path, *LEARNED) == first
        assert len(rows_of(tmp_path / "results.csv")) == 1


@pytest.mark.quick("conv6bn")
@pytest.mark.parametrize("network", ["conv2", "conv4", "conv6", "conv6bn", "resnet8", "vgg19"])
def test_every_network_trains_a_step_on_a_local_file(tmp_path, network):
    x, y = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), "uint8"), np.arange(24) % 3
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    recipe = recipes.make_recipe(f"ours-{network}-ns-k2")
    recipe = dataclasses.replace(recipe, batch_size=16, epochs=1)
    options = options_of(tmp_path, data_dir=str(tmp_path))
    row = training.train(recipe, tmp_path / "run", options)
    assert row["network"] == network and 0 <= row["test_last"] <= 1
    assert (row["test_averaged"] is None) == (network == "conv6bn")


@pytest.mark.tensorflow
@pytest.mark.jax
@pytest.mark.slow
def test_two_devices_train_like_one(tmp_path):
    """Runs on as many logical CPUs as the test session has; one is the control."""
    for strategy, devices in (("none", 1), ("auto", 1), ("mirrored", 2)):
        assert training.choose_devices(strategy)[1] == devices
        row = trained(tmp_path, *LEARNED, "--strategy", strategy, folder=strategy)
        assert row["devices"] == str(devices)
        for one, other in zip(state(tmp_path / strategy), state(tmp_path / "none"), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_averaged_weights_are_the_mean_over_the_last_steps(tmp_path):
    """And those of a slot machine are levers: banks have no mean."""
    recipe = recipe_of(averaging=0.5, augmentation="none", learning_rate=3.0)
    row = training.train(recipe, tmp_path / "run", options_of(tmp_path))
    recipe, model = training.load_model(tmp_path / "run", "last")
    trainable, arrays = model.trainable_variables, state(tmp_path / "run")
    assert all("lever" in variable.path for variable in trainable)
    averages = arrays[-2 * len(trainable) : -len(trainable)]  # the momentum comes after them
    for variable, average in zip(trainable, averages, strict=True):
        assert not np.array_equal(variable, average)
        variable.assign(average)
    x, y, _ = training.load_data(recipe, cli.Options()).evaluation("validation")
    accuracy = (model.predict(x, verbose=0).argmax(-1) == y).mean()
    assert row["val_averaged"] == pytest.approx(accuracy, abs=1e-6)


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    trained(tmp_path, *LEARNED)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="holds another run; choose another --run-dir"):
        trained(tmp_path, *LEARNED, "--seed", 5)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_results_file_with_other_columns_is_refused(tmp_path):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match="has other columns; choose another --results"):
        trained(tmp_path, *LEARNED)
    assert (tmp_path / "results.csv").read_text() == "a,b\n1,2\n"


def test_a_wrong_flag_is_answered_before_anything_is_written(tmp_path, capsys):
    wrong = {"--network": "resnet", "--num-values": "0", "--dropout": "1.5", "--save-epochs": "1,x"}
    for flag, value in wrong.items():
        with pytest.raises(SystemExit):
            run("train", *flags(tmp_path, flag, value))
        assert value.rpartition(",")[2] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_leave_the_last_good_state(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    runs.save_state(tmp_path / "last.npz", model)
    before = (tmp_path / "last.npz").read_bytes()
    model.layers[0].kernel.assign([[0.0, np.nan], [0.0, 0.0]])
    with pytest.raises(SystemExit, match="NaN or infinity: .* keeps the last good epoch"):
        runs.save_state(tmp_path / "last.npz", model)
    assert (tmp_path / "last.npz").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    with pytest.raises(SystemExit, match="The loss of epoch 1 is .*lower --learning-rate"):
        trained(tmp_path, *LEARNED, "--learning-rate", "1e30")
    assert not list((tmp_path / "run" / "state").iterdir())
