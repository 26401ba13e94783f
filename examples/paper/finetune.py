"""Fine-tunes a selected network against training from scratch, at equal total epochs.

    python examples/paper/train.py --network lenet300100 --data-dir DIR --save-epochs 5,10 \\
        --run-dir runs/selected
    python examples/paper/finetune.py runs/selected --from 5,10,best --data-dir DIR \\
        --out runs/finetuned

For each state in --from an ordinary network starts from the selected values (the scores are dropped),
and its weights are trained for the epochs that are left of --total-epochs.
The same network trained from scratch gets all of them. Learning rate, schedule and decay are those
of the learned recipe; its flags override them.

Every arm is a run folder below --out, with a row in the results file; the same command continues
where it was stopped.

Exit status: 0, 1 when a run failed, 2 for a wrong command line.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cli
from recipes import Options, Recipe, SettingError, make_recipe
from runs import read_state, state_file
from sources import check_source

# What both arms take over from the selected run.
SHARED = (
    *("network", "dataset", "padding", "dropout", "augmentation", "batch_size"),
    *("label_smoothing", "dtype_policy", "validation_share", "split_seed", "seed"),
)
# What is over once the values are selected.
SELECTION = (
    *("num_values", "selection", "score_mode", "sharing", "scores"),
    *("bank", "bank_scale", "score_scale", "dense_score_scale", "move_penalty"),
)
app = cli.make_app("finetune.py", __doc__)


def parse_states(_, tokens):
    parts = [part.strip() for part in tokens[-1].value.split(",")]
    if not all(part.isdigit() or part in ("best", "last") for part in parts):
        raise ValueError(f"expected best, last or epochs. Received: {tokens[-1].value}")
    return parts


def arms(run, states, selected, total, fields):
    """State, recipe and selection epochs of each network to train; scratch comes last."""
    learned = make_recipe("ours", selected.network, "learned")
    fields = {name: getattr(selected, name) for name in SHARED} | fields
    for state in states:
        spent = len(read_state(state_file(run, state))[1]["history"])
        if spent >= total:
            raise SettingError(
                f"`total_epochs` must be more than the {spent} epochs of state {state}. "
                f"Received: total_epochs={total}"
            )
        name = f"finetune-from-{state}"
        yield state, dataclasses.replace(learned, **fields, name=name, epochs=total - spent), spent
    yield None, dataclasses.replace(learned, **fields, name="finetune-scratch", epochs=total), 0


@app.default
def main(
    run: str,
    /,
    *,
    states: Annotated[list[str], Parameter(name="--from", converter=parse_states, n_tokens=1)] = ("best",),
    total_epochs: int | None = None,
    out: str = "",
    options: cli.flags(Options) = None,
    fields: cli.flags(Recipe, without=(*SHARED, *SELECTION, "epochs", "method")) = None,
):
    """Fine-tunes.

    Args:
        run: run folder of a slot machine
        states: comma-separated states to start from: best, last, or epochs of train.py --save-epochs
        total_epochs: selection and weight epochs together (default: twice those of RUN)
        out: folder of the arms (default: RUN-finetuned)
    """
    training, options = cli.import_training(), options or {}
    from keras_slots import materialize

    selected, known = training.slot_recipe_of(run)
    total = 2 * selected.epochs if total_epochs is None else total_epochs
    planned = list(arms(run, states, selected, total, fields or {}))
    settings = cli.options(options, "")
    check_source(selected.dataset, settings.data_dir, settings.download)
    out = Path(out or f"{Path(run)}-finetuned")
    rows = [("start", "selection", "weights", "validation %", "test %")]
    for state, recipe, spent in planned:
        start = {}
        if state is not None:

            def selected_network(*_, state=state):
                plain = materialize(training.load_model(run, state)[1], trainable=True)
                return training.networks.without_penalty(plain)

            start = {"make_model": selected_network, "origin": f"{known['run_id']}/{state}"}
        name = recipe.name.removeprefix("finetune-")
        print(f"{name}: {spent} selection epochs, {recipe.epochs} weight epochs")
        row = training.train(recipe, cli.options(options, out / name), **start)
        rows.append((name, str(spent), str(recipe.epochs), row["val_best"], row["test_best"]))
    print(f"\n{selected.name}, seed {selected.seed}: accuracies at the best validation epoch")
    cli.print_table(rows)


if __name__ == "__main__":
    sys.exit(cli.run(app))
