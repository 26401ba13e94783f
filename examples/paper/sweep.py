"""Trains a grid: K x selection (and nearest scores) x sharing x penalty of moves x seeds, and the baseline.

    python examples/paper/sweep.py --data-dir DIR --num-values 2,4,8 --seeds 5 --learned

Each cell is the recipe of its name (recipes.py), with the fields given here in the place of its own. The
same command continues a sweep that was stopped, and a longer list of values or seeds adds to it. The table
at the end marks the runs that were limited.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated

from cyclopts import types

import cli
import report
import training
from recipes import Kind, Network, Recipe, Scores, Selection, Sharing, make_recipe, recipe_name

AXES = ("network", "num_values", "selection", "scores", "sharing", "move_penalty", "seed", "method")
app = cli.make_app("sweep.py", __doc__)


def plan(kind, network, selection, sharing, scores, num_values, penalties, seeds, learned, only_learned, fields):
    """The recipes of the grid, seed by seed, the baseline first."""
    methods = {"greedy": "gs", "probabilistic": "ps"}
    methods = [methods[rule] for rule in selection if "uniform" in scores]
    methods += ["ns"] * ("nearest" in scores)
    grid = [] if only_learned else itertools.product(methods, sharing, num_values, penalties)
    named = [(recipe_name(network, "learned", kind=kind), 0.0)] * (learned or only_learned)
    named += [(recipe_name(network, method, k, who, kind), penalty) for method, who, k, penalty in grid]
    fields = fields or {}
    cells = [dataclasses.replace(make_recipe(name), move_penalty=c, **fields) for name, c in named]
    return [dataclasses.replace(cell, seed=seed) for seed in range(seeds) for cell in cells]


@app.default
def main(
    *,
    kind: Kind = "ours",
    network: Network = "lenet300100",
    selection: Annotated[list[Selection], cli.COMMAS] = ("greedy",),
    sharing: Annotated[list[Sharing], cli.COMMAS] = ("connection",),
    scores: Annotated[list[Scores], cli.COMMAS] = ("uniform",),
    num_values: Annotated[list[int], cli.COMMAS] = (2, 4, 8, 16, 32, 64),
    move_penalty: Annotated[list[types.NonNegativeFloat], cli.COMMAS] = (0.0,),
    seeds: int = 1,
    learned: bool = False,
    only_learned: bool = False,
    runs_dir: str = "runs",
    options: cli.Options = cli.DEFAULTS,
    fields: cli.flags(Recipe, without=AXES) = None,
):
    """Lists are separated by commas; --seeds N trains the seeds 0 to N - 1."""
    cells = kind, network, selection, sharing, scores, num_values, move_penalty
    ids, recipes = [], plan(*cells, seeds, learned, only_learned, fields)
    for number, recipe in enumerate(recipes, 1):
        print(f"{number} of {len(recipes)}: {recipe.folder}", flush=True)
        ids.append(training.train(recipe, Path(runs_dir, recipe.folder), options)["run_id"])
    print(report.of_runs(options.results, ids, "cells"))


if __name__ == "__main__":
    app()
