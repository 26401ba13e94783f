"""Trains one recipe: a slot machine or its learned baseline.

    python examples/paper/train.py --recipe ours-lenet300100-gs-k16 --data-dir DIR --seed 3
    python examples/paper/train.py --dataset digits --epochs 30 --batch-size 64

recipes.py explains the names; without --recipe it is the one for --network, --selection (or --scores
nearest, or --method learned), --num-values and --sharing. The flag of its name overrides a field. The same
command goes on where a killed run stopped, and ends exactly as the uninterrupted run would have.
"""

import dataclasses
from pathlib import Path

import pandas as pd

import cli
import report
import training
from recipes import Recipe, choose_recipe

app = cli.make_app("train.py", __doc__)


@app.default
def main(
    *,
    recipe: str = "",
    show: bool = False,
    run_dir: str = "",
    options: cli.Options = cli.DEFAULTS,
    fields: cli.flags(Recipe) = None,
):
    """The run folder is runs/<recipe>-s<seed> unless given."""
    chosen = choose_recipe(recipe, fields or {})
    if show:
        print(pd.Series(dataclasses.asdict(chosen)).to_string())
        return
    row = training.train(chosen, run_dir or Path("runs", chosen.folder), options)
    for table in ("cells", "runs"):
        print(report.of_runs(options.results, [row["run_id"]], table))


if __name__ == "__main__":
    app()
