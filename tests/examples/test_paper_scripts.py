"""finetune.py, sweep.py, tune.py, export.py, compare.py and plots.py, small and end to end."""

import csv
import dataclasses

import keras
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
SLOT = [*DIGITS, "--num-values", "4"]


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A finished slot run that kept three epochs."""
    folder = tmp_path_factory.mktemp("selected")
    places = ["--run-dir", folder / "run", "--results", folder / "results.csv"]
    assert run("train", *SLOT, *places, "--epochs", 4, "--save-epochs", "0,1,3") == 0
    return folder / "run"


def test_runs_are_compared_connection_by_connection(selected, capsys):
    import training

    assert run("compare", selected, selected, "--state", "0", "--other-state", "3") == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    kernels = [np.asarray(training.load_model(selected, n)[1].layers[2].kernel) for n in (0, 3)]
    assert line[:2] == ["dense1", f"{kernels[0].size:,}"]
    assert float(line[2]) == pytest.approx(100 * (kernels[0] == kernels[1]).mean(), abs=0.01)
    assert run("compare", selected, selected) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == "100.00"


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


def test_all_arms_get_the_same_total_epochs(selected, tmp_path, capsys):
    assert run(*finetune(selected, tmp_path, "--from", "1,3,last", "--total-epochs", 6)) == 0
    printed = capsys.readouterr().out
    assert [line.split()[:3] for line in printed.splitlines()[-4:]] == [
        ["from-1", "1", "5"],
        ["from-3", "3", "3"],
        ["from-last", "4", "2"],
        ["scratch", "0", "6"],
    ]
    names = [row["name"] for row in runs.read_rows(tmp_path / "results.csv")]
    assert names == [f"finetune-{arm}" for arm in ("from-1", "from-3", "from-last", "scratch")]
    assert run(*finetune(selected, tmp_path, "--from", "1,3,last", "--total-epochs", 6)) == 0
    assert len(runs.read_rows(tmp_path / "results.csv")) == 4
    capsys.readouterr()
    both = [tmp_path / "arms", tmp_path / "arms"]
    assert run("plots", "finetune", *both, "--out", tmp_path / "f.png") == 0
    table = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:5]]
    assert table == [
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


def test_fine_tuning_starts_at_the_selected_weights(selected, tmp_path):
    import training

    flags = ["--from", "3", "--save-epochs", 0, "--total-epochs", 8, "--limit-steps", 1]
    assert run(*finetune(selected, tmp_path, *flags)) == 0
    slots, plain = (
        training.load_model(folder, state)[1]
        for folder, state in ((selected, 3), (tmp_path / "arms" / "from-3", 0))
    )
    assert [row["epochs"] for row in runs.read_rows(tmp_path / "results.csv")] == ["5", "8"]
    dense = [x for x in plain.layers if isinstance(x, keras.layers.Dense)]
    assert len(dense) == 3
    for layer in dense:
        assert np.array_equal(layer.kernel, slots.get_layer(layer.name).kernel)
        assert layer.trainable_weights


def test_fine_tuning_refuses_more_selection_than_epochs(selected, tmp_path, capsys):
    flags = finetune(selected, tmp_path, "--from", "3", "--total-epochs", 3)
    assert "more than the 3 epochs of state 3" in error_of(capsys, *flags, status=2)
    flags = finetune(selected, tmp_path, "--from", "first")
    assert "expected best, last or epochs" in error_of(capsys, *flags, status=2)


def sweep(tmp_path, *more):
    places = ["--runs-dir", tmp_path, "--results", tmp_path / "results.csv"]
    return ["sweep", *DIGITS, "--epochs", 1, *places, *more]


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
    assert run(*sweep(tmp_path, "--num-values", "8", *more)) == 0
    planned = capsys.readouterr().out.splitlines()[1:]
    names = ("gs-layer", "gs-network", "ps-layer", "ps-network")
    assert planned == [f"ours-lenet300100-{name} seed 0" for name in names]


def test_a_limited_sweep_says_so(tmp_path, capsys):
    assert run(*sweep(tmp_path, "--only-learned", "--limit-steps", 1)) == 0
    printed = capsys.readouterr().out
    assert "runs limited to 1 batches: no results" in printed


def test_a_failing_cell_does_not_stop_the_others(tmp_path, capsys):
    wrong = ["--selection", "greedy", "--num-values", "2,4", "--learning-rate", "1e38"]
    assert run(*sweep(tmp_path, *wrong, "--bank-scale", "1e30")) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2 and "ours-lenet300100-gs-k4, seed 0: error: the loss" in errors[1]


def test_a_wrong_grid_is_refused(tmp_path, capsys):
    for more, text in (
        (["--num-values", "2,0"], "expected positive numbers. Received: 0"),
        (["--num-values", "2,x"], "expected positive numbers. Received: x"),
        (["--selection", "best"], "expected names out of greedy, probabilistic. Received: best"),
        (["--seeds", "0"], "--seeds must be at least 1"),
    ):
        assert text in error_of(capsys, *sweep(tmp_path, *more), status=2)


def tune(tmp_path, *more):
    places = ["--out", tmp_path / "tuning", "--results", tmp_path / "results.csv"]
    few = ["--limit-steps", 4, "--epochs", 1, "--tuner", "random"]
    return ["tune", *DIGITS, *few, *places, *more]


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
    # Each trial says what it tries, and the end where all is and how the best one is trained.
    best = max(rows, key=lambda row: float(row["val_best"]))
    lines = printed.splitlines()
    assert len([x for x in lines if x.startswith("trial 2: ")]) == 2
    assert str(table) in lines[-2] and str(tmp_path / "results.csv") in lines[-2]
    recipe = dataclasses.asdict(recipes_of(lines[-1].partition(": ")[2])[0])
    for name in ("dataset", "epochs", "num_values", "learning_rate", "bank_scale"):
        assert str(recipe[name]) == best[name]


def test_a_search_leaves_fixed_fields_alone_and_needs_validation_images(tmp_path, capsys):
    assert "a search needs validation images" in error_of(
        capsys, *tune(tmp_path, "--validation-share", 0), status=2
    )
    assert "expected names out of num_values, learning_rate, bank_scale" in error_of(
        capsys, *tune(tmp_path, "--fixed", "epochs"), status=2
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # keras-tuner's own
def test_the_folder_of_another_search_is_refused(tmp_path, capsys):
    fixed = ["--fixed", "num_values,bank_scale", "--trials", 1]
    assert run(*tune(tmp_path, *fixed)) == 0
    assert [row["num_values"] for row in runs.read_rows(tmp_path / "results.csv")] == ["8"]
    capsys.readouterr()
    line = error_of(capsys, *tune(tmp_path, "--trials", 1), status=1)
    assert "holds another run (search: there" in line


def test_the_weights_figure_shows_every_kept_epoch(selected, tmp_path, capsys):
    assert run("plots", "weights", selected, "--out", tmp_path / "w.png") == 0
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines()[1:4]] == ["0", "1", "3"]
    # Before training the choice is by chance: as large as what is on offer.
    assert float(printed.splitlines()[1].split()[-1]) == pytest.approx(1.0, abs=0.02)


def test_plots_keep_runs_apart_that_differ_in_more_than_the_seed(tmp_path, capsys):
    rows = []
    for mode, share in (("per_value", 0.8), ("per_connection", 0.9)):
        for k in (2, 8):
            recipe = recipes.make_recipe("ours", "lenet300100", "gs", k)
            fields = dataclasses.asdict(dataclasses.replace(recipe, score_mode=mode))
            fields |= {"run_id": f"{mode}{k}", "limit_steps": 0, "test_best": share}
            rows.append(fields)
    runs.write_csv(tmp_path / "r.csv", rows)
    assert run("plots", "accuracy", tmp_path / "r.csv", "--out", tmp_path / "a.svg") == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()[1:5]]
    assert [line[:4] for line in table] == [
        ["per_connection", "2", "1", "90.00"],
        ["per_connection", "8", "1", "90.00"],
        ["per_value", "2", "1", "80.00"],
        ["per_value", "8", "1", "80.00"],
    ]


def test_size_tells_what_the_unpacked_file_of_a_run_reaches(selected, tmp_path, capsys):
    import training
    from keras_slots import save_slots

    out = tmp_path / "sizes.csv"
    assert run("size", selected, "--state", "last", "--out", out) == 0
    printed = capsys.readouterr().out.splitlines()
    (row,), (trained,) = runs.read_rows(out), runs.read_rows(selected.parent / "results.csv")
    assert float(row["test"]) == pytest.approx(float(trained["test_last"]), abs=1e-6)
    assert float(row["validation"]) == pytest.approx(float(trained["val_last"]), abs=1e-6)
    assert (row["num_values"], row["scores"], row["move_penalty"]) == ("4", "uniform", "0.0")
    _, model = training.load_model(selected, "last")
    path = save_slots(model, tmp_path / "m.slots")
    assert int(row["bytes"]) == path.stat().st_size
    _, before = training.load_model(selected, 0)
    pairs = list(zip(model.layers[2:], before.layers[2:], strict=True))
    same = sum(np.sum(np.asarray(a.kernel) == np.asarray(b.kernel)) for a, b in pairs)
    total = sum(np.asarray(a.kernel).size for a, _ in pairs)
    assert float(row["kept"]) == pytest.approx(same / total, abs=1e-4)
    # All but the architecture, in bits.
    assert 0 < float(row["bits"]) < 8 * int(row["bytes"]) / total
    assert printed[1].split()[-3:] == [row["bytes"], row["bits"], f"{100 * same / total:.2f}"]
    # Once packed is enough, and what is no run does not keep the others from being packed.
    assert run("size", tmp_path, selected, "--state", "last", "--out", out) == 1
    told = capsys.readouterr()
    assert told.out.splitlines() == printed and "is not a run folder" in told.err
    assert f"[1/2] {tmp_path.name}" in told.err and "[2/2] run" in told.err
    assert runs.read_rows(out) == [row]


def test_plots_sizes_draws_a_curve_for_each_kind_of_values(tmp_path, capsys):
    def row(k, penalty, seed, size, test, **more):
        fields = {"num_values": k, "move_penalty": penalty, "seed": seed, "bytes": size}
        named = {"run_id": f"{k}{penalty}{seed}", "limit_steps": 0}
        named |= {"network": "lenet300100", "scores": "nearest", "state": "best"}
        return named | fields | {"test": test} | {"bank_scale": 1.0} | more

    rows = [
        row(8, 0.0, 0, 40_000, 0.99),
        row(8, 1e-5, 0, 30_000, 0.98),
        row(8, 1e-5, 1, 20_000, 0.97),
        row(4, 0.0, 0, 25_000, 0.96),
        row(4, 0.0, 1, 26_000, 0.95, bank_scale=1.5),
    ]
    runs.write_csv(tmp_path / "sizes.csv", rows)
    assert run("plots", "sizes", tmp_path / "sizes.csv", "--out", tmp_path / "s.svg") == 0
    table = [line.split("  ") for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert [[cell.strip() for cell in line if cell] for line in table] == [
        ["nearest, K = 4, bank scale 1.0", "0", "1", "25000", "96.00"],
        ["nearest, K = 4, bank scale 1.5", "0", "1", "26000", "95.00"],
        ["nearest, K = 8", "0", "1", "40000", "99.00"],
        ["nearest, K = 8", "1e-05", "2", "25000", "97.50"],
    ]
    runs.write_csv(tmp_path / "sizes.csv", [{"run_id": "0", "num_values": 8, "move_penalty": 0.0}])
    source = [tmp_path / "sizes.csv", "--out", tmp_path / "x.png"]
    assert "has no rows of size.py" in error_of(capsys, "plots", "sizes", *source, status=1)


def test_plots_curves_shows_validation_accuracy_of_each_epoch(selected, tmp_path, capsys):
    assert run("plots", "curves", selected, "--out", tmp_path / "c.png") == 0
    (row,) = runs.read_rows(selected.parent / "results.csv")
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line == ["run", "4", f"{100 * float(row['val_last']):.2f}"]


def test_plots_refuse_what_they_cannot_draw(selected, tmp_path, capsys):
    out = ["--out", tmp_path / "x.png"]
    line = error_of(capsys, "plots", "accuracy", tmp_path / "none.csv", *out, status=1)
    assert "is no results file with rows" in line
    known = selected.parent / "results.csv"
    line = error_of(capsys, "plots", "accuracy", known, "--network", "conv2", *out, status=1)
    assert "has no slot runs of conv2; train" in line
    (row,) = runs.read_rows(known)
    runs.write_csv(tmp_path / "limited.csv", [row | {"limit_steps": "5"}])
    more = ["--dataset", "digits", *out]
    line = error_of(capsys, "plots", "accuracy", tmp_path / "limited.csv", *more, status=1)
    assert "no slot runs of lenet300100 but those limited by --limit-steps; train" in line
    line = error_of(capsys, "plots", "finetune", tmp_path, *out, status=1)
    assert "holds no finished arm" in line
    bad = ["--out", tmp_path / "x.jpeg"]
    assert "must end in .png" in error_of(capsys, "plots", "weights", selected, *bad, status=2)


@pytest.mark.parametrize("script", HELPFUL)
def test_help_says_what_a_script_does(script, capsys):
    assert run(script, "--help") == 0
    printed = capsys.readouterr().out
    assert f"python examples/paper/{script}.py" in printed and "Exit status" in printed


def test_learning_rates_trains_each_setting_once(tmp_path, monkeypatch, capsys):
    import learning_rates

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 28, 28, 1), "uint8"), np.arange(60) % 10
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    for name, value in (("TRAIN", 40), ("VALIDATION", 20), ("EPOCHS", 1), ("BATCH", 20)):
        monkeypatch.setattr(learning_rates, name, value)
    monkeypatch.setattr(learning_rates, "RATES", {"sgd": (0.1,)})
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
