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

# The fields that decide which values there are.
VALUES = ("network", "dataset", "num_values", "bank", "bank_scale", "sharing", "padding", "seed")


def make_parser():
    parser = cli.Parser(description=__doc__, prog="compare.py")
    parser.add_argument("run", metavar="RUN", help="run folder of a slot machine")
    parser.add_argument("other", metavar="OTHER", help="run folder to compare with")
    text = "best, last, or the number of a kept epoch (default: %(default)s)"
    parser.add_argument("--state", default="last", metavar="STATE", help=text)
    parser.add_argument(
        "--other-state", metavar="STATE", help="the same for OTHER (default: as --state)"
    )
    return parser


def slot_layers(folder, state):
    """Name -> slot layer of a run's state."""
    import training
    from runs import RunError

    recipe, model = training.load_model(folder, state)
    if recipe.method != "slot":
        raise RunError(f"{folder} holds a learned network, which selects nothing")
    return {layer.name: layer for layer in model.layers if hasattr(layer, "bank")}


def check_same_values(run, other):
    """Raises `RunError` unless both runs choose from the same values."""
    import training
    from runs import RunError

    first, second = training.recipe_of(run)[0], training.recipe_of(other)[0]
    for name in VALUES:
        here, there = getattr(first, name), getattr(second, name)
        if here != there:
            raise RunError(f"{run} and {other} have other values: {name} is {here} and {there}")


def main(argv=None):
    args = make_parser().parse_args(argv)
    import numpy as np

    check_same_values(args.run, args.other)
    first = slot_layers(args.run, args.state)
    second = slot_layers(args.other, args.other_state or args.state)
    rows, equal, total = [("layer", "connections", "same selection %")], 0, 0
    for name, layer in first.items():
        # Compared by value: two indices of one value select the same.
        same = np.asarray(layer.kernel) == np.asarray(second[name].kernel)
        rows.append((name, f"{same.size:,}", float(same.mean())))
        equal, total = equal + int(same.sum()), total + same.size
    cli.print_table([*rows, ("all", f"{total:,}", equal / total)])
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "compare.py"))
