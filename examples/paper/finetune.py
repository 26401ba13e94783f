"""Fine-tunes a selected network against training from scratch, at equal total epochs.

    python examples/paper/train.py --data-dir DIR --save-epochs 5,10 --run-dir runs/selected
    python examples/paper/finetune.py runs/selected --from 5,10,best --data-dir DIR

For each state in --from an ordinary network starts from the selected values, and its weights are trained
for the epochs that are left of --total-epochs (twice those of the run). One from scratch gets all of them.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cli
import keras_slots
import report
import training
from recipes import make_recipe, recipe_name
from runs import read_json, read_state, state_file

# What the arms take over from the selected run.
SHARED = (
    *("network", "dataset", "dropout", "augmentation", "batch_size", "label_smoothing"),
    *("dtype_policy", "validation_share", "seed"),
)
app = cli.make_app("finetune.py", __doc__)


@app.default
def main(
    run: Path,
    /,
    *,
    states: Annotated[list[str], Parameter(name="--from"), cli.COMMAS] = ("best",),
    total_epochs: int | None = None,
    out: Path | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    options: cli.Options = cli.DEFAULTS,
):
    """Every arm is a run folder below --out, and otherwise as the learned recipe has it."""
    selected = training.recipe_of(run)
    fields = {name: getattr(selected, name) for name in SHARED}
    fields |= {"learning_rate": learning_rate} if learning_rate is not None else {}
    fields |= {"weight_decay": weight_decay} if weight_decay is not None else {}
    learned = make_recipe(recipe_name(selected.network, "learned"))
    epochs, ids = total_epochs or 2 * selected.epochs, []

    def train(name, epochs, **start):
        arm = dataclasses.replace(learned, **fields, name=f"finetune-{name}", epochs=epochs)
        folder = (out or run.with_name(f"{run.name}-finetuned")) / name
        ids.append(training.train(arm, folder, options, **start)["run_id"])

    for state in states:
        history = read_state(state_file(run, state))[1]["history"]
        origin = {"run": read_json(run / "run.json")["run_id"], "state": state}
        origin["val_accuracy"] = history[-1]["val_accuracy"]
        weights = keras_slots.materialize(training.load_model(run, state)[1]).get_weights()
        train(f"from-{state}", epochs - len(history), weights=weights, origin=origin)
    train("scratch", epochs)
    print(report.of_runs(options.results, ids, "finetune"))


if __name__ == "__main__":
    app()
