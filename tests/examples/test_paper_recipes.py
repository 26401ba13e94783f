"""Recipes say what the paper and the author's code say, and a cited command what its results rows say."""

import csv
import dataclasses
import importlib
import math
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
        return [recipes.choose_recipe(given["recipe"], given["fields"] or {})[0]]
    names = ("kind", "network", "selection", "scores", "sharing", "num_values")
    grid = sweep.cells(*(given[name] for name in (*names, "learned", "only_learned")))
    plain = [dataclasses.replace(one, **given["fields"] or {}) for one in grid]
    return [dataclasses.replace(one, seed=seed) for one in plain for seed in range(given["seeds"])]


def difference(recipe, row):
    """The fields in which a results row is not of that recipe; early files have fewer columns."""
    fields = dataclasses.asdict(recipe).items()
    return {name for name, value in fields if row.get(name, str(value)) != str(value)}


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# Runs from before a recipe was improved: the search for it, and one that its page cites with both flags.
CHANGED_SINCE = {"lenet300100_mnist_nearest_search.csv": 84, "cifar10.csv": 1}
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


BLOCK = re.compile(r"((?:    python .+\n)+)\n(?:\[.+\n\n)?<!-- report: cells (\S+) -->")
BLOCKS = [(page, *block) for page in PAGES for block in BLOCK.findall(page.read_text())]


@pytest.mark.parametrize(("page", "commands", "file"), BLOCKS, ids=[b[2] for b in BLOCKS])
def test_the_commands_above_a_table_train_its_rows_and_nothing_else(page, commands, file):
    wanted = [one for line in commands.splitlines() for one in recipes_of(line.strip())]
    rows = rows_of(page.parent / file)
    assert len(rows) == len(wanted) and len(BLOCKS) == 5
    for row in rows:
        assert sum(not difference(one, row) for one in wanted) == 1, row["name"]


CITED = [
    (path.name, command)
    for path in (*PAGES, *SCRIPTS)
    for command in COMMAND.findall(path.read_text().replace("\\\\\n", "\\\n"))
]


def test_every_cited_command_is_one_that_its_script_takes():
    assert len(CITED) > 50
    for _, command in CITED:
        script, _ = parsed(command)
        if script in ("train", "sweep") and "NAME" not in command:
            assert recipes_of(command)


def test_names_follow_the_key_and_lead_back_to_their_recipe():
    for name, recipe in recipes.RECIPES.items():
        assert recipe.name == name and recipes.get_recipe(name) is recipe
        assert name.startswith(tuple(f"{kind}-{recipe.network}-" for kind in recipes.KINDS))
        assert recipe.move_penalty == 0.0
    assert recipes.get_recipe("ours-conv4-ps-k32-layer").sharing == "layer"


def test_the_papers_text_and_the_authors_code_differ_where_they_do():
    paper, author = (recipes.get_recipe(f"{kind}-conv6-gs-k16") for kind in ("paper", "author"))
    assert (paper.learning_rate, author.learning_rate) == (0.1, 0.01)
    assert (paper.epochs, author.epochs) == (200, 140)
    assert (paper.padding, author.padding) == ("same", "author")
    assert (paper.schedule, author.schedule) == ("warm_restarts", "constant")
    assert paper.bank_scale == pytest.approx(1 / math.sqrt(3)) and author.bank_scale == 1.0
    assert recipes.get_recipe("author-conv6-ps").learning_rate == 25.0
    assert recipes.get_recipe("author-conv4-ps").epochs == 180


def test_our_bank_narrows_as_the_values_get_more():
    scales = [recipes.make_recipe("ours", "lenet300100", "gs", k).bank_scale for k in (2, 8, 64)]
    assert scales == [1.4, 1.0, 0.7]


