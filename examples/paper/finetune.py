"""Fine-tunes a selected network against training from scratch, at equal total epochs.

    python examples/paper/train.py --network lenet300100 --data-dir DIR --save-epochs 5,10 \\
        --run-dir runs/selected
    python examples/paper/finetune.py runs/selected --from 5,10,best --data-dir DIR \\
        --out runs/finetuned

For each state in --from an ordinary network starts from the selected values (the scores are dropped),
and its weights are trained for the epochs that are left of --total-epochs. The same network trained
from scratch gets all of them. Learning rate, schedule and decay are those of the learned recipe.

Every arm is a run folder below --out, with a row in the results file; the same command continues
where it was stopped.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cli
from recipes import make_recipe, recipe_name
from runs import read_json, read_state, state_file

# What the arms take over from the selected run.
SHARED = (
    *("network", "dataset", "dropout", "augmentation", "batch_size", "label_smoothing"),
    *("dtype_policy", "validation_share", "seed"),
)
app = cli.make_app("finetune.py", __doc__)


def selected_network(run, state):
    """Makes the plain network of the selected values, without the penalties of its selection."""

    def make(*_):
        import keras_slots
        import training

        plain = keras_slots.materialize(training.load_model(run, state)[1], trainable=True)
        for layer in plain.layers:
            if getattr(layer, "kernel_regularizer", None) is not None:
                layer.kernel_regularizer = layer.kernel.regularizer = None
        return plain

    return make


@app.default
def main(
    run: str,
    /,
    *,
    states: Annotated[list[str], Parameter(name="--from"), cli.COMMAS] = ("best",),
    total_epochs: int | None = None,
    out: str = "",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    options: cli.Options = cli.Options(),  # noqa: B008
):
    """Fine-tunes.

    Args:
        run: run folder of a slot machine
        states: states to start from: best, last, or epochs of train.py --save-epochs
        total_epochs: selection and weight epochs together (default: twice those of RUN)
        out: folder of the arms (default: RUN-finetuned)
        learning_rate: instead of the learned recipe's
        weight_decay: instead of the learned recipe's
    """
    import training

    selected = training.recipe_of(run)
    given = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    fields = {name: getattr(selected, name) for name in SHARED}
    fields |= {name: value for name, value in given.items() if value is not None}
    learned = make_recipe(recipe_name("ours", selected.network, "learned"))
    total = total_epochs or 2 * selected.epochs
    for state in (*states, None):
        name, epochs, start = "scratch", total, {}
        if state is not None:
            history = read_state(state_file(run, state))[1]["history"]
            name, epochs = f"from-{state}", total - len(history)
            origin = {"run": read_json(Path(run, "run.json"))["run_id"], "state": state}
            origin["val_accuracy"] = history[-1]["val_accuracy"] if history else None
            start = {"make_model": selected_network(run, state), "origin": origin}
        if epochs < 1:
            raise SystemExit(f"--total-epochs {total} leaves no epoch after state {state}")
        arm = dataclasses.replace(learned, **fields, name=f"finetune-{name}", epochs=epochs)
        row = training.train(arm, Path(out or f"{Path(run)}-finetuned", name), options, **start)
        accuracies = f"validation {row['val_best']:.2%}, test {row['test_best']:.2%}"
        print(f"{name}: {total - epochs} selection epochs, {epochs} weight epochs, {accuracies}")


if __name__ == "__main__":
    app()
