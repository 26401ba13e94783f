"""Trains a grid: K x selection (and nearest scores) x sharing x seeds, and the learned baseline.

    python examples/paper/sweep.py --data-dir DIR --num-values 2,4,8 --seeds 5 --learned
    python examples/paper/sweep.py --network conv2 --kind author --selection greedy,probabilistic \\
        --data-dir DIR --seeds 3

Each cell is the named recipe of its kind (recipes.py), with the recipe flags given here put over
all cells. A cell with a row in the results file is not trained again, so the same command
continues a sweep that was stopped, and a longer list of values or seeds adds to it.

Exit status: 0, 1 when a run failed (the others are still trained), 2 for a wrong command line.
"""

import dataclasses
import itertools
import statistics
import sys
from pathlib import Path

import cli
from paper_numbers import paper_accuracy
from recipes import KINDS, NETWORKS, PAPER_VALUES, Options, Recipe, make_recipe
from runs import read_rows
from sources import check_source

AXES = ("network", "num_values", "selection", "scores", "sharing", "seed", "method")
METHODS = {"greedy": "gs", "probabilistic": "ps"}


def make_parser():
    parser = cli.Parser(description=__doc__, prog="sweep.py")
    axes = parser.add_argument_group("grid")
    axes.add_argument("--network", choices=NETWORKS, default="lenet300100")
    axes.add_argument("--kind", choices=KINDS, default="ours", help="kind of the recipes")
    names = {"type": cli.listed(*METHODS), "metavar": "NAME,..."}
    axes.add_argument("--selection", default=["greedy"], **names)
    names = {"type": cli.listed("connection", "layer", "network"), "metavar": "NAME,..."}
    axes.add_argument("--sharing", default=["connection"], **names)
    names = {"type": cli.listed("uniform", "nearest"), "metavar": "NAME,..."}
    axes.add_argument("--scores", default=["uniform"], **names)
    numbers = {"type": cli.listed(), "metavar": "K,K,..."}
    axes.add_argument("--num-values", default=PAPER_VALUES, **numbers)
    axes.add_argument("--seeds", type=cli.count, default=1, metavar="N", help="seeds 0 to N - 1")
    axes.add_argument("--learned", action="store_true", help="add the learned baseline")
    axes.add_argument("--only-learned", action="store_true", help="nothing but the baseline")
    parser.add_argument("--runs-dir", default="runs", metavar="DIR", help="folder of run folders")
    parser.add_argument("--dry-run", action="store_true", help="print what is left to train")
    cli.add_flags(parser, Options)
    cli.add_flags(parser, Recipe, without=AXES)
    return parser


def cells(args):
    """The recipes of the grid, without seeds: the baseline first."""
    given = {name: value for name, value in cli.given(args, Recipe).items() if name not in AXES}
    methods = [METHODS[rule] for rule in args.selection if "uniform" in args.scores]
    methods += ["ns"] * ("nearest" in args.scores)
    grid = list(itertools.product(methods, args.sharing, args.num_values))
    learned = [make_recipe(args.kind, args.network, "learned")]
    slots = [make_recipe(args.kind, args.network, method, k, who) for method, who, k in grid]
    recipes = learned * (args.learned or args.only_learned) + slots * (not args.only_learned)
    return [dataclasses.replace(recipe, **given) for recipe in recipes]


def find_row(rows, recipe, limit_steps):
    """The results row of exactly this recipe, or None."""
    wanted = dataclasses.asdict(recipe) | {"limit_steps": limit_steps}
    wanted = {name: str(value) for name, value in wanted.items()}
    for row in rows:
        if all(row.get(name) == value for name, value in wanted.items()):
            return row
    return None


def train_cell(recipe, args):
    """Trains one run, in a folder that its recipe names."""
    import keras

    import training

    limited = f"-limit{args.limit_steps}" if args.limit_steps else ""
    folder = f"{recipe.name}-{recipe.digest()}{limited}-s{recipe.seed}"
    keras.backend.clear_session()
    row = training.train(recipe, cli.options_from(args, Path(args.runs_dir) / folder))
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
    print("\ntest accuracy at the best validation epoch")
    cli.print_table(table)


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    options = cli.options_from(args, "")
    try:
        grid = cells(args)
        runs = [dataclasses.replace(r, seed=s) for s in range(args.seeds) for r in grid]
    except ValueError as error:
        parser.error(str(error))
    if not runs:
        parser.error("nothing to train: --seeds must be at least 1")
    rows = read_rows(options.results)
    left = [one for one in runs if find_row(rows, one, options.limit_steps) is None]
    print(f"{len(runs)} runs, {len(runs) - len(left)} done, {len(left)} to train")
    if args.dry_run:
        print("\n".join(f"{recipe.name} seed {recipe.seed}" for recipe in left))
        return 0
    check_source(runs[0].dataset, options.data_dir, options.download)
    failed = 0
    for number, recipe in enumerate(left, 1):
        print(f"\n[{number}/{len(left)}] {recipe.name}, seed {recipe.seed}", flush=True)
        name = f"sweep.py: {recipe.name}, seed {recipe.seed}"
        status = cli.guarded(lambda _, recipe=recipe: train_cell(recipe, args), name)
        if status == cli.STOPPED:
            return status
        failed += bool(status)
    report(grid, read_rows(options.results), args.seeds, options.limit_steps)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "sweep.py"))
