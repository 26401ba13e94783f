"""At what share of the connections two runs of the same values selected the same one.

python examples/paper/compare.py runs/levers runs/scores --state last
python examples/paper/compare.py runs/levers runs/levers --state 5 --other-state 20
"""

import numpy as np

import cli
import training

app = cli.make_app("compare.py", __doc__)


@app.default
def main(run: str, other: str, /, *, state: str = "last", other_state: str = ""):
    """States are best, last, or the number of a kept epoch."""
    first, second = (training.load_model(run, state), training.load_model(other, other_state or state))
    every = []
    for layer in first[1].layers:
        if hasattr(layer, "bank"):
            # Compared by value: two indices of one value select the same.
            same = np.asarray(layer.kernel) == np.asarray(second[1].get_layer(layer.name).kernel)
            print(f"{layer.name}: {same.mean():.2%} of {same.size:,}")
            every.append(same.ravel())
    print(f"all: {np.concatenate(every).mean():.2%}")


if __name__ == "__main__":
    app()
