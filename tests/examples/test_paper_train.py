"""train.py end to end: results, resuming, refusing."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from example_scripts import DIGITS, error_of, run

import recipes
import runs
import training
from sources import read_arrays

PAPER = Path(training.__file__).parent
LEARNED = ["--method", "learned"]


def flags(tmp_path, *more, epochs=2, folder="run"):
    places = ["--run-dir", tmp_path / folder, "--results", tmp_path / "results.csv"]
    return [*DIGITS, "--epochs", epochs, *places, *more]


def trained(tmp_path, *more, **places):
    """Trains, and returns the last row of the results file."""
    assert run("train", *flags(tmp_path, *more, **places)) == 0
    return runs.read_rows(tmp_path / "results.csv")[-1]


def state(path):
    """The arrays of a state file without its JSON part, which holds times."""
    return runs.read_state(path)[0]


def assert_equal_states(folder, names, *run_dirs):
    for name in names:
        a, b = (state(folder / run_dir / "state" / f"{name}.npz") for run_dir in run_dirs)
        assert list(a) == list(b)
        np.testing.assert_equal(a, b)


def recipe_and_options(tmp_path, folder="run", **fields):
    fields = {"dataset": "digits", "batch_size": 64, "epochs": 3} | fields
    recipe = dataclasses.replace(recipes.get_recipe("ours-lenet300100-gs"), **fields)
    places = {"run_dir": str(tmp_path / folder), "results": str(tmp_path / "r.csv")}
    return recipe, recipes.Options(**places, verbose=0)


class StopAfter(keras.callbacks.Callback):
    """A run that dies after an epoch was saved."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            raise KeyboardInterrupt


SLOT = {"method": "slot", "score_mode": "per_value", "num_values": 4}
VARIANTS = {
    "learned": {"method": "learned", "weight_decay": 1e-3},
    "learned with dropout and shifts": {
        "method": "learned",
        "dropout": 0.3,
        "augmentation": "shift",
        "schedule": "warm_restarts",
        "schedule_epoch": 1,
    },
    "greedy": SLOT,
    "greedy by lever": SLOT | {"score_mode": "per_connection", "weight_decay": 1e-4},
    "probabilistic": SLOT | {"selection": "probabilistic", "learning_rate": 20.0},
    "network-shared values": SLOT | {"sharing": "network", "num_values": 8},
}


@pytest.mark.quick("probabilistic")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, variant):
    rows = []
    for folder in ("whole", "broken"):
        recipe, options = recipe_and_options(tmp_path, folder, **VARIANTS[variant])
        if folder == "broken":
            with pytest.raises(KeyboardInterrupt):
                training.train(recipe, options, callbacks=[StopAfter(2)])
            assert not (tmp_path / folder / "results.json").exists()
        rows.append(training.train(recipe, options))
    assert_equal_states(tmp_path, ("last", "best"), "whole", "broken")
    for column in ("train_last", "val_best", "test_best", "val_last", "test_last", "best_epoch"):
        assert rows[0][column] == rows[1][column]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(tmp_path):
    """By SIGKILL, in a process of its own, wherever it comes."""
    more = ["--network", "lenet300100", "--num-values", "4", "--dropout", "0.2", "--verbose", "2"]
    more += ["--averaging", "0.9"]
    trained(tmp_path, *more, epochs=6, folder="whole")
    command = [sys.executable, "-u", PAPER / "train.py"]
    command += flags(tmp_path, *more, epochs=6, folder="killed")
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
    trained(tmp_path, *more, epochs=6, folder="killed")
    assert_equal_states(tmp_path, ("last", "best", "averaged"), "whole", "killed")


