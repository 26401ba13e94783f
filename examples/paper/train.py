"""Trains one recipe: a slot machine or its learned baseline.

    python examples/paper/train.py --network lenet300100 --dataset mnist --data-dir DIR
    python examples/paper/train.py --recipe paper-conv6-gs-k16 --data-dir DIR --seed 3
    python examples/paper/train.py --network lenet300100 --dataset digits --epochs 30 --batch-size 64

Without --recipe the one called "ours" is taken for --network, --selection (or --method learned),
--num-values and --sharing. Every field of the recipe can be overridden by the flag of its name;
--show prints the result. The names are explained in recipes.py and README.md.

Everything goes into the run folder. The same command goes on where a killed run stopped, and ends
exactly as the uninterrupted run would have; a finished run is only reported. A folder that holds
something else is refused. One row per run is appended to the results file.

KERAS_BACKEND=jax trains on JAX, without TensorFlow.
Exit status: 0, 1 when the run failed, 2 for a wrong command line.
"""

import dataclasses
import sys

import cli
from paper_numbers import paper_accuracy
from recipes import RECIPES, Options, Recipe
from sources import check_source


def report(row, recipe):
    """The closing table: what was reached, beside the paper's number."""
    rows = [
        ("", "validation %", "test %"),
        (f"best epoch ({row['best_epoch']})", row["val_best"], row["test_best"]),
        (f"last epoch ({row['epochs_done']})", row["val_last"], row["test_last"]),
    ]
    extra = {"mirror": "last epoch, mean of image and mirror image", "averaged": "averaged weights"}
    for name, text in extra.items():
        if row[f"test_{name}"] is not None:
            rows.append((text, row[f"val_{name}"], row[f"test_{name}"]))
    if row["limit_steps"]:
        rows[0] = (f"limited to {row['limit_steps']} batches: no result", *rows[0][1:])
    elif (expected := paper_accuracy(recipe)) is not None:
        rows.append(("the paper, mean of 5 runs", None, expected))
    print(f"\n{recipe.name}, seed {recipe.seed}, {row['connections']:,} connections")
    cli.print_table(rows)
    print(
        f"training accuracy {100 * row['train_last']:.2f} %, "
        f"{row['seconds_per_epoch']} s per epoch, {row['devices']} x {row['device']}"
    )


def main(argv=None):
    parser = cli.Parser(description=__doc__, prog="train.py")
    parser.add_argument("--recipe", metavar="NAME", help="the named recipe to start from")
    parser.add_argument("--list-recipes", action="store_true", help="print all names and stop")
    parser.add_argument("--show", action="store_true", help="print the recipe's fields and stop")
    parser.add_argument("--run-dir", metavar="DIR", help="(default: runs/<recipe>-s<seed>)")
    cli.add_flags(parser, Options)
    cli.add_flags(parser, Recipe)
    args = parser.parse_args(argv)
    if args.list_recipes:
        print("\n".join(RECIPES))
        return 0
    try:
        recipe, plain = cli.recipe_from(args)
    except ValueError as error:
        parser.error(str(error))
    if args.show:
        cli.print_table([(k, str(v)) for k, v in dataclasses.asdict(recipe).items()])
        return 0
    options = cli.options_from(args, "")
    check_source(recipe.dataset, options.data_dir, options.download)
    training = cli.import_training()
    folder = args.run_dir or training.default_run_dir(recipe, plain, options.limit_steps)
    options = cli.options_from(args, folder)
    report(training.train(recipe, options), recipe)
    print(f"run folder {options.run_dir}, results {options.results}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "train.py"))
