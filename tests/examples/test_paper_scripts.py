"""finetune.py, sweep.py, tune.py, compare.py, size.py, plots.py and learning_rates.py, small and end to end."""

from pathlib import Path

import keras
import numpy as np
import pytest
from cyclopts import ValidationError
from example_scripts import DIGITS, run
from test_paper_recipes import difference, recipes_of
from test_paper_train import rows_of

import keras_slots
import learning_rates
import plots
import report
import runs
import sweep
import training

# The scripts train with tf.distribute.
pytestmark = pytest.mark.tensorflow
PAPER = Path(training.__file__).parent
SCRIPTS = [path.stem for path in PAPER.glob("*.py") if "\napp = " in path.read_text()]


def printed(capsys, *flags):
    """The lines that a script prints."""
    capsys.readouterr()
    run(*flags)
    return capsys.readouterr().out.splitlines()


def cells_of(lines):
    """The cells of the table among them, without its header."""
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A finished slot run that kept three epochs."""
    folder = tmp_path_factory.mktemp("selected")
    places = ["--run-dir", folder / "run", "--results", folder / "results.csv"]
    flags = [*DIGITS, "--num-values", "4", *places, "--epochs", 4, "--save-epochs", "0,1,3"]
    run("train", *flags)
    return folder / "run"


@pytest.mark.slow
def test_runs_are_compared_connection_by_connection(selected, capsys):
    flags = ["compare", str(selected), str(selected)]
    line = printed(capsys, *flags, "--state", "0", "--other-state", "3")[0]
    kernels = [np.asarray(training.load_model(selected, n)[1].layers[2].kernel) for n in (0, 3)]
    same = (kernels[0] == kernels[1]).mean()
    assert 0.1 < same < 1 and line == f"dense1: {same:.2%} of {kernels[0].size:,}"
    assert printed(capsys, *flags)[-1].startswith("all: 100.00%")


def finetune_flags(selected, tmp_path, *more):
    places = ["--out", tmp_path / "arms", "--results", tmp_path / "results.csv"]
    return ["finetune", selected, *places, "--verbose", "0", *more]


@pytest.mark.slow
def test_all_arms_get_the_same_total_epochs(selected, tmp_path, capsys):
    arms = finetune_flags(selected, tmp_path, "--from", "1,3,last", "--total-epochs", 6)
    for _ in range(2):
        assert [cells[:3] for cells in cells_of(printed(capsys, *arms))] == [
            ["scratch", "0", "6"],
            ["selected weights", "1", "5"],
            ["selected weights", "3", "3"],
            ["selected weights", "4", "2"],
        ]
    rows = rows_of(tmp_path / "results.csv")
    names = [row["name"] for row in rows]
    assert names == [f"finetune-{arm}" for arm in ("from-1", "from-3", "from-last", "scratch")]
    assert {row["method"] for row in rows} == {"learned"}
    run("plots", "finetune", tmp_path / "arms", tmp_path / "arms", "--out", tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000
    # Before its first weight epoch an arm has what the selected network had.
    origin = runs.read_json(tmp_path / "arms" / "from-3" / "results.json")["origin"]
    history = runs.read_json(selected / "results.json")["history"]
    assert origin["val_accuracy"] == history[2]["val_accuracy"]


@pytest.mark.slow
def test_fine_tuning_starts_at_the_selected_weights(selected, tmp_path):
    flags = ["--from", "3", "--save-epochs", 0, "--total-epochs", 4, "--weight-decay", "1e-4"]
    run(*finetune_flags(selected, tmp_path, *flags))
    _, slots = training.load_model(selected, 3)
    # What a state of the arm holds: its weights in the order of the layers.
    kernels = runs.read_state(tmp_path / "arms" / "from-3" / "state" / "epoch-0.npz")[0]
    expected = [np.asarray(layer.kernel) for layer in slots.layers if hasattr(layer, "kernel")]
    np.testing.assert_equal(kernels, expected)
    _, trained = training.load_model(tmp_path / "arms" / "from-3", "last")
    assert not np.array_equal(trained.get_layer("dense1").kernel, expected[0])
    assert {row["weight_decay"] for row in rows_of(tmp_path / "results.csv")} == {"0.0001"}


@pytest.mark.slow
def test_a_sweep_trains_the_grid_once_and_goes_on_where_it_stopped(tmp_path, capsys):
    places = ["--runs-dir", tmp_path, "--results", tmp_path / "results.csv"]
    grid = ["sweep", *DIGITS, "--epochs", 1, *places, "--seeds", 2, "--learned"]
    run(*grid, "--num-values", "2")
    rows = rows_of(tmp_path / "results.csv")
    assert len(rows) == 4 and len({row["run_id"] for row in rows}) == 4
    lines = printed(capsys, *grid, "--num-values", "2,3")
    cells = cells_of(lines)
    assert [cell[2:4] for cell in cells] == [["2", "2"], ["3", "2"], ["–", "2"]]
    assert all("1 of 25 epochs" in cell[-1] for cell in cells) and report.LIMITED in lines
    mean = np.mean([100 * float(row["test_best"]) for row in rows if row["num_values"] == "2"])
    assert float(cells[0][4]) == pytest.approx(mean, abs=0.01)
    assert rows_of(tmp_path / "results.csv")[:4] == rows
    for figure in ("accuracy", "selections"):
        source = [tmp_path / "results.csv"] * 2
        run("plots", figure, *source, "--out", tmp_path / "k.svg")
        assert (tmp_path / "k.svg").stat().st_size > 5000


def test_a_sweep_goes_over_selection_sharing_scores_and_penalties():
    both = ["greedy", "probabilistic"], ["layer", "network"], ["uniform"]
    plan = sweep.plan("ours", "conv2", *both, [8], [0.0, 1e-5], 1, True, False, {"epochs": 2})
    names = ("gs-layer", "gs-network", "ps-layer", "ps-network")
    expected = [(f"ours-conv2-{name}", penalty) for name in names for penalty in (0.0, 1e-5)]
    found = [(recipe.name, recipe.move_penalty) for recipe in plan]
    assert found == [("ours-conv2-learned", 0.0), *expected]
    assert {recipe.epochs for recipe in plan} == {2}


def test_a_sweep_refuses_a_negative_penalty():
    with pytest.raises(ValidationError, match="Must be >= 0"):
        sweep.app.parse_args(["--move-penalty", "0,-1"], exit_on_error=False, print_error=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # keras-tuner's own
def test_a_search_tries_its_trials_and_goes_on_where_it_stopped(tmp_path, capsys):
    places = ["--out", tmp_path / "tuning", "--results", tmp_path / "results.csv"]
    tune = ["tune", *DIGITS, "--epochs", 1, *places]
    run(*tune, "--trials", 2)
    first = (tmp_path / "tuning" / "trials.csv").read_text().splitlines()
    lines = printed(capsys, *tune, "--trials", 3)
    assert set(first) < set((tmp_path / "tuning" / "trials.csv").read_text().splitlines())
    trials, rows = rows_of(tmp_path / "tuning" / "trials.csv"), rows_of(tmp_path / "results.csv")
    scores = [float(trial["validation_accuracy"]) for trial in trials]
    assert len(trials) == 3 and scores == sorted(scores, reverse=True)
    best = max(rows, key=lambda row: float(row["val_best"]))
    assert float(best["val_best"]) == scores[0] and best["num_values"] == trials[0]["num_values"]
    (third,) = (line for line in lines if line.startswith("trial 2: "))
    assert "learning_rate " in third and third.endswith("%")
    (command,) = (line for line in lines if "train.py" in line)
    (recipe,) = recipes_of(command[command.index("python") :])
    assert difference(recipe, best) == {"name"}
    assert any(best["run_id"] in line and "results.csv" in line for line in lines)
    assert lines[-1].startswith("Trials were limited to ")


@pytest.mark.slow
def test_size_tells_what_the_unpacked_file_of_a_run_reaches(selected, tmp_path, capsys):
    out = tmp_path / "sizes.csv"
    flags = ["size", selected, "--state", "last", "--out", out]
    run(*flags)
    shown = capsys.readouterr()
    cells = cells_of(shown.out.splitlines())
    assert f"1 of 1: {selected}\n  build the network\n  pack it\n" in shown.err
    (row,), (trained,) = rows_of(out), rows_of(selected.parent / "results.csv")
    assert float(row["test"]) == pytest.approx(float(trained["test_last"]), abs=1e-6)
    assert float(row["validation"]) == pytest.approx(float(trained["val_last"]), abs=1e-6)
    assert (row["num_values"], row["scores"], row["move_penalty"]) == ("4", "uniform", "0.0")
    (_, model), (_, before) = (training.load_model(selected, state) for state in ("last", 0))
    path = keras_slots.save_slots(keras.Sequential(model.layers, name="lenet300100"), tmp_path / "m.slots")
    assert int(row["bytes"]) == path.stat().st_size
    pairs = list(zip(model.layers[2:], before.layers[2:], strict=True))
    same = np.concatenate([np.ravel(np.asarray(a.kernel) == b.kernel) for a, b in pairs])
    assert float(row["kept"]) == pytest.approx(same.mean(), abs=1e-4)
    # All but the architecture, in bits.
    assert 0 < float(row["bits"]) < 8 * int(row["bytes"]) / same.size
    assert cells[0][3:6] == [
        f"{int(row['bytes']) / 1000:.1f}",
        f"{float(row['bits']):.3f}",
        f"{100 * same.mean():.1f}",
    ]
    run(*flags)  # a second time it has its row already
    assert rows_of(out) == [row]
    run("plots", "sizes", out, "--out", tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_weights_figure_shows_every_kept_epoch(selected, tmp_path, capsys):
    lines = printed(capsys, "plots", "weights", selected, "--out", tmp_path / "w.png")
    assert [line.split(",")[0] for line in lines[::3]] == ["epoch 0", "epoch 1", "epoch 3"]
    # Before training the choice is by chance: as large as what is on offer.
    assert float(lines[0].split()[-1]) == pytest.approx(1.0, abs=0.02)


def test_a_state_that_was_not_kept_is_named(selected):
    with pytest.raises(SystemExit, match=r"no .*epoch-2.npz; train.py --save-epochs keeps"):
        training.load_model(selected, 2)


@pytest.mark.parametrize("figure", ["first-layer", "curves"])
def test_figures_of_a_run_are_drawn(selected, tmp_path, figure):
    source = selected / "history.csv" if figure == "curves" else selected
    run("plots", figure, source, "--out", tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000


def test_curves_are_named_by_their_runs_and_drawn_in_panels(tmp_path):
    histories = Path(report.__file__).parents[2] / "docs/results/cifar10_histories"
    sources = [histories / f"{name}.csv" for name in ("conv6-gs", "conv6-learned", "vgg19-ns-100-epochs")]
    run("plots", "curves", *sources, "--out", tmp_path / "c.svg")
    drawn = plots.drawn_run(sources[2])
    assert (drawn["network"], drawn["weights"], drawn["epochs"]) == ("vgg19", "nearest scores", 100)
    with pytest.raises(SystemExit, match="has no run.json beside it, nor a name such as"):
        plots.drawn_run(tmp_path / "history.csv")


def test_the_committed_results_can_be_drawn(tmp_path):
    results = Path(report.__file__).parents[2] / "docs/results"
    figures = (
        ("accuracy", "lenet300100_mnist"),
        ("sizes", "lenet300100_mnist_sizes"),
        ("sizes", "mnist_tinyconv_sizes"),
    )
    for figure, file in figures:
        run("plots", figure, results / f"{file}.csv", "--out", tmp_path / "f.svg")
        assert (tmp_path / "f.svg").stat().st_size > 5000


def test_recipes_are_listed_by_words_of_their_names(capsys):
    lines = printed(capsys, "train", "recipes", "paper", "lenet", "gs", "k16")
    names = [line.split()[0] for line in lines[1:-1]]
    assert names == [f"paper-lenet300100-gs-k16{sharing}" for sharing in ("", "-layer", "-network")]
    with pytest.raises(SystemExit, match="No name of a recipe contains conv9"):
        run("train", "recipes", "conv9")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_a_script_does(script, capsys):
    run(script, "--help")
    assert f"python examples/paper/{script}.py" in capsys.readouterr().out


@pytest.mark.slow
def test_learning_rates_trains_each_setting(tmp_path, monkeypatch, capsys):
    x, y = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), "uint8"), np.arange(60) % 10
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    rates = {"sgd": (0.1,), "adam": (0.01,)}
    small = {"TRAIN": 40, "VALIDATION": 20, "EPOCHS": 1, "BATCH": 20, "RATES": rates}
    small["NETWORKS"] = {"mlp": learning_rates.NETWORKS["mlp"]}
    for name, value in small.items():
        monkeypatch.setattr(learning_rates, name, value)
    flags = ["learning_rates", "--data-dir", tmp_path, "--results", tmp_path / "r.csv"]
    cells = cells_of(printed(capsys, *flags))
    assert [row[:2] for row in cells] == [["mlp", weights] for weights in report.WEIGHTS.values()]
    assert len(rows_of(tmp_path / "r.csv")) == 6
