"""A cited command trains what its results rows say, and recipes mean what their fields say."""

import csv
import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest

import optimizers
import paper_numbers
import recipes
import sweep

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
PAGES = [*ROOT.glob("docs/**/*.md"), ROOT / "examples/paper/README.md", ROOT / "README.md"]
SCRIPTS = sorted((ROOT / "examples" / "paper").glob("*.py"))
COMMAND = re.compile(r"python (?:\.\./)*examples/paper/\w+\.py (?:\\\n|[^`\n])*")


def parsed(command):
    """The script of a command, and its arguments."""
    script, *words = shlex.split(command.replace("\\\n", " "))[1:]
    app = importlib.import_module(Path(script).stem).app
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    bound.apply_defaults()
    return Path(script).stem, bound.arguments


def recipes_of(command):
    """The recipes that a command of train.py or sweep.py trains."""
    script, given = parsed(command)
    if script == "train":
        return [recipes.choose_recipe(given["recipe"], given["fields"] or {})]
    names = ("kind", "network", "selection", "sharing", "scores", "num_values", "move_penalty", "seeds")
    return sweep.plan(*(given[x] for x in (*names, "learned", "only_learned", "fields")))


def difference(recipe, row):
    """The fields in which a results row is not of that recipe; early files have fewer columns."""
    fields = dataclasses.asdict(recipe).items()
    return {name for name, value in fields if row.get(name, str(value)) != str(value)}


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# Runs from before a recipe was improved: the searches for it, and one that its page cites with both flags.
CHANGED_SINCE = {
    "lenet300100_mnist_nearest_search.csv": 84,
    "lenet300100_mnist_nearest_k3_k6_search.csv": 2,
    "cifar10.csv": 1,
    "cifar10_resnet8_search.csv": 3,
}
CHANGED = {"learning_rate", "bank_scale", "weight_decay", "weight_decay_kind"}


@pytest.mark.slow
def test_the_command_of_a_results_row_gives_the_recipe_of_the_row():
    counts = dict.fromkeys(CHANGED_SINCE, 0)
    for path in RESULTS.glob("*.csv"):
        for row in rows_of(path):
            if not row.get("command"):
                continue
            if "finetune.py" in row["command"]:
                _, given = parsed(row["command"])
                arms = [f"from-{state}" for state in given["states"]] + ["scratch"]
                assert row["name"].removeprefix("finetune-") in arms
                state = row["name"].rpartition("-")[2]
                spent = 0 if state == "scratch" else int(state)
                assert int(row["epochs"]) == given["total_epochs"] - spent
                continue
            wrong = min((difference(one, row) for one in recipes_of(row["command"])), key=len)
            if wrong:
                assert wrong <= CHANGED, (path.name, row["command"], wrong)
                counts[path.name] += 1
    assert counts == CHANGED_SINCE


def test_what_earlier_recipes_had_besides_is_what_all_recipes_do_now():
    same = {"momentum": "0.9", "padding": "same", "schedule_epoch": "0", "split_seed": "0"}
    for path in RESULTS.glob("*.csv"):
        for row in rows_of(path):
            assert same.items() <= {**same, **row}.items(), path.name
            if row.get("name", "").startswith("paper-"):  # the paper's λ is a tenth for dense layers
                assert float(row["score_scale"]) == pytest.approx(10 * float(row["dense_score_scale"]))
            else:
                assert row.get("dense_score_scale") == row.get("score_scale")
            if "bank" in row and row["method"] == "slot":
                nearest = row.get("scores", "uniform") == "nearest"
                assert row["bank"] == ("stratified_uniform" if nearest else "glorot_uniform")


BLOCK = re.compile(r"((?:    python .+\n)+)\n(?:\[.+\n\n)?<!-- report: cells (\S+) -->")
BLOCKS = [(page, *block) for page in PAGES for block in BLOCK.findall(page.read_text())]


@pytest.mark.parametrize(("page", "commands", "file"), BLOCKS, ids=[b[2] for b in BLOCKS])
def test_the_commands_above_a_table_train_its_rows_and_nothing_else(page, commands, file):
    wanted = [one for line in commands.splitlines() for one in recipes_of(line.strip())]
    rows = rows_of(page.parent / file)
    assert len(rows) == len(wanted) and len(BLOCKS) == 6
    for row in rows:
        assert sum(not difference(one, row) for one in wanted) == 1, row["name"]


def test_every_cited_command_is_one_that_its_script_takes():
    cited = [
        command
        for path in (*PAGES, *SCRIPTS)
        for command in COMMAND.findall(path.read_text().replace("\\\\\n", "\\\n"))
    ]
    experiments = re.findall(r"`(\w+\.py [^`]+)`", PAGES[-2].read_text())
    cited += [f"python examples/paper/{command}" for command in experiments]
    assert len(cited) > 60
    for command in cited:
        script, _ = parsed(command)
        if script in ("train", "sweep") and "NAME" not in command and "train.py recipes" not in command:
            assert recipes_of(command)


