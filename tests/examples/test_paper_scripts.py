"""finetune.py, sweep.py, tune.py, compare.py, size.py, plots.py and learning_rates.py, small and end to end."""

import csv
import dataclasses

import numpy as np
import pytest
from example_scripts import DIGITS, error_of, run
from test_paper_recipes import recipes_of

import cli
import recipes
import runs

# The scripts train with tf.data and tf.distribute.
pytestmark = pytest.mark.tensorflow

HELPFUL = [
    *("train", "finetune", "sweep", "tune", "compare", "plots", "report", "learning_rates"),
    "size",
]


def printed_table(capsys, *flags, status=0):
    """The words of each line that a script prints."""
    assert run(*flags) == status
    return [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A finished slot run that kept three epochs."""
    folder = tmp_path_factory.mktemp("selected")
    places = ["--run-dir", folder / "run", "--results", folder / "results.csv"]
    flags = [*DIGITS, "--num-values", "4", *places, "--epochs", 4, "--save-epochs", "0,1,3"]
    assert run("train", *flags) == 0
    return folder / "run"


@pytest.mark.slow
def test_runs_are_compared_connection_by_connection(selected, capsys):
    import training

    flags = ["compare", selected, selected]
    line = printed_table(capsys, *flags, "--state", "0", "--other-state", "3")[1]
    kernels = [np.asarray(training.load_model(selected, n)[1].layers[2].kernel) for n in (0, 3)]
    assert line[:2] == ["dense1", f"{kernels[0].size:,}"]
    assert float(line[2]) == pytest.approx(100 * (kernels[0] == kernels[1]).mean(), abs=0.01)
    assert printed_table(capsys, *flags)[-1][-1] == "100.00"


def test_only_runs_with_the_same_values_are_compared(selected, tmp_path, capsys):
    places = ["--run-dir", tmp_path / "run", "--results", tmp_path / "results.csv"]
    more = ["--num-values", 2, "--epochs", 1, "--limit-steps", 1]
    assert run("train", *DIGITS, *more, *places) == 0
    capsys.readouterr()
    line = error_of(capsys, "compare", selected, tmp_path / "run", status=1)
    assert "have other values: num_values is 4 and 2" in line


def finetune(selected, tmp_path, *more):
    places = ["--out", tmp_path / "arms", "--results", tmp_path / "results.csv"]
    return ["finetune", selected, *places, "--verbose", "0", *more]


@pytest.mark.slow
def test_all_arms_get_the_same_total_epochs(selected, tmp_path, capsys):
    arms = finetune(selected, tmp_path, "--from", "1,3,last", "--total-epochs", 6)
    assert [line[:3] for line in printed_table(capsys, *arms)[-4:]] == [
        ["from-1", "1", "5"],
        ["from-3", "3", "3"],
        ["from-last", "4", "2"],
        ["scratch", "0", "6"],
    ]
    names = [row["name"] for row in runs.read_rows(tmp_path / "results.csv")]
    assert names == [f"finetune-{arm}" for arm in ("from-1", "from-3", "from-last", "scratch")]
    printed_table(capsys, *arms)
    assert len(runs.read_rows(tmp_path / "results.csv")) == 4
    both = ["plots", "finetune", tmp_path / "arms", tmp_path / "arms", "--out", tmp_path / "f.png"]
    assert [line[:3] for line in printed_table(capsys, *both)[1:5]] == [
        ["scratch", "0", "2"],
        ["from-1", "1", "2"],
        ["from-3", "3", "2"],
        ["from-last", "4", "2"],
    ]
    assert (tmp_path / "f.png").stat().st_size > 5000
    # Before its first weight epoch an arm has what the selected network had.
    start = runs.read_json(tmp_path / "arms" / "from-3" / "results.json")["start"]
    history = runs.read_json(selected / "results.json")["history"]
    assert start == pytest.approx(history[2]["val_accuracy"])


@pytest.mark.slow
def test_fine_tuning_starts_at_the_selected_weights(selected, tmp_path):
    import training

    flags = ["--from", "3", "--save-epochs", 0, "--total-epochs", 8, "--limit-steps", 1]
    assert run(*finetune(selected, tmp_path, *flags)) == 0
    _, slots = training.load_model(selected, 3)
    # What a state of the arm holds: its weights in the order of the layers.
    kernels = runs.read_state(tmp_path / "arms" / "from-3" / "state" / "epoch-0.npz")[0]
    expected = [np.asarray(layer.kernel) for layer in slots.layers if hasattr(layer, "kernel")]
    np.testing.assert_equal(list(kernels.values()), expected)
    rows = runs.read_rows(tmp_path / "results.csv")
    assert [(row["method"], row["epochs"]) for row in rows] == [("learned", "5"), ("learned", "8")]
    _, trained = training.load_model(tmp_path / "arms" / "from-3", "last")
    assert not np.array_equal(trained.get_layer("dense1").kernel, expected[0])


def sweep(tmp_path, *more):
    places = ["--runs-dir", tmp_path, "--results", tmp_path / "results.csv"]
    return ["sweep", *DIGITS, "--epochs", 1, *places, *more]


@pytest.mark.slow
def test_a_sweep_trains_the_grid_once_and_goes_on_where_it_stopped(tmp_path, capsys):
    assert run(*sweep(tmp_path, "--num-values", "2", "--seeds", 2, "--learned")) == 0
    assert "4 runs, 0 done, 4 to train" in capsys.readouterr().out
    rows = runs.read_rows(tmp_path / "results.csv")
    assert len(rows) == 4 and len({row["run_id"] for row in rows}) == 4
    assert run(*sweep(tmp_path, "--num-values", "2,3", "--seeds", 2, "--learned")) == 0
    printed = capsys.readouterr().out
    assert "6 runs, 4 done, 2 to train" in printed
    last = [line.split() for line in printed.splitlines()[-3:]]
    assert [line[0].split("-")[-1] for line in last] == ["learned", "k2", "k3"]
    mean = np.mean([100 * float(row["test_best"]) for row in rows if row["num_values"] == "2"])
    assert float(last[1][2]) == pytest.approx(mean, abs=0.01)
    source = [*[tmp_path / "results.csv"] * 2, "--dataset", "digits", "--out", tmp_path / "k.svg"]
    for figure in ("accuracy", "selections"):
        assert run("plots", figure, *source) == 0
        assert (tmp_path / "k.svg").stat().st_size > 5000


def test_a_sweep_goes_over_selection_and_sharing(tmp_path, capsys):
    more = ["--selection", "greedy,probabilistic", "--sharing", "layer,network", "--dry-run"]
    planned = printed_table(capsys, *sweep(tmp_path, "--num-values", "8", *more))[1:]
    names = ("gs-layer", "gs-network", "ps-layer", "ps-network")
    assert [line[0] for line in planned] == [f"ours-lenet300100-{name}" for name in names]


def test_a_limited_sweep_says_so(tmp_path, capsys):
    assert run(*sweep(tmp_path, "--only-learned", "--limit-steps", 1)) == 0
    assert "runs limited to 1 batches: no results" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failing_cell_does_not_stop_the_others(tmp_path, capsys):
    wrong = ["--selection", "greedy", "--num-values", "2,4", "--learning-rate", "1e38"]
    assert run(*sweep(tmp_path, *wrong, "--bank-scale", "1e30")) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2 and "ours-lenet300100-gs-k4, seed 0: error: the loss" in errors[1]


def tune(tmp_path, *more):
    places = ["--out", tmp_path / "tuning", "--results", tmp_path / "results.csv"]
    few = ["--limit-steps", 4, "--epochs", 1, "--tuner", "random"]
    return ["tune", *DIGITS, *few, *places, *more]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # keras-tuner's own
def test_a_search_tries_its_trials_and_goes_on_where_it_stopped(tmp_path, capsys):
    assert run(*tune(tmp_path, "--trials", 2)) == 0
    table = tmp_path / "tuning" / "trials.csv"
    first = table.read_text().splitlines()
    assert run(*tune(tmp_path, "--trials", 3)) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 trials completed, 1 epochs each, limited to 4 batches: no results" in printed
    second = table.read_text().splitlines()
    assert set(first) < set(second)
    trials = list(csv.DictReader(second))
    assert len(trials) == 3
    scores = [float(trial["validation_accuracy"]) for trial in trials]
    assert scores == sorted(scores, reverse=True)
    rows = runs.read_rows(tmp_path / "results.csv")
    assert sorted(float(row["val_best"]) for row in rows) == sorted(scores)
    assert {row["num_values"] for row in rows} == {trial["num_values"] for trial in trials}
    # A search can be repeated: keras-tuner would draw another seed in the place of 0.
    oracle = runs.read_json(tmp_path / "tuning" / "keras_tuner" / "oracle.json")
    assert oracle["seed"] == 10_001
    # Each trial says what it tries, and the end where all is and how the best one is trained.
    best = max(rows, key=lambda row: float(row["val_best"]))
    lines = printed.splitlines()
    assert len([x for x in lines if x.startswith("trial 2: ")]) == 2
    assert str(table) in lines[-2] and str(tmp_path / "results.csv") in lines[-2]
    recipe = dataclasses.asdict(recipes_of(lines[-1].partition(": ")[2])[0])
    for name in ("dataset", "epochs", "num_values", "learning_rate", "bank_scale"):
        assert str(recipe[name]) == best[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # keras-tuner's own
def test_the_folder_of_another_search_is_refused(tmp_path, capsys):
    fixed = ["--fixed", "num_values,bank_scale", "--trials", 1]
    assert run(*tune(tmp_path, *fixed)) == 0
    assert [row["num_values"] for row in runs.read_rows(tmp_path / "results.csv")] == ["8"]
    capsys.readouterr()
    line = error_of(capsys, *tune(tmp_path, "--trials", 1), status=1)
    assert "holds another run (search: there" in line


WRONG = [
    (sweep, ["--num-values", "2,0"], "expected positive numbers. Received: 0"),
    (sweep, ["--num-values", "2,x"], "expected positive numbers. Received: x"),
    (sweep, ["--selection", "best"], "names out of greedy, probabilistic. Received: best"),
    (sweep, ["--seeds", "0"], "--seeds must be at least 1"),
    (tune, ["--validation-share", 0], "a search needs validation images"),
    (tune, ["--fixed", "epochs"], "names out of num_values, learning_rate, bank_scale"),
    (tune, ["--method", "learned"], "leave --method learned out"),
    (tune, ["--trials", 0], "--trials must be at least 1"),
    (finetune, ["--from", "3", "--total-epochs", 3], "more than the 3 epochs of state 3"),
    (finetune, ["--from", "first"], "expected best, last or epochs. Received: first"),
]


@pytest.mark.parametrize(("script", "more", "text"), WRONG, ids=[text for *_, text in WRONG])
def test_a_wrong_flag_of_a_script_is_refused(selected, tmp_path, capsys, script, more, text):
    places = (selected, tmp_path) if script is finetune else (tmp_path,)
    assert text in error_of(capsys, *script(*places, *more), status=2)


@pytest.mark.slow
def test_size_tells_what_the_unpacked_file_of_a_run_reaches(selected, tmp_path, capsys):
    import training
    from keras_slots import save_slots

    out = tmp_path / "sizes.csv"
    printed = printed_table(capsys, "size", selected, "--state", "last", "--out", out)
    (row,), (trained,) = runs.read_rows(out), runs.read_rows(selected.parent / "results.csv")
    assert float(row["test"]) == pytest.approx(float(trained["test_last"]), abs=1e-6)
    assert float(row["validation"]) == pytest.approx(float(trained["val_last"]), abs=1e-6)
    assert (row["num_values"], row["scores"], row["move_penalty"]) == ("4", "uniform", "0.0")
    (_, model), (_, before) = (training.load_model(selected, state) for state in ("last", 0))
    path = save_slots(model, tmp_path / "m.slots")
    assert int(row["bytes"]) == path.stat().st_size
    pairs = list(zip(model.layers[2:], before.layers[2:], strict=True))
    same = np.concatenate([np.ravel(np.asarray(a.kernel) == b.kernel) for a, b in pairs])
    assert float(row["kept"]) == pytest.approx(same.mean(), abs=1e-4)
    # All but the architecture, in bits.
    assert 0 < float(row["bits"]) < 8 * int(row["bytes"]) / same.size
    assert printed[1][-3:] == [row["bytes"], row["bits"], f"{100 * same.mean():.2f}"]
    # Once packed is enough, and what is no run does not keep the others from being packed.
    assert run("size", tmp_path, selected, "--state", "last", "--out", out) == 1
    told = capsys.readouterr()
    assert [line.split() for line in told.out.splitlines()] == printed
    assert "is not a run folder" in told.err
    assert f"[1/2] {tmp_path.name}" in told.err and "[2/2] run" in told.err
    assert runs.read_rows(out) == [row]


def test_the_weights_figure_shows_every_kept_epoch(selected, tmp_path, capsys):
    table = printed_table(capsys, "plots", "weights", selected, "--out", tmp_path / "w.png")
    assert [line[1] for line in table[1:4]] == ["0", "1", "3"]
    # Before training the choice is by chance: as large as what is on offer.
    assert float(table[1][-1]) == pytest.approx(1.0, abs=0.02)


def test_plots_keep_runs_apart_that_differ_in_more_than_the_seed(tmp_path, capsys):
    rows = []
    for mode, share in (("per_value", 0.8), ("per_connection", 0.9)):
        for k in (2, 8):
            recipe = recipes.make_recipe("ours", "lenet300100", "gs", k)
            fields = dataclasses.asdict(dataclasses.replace(recipe, score_mode=mode))
            fields |= {"run_id": f"{mode}{k}", "limit_steps": 0, "test_best": share}
            rows.append(fields)
    runs.write_csv(tmp_path / "r.csv", rows)
    flags = ["plots", "accuracy", tmp_path / "r.csv", "--out", tmp_path / "a.svg"]
    assert [line[:4] for line in printed_table(capsys, *flags)[1:5]] == [
        ["per_connection", "2", "1", "90.00"],
        ["per_connection", "8", "1", "90.00"],
        ["per_value", "2", "1", "80.00"],
        ["per_value", "8", "1", "80.00"],
    ]


def test_plots_sizes_draws_a_curve_for_each_kind_of_values(tmp_path, capsys):
    names = ("num_values", "move_penalty", "seed", "bytes", "test", "bank_scale")
    values = [
        (8, 0.0, 0, 40_000, 0.99, 1.0),
        (8, 1e-5, 0, 30_000, 0.98, 1.0),
        (8, 1e-5, 1, 20_000, 0.97, 1.0),
        (4, 0.0, 0, 25_000, 0.96, 1.0),
        (4, 0.0, 1, 26_000, 0.95, 1.5),
    ]
    same = {"run_id": 0, "network": "lenet300100", "scores": "nearest", "state": "best"}
    runs.write_csv(tmp_path / "s.csv", [same | dict(zip(names, v, strict=True)) for v in values])
    flags = ["plots", "sizes", tmp_path / "s.csv", "--out", tmp_path / "s.svg"]
    assert [" ".join(line) for line in printed_table(capsys, *flags)[1:-1]] == [
        "nearest, K = 4, bank scale 1.0 0 1 25000 96.00",
        "nearest, K = 4, bank scale 1.5 0 1 26000 95.00",
        "nearest, K = 8 0 1 40000 99.00",
        "nearest, K = 8 1e-05 2 25000 97.50",
    ]


def test_plots_curves_shows_validation_accuracy_of_each_epoch(selected, tmp_path, capsys):
    (row,) = runs.read_rows(selected.parent / "results.csv")
    table = printed_table(capsys, "plots", "curves", selected, "--out", tmp_path / "c.png")
    assert table[1] == ["run", "4", f"{100 * float(row['val_last']):.2f}"]


# Figure, rows of the results file in the place of those of the run, flags, status, answer.
UNDRAWABLE = [
    ("accuracy none.csv", None, [], 1, "is no results file with rows"),
    ("accuracy r.csv", {}, ["--network", "conv2"], 1, "has no slot runs of conv2; train"),
    (
        "accuracy r.csv",
        {"limit_steps": "5"},
        ["--dataset", "digits"],
        1,
        "no slot runs of lenet300100 but those limited by --limit-steps; train",
    ),
    ("sizes r.csv", {}, [], 1, "has no rows of size.py"),
    ("finetune .", None, [], 1, "holds no finished arm"),
    ("weights .", None, [], 1, "is not a run folder"),
    ("weights .", None, ["--out", "x.jpeg"], 2, "must end in .png"),
]


@pytest.mark.parametrize(("figure", "row", "more", "status", "text"), UNDRAWABLE)
def test_plots_refuse_what_they_cannot_draw(
    selected, tmp_path, monkeypatch, capsys, figure, row, more, status, text
):
    monkeypatch.chdir(tmp_path)
    if row is not None:
        (known,) = runs.read_rows(selected.parent / "results.csv")
        runs.write_csv("r.csv", [known | row])
    flags = [*figure.split(), "--out", "x.png", *more]
    assert text in error_of(capsys, "plots", *flags, status=status)


@pytest.mark.parametrize("script", HELPFUL)
def test_help_says_what_a_script_does(script, capsys):
    assert run(script, "--help") == 0
    printed = capsys.readouterr().out
    assert f"python examples/paper/{script}.py" in printed and "Exit status" in printed


@pytest.mark.slow
def test_learning_rates_trains_each_setting_once(tmp_path, monkeypatch, capsys):
    import learning_rates

    x, y = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), "uint8"), np.arange(60) % 10
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    small = {"TRAIN": 40, "VALIDATION": 20, "EPOCHS": 1, "BATCH": 20, "RATES": {"sgd": (0.1,)}}
    for name, value in small.items():
        monkeypatch.setattr(learning_rates, name, value)
    flags = ["--networks", "mlp", "--data-dir", tmp_path, "--results", tmp_path / "r.csv"]
    for again in (False, True):
        assert run("learning_rates", *flags) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len([line for line in lines if line.startswith("mlp-")]) == 3 * (not again)
        assert [line.split(" | ")[1] for line in lines[-5:-2]] == ["plain", "nearest", "paper"]
    assert len(runs.read_rows(tmp_path / "r.csv")) == 3


def test_the_command_of_a_results_row_names_no_place_of_the_machine():
    words = ["/runs/a", "--data-dir", "data", "--results", "/tmp/x/r.csv", "--seeds", "2"]
    expected = "python examples/paper/sweep.py a --data-dir DIR --results r.csv --seeds 2"
    assert cli.command_line("/home/examples/paper/sweep.py", *words) == expected
