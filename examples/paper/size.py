"""Accuracy against bytes: packs finished runs as `.slots` files and tests the unpacked networks.

    python examples/paper/size.py runs/* --data-dir DIR --out sizes.csv
    python examples/paper/plots.py sizes sizes.csv --out sizes.png

The state (--state) of each run folder is packed with `save_slots` and read again with `load_slots`. The
accuracy of that plain network on validation and test images goes into a row beside the bytes of the file:

bits    a weight: the records of the kernels, their headers included
kept    share of the connections that select what they selected before training
"""

import tempfile
from pathlib import Path

import numpy as np

import cli
import report
import runs

FIELDS = (
    *("name", "network", "dataset", "num_values", "scores", "bank_scale", "learning_rate"),
    *("weight_decay", "move_penalty", "epochs", "seed"),
)
app = cli.make_app("size.py", __doc__)


def choices(model):
    """What all connections select."""
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "bank")]
    return np.concatenate([np.ravel(kernel) for kernel in kernels])


def packed(model):
    """The plain network out of the file of a slot model, bytes of the file, bits a weight."""
    import keras_slots

    with tempfile.TemporaryDirectory() as folder:
        path = keras_slots.save_slots(model, Path(folder, "model.slots"))
        plain, size = keras_slots.load_slots(path), path.stat().st_size
    kernels = keras_slots.summary_dict(model, slots_file=True)["kernels"]
    coded = sum(kernel["slots_bytes"] for kernel in kernels)
    return plain, size, 8 * coded / sum(kernel["connections"] for kernel in kernels)


def size_row(folder, state, options):
    """The row of a run folder: its recipe, accuracy and bytes."""
    import training

    training.keras.backend.clear_session()
    recipe, model = training.load_model(folder, state)
    start = training.build_model(recipe, model.input_shape[1:], model.output_shape[-1])
    plain, size, bits = packed(model)
    row = {
        "run_id": f"{runs.read_json(Path(folder, 'run.json'))['run_id']}-{state}",
        "state": state,
    }
    row |= {name: getattr(recipe, name) for name in FIELDS}
    plain.compile(weighted_metrics=["accuracy"], loss=training.make_loss())
    for split in ("validation", "test"):
        images = training.load_data(recipe, options).evaluation(split)
        settings = {"batch_size": training.EVALUATION_BATCH, "verbose": 0, "return_dict": True}
        row[split] = float(plain.evaluate(*images[:2], **settings)["accuracy"])
    kept = float((choices(model) == choices(start)).mean())
    row |= {"bytes": size, "bits": round(bits, 4), "kept": round(kept, 4)}
    return row | training.versions() | {"devices": 1, "device": training.processor()}


@app.default
def main(
    folders: list[str],
    /,
    *,
    data_dir: str | None = None,
    state: str = "best",
    out: str = "runs/sizes.csv",
):
    """Packs runs.

    Args:
        folders: run folders of slot machines
        data_dir: as of train.py
        state: the state to pack: best or last
        out: the file of rows
    """
    for folder in folders:
        runs.append_row(out, size_row(folder, state, cli.Options(data_dir=data_dir)))
    print(report.markdown(report.read_table(out), "sizes"))


if __name__ == "__main__":
    app()
