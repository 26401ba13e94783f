"""Trains a grid: K x selection (and nearest scores) x sharing x seeds, and the learned baseline.

    python examples/paper/sweep.py --data-dir DIR --num-values 2,4,8 --seeds 5 --learned
    python examples/paper/sweep.py --network conv2 --kind paper --selection greedy,probabilistic \\
        --data-dir DIR --seeds 3

Each cell is the recipe of its name (recipes.py), in a run folder that its name and the fields given
here make. The same command continues a sweep that was stopped, and a longer list of values or seeds
adds to it. Prints the table of report.py for these runs.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Literal

import cli
import report
from recipes import Network, Recipe, make_recipe, recipe_name

METHODS = {"greedy": "gs", "probabilistic": "ps"}
AXES = ("network", "num_values", "selection", "scores", "sharing", "seed", "method")
app = cli.make_app("sweep.py", __doc__)


def plan(
    kind, network, selection, sharing, scores, num_values, seeds, learned, only_learned, fields
):
    """The recipes of the grid, seed by seed, the baseline first."""
    names = [recipe_name(kind, network, "learned")] * (learned or only_learned)
    methods = [METHODS[rule] for rule in selection if "uniform" in scores]
    methods += ["ns"] * ("nearest" in scores)
    if not only_learned:
        grid = itertools.product(methods, sharing, num_values)
        names += [recipe_name(kind, network, method, k, who) for method, who, k in grid]
    cells = [dataclasses.replace(make_recipe(name), **fields or {}) for name in names]
    return [dataclasses.replace(cell, seed=seed) for seed in range(seeds) for cell in cells]


@app.default
def main(
    *,
    network: Network = "lenet300100",
    kind: Literal["ours", "paper"] = "ours",
    selection: Annotated[list[Literal["greedy", "probabilistic"]], cli.COMMAS] = ("greedy",),
    sharing: Annotated[list[Literal["connection", "layer", "network"]], cli.COMMAS] = (
        "connection",
    ),
    scores: Annotated[list[Literal["uniform", "nearest"]], cli.COMMAS] = ("uniform",),
    num_values: Annotated[list[int], cli.COMMAS] = (2, 4, 8, 16, 32, 64),
    seeds: int = 1,
    learned: bool = False,
    only_learned: bool = False,
    runs_dir: str = "runs",
    options: cli.Options = cli.Options(),  # noqa: B008
    fields: cli.flags(Recipe, without=AXES) = None,
):
    """Trains a grid.

    Args:
        kind: kind of the recipes
        selection: selection rules, separated by commas, as in all lists
        num_values: values of K
        seeds: N, for the seeds 0 to N - 1
        learned: add the learned baseline
        only_learned: train nothing but the baseline
        runs_dir: folder of the run folders
    """
    import training

    cells = kind, network, selection, sharing, scores, num_values
    recipes = plan(*cells, seeds, learned, only_learned, fields)
    ids = []
    for number, recipe in enumerate(recipes, 1):
        print(f"[{number}/{len(recipes)}] {recipe.folder}", flush=True)
        ids.append(training.train(recipe, Path(runs_dir, recipe.folder), options)["run_id"])
    rows = report.read_table(options.results)
    print(report.markdown(rows[rows["run_id"].isin(ids)], "cells"))


if __name__ == "__main__":
    app()
