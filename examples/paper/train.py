"""Trains one recipe: a slot machine or its learned baseline.

    python examples/paper/train.py --network lenet300100 --data-dir DIR
    python examples/paper/train.py --recipe paper-conv6-gs-k16 --data-dir DIR --seed 3
    python examples/paper/train.py --dataset digits --epochs 30 --batch-size 64

The names of recipes are explained in recipes.py. Without --recipe it is "ours" for --network,
--selection (or --method learned), --num-values and --sharing. The flag of its name overrides a field.

Everything goes into the run folder. The same command goes on where a killed run stopped, and ends
exactly as the uninterrupted run would have; a finished run is only reported. One row per run is
appended to the results file. KERAS_BACKEND=jax trains on JAX, without TensorFlow.
"""

import dataclasses
from pathlib import Path

import pandas as pd

import cli
from paper_numbers import paper_accuracy
from recipes import Recipe, choose_recipe

app = cli.make_app("train.py", __doc__)


@app.default
def main(
    *,
    recipe: str = "",
    show: bool = False,
    run_dir: str = "",
    options: cli.Options = cli.Options(),  # noqa: B008
    fields: cli.flags(Recipe) = None,
):
    """Trains.

    Args:
        recipe: name of the recipe to start from
        show: print the recipe's fields and stop
        run_dir: the run folder (default: runs/<recipe>-s<seed>)
    """
    chosen = choose_recipe(recipe, fields or {})
    if show:
        print(pd.Series(dataclasses.asdict(chosen)).to_string())
        return
    import training

    folder = Path(run_dir or Path("runs", chosen.folder))
    row = training.train(chosen, folder, options)
    percent = {
        f"best epoch ({row['best_epoch']})": (row["val_best"], row["test_best"]),
        f"last epoch ({row['epochs_done']})": (row["val_last"], row["test_last"]),
        "last epoch, mean of image and mirror image": (row["val_mirror"], row["test_mirror"]),
        "averaged weights": (row["val_averaged"], row["test_averaged"]),
        "the paper, mean of 5 runs": (None, paper_accuracy(row)),
    }
    table = pd.DataFrame(percent, ["validation %", "test %"], dtype=float).T.dropna(how="all")
    print((100 * table).to_string(float_format="%.2f", na_rep="-"))
    print(f"{chosen.name}, seed {chosen.seed}: {folder}, {options.results}")


if __name__ == "__main__":
    app()
