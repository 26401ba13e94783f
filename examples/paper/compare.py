"""Compares what two runs selected, connection by connection.

    python examples/paper/compare.py runs/levers runs/scores --state last

Both run folders must hold slot machines with the same values: the same seed, network, K, bank and
sharing. The table says at what share of the connections the same value is selected, one row per
layer: how far --score-mode per_connection and per_value agree, or two epochs of one run
(--state 5 --other-state 20).

Exit status: 0, 1 when the runs cannot be compared, 2 for a wrong command line.
"""

import sys

import cli
from runs import RunError

# The fields that decide which values there are.
VALUES = ("network", "dataset", "num_values", "bank", "bank_scale", "sharing", "padding", "seed")
app = cli.make_app("compare.py", __doc__)


@app.default
def main(run: str, other: str, /, *, state: str = "last", other_state: str = ""):
    """Compares.

    Args:
        run: run folder of a slot machine
        other: run folder to compare with
        state: best, last, or the number of a kept epoch
        other_state: the same of OTHER (default: as --state)
    """
    training = cli.import_training()
    import numpy as np

    first, second = (training.slot_recipe_of(folder)[0] for folder in (run, other))
    for name in VALUES:
        here, there = getattr(first, name), getattr(second, name)
        if here != there:
            raise RunError(f"{run} and {other} have other values: {name} is {here} and {there}")
    _, model = training.load_model(run, state)
    _, twin = training.load_model(other, other_state or state)
    rows, equal, total = [("layer", "connections", "same selection %")], 0, 0
    for layer in model.layers:
        if hasattr(layer, "bank"):
            # Compared by value: two indices of one value select the same.
            same = np.asarray(layer.kernel) == np.asarray(twin.get_layer(layer.name).kernel)
            rows.append((layer.name, f"{same.size:,}", float(same.mean())))
            equal, total = equal + int(same.sum()), total + same.size
    cli.print_table([*rows, ("all", f"{total:,}", equal / total)])


if __name__ == "__main__":
    sys.exit(cli.run(app))
