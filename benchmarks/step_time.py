"""Time of a training step: plain layers, levers (per_connection) and scores (per_value), in one process.

    python benchmarks/step_time.py --networks lenet300100,conv6 --num-values 8,64 --out FILE

Each round times a few steps of every variant in turn; a ratio is the median over the rounds of (variant / plain)
in the same round. `--predict` times inference instead: of the slot networks and of what `materialize` makes of
them, against the plain network.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

import networks
import record
from keras_slots import materialize, slotify

MODES = ("per_connection", "per_value")


def variants(name, values, modes, jit_compile=None):
    """Name -> compiled model; with `jit_compile` XLA compiles the whole step."""
    plain = networks.plain_network(name)
    models = {"plain": plain}
    for k in values:
        for mode in modes:
            models[f"{mode} K={k}"] = slotify(plain, num_values=k, score_mode=mode, seed=1)
    return {key: networks.compiled(model, jit_compile or "auto") for key, model in models.items()}


def batch(model, batch_size):
    """Random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, *model.input_shape[1:])).astype("float32")
    return images, rng.integers(0, 10, batch_size)


def trainer(model, batch_size, steps):
    """Function that runs `steps` training steps and waits for the last one."""
    images, labels = batch(model, batch_size)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        model.make_train_function()
        data = tf.data.Dataset.from_tensors((tf.constant(images), tf.constant(labels))).repeat()
        iterator = iter(data)

        def run():
            for _ in range(steps):
                logs = model.train_function(iterator)
            np.asarray(logs["loss"])

        return run

    def run():
        for _ in range(steps):
            loss = model.train_on_batch(images, labels)
        np.asarray(loss)

    return run


def predictor(model, batch_size, steps):
    """Function that predicts `steps` batches."""
    images = keras.ops.convert_to_tensor(batch(model, batch_size)[0])
    return lambda: [model.predict_on_batch(images) for _ in range(steps)]


def measure(name, args):
    """Rows of one network."""
    models = variants(name, args.num_values, args.modes, args.jit_compile)
    make = trainer
    if args.predict:
        make = predictor
        for key in [key for key in models if key != "plain"]:
            models[f"materialized {key}"] = networks.compiled(materialize(models[key]))
    runs = {key: make(model, args.batch_size, args.steps) for key, model in models.items()}
    rows = record.side_by_side(runs, args.steps, args.rounds)
    record.print_rows(f"{name}, {'predict' if args.predict else 'training'}", rows)
    return [{"network": name, "what": "predict" if args.predict else "step", **r} for r in rows]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="lenet300100", help=f"out of {networks.NAMES}")
    parser.add_argument("--num-values", default="8,64", help="values of K")
    parser.add_argument("--modes", default=",".join(MODES), help=f"out of {MODES}")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--jit-compile", action="store_true", help="XLA for the whole step")
    parser.add_argument("--predict", action="store_true", help="time inference")
    parser.add_argument("--machine", help="its description in FILE")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    args = parser.parse_args()
    args.num_values = [int(k) for k in args.num_values.split(",")]
    args.modes = args.modes.split(",")
    rows = []
    for name in args.networks.split(","):
        rows += measure(name, args)
    if args.out:
        record.write(args.out, rows, args.machine)


if __name__ == "__main__":
    main()
