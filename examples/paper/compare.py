"""Compares what two runs selected, connection by connection.

    python examples/paper/compare.py runs/levers runs/scores --state last

Both run folders must hold slot machines with the same values: the same seed, network, K, scales and
sharing. Printed is at what share of the connections, layer by layer, the same value is selected: how far
--score-mode per_connection and per_value agree, or two epochs of one run (--state 5 --other-state 20).
"""

import cli

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
    import numpy as np

    import training

    equal = total = 0
    _, model = training.load_model(run, state)
    _, twin = training.load_model(other, other_state or state)
    for layer in model.layers:
        if hasattr(layer, "bank"):
            # Compared by value: two indices of one value select the same.
            same = np.asarray(layer.kernel) == np.asarray(twin.get_layer(layer.name).kernel)
            print(f"{layer.name}: {same.mean():.2%} of {same.size:,}")
            equal, total = equal + int(same.sum()), total + same.size
    print(f"all: {equal / total:.2%} of {total:,}")


if __name__ == "__main__":
    app()
