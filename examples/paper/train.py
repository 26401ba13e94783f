"""Trains one recipe: a slot machine or its learned baseline.

    python examples/paper/train.py --network lenet300100 --dataset mnist --data-dir DIR
    python examples/paper/train.py --recipe paper-conv6-gs-k16 --data-dir DIR --seed 3
    python examples/paper/train.py --network lenet300100 --dataset digits --epochs 30 --batch-size 64

Without --recipe the one called "ours" is taken for --network, --selection (or --method learned),
--num-values and --sharing. Every field of the recipe can be overridden by the flag of its name;
--show prints the result. The names are explained in recipes.py and examples/README.md.

KERAS_BACKEND=jax trains on JAX, without TensorFlow, and on several hosts (docs/scaling.md).

Everything goes into the run folder. The same command goes on where a killed run stopped, and ends
exactly as the uninterrupted run would have; a finished run is only reported. A folder that holds
something else is refused. One row per run is appended to the results file.

Exit status: 0, 1 when the run failed, 2 for a wrong command line.
"""

import dataclasses
import sys

import cli
from recipes import RECIPES
from sources import check_source


def report(row, recipe):
    """The closing table: what was reached, beside the paper's number."""
    from paper_numbers import paper_accuracy

    expected = paper_accuracy(recipe)
    rows = [
        ("", "validation %", "test %"),
        (f"best epoch ({row['best_epoch']})", row["val_best"], row["test_best"]),
        (f"last epoch ({row['epochs_done']})", row["val_last"], row["test_last"]),
        ("last epoch, mean of image and mirror image", row["val_mirror"], row["test_mirror"]),
        ("averaged weights", row["val_averaged"], row["test_averaged"]),
    ]
    rows = [line for line in rows if line[1:] != (None, None)]
    if expected is not None and not row["limit_steps"]:
        rows.append(("the paper, mean of 5 runs", None, expected))
    print(f"\n{recipe.name}, seed {recipe.seed}, {row['connections']:,} connections")
    cli.print_table(rows)
    print(
        f"training accuracy {100 * row['train_last']:.2f} %, "
        f"{row['seconds_per_epoch']} s per epoch, {row['devices']} x {row['device']}"
    )


def make_parser():
    parser = cli.Parser(description=__doc__, prog="train.py")
    parser.add_argument("--recipe", metavar="NAME", help="the named recipe to start from")
    parser.add_argument("--list-recipes", action="store_true", help="print all names and stop")
    parser.add_argument("--show", action="store_true", help="print the recipe's fields and stop")
    parser.add_argument(
        "--run-dir", metavar="DIR", help="run folder (default: runs/<recipe>-s<seed>)"
    )
    cli.add_run_flags(parser)
    cli.add_recipe_flags(parser)
    return parser


def main(argv=None):
    parser = make_parser()
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
    check_source(recipe.dataset, args.data_dir, args.download)
    import training

    default = training.default_run_dir(recipe, plain, args.limit_steps)
    options = cli.options_from(args, args.run_dir or default)
    row = training.train(recipe, options)
    report(row, recipe)
    print(f"run folder {options.run_dir}, results {options.results}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "train.py"))
