"""Trains one recipe: a slot machine or its learned baseline.

    python examples/paper/train.py --network lenet300100 --dataset mnist --data-dir DIR
    python examples/paper/train.py --recipe paper-conv6-gs-k16 --data-dir DIR --seed 3
    python examples/paper/train.py --network lenet300100 --dataset digits --epochs 30 --batch-size 64
    python examples/paper/train.py --list-recipes --network conv6 --scores nearest

Without --recipe the one called "ours" is taken for --network, --selection (or --method learned),
--num-values and --sharing. Every field of the recipe can be overridden by the flag of its name;
--show prints the result. The names are explained in recipes.py and README.md. --list-recipes prints
the names of all recipes that have the fields given, and the text of --recipe in their name.

Everything goes into the run folder. The same command goes on where a killed run stopped, and ends
exactly as the uninterrupted run would have; a finished run is only reported. A folder that holds
something else is refused. One row per run is appended to the results file.

KERAS_BACKEND=jax trains on JAX, without TensorFlow.
Exit status: 0, 1 when the run failed, 2 for a wrong command line.
"""

import dataclasses
import sys
from pathlib import Path

import cli
import recipes
from paper_numbers import paper_accuracy
from sources import check_source

app = cli.make_app("train.py", __doc__)


def report(row, recipe):
    """The closing table: what was reached, beside the paper's number."""
    limited = f"limited to {row['limit_steps']} batches: no result" if row["limit_steps"] else ""
    rows = [
        (limited, "validation %", "test %"),
        (f"best epoch ({row['best_epoch']})", row["val_best"], row["test_best"]),
        (f"last epoch ({row['epochs_done']})", row["val_last"], row["test_last"]),
    ]
    extra = {"mirror": "last epoch, mean of image and mirror image", "averaged": "averaged weights"}
    for name, text in extra.items():
        if row[f"test_{name}"] is not None:
            rows.append((text, row[f"val_{name}"], row[f"test_{name}"]))
    expected = paper_accuracy(recipe)
    if not limited and expected is not None:
        rows.append(("the paper, mean of 5 runs", None, expected))
    print(f"\n{recipe.name}, seed {recipe.seed}, {row['connections']:,} connections")
    cli.print_table(rows)
    print(
        f"training accuracy {100 * row['train_last']:.2f} %, "
        f"{row['seconds_per_epoch']} s per epoch, {row['devices']} x {row['device']}"
    )


@app.default
def main(
    *,
    recipe: str = "",
    list_recipes: bool = False,
    show: bool = False,
    run_dir: str = "",
    options: cli.flags(recipes.Options) = None,
    fields: cli.flags(recipes.Recipe) = None,
):
    """Trains.

    Args:
        recipe: name of the recipe to start from
        list_recipes: print the names of recipes and stop
        show: print the recipe's fields and stop
        run_dir: the run folder (default: runs/<recipe>-s<seed>)
    """
    options, fields = options or {}, fields or {}
    if list_recipes:
        for name, known in recipes.RECIPES.items():
            if recipe in name and fields.items() <= dataclasses.asdict(known).items():
                print(name)
        return
    chosen, plain = recipes.choose_recipe(recipe, fields)
    if show:
        cli.print_table([(k, str(v)) for k, v in dataclasses.asdict(chosen).items()])
        return
    settings = cli.options(options, run_dir)
    check_source(chosen.dataset, settings.data_dir, settings.download)
    training = cli.import_training()
    changed = dataclasses.replace(chosen, seed=plain.seed) != plain
    default = Path("runs", training.run_folder(chosen, changed, settings.limit_steps))
    settings = cli.options(options, run_dir or default)
    report(training.train(chosen, settings), chosen)
    print(f"run folder {settings.run_dir}, results {settings.results}")


if __name__ == "__main__":
    sys.exit(cli.run(app))
