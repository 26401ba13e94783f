"""Size of the files of LeNet-300-100 in training and of its selected network, beside the plain network's.

    python benchmarks/file_size.py --num-values 8,64 --out FILE

`.keras` is what `model.save` writes after one step of SGD with momentum. `SavedModel` is the folder of
`export_selected`, for the plain network that of `model.export`. The raw weights are 4 bytes a connection.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import networks
import record
from keras_slots import export_selected, slotify


def size(path):
    """Millions of bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def measure(model, slot, folder):
    """Sizes of the two files of a model."""
    networks.compiled(model)
    x = np.random.default_rng(0).random((32, 784), "float32")
    model.train_on_batch(x, np.arange(32) % 10)
    model.save(folder / "model.keras")
    export = folder / "export"
    if slot:
        export_selected(model, export)
    else:
        model.export(export, verbose=False)
    return {"keras_mb": size(folder / "model.keras"), "saved_model_mb": size(export)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-values", default="8,64", help="values of K (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    plain = networks.plain_network("lenet300100")
    connections = sum(int(np.prod(v.shape)) for v in plain.trainable_variables)
    models = {"plain": plain}
    for k in map(int, args.num_values.split(",")):
        for mode in ("per_value", "per_connection"):
            models[f"{mode} K={k}"] = slotify(plain, num_values=k, score_mode=mode, seed=1)
    rows = []
    print(f"raw weights {4 * connections / 1e6:.2f} MB")
    print(f"{'network':22} {'.keras MB':>10} {'SavedModel MB':>14}")
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"network": name, **measure(model, name != "plain", Path(folder))})
        print(f"{name:22} {rows[-1]['keras_mb']:10.2f} {rows[-1]['saved_model_mb']:14.2f}")
    if args.out:
        record.write(args.out, rows, raw_weights_mb=4 * connections / 1e6)


if __name__ == "__main__":
    main()