def test_a_run_learns_the_digits_and_reports_what_its_saved_weights_reach(tmp_path, capsys):
    row = trained(tmp_path, *LEARNED, "--data-dir", "/somewhere/private", epochs=12)
    printed = capsys.readouterr().out
    assert "best epoch" in printed and "test %" in printed
    assert float(row["test_best"]) > 0.9
    assert row["name"] == "ours-lenet300100-learned" and row["dataset"] == "digits"
    assert row["keras"] == keras.__version__ and row["epochs_done"] == "12"
    assert row["command"].startswith("python examples/paper/train.py --dataset digits")
    assert "--data-dir DIR" in row["command"] and "private" not in row["command"]
    assert row["device"].endswith(f", {os.cpu_count()} cores")
    assert float(row["cpu_seconds_total"]) > 0
    with open(tmp_path / "run" / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    assert [int(line["epoch"]) for line in history] == list(range(1, 13))
    assert float(history[0]["learning_rate"]) > float(history[-1]["learning_rate"])
    assert float(row["val_best"]) == max(float(line["val_accuracy"]) for line in history)
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert saved["row"]["run_id"] == row["run_id"] and len(saved["history"]) == 12
    # The network by hand, out of the saved state.
    weights = list(state(tmp_path / "run" / "state" / "best.npz").values())[:3]
    _, _, x_test, y_test = read_arrays("digits")
    data = training.load_data(training.recipe_of(tmp_path / "run")[0], recipes.Options())
    hidden = ((x_test / 255.0 - data.mean) / data.std).reshape(len(x_test), -1)
    for weight in weights[:2]:
        hidden = np.maximum(hidden @ weight, 0)
    accuracy = np.mean((hidden @ weights[2]).argmax(-1) == y_test)
    assert float(row["test_best"]) == pytest.approx(accuracy, abs=1.5 / len(y_test))


def test_a_finished_run_is_reported_again_and_its_row_stays_alone_or_comes_back(tmp_path, capsys):
    for lost in (False, False, True):
        if lost:
            (tmp_path / "results.csv").unlink()
        trained(tmp_path, *LEARNED)
        assert "last epoch (2)" in capsys.readouterr().out
        assert len(runs.read_rows(tmp_path / "results.csv")) == 1


def test_without_validation_images_the_last_epoch_is_the_best(tmp_path):
    row = trained(tmp_path, *LEARNED, "--validation-share", "0", "--limit-steps", "3")
    assert row["best_epoch"] == "2" and row["val_best"] == ""
    assert row["test_best"] == row["test_last"]


def test_asked_for_epochs_are_kept_from_before_the_first_on(tmp_path):
    trained(tmp_path, *LEARNED, "--save-epochs", "0,2", epochs=3)
    kept = sorted(path.name for path in (tmp_path / "run").glob("state/epoch-*.npz"))
    assert kept == ["epoch-0.npz", "epoch-2.npz"]


@pytest.mark.slow
@pytest.mark.quick("conv2")
@pytest.mark.parametrize(
    "network", ["conv2", "conv4", "conv6", pytest.param("vgg19", marks=pytest.mark.slow)]
)
def test_every_network_trains_a_step_on_a_local_file(tmp_path, network):
    x, y = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), "uint8"), np.arange(24) % 3
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    more = ["--network", network, "--dataset", "npz", "--data-dir", tmp_path / "x.npz"]
    more += ["--batch-size", 8, "--limit-steps", 1, "--score-mode", "per_value", "--num-values", 2]
    row = trained(tmp_path, *more, epochs=1)
    assert row["network"] == network and row["limit_steps"] == "1"


_STATES = pytest.StashKey()


@pytest.mark.parametrize("strategy", ["none", "mirrored"])
def test_two_devices_train_like_one(tmp_path, strategy, request):
    """Runs on as many logical CPUs as the test session has; one is the control."""
    trained(tmp_path, *LEARNED, "--strategy", strategy)
    done = request.config.stash.setdefault(_STATES, {})
    done[strategy] = state(tmp_path / "run" / "state" / "last.npz")
    if len(done) == 2:
        for name, array in done["none"].items():
            np.testing.assert_allclose(done["mirrored"][name], array, atol=1e-5)


def test_choose_devices_refuses_batches_that_cannot_be_spread_evenly():
    assert training.choose_devices("none", 63) == training.choose_devices("auto", 63) == (None, 1)
    assert training.choose_devices("mirrored", 64)[1] == 2
    with pytest.raises(runs.RunError, match="63 cannot be spread evenly over 2 devices"):
        training.choose_devices("mirrored", 63)


def test_a_limited_run_has_a_folder_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--limit-steps", "1"]):
        assert run("train", *DIGITS, "--epochs", "1", *LEARNED, *more) == 0
    assert "limited to 1 batches: no result" in capsys.readouterr().out
    rows = runs.read_rows(tmp_path / "runs" / "results.csv")
    assert [row["limit_steps"] for row in rows] == ["0", "1"]


def test_averaged_weights_are_the_mean_over_the_last_steps(tmp_path):
    """And those of a slot machine are levers: banks have no mean."""
    more = ["--num-values", "4", "--averaging", "0.5", "--limit-steps", "2"]
    row = trained(tmp_path, *more, epochs=3)
    last, averaged = (state(tmp_path / "run" / "state" / f"{n}.npz") for n in ("last", "averaged"))
    name = "model/0/dense1/kernel/lever"
    means = [n for n in last if n.startswith("optimizer") and "lever" in n and "average" in n]
    assert len(means) == 3 and name in averaged
    np.testing.assert_array_equal(averaged[name], last[means[0]])
    assert not np.array_equal(averaged[name], last[name])
    assert not any("bank" in n for n in last)
    recipe, model = training.load_model(tmp_path / "run", "averaged")
    data = training.load_data(recipe, recipes.Options())
    x, y = data.splits["validation"]
    logits = model.predict(data.normalise(x), verbose=0)
    assert float(row["val_averaged"]) == pytest.approx((logits.argmax(-1) == y).mean(), abs=1e-6)


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