def test_a_name_leads_to_the_recipe_that_has_it():
    for network in recipes.NETWORKS:
        for cell in [("learned",), ("gs",), ("ns", 256), ("ps", 32, "layer")]:
            name = recipes.recipe_name(network, *cell)
            recipe = recipes.make_recipe(name)
            assert (recipe.name, recipe.network) == (name, network)
            assert recipe.num_values == (*cell, 8)[1]
    assert recipe.sharing == "layer" and recipe.selection == "probabilistic"
    for wrong in (
        "ours-lenet300100-g",
        "ours-resnet-gs",
        "ours-conv2-gs-k0",
        "paper-conv2-ns",
        "paper-conv6bn-gs",
        "paper-resnet8-gs",
        "paper-tinyconv-gs",
    ):
        with pytest.raises(SystemExit, match=f"No recipe is called {wrong}"):
            recipes.make_recipe(wrong)


SIGMA = 3**-0.5  # in units of the bound of Glorot uniform
PAPER = {
    "paper-lenet300100-gs": ("mnist", 8, "greedy", 0.2, 200, 0.15, "none", 0.0),
    "paper-lenet300100-gs-k16": ("mnist", 16, "greedy", 0.1, 200, 0.15, "none", 0.0),
    "paper-conv6-ps-k64": ("cifar10", 64, "probabilistic", 25.0, 200, 0.1, "crop_flip", 0.5),
    "paper-vgg19-gs": ("cifar10", 8, "greedy", 0.2, 220, 0.1, "crop_flip", 0.0),
    "paper-conv4-learned": ("cifar10", 8, "greedy", 0.05, 330, 0.1, "crop_flip", 0.5),
}


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper_have_the_settings_of_its_text(name):
    recipe = recipes.make_recipe(name)
    assert PAPER[name] == (
        *(recipe.dataset, recipe.num_values, recipe.selection, recipe.learning_rate, recipe.epochs),
        *(recipe.validation_share, recipe.augmentation, recipe.dropout),
    )
    scales = recipe.bank_scale, recipe.score_scale, recipe.dense_score_scale
    assert scales == pytest.approx((SIGMA, SIGMA, 0.1 * SIGMA))
    common = recipe.weight_decay, recipe.weight_decay_kind, recipe.schedule, recipe.batch_size, recipe.score_mode
    assert common == (1e-4, "l2", "warm_restarts", 128, "per_value")


def test_a_folder_is_named_by_what_differs_from_the_recipe():
    recipe = recipes.make_recipe("ours-lenet300100-gs")
    assert dataclasses.replace(recipe, seed=3).folder == "ours-lenet300100-gs-s3"
    changed = dataclasses.replace(recipe, epochs=2, nesterov=True)
    assert changed.folder == "ours-lenet300100-gs-epochs=2-nesterov=True-s0"


def test_schedules_rise_and_end_at_zero():
    def rates(name, epochs):
        schedule = optimizers.make_schedule(recipes.make_recipe(name), steps_per_epoch=10)
        return [float(schedule(10 * epoch)) for epoch in epochs]

    rising = rates("ours-vgg19-learned", [0, 4, 12, 20])
    assert rising == pytest.approx([0.005, 0.1, 0.05, 0.0], abs=1e-6)
    assert rates("ours-lenet300100-gs", [0, 12.5, 25]) == pytest.approx([0.3, 0.15, 0], abs=1e-6)
    restarts = rates("paper-conv6-gs", [0, 12.5, 24.9, 25, 50, 75, 125, 175])
    assert restarts == pytest.approx([0.2, 0.1, 0, 0.2, 0.1, 0.2, 0.1, 0.2], abs=1e-4)


# By hand: w' = w + m', m' = 0.9 m - 0.1 (1 + 0.2 w); the decay of weights is in the loss.
AFTER_TWO_STEPS = {"l2": 0.88 + 0.9 * -0.12 - 0.1 * (1 + 0.2 * 0.88), "weights": 1 - 0.1 - 0.19}


@pytest.mark.tensorflow
@pytest.mark.jax
@pytest.mark.parametrize("kind", AFTER_TWO_STEPS)
def test_l2_decay_joins_the_momentum(kind):
    recipe = recipes.Recipe("custom", epochs=10**6, weight_decay=0.2, weight_decay_kind=kind)
    optimizer, variable = optimizers.make_optimizer(recipe, 10), keras.Variable([1.0])
    for _ in range(2):
        optimizer.apply([keras.ops.array([1.0])], [variable])
    assert float(variable[0]) == pytest.approx(AFTER_TWO_STEPS[kind])


def test_label_smoothing_is_the_cross_entropy_with_spread_targets():
    logits = np.float32([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
    labels = np.array([0, 1])
    log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = 0.9 * np.eye(3)[labels] + 0.1 / 3
    loss = np.asarray(optimizers.make_loss(0.1)(labels, logits))
    np.testing.assert_allclose(loss, -(targets * log_shares).sum(-1), rtol=1e-6)


def test_the_papers_number_stands_beside_the_experiments_that_it_has():
    numbers = {
        "ours-lenet300100-gs": 98.2,
        "ours-conv6-ps-k64": 80.5,
        "ours-vgg19-gs": 91.0,
        "ours-vgg19-gs-k2": None,
        "ours-vgg19-learned": None,
        "ours-lenet300100-gs-k64-layer": None,
    }
    for name, accuracy in numbers.items():
        row = dataclasses.asdict(recipes.make_recipe(name))
        assert paper_numbers.paper_accuracy(row) == accuracy