PAPER = recipes.get_recipe("paper-lenet300100-gs")
REFUSED = [
    (lambda: recipes.get_recipe("ours-lenet300100-g"), "recipe=ours-lenet300100-g. Near: ours-lenet"),
    (lambda: recipes.Recipe(network="lenet5"), "`network` must be one of lenet300100, .* network=lenet5"),
    (lambda: recipes.Recipe(padding="valid"), "`padding` must be one of same, author.*padding=valid"),
    (lambda: recipes.Options(strategy="all"), "`strategy` must be one of auto, none, mirrored"),
    (lambda: dataclasses.replace(PAPER, move_penalty=1e-5), "`move_penalty` must be 0 for score_mode"),
    (lambda: recipes.make_recipe("paper", "conv6bn", "gs"), "conv6bn is not in the paper: its recipes"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), REFUSED, ids=[text.split()[0] for _, text in REFUSED])
def test_a_setting_that_cannot_be_used_is_refused(make, text):
    with pytest.raises(recipes.SettingError, match=text):
        make()


def test_a_penalty_of_moves_is_for_levers_and_for_the_baseline():
    for other in ({"score_mode": "per_connection"}, {"method": "learned"}):
        assert dataclasses.replace(PAPER, move_penalty=1e-5, **other).move_penalty == 1e-5


def test_a_network_that_is_not_in_the_paper_has_only_recipes_of_ours():
    ours = recipes.make_recipe("ours", "conv6bn", "ns", 32)
    assert (ours.dataset, ours.num_values, ours.scores) == ("cifar10_16x16", 32, "nearest")
    names = [name for name, recipe in recipes.RECIPES.items() if recipe.network == "conv6bn"]
    assert {name.split("-")[0] for name in names} == {"ours"}


def test_any_change_of_a_field_changes_the_digest():
    recipe = recipes.get_recipe("ours-lenet300100-gs")
    assert recipe.digest() == dataclasses.replace(recipe).digest() == "0f37ce7e"
    assert recipe.digest() != dataclasses.replace(recipe, seed=1).digest()


def test_schedules_restart_and_drop_where_the_paper_and_the_code_say():
    def rates(name, epochs):
        schedule = optimizers.make_schedule(recipes.get_recipe(name), steps_per_epoch=10)
        return [float(schedule(10 * epoch)) for epoch in epochs]

    assert rates("paper-conv2-gs", [0, 25, 75]) == pytest.approx([0.2, 0.2, 0.2])
    assert max(rates("paper-conv2-gs", [24.9, 74.9])) < 0.001
    assert rates("author-vgg19-gs", [79, 81]) == pytest.approx([0.1, 0.01])
    rising = rates("ours-vgg19-learned", [0, 4, 12, 20])
    assert rising == pytest.approx([0.005, 0.1, 0.05, 0.0], abs=1e-6)
    assert rates("ours-lenet300100-gs", [25]) == pytest.approx([0.0], abs=1e-9)


# By hand: w' = w + m', m' = 0.5 m - 0.1 (1 + 0.2 w), and w' = (1 - 0.02) w + m'.
W_L2, W_DECOUPLED = 1 - 0.1 * 1.2, 0.98 - 0.1
AFTER_TWO_STEPS = {
    "l2": W_L2 + 0.5 * -0.12 - 0.1 * (1 + 0.2 * W_L2),
    "decoupled": 0.98 * W_DECOUPLED - 0.05 - 0.1,
    "weights": 1 - 0.1 - 0.15,  # its decay is in the loss
}


@pytest.mark.parametrize("kind", AFTER_TWO_STEPS)
def test_l2_decay_joins_the_momentum_and_the_other_kinds_do_not(kind):
    rates = {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.2, "schedule": "constant"}
    recipe = recipes.Recipe(**rates, weight_decay_kind=kind)
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
        "ours-lenet300100-gs": 0.982,
        "paper-conv6-ps-k64": 0.805,
        "author-vgg19-gs": 0.91,
        "ours-vgg19-learned": None,
        "ours-lenet300100-gs-k64-layer": None,
    }
    for name, share in numbers.items():
        found = paper_numbers.paper_accuracy(recipes.get_recipe(name))
        assert found == (share and pytest.approx(share))
