"""Compares what two runs selected, connection by connection.

    python examples/paper/compare.py runs/levers runs/scores --state last

Both run folders must hold slot machines with the same values: the same seed, network, K, bank and
sharing. The table says at what share of the connections the same value is selected, with every
layer in a row: how far --score-mode per_connection and per_value agree, or two epochs of one run
(--state 5 --other-state 20).

Exit status: 0, 1 when the runs cannot be compared, 2 for a wrong command line.
"""

import sys

import cli
from runs import RunError

# The fields that decide which values there are.
VALUES = ("network", "dataset", "num_values", "bank", "bank_scale", "sharing", "padding", "seed")


def main(argv=None):
    parser = cli.Parser(description=__doc__, prog="compare.py")
    parser.add_argument("run", metavar="RUN", help="run folder of a slot machine")
    parser.add_argument("other", metavar="OTHER", help="run folder to compare with")
    text = "best, last, or the number of a kept epoch (default: %(default)s)"
    parser.add_argument("--state", default="last", metavar="STATE", help=text)
    parser.add_argument("--other-state", metavar="STATE", help="of OTHER (default: as --state)")
    args = parser.parse_args(argv)
    training = cli.import_training()
    import numpy as np

    recipes = [training.recipe_of(folder)[0] for folder in (args.run, args.other)]
    for recipe, folder in zip(recipes, (args.run, args.other), strict=True):
        if recipe.method != "slot":
            raise RunError(f"{folder} holds a learned network, which selects nothing")
    for name in VALUES:
        here, there = (getattr(recipe, name) for recipe in recipes)
        if here != there:
            raise RunError(
                f"{args.run} and {args.other} have other values: {name} is {here} and {there}"
            )
    _, model = training.load_model(args.run, args.state)
    _, other = training.load_model(args.other, args.other_state or args.state)
    rows, equal, total = [("layer", "connections", "same selection %")], 0, 0
    for layer in model.layers:
        if hasattr(layer, "bank"):
            # Compared by value: two indices of one value select the same.
            same = np.asarray(layer.kernel) == np.asarray(other.get_layer(layer.name).kernel)
            rows.append((layer.name, f"{same.size:,}", float(same.mean())))
            equal, total = equal + int(same.sum()), total + same.size
    cli.print_table([*rows, ("all", f"{total:,}", equal / total)])
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "compare.py"))
