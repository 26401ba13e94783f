"""Accuracy against bytes: packs finished runs as `.slots` files and tests the unpacked networks.

    python examples/paper/size.py runs/* --data-dir DIR --out sizes.csv
    python examples/paper/plots.py sizes sizes.csv --out sizes.png

The state (--state) of each run folder is packed with `save_slots` and read again with `load_slots`. The
accuracy of that plain network on validation and test images goes into a row beside the bytes of the file:

bits    a weight: the records of the kernels, their headers included
kept    share of the connections that select what they selected before training

A run that has a row in --out is not packed again.

Exit status: 0, 1 when a run cannot be packed, 2 for a wrong command line.
"""

import sys
import tempfile
from pathlib import Path
from typing import Literal

import cli
from recipes import Options
from runs import append_row, read_rows

FIELDS = (
    *("name", "network", "dataset", "num_values", "scores", "bank_scale", "learning_rate"),
    *("weight_decay", "move_penalty", "epochs", "seed"),
)
app = cli.make_app("size.py", __doc__)


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


def size_row(folder, state, out, data_dir):
    """The row of a run folder: its recipe, accuracy and bytes."""
    training = cli.import_training()
    recipe, known = training.slot_recipe_of(folder)
    row = {"run_id": f"{known['run_id']}-{state}", "state": state}
    row |= {name: getattr(recipe, name) for name in FIELDS} | {"limit_steps": known["limit_steps"]}
    done = [old for old in read_rows(out) if old["run_id"] == row["run_id"]]
    if done:
        return done[0]
    training.keras.backend.clear_session()
    _, model = training.load_model(folder, state)
    plain, size, bits = packed(model)
    data = training.load_data(recipe, Options(data_dir=data_dir))
    plain.compile(weighted_metrics=["accuracy"], loss=training.make_loss(0.0))
    for split in ("validation", "test"):
        images = data.evaluation(split) if data.count(split) else None
        found = images and plain.evaluate(images, verbose=0, return_dict=True)
        row[split] = found and float(found["accuracy"])
    row |= {"bytes": size, "bits": round(bits, 4), "kept": round(kept_share(model), 4)}
    row |= training.versions() | {"devices": 1, "device": training.processor()}
    append_row(out, row)
    return row


@app.default
def main(
    runs: list[str],
    /,
    *,
    data_dir: str | None = None,
    state: Literal["best", "last"] = "best",
    out: str = "runs/sizes.csv",
):
    """Packs runs.

    Args:
        runs: run folders of slot machines
        data_dir: as of train.py
        state: the state to pack
        out: the file of rows
    """
    titles = ("run", "K", "scores", "penalty", "seed", "test %", "bytes", "bits a weight", "kept %")
    table, failed = [titles], 0

    def pack(folder):
        row = size_row(folder, state, out, data_dir)
        named = [str(row[name]) for name in ("num_values", "scores", "move_penalty", "seed")]
        sizes = float(row["test"]), str(row["bytes"]), str(row["bits"]), float(row["kept"])
        table.append((Path(folder).name, *named, *sizes))

    for number, folder in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {Path(folder).name}", file=sys.stderr, flush=True)
        status = cli.guarded(lambda folder=folder: pack(folder), "size.py")
        if status == cli.STOPPED:
            return status
        failed += bool(status)
    cli.print_table(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(app))