# What is there before, flags, and what the answer says.
REFUSED = [
    ({}, ["--batch-size", "100000"], "fewer than one batch"),
    ({}, ["--dataset", "mnist", "--data-dir", "nowhere"], "no prepared mnist in .*--download"),
    ({"run/thesis.tex": "mine"}, [], "holds files of something else"),
    ({"run": ""}, [], "cannot write the run folder"),
    ({"results.csv": "a,b\n1,2\n"}, [], "has other columns than a results file"),
    (None, ["--seed", "5"], r"holds another run \(seed: there 0, here 5\).*--run-dir"),
]


@pytest.mark.parametrize(("before", "more", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_what_cannot_be_trained_is_one_line_and_leaves_all_as_it_was(
    tmp_path, capsys, before, more, text
):
    if before is None:
        trained(tmp_path, *LEARNED)
    for name, content in (before or {}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    capsys.readouterr()
    files = files_of(tmp_path)
    line = error_of(capsys, "train", *flags(tmp_path, *LEARNED, *more), status=1)
    assert re.search(text, line), line
    assert files_of(tmp_path) == files
    assert (tmp_path / "run").exists() == (before is None or any("run" in n for n in before))


def test_a_folder_in_use_is_refused_and_one_that_a_kill_left_is_cleared(tmp_path):
    with runs.open_run(tmp_path, {"a": 1}) as folder:
        with pytest.raises(runs.RunError, match="in use by another process"):
            runs.open_run(tmp_path, {"a": 1}).__enter__()
        (folder / "state" / ".last.npz.0123abcd").write_bytes(b"half a state")
    with runs.open_run(tmp_path, {"a": 1}) as folder:
        assert not list((folder / "state").iterdir())


@pytest.mark.parametrize("fails", ["fsync", "replace", "not finite"])
def test_a_failing_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    runs.save_state(tmp_path / "last.npz", model)
    before = (tmp_path / "last.npz").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    text, value = "cannot write .*: .*No space left on device", 0.0
    if fails == "not finite":
        text, value = "model/0/.*kernel holds NaN or infinity.*lower --learn", np.nan
    else:
        monkeypatch.setattr(os, fails, full)
    model.layers[0].kernel.assign([[0.0, value], [0.0, 0.0]])
    with pytest.raises(runs.RunError, match=text):
        runs.save_state(tmp_path / "last.npz", model)
    assert [path.name for path in tmp_path.iterdir()] == ["last.npz"]
    assert (tmp_path / "last.npz").read_bytes() == before


def test_a_damaged_state_is_named(tmp_path):
    recipe, options = recipe_and_options(tmp_path, method="learned")
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, options, callbacks=[StopAfter(1)])
    last = tmp_path / "run" / "state" / "last.npz"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(runs.RunError, match=r"cannot read the state .*last.npz"):
        training.train(recipe, options)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path, capsys):
    more = [*LEARNED, "--learning-rate", "1e30"]
    line = error_of(capsys, "train", *flags(tmp_path, *more), status=1)
    assert "the loss of epoch 1 is" in line and "lower --learning-rate" in line
    assert not (tmp_path / "run" / "state" / "last.npz").exists()


class PoisonsTheWeights(keras.callbacks.Callback):
    """The last step of an epoch gives weights that are not finite, and its loss does not show it."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) > 30:  # in the second epoch
            variable = self.model.trainable_variables[-1]
            variable.assign(np.full(variable.shape, np.inf))


@pytest.mark.parametrize("variant", ["learned", "greedy by lever"])
def test_weights_that_are_not_finite_are_not_saved_whatever_the_loss_is(tmp_path, variant):
    recipe, options = recipe_and_options(tmp_path, **VARIANTS[variant])
    with pytest.raises(runs.RunError, match="NaN or infinity|the loss of epoch 2 is"):
        training.train(recipe, options, callbacks=[PoisonsTheWeights()])
    arrays, extra = runs.read_state(tmp_path / "run" / "state" / "last.npz")
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert len(extra["history"]) == 1


@pytest.mark.jax
def test_on_jax_training_imports_no_tensorflow(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import train; train.app(sys.argv[2:]);"
        "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'"
    )
    more = flags(tmp_path, "--limit-steps", 2, epochs=1)
    command = [sys.executable, "-c", code, str(PAPER), *map(str, more)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = runs.read_rows(tmp_path / "results.csv")
    assert row["backend"] == "jax" and row["jax"] and not row["tensorflow"]


def test_lists_and_shows_recipes_without_training(capsys):
    assert run("train", "--list-recipes") == 0
    assert "paper-conv6-ps-k64" in capsys.readouterr().out.split()
    assert run("train", "--recipe", "paper-conv6-ps-k64", "--show") == 0
    assert "probabilistic" in capsys.readouterr().out
    for more, expected in (
        (["--recipe", "conv2-learned"], ["paper", "author", "ours"]),
        (["--network", "conv2", *LEARNED, "--padding", "author"], ["author"]),
        (["--recipe", "conv2-learned", "--network", "conv4"], []),
    ):
        assert run("train", "--list-recipes", *more) == 0
        listed = capsys.readouterr().out.split()
        assert listed == [f"{kind}-conv2-learned" for kind in expected]
