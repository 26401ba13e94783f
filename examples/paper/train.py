"""Trains one recipe: a slot machine or its learned baseline.

    python examples/paper/train.py --recipe ours-lenet300100-gs-k16 --data-dir DIR --seed 3
    python examples/paper/train.py --dataset digits --epochs 30 --batch-size 64
    python examples/paper/train.py recipes paper lenet

recipes.py explains the names; without --recipe it is the one for --network, --selection (or --scores
nearest, or --method learned), --num-values and --sharing. The flag of its name overrides a field. The same
command goes on where a killed run stopped, and ends exactly as the uninterrupted run would have.
`recipes` lists the recipes whose names contain all the words after it.
"""

import dataclasses
from pathlib import Path

import pandas as pd

import cli
import report
from recipes import Recipe, choose_recipe, list_recipes

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
    import training  # brings Keras, which the list of recipes does not need

    row = training.train(chosen, run_dir or Path("runs", chosen.folder), options)
    for table in ("cells", "runs"):
        print(report.of_runs(options.results, [row["run_id"]], table))


@app.command
def recipes(*words: str):
    """Lists recipes, all or those whose names contain all the words, such as paper, lenet, gs, k16 or layer."""
    shown = ["dataset", "epochs", "learning_rate", "weight_decay", "bank_scale"]
    found = {
        recipe.name: {name: getattr(recipe, name) for name in shown}
        for recipe in list_recipes()
        if all(word in recipe.name for word in words)
    }
    if not found:
        raise SystemExit(f"No name of a recipe contains {' and '.join(words)}")
    print(pd.DataFrame.from_dict(found, orient="index").to_string(float_format="{:.4g}".format))
    print(f"{len(found)} recipes. K can be any whole number; 8 and own values are left out of a name.")


if __name__ == "__main__":
    app()
