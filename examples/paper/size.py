"""Accuracy against bytes: packs finished runs as `.slots` files and tests the unpacked networks.

Batch norms are folded, and all floats but those of the kernels are rounded to float16.

    python examples/paper/size.py runs/ours-* --data-dir DIR --out sizes.csv

Beside accuracies and bytes of the file a row holds the bits a weight (the records of the kernels, their
headers included), and what share of the connections kept what they selected before training. What it is
doing goes to the standard error.
"""

import dataclasses
import sys
from pathlib import Path

import keras
import numpy as np

import cli
import keras_slots
import report
import runs
import training

app = cli.make_app("size.py", __doc__)


def choices(model):
    """What all connections select."""
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "bank")]
    return np.concatenate([np.ravel(kernel) for kernel in kernels])


def say(step):
    print(f"  {step}", file=sys.stderr, flush=True)


def size_row(folder, state, options):
    """The row of a run folder: its recipe, accuracy and bytes."""
    say("build the network")
    recipe, model = training.load_model(folder, state)
    start = training.build_model(recipe, model.input_shape[1:], model.output_shape[-1])
    run_id = runs.read_json(Path(folder, "run.json"))["run_id"]
    row = {"run_id": f"{run_id}-{state}", "state": state, **dataclasses.asdict(recipe)}
    say("pack it")
    # Says in fewer bytes which layer follows which; ResNet-8 is no chain.
    chain = model if recipe.network == "resnet8" else keras.Sequential(model.layers, name=model.name)
    path = Path(folder, "state", f"{state}.slots")
    keras_slots.save_slots(chain, path, overwrite=True, fold_batch_norm=True, float_dtype="float16")
    plain, size = keras_slots.load_slots(path), path.stat().st_size
    plain.compile(weighted_metrics=["accuracy"], loss=training.make_loss())
    data = training.load_data(recipe, options)
    for split in ("validation", "test"):
        say(f"classify the {split} images")
        x, y, _ = data.evaluation(split)
        row[split] = float(plain.evaluate(x, y, training.EVALUATION_BATCH, verbose=0)[1])
    say("count the bits of each kernel")
    coded = keras_slots.summary_dict(model, slots_file=True)["kernels"]
    bits = 8 * sum(kernel["slots_bytes"] for kernel in coded) / len(choices(model))
    kept = float((choices(model) == choices(start)).mean())
    row |= {"bytes": size, "bits": round(bits, 4), "kept": round(kept, 4)}
    return row | training.environment() | {"devices": 1}


@app.default
def main(folders: list[str], /, *, data_dir: str | None = None, state: str = "best", out: str = "runs/sizes.csv"):
    """Packs the state (best or last) of run folders of slot machines, beside that state."""
    for number, folder in enumerate(folders, 1):
        print(f"{number} of {len(folders)}: {folder}", file=sys.stderr)
        runs.append_row(out, size_row(folder, state, cli.Options(data_dir=data_dir)))
    print(report.markdown(report.read_table(out), "sizes"))


if __name__ == "__main__":
    app()
