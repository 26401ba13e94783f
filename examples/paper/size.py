"""Accuracy against bytes: packs finished runs as `.slots` files and tests what comes out of them.

    python examples/paper/size.py runs/* --data-dir DIR --out sizes.csv
    python examples/paper/plots.py sizes sizes.csv --out sizes.png

Of each run folder the state (--state) is packed with `save_slots`, read again with `load_slots`, and the
accuracy of that plain network on validation and test images goes into a row beside the bytes of the file:

bits    a weight: the records of the kernels, their heads included
kept    share of the connections that select what they selected before training

A run that has a row in --out is not packed again.

Exit status: 0, 1 when a run cannot be packed, 2 for a wrong command line.
"""

import sys
import tempfile
from pathlib import Path

import cli
from recipes import Options
from runs import RunError, append_row, read_rows

FIELDS = (
    *("name", "network", "dataset", "num_values", "scores", "bank_scale", "learning_rate"),
    *("weight_decay", "move_penalty", "epochs", "seed"),
)


def make_parser():
    parser = cli.Parser(description=__doc__, prog="size.py")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder of a slot machine")
    parser.add_argument("--data-dir", metavar="DIR", help="as of train.py")
    parser.add_argument("--state", choices=("best", "last"), default="best")
    parser.add_argument("--out", default="runs/sizes.csv", metavar="FILE")
    return parser


def kept_share(model):
    """Share of the connections whose choice is that of the initial scores."""
    from keras_slots.inspect.choices import named_kernels, observer

    seen = [observer(kernel) for _, kernel in named_kernels(model).values()]
    kept = sum(int((one.snapshot().positions == one.start).sum()) for one in seen)
    return kept / sum(one.size for one in seen)


def packed(model):
    """The plain network out of the file of a slot model, bytes of the file, bits a weight."""
    from keras_slots import load_slots, save_slots
    from keras_slots.slots_file.container import split

    with tempfile.TemporaryDirectory() as folder:
        path = save_slots(model, Path(folder, "model.slots"))
        content = path.read_bytes()
        plain = load_slots(path)
    kernels = [record for record in split(content)[1] if record.form != "stored"]
    bits = 8 * sum(len(record.payload) for record in kernels)
    return plain, len(content), bits / sum(record.size for record in kernels)


def size_row(folder, args):
    """The row of a run folder: its recipe, accuracy and bytes."""
    training = cli.import_training()
    from keeper import processor, versions

    recipe, known = training.recipe_of(folder)
    row = {"run_id": f"{known['run_id']}-{args.state}", "state": args.state}
    row |= {name: getattr(recipe, name) for name in FIELDS} | {"limit_steps": known["limit_steps"]}
    done = [old for old in read_rows(args.out) if old["run_id"] == row["run_id"]]
    if done:
        return done[0]
    if recipe.method != "slot":
        raise RunError(f"{folder} holds a learned network, which has no choices to pack")
    training.keras.backend.clear_session()
    _, model = training.load_model(folder, args.state)
    plain, size, bits = packed(model)
    data = training.load_data(recipe, Options(data_dir=args.data_dir))
    plain.compile(weighted_metrics=["accuracy"], loss=training.make_loss(0.0))
    for split in ("validation", "test"):
        images = data.evaluation(split) if data.count(split) else None
        found = images and plain.evaluate(images, verbose=0, return_dict=True)
        row[split] = found and float(found["accuracy"])
    row |= {"bytes": size, "bits": round(bits, 4), "kept": round(kept_share(model), 4)}
    row |= versions() | {"devices": 1, "device": processor()}
    append_row(args.out, row)
    return row


def main(argv=None):
    args = make_parser().parse_args(argv)
    titles = ("run", "K", "scores", "penalty", "seed", "test %", "bytes", "bits a weight", "kept %")
    table, failed = [titles], 0

    def pack(folder):
        row = size_row(folder, args)
        named = [str(row[name]) for name in ("num_values", "scores", "move_penalty", "seed")]
        sizes = float(row["test"]), str(row["bytes"]), str(row["bits"]), float(row["kept"])
        table.append((Path(folder).name, *named, *sizes))

    for folder in args.runs:
        failed += bool(cli.guarded(lambda _, folder=folder: pack(folder), "size.py"))
    cli.print_table(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "size.py"))
