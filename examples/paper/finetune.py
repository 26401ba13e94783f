"""Fine-tunes a selected network against training from scratch, at equal total epochs.

    python examples/paper/train.py --network lenet300100 --data-dir DIR --save-epochs 5,10 \\
        --run-dir runs/selected
    python examples/paper/finetune.py runs/selected --from 5,10,best --data-dir DIR \\
        --out runs/finetuned

Of each state in --from the selected values are taken as the start of an ordinary network (the
scores are gone), whose weights are then trained for the epochs that are left of --total-epochs.
The same network trained from scratch gets all of them. Learning rate, schedule and decay are those
of the learned recipe; its flags override them.

Every arm is a run folder below --out, with a row in the results file; the same command goes on
where it was stopped.

Exit status: 0, 1 when a run failed, 2 for a wrong command line.
"""

import dataclasses
import sys
from pathlib import Path

import cli
from recipes import Options, Recipe, make_recipe
from runs import RunError, read_extra, state_file
from sources import check_source

# What both arms take over from the selected run.
SHARED = (
    *("network", "dataset", "padding", "dropout", "augmentation", "batch_size"),
    *("label_smoothing", "dtype_policy", "validation_share", "split_seed", "seed"),
)
# What is over once the values are selected.
SELECTION = (
    *("num_values", "selection", "score_mode", "sharing"),
    *("bank", "bank_scale", "score_scale", "dense_score_scale", "move_penalty"),
)


def states(text):
    """Comma-separated states: best, last or epochs."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() or part in ("best", "last") for part in parts):
        raise cli.argparse.ArgumentTypeError(f"expected best, last or epochs. Received: {text}")
    return parts


def make_parser():
    parser = cli.Parser(description=__doc__, prog="finetune.py")
    parser.add_argument("run", metavar="RUN", help="run folder of a slot machine")
    text = "states to start from: best, last, or epochs that train.py --save-epochs kept"
    parser.add_argument(
        "--from", dest="states", type=states, default=["best"], metavar="STATE,...", help=text
    )
    text = "selection and weight epochs together (default: twice those of RUN)"
    parser.add_argument("--total-epochs", type=cli.count, metavar="N", help=text)
    parser.add_argument("--out", metavar="DIR", help="folder of the arms (default: RUN-finetuned)")
    cli.add_flags(parser, Options)
    cli.add_flags(parser, Recipe, without=(*SHARED, *SELECTION, "epochs", "method"))
    return parser


def arms(args, selected, total):
    """Name, recipe and selection epochs of each network to train; scratch comes last."""
    learned = make_recipe("ours", selected.network, "learned")
    fields = {name: getattr(selected, name) for name in SHARED} | cli.given(args, Recipe)

    def arm(name, epochs):
        return dataclasses.replace(learned, **fields, name=f"finetune-{name}", epochs=epochs)

    for state in args.states:
        spent = len(read_extra(state_file(args.run, state))["history"])
        if spent >= total:
            raise ValueError(
                f"`total_epochs` must be more than the {spent} epochs of state {state}. "
                f"Received: total_epochs={total}"
            )
        yield f"from-{state}", state, spent, arm(f"from-{state}", total - spent)
    yield "scratch", None, 0, arm("scratch", total)


def train_arm(args, state, recipe, folder, source):
    """Trains one arm in its run folder and returns its results row."""
    training = cli.import_training()
    from keras_slots import materialize

    options = cli.options_from(args, folder)
    if state is None:
        return training.train(recipe, options)

    def selected_network(*_):
        plain = materialize(training.load_model(args.run, state)[1], trainable=True)
        return training.networks.without_penalty(plain)

    origin = f"{source}/{state}"
    return training.train(recipe, options, make_model=selected_network, origin=origin)


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    training = cli.import_training()
    selected, known = training.recipe_of(args.run)
    if selected.method != "slot":
        raise RunError(
            f"{args.run} holds a learned network; fine-tuning starts from a selected one"
        )
    try:
        planned = list(arms(args, selected, args.total_epochs or 2 * selected.epochs))
    except ValueError as error:
        parser.error(str(error))
    check_source(selected.dataset, args.data_dir, args.download)
    run = Path(args.run)
    out = Path(args.out or run.with_name(f"{run.name}-finetuned"))
    rows = [("start", "selection", "weights", "validation %", "test %")]
    for name, state, spent, recipe in planned:
        print(f"{name}: {spent} selection epochs, {recipe.epochs} weight epochs")
        row = train_arm(args, state, recipe, out / name, known["run_id"])
        rows.append((name, str(spent), str(recipe.epochs), row["val_best"], row["test_best"]))
    print(f"\n{selected.name}, seed {selected.seed}: accuracies at the best validation epoch")
    cli.print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "finetune.py"))
