"""Trains one recipe: a slot machine or its learned baseline.

    python examples/train.py --network lenet300100 --dataset mnist --data-dir DIR
    python examples/train.py --recipe paper-conv6-gs-k16 --data-dir DIR --seed 3
    python examples/train.py --network lenet300100 --dataset digits --epochs 30 --batch-size 64

Without --recipe the one called "ours" is taken for --network, --selection (or --method learned),
--num-values and --sharing. Every field of the recipe can be overridden by the flag of its name;
--show prints the result. The names are explained in recipes.py and examples/README.md.

Everything goes into the run folder. The same command goes on where a killed run stopped, and ends
exactly as the uninterrupted run would have; a finished run is only reported. A folder that holds
something else is refused. One row per run is appended to the results file.

Exit status: 0, 1 when the run failed, 2 for a wrong command line.
"""

import dataclasses
import os
import sys

import cli
from recipes import RECIPES, Recipe, get_recipe, make_recipe
from sources import check_source


def add_recipe_flags(parser):
    """One flag per field of `Recipe`; returns nothing, absent flags stay None."""
    group = parser.add_argument_group("recipe", "fields of the recipe, each overridden by its flag")
    for field in dataclasses.fields(Recipe):
        if field.name == "name":
            continue
        settings = {"help": field.metadata["help"], "default": None}
        if field.metadata["choices"]:
            settings["choices"] = field.metadata["choices"]
        else:
            settings["type"] = cli.parse_bool if field.type is bool else field.type
            settings["metavar"] = field.type.__name__.upper()
        group.add_argument("--" + field.name.replace("_", "-"), **settings)


def recipe_from(args):
    """The recipe that the flags ask for, and the named one that it came from."""
    given = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(Recipe)
        if field.name != "name" and getattr(args, field.name) is not None
    }
    if args.recipe:
        plain = get_recipe(args.recipe)
    else:
        selection = {"greedy": "gs", "probabilistic": "ps"}[given.get("selection", "greedy")]
        method = "learned" if given.get("method") == "learned" else selection
        num_values = max(given.get("num_values", 8), 1)
        network = given.get("network", "lenet300100")
        plain = make_recipe("ours", network, method, num_values, given.get("sharing", "connection"))
    return dataclasses.replace(plain, **given), plain


def report(row, recipe):
    """The closing table: what was reached, beside the paper's number."""
    from paper_numbers import paper_accuracy

    expected = paper_accuracy(recipe)
    rows = [
        ("", "validation %", "test %"),
        (f"best epoch ({row['best_epoch']})", row["val_best"], row["test_best"]),
        (f"last epoch ({row['epochs_done']})", row["val_last"], row["test_last"]),
    ]
    if expected is not None:
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
    cli.add_run_flags(parser)
    add_recipe_flags(parser)
    return parser


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.list_recipes:
        print("\n".join(RECIPES))
        return 0
    try:
        recipe, plain = recipe_from(args)
    except ValueError as error:
        parser.error(str(error))
    if args.show:
        cli.print_table([(k, str(v)) for k, v in dataclasses.asdict(recipe).items()])
        return 0
    check_source(recipe.dataset, args.data_dir, args.download)
    import engine

    options = cli.options_from(args, args.run_dir or engine.default_run_dir(recipe, plain))
    row = engine.train(recipe, options)
    report(row, recipe)
    print(f"run folder {options.run_dir}, results {options.results}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(cli.guarded(main, "train.py"))
