"""Trains a grid: K x selection (and nearest scores) x sharing x seeds, and the learned baseline.

    python examples/paper/sweep.py --data-dir DIR --num-values 2,4,8 --seeds 5 --learned
    python examples/paper/sweep.py --network conv2 --kind author --selection greedy,probabilistic \\
        --data-dir DIR --seeds 3

Each cell is the named recipe of its kind (recipes.py); the recipe flags given here override its fields
in all cells. A cell with a row in the results file is not trained again, so the same command
continues a sweep that was stopped, and a longer list of values or seeds adds to it.

Exit status: 0, 1 when a run failed (the others are still trained), 2 for a wrong command line.
"""

import dataclasses
import itertools
import statistics
import sys
from pathlib import Path

import cli
import recipes
from paper_numbers import paper_accuracy
from recipes import Options, Recipe, SettingError, make_recipe
from runs import read_rows
from sources import check_source

AXES = ("network", "num_values", "selection", "scores", "sharing", "seed", "method")
METHODS = {"greedy": "gs", "probabilistic": "ps"}
app = cli.make_app("sweep.py", __doc__)


def cells(kind, network, selection, scores, sharing, num_values, learned, only_learned):
    """The recipes of the grid, without seeds: the baseline first."""
    if learned or only_learned:
        yield make_recipe(kind, network, "learned")
    methods = [METHODS[rule] for rule in selection if "uniform" in scores]
    methods += ["ns"] * ("nearest" in scores)
    if not only_learned:
        for method, who, k in itertools.product(methods, sharing, num_values):
            yield make_recipe(kind, network, method, k, who)


def find_row(rows, recipe, limit_steps):
    """The results row of exactly this recipe, or None."""
    wanted = dataclasses.asdict(recipe) | {"limit_steps": limit_steps}
    wanted = {name: str(value) for name, value in wanted.items()}
    return next((row for row in rows if wanted.items() <= row.items()), None)


def train_cell(recipe, options, runs_dir):
    """Trains one run, in a folder that its recipe names."""
    training = cli.import_training()
    limit_steps = options.get("limit_steps", 0)
    folder = Path(runs_dir, training.run_folder(recipe, True, limit_steps))
    training.keras.backend.clear_session()
    row = training.train(recipe, cli.options(options, folder))
    print(
        f"validation {cli.percent(row['val_best'])} %, test {cli.percent(row['test_best'])} %, "
        f"{row['seconds_per_epoch']} s per epoch"
    )


def report(grid, rows, seeds, limit_steps):
    """Mean and standard deviation of the test accuracy over the seeds of each cell."""
    table = [("recipe", "runs", "test mean %", "std", "paper %", "s per epoch")]
    for recipe in grid:
        seeded = [dataclasses.replace(recipe, seed=seed) for seed in range(seeds)]
        found = [row for one in seeded if (row := find_row(rows, one, limit_steps))]
        tests = [float(row["test_best"]) for row in found]
        seconds = [float(row["seconds_per_epoch"]) for row in found]
        spread = f"{100 * statistics.stdev(tests):.2f}" if len(tests) > 1 else "-"
        mean = statistics.mean(tests) if tests else None
        time = f"{statistics.median(seconds):.2f}" if seconds else "-"
        paper = None if limit_steps else paper_accuracy(recipe)
        table.append((recipe.name, str(len(tests)), mean, spread, paper, time))
    limited = f", runs limited to {limit_steps} batches: no results" if limit_steps else ""
    print(f"\ntest accuracy at the best validation epoch{limited}")
    cli.print_table(table)


@app.default
def main(
    *,
    network: recipes.Network = "lenet300100",
    kind: recipes.Kind = "ours",
    selection: cli.listed(*METHODS) = ("greedy",),
    sharing: cli.listed("connection", "layer", "network") = ("connection",),
    scores: cli.listed("uniform", "nearest") = ("uniform",),
    num_values: cli.listed() = recipes.PAPER_VALUES,
    seeds: int = 1,
    learned: bool = False,
    only_learned: bool = False,
    runs_dir: str = "runs",
    dry_run: bool = False,
    options: cli.flags(Options) = None,
    fields: cli.flags(Recipe, without=AXES) = None,
):
    """Trains a grid.

    Args:
        kind: kind of the recipes
        selection: comma-separated selection rules: greedy, probabilistic
        sharing: comma-separated: connection, layer, network
        scores: comma-separated: uniform, nearest
        num_values: comma-separated K
        seeds: N, for the seeds 0 to N - 1
        learned: add the learned baseline
        only_learned: train nothing but the baseline
        runs_dir: folder of the run folders
        dry_run: print what is left to train
    """
    options = options or {}
    settings = cli.options(options, "")
    plain = cells(kind, network, selection, scores, sharing, num_values, learned, only_learned)
    grid = [dataclasses.replace(recipe, **fields or {}) for recipe in plain]
    every = [dataclasses.replace(recipe, seed=s) for s in range(seeds) for recipe in grid]
    if not every:
        raise SettingError("nothing to train: --seeds must be at least 1")
    rows = read_rows(settings.results)
    left = [one for one in every if find_row(rows, one, settings.limit_steps) is None]
    print(f"{len(every)} runs, {len(every) - len(left)} done, {len(left)} to train")
    if dry_run:
        print("\n".join(f"{recipe.name} seed {recipe.seed}" for recipe in left))
        return 0
    check_source(every[0].dataset, settings.data_dir, settings.download)
    failed = 0
    for number, recipe in enumerate(left, 1):
        print(f"\n[{number}/{len(left)}] {recipe.name}, seed {recipe.seed}", flush=True)
        name = f"sweep.py: {recipe.name}, seed {recipe.seed}"
        status = cli.guarded(lambda recipe=recipe: train_cell(recipe, options, runs_dir), name)
        if status == cli.STOPPED:
            return status
        failed += bool(status)
    report(grid, read_rows(settings.results), seeds, settings.limit_steps)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(app))
