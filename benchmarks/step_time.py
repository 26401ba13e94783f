"""Time of a training step: plain layers, levers (per_connection) and scores (per_value), in one process.

    python benchmarks/step_time.py --networks lenet300100,conv6 --num-values 8,64 --out FILE

Each round times a few steps of every variant in turn, so that the noise of the machine hits all alike; a ratio is
the median over the rounds of (variant / plain) in the same round. `spread` is the middle half of the rounds.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import keras
import numpy as np

import networks
from keras_slots import slotify


def variants(name, values, jit_compile):
    """Name -> compiled model."""
    plain = networks.plain_network(name)
    models = {"plain": plain}
    for k in values:
        for mode in ("per_connection", "per_value"):
            models[f"{mode} K={k}"] = slotify(plain, num_values=k, score_mode=mode, seed=1)
    return {key: networks.compiled(model, jit_compile) for key, model in models.items()}


def runner(model, batch_size, steps):
    """Function that runs `steps` training steps and returns seconds a step."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch_size, *model.input_shape[1:])).astype("float32")
    y = rng.integers(0, 10, batch_size)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        model.make_train_function()
        train = model.train_function
        batch = tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(y))).repeat()
        iterator = iter(batch)

        def run():
            start = time.perf_counter()
            for _ in range(steps):
                logs = train(iterator)
            np.asarray(logs["loss"])
            return (time.perf_counter() - start) / steps

        return run

    def run():
        start = time.perf_counter()
        for _ in range(steps):
            loss = model.train_on_batch(x, y)
        np.asarray(loss)
        return (time.perf_counter() - start) / steps

    return run


def measure(name, values, batch_size, rounds, steps, jit_compile):
    """One row for each variant: milliseconds and ratio to plain, with spreads."""
    runs = {
        key: runner(model, batch_size, steps)
        for key, model in variants(name, values, jit_compile).items()
    }
    for run in runs.values():
        run()  # traces and compiles
        run()
    times = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(run())
    rows = []
    for key, seconds in times.items():
        ratios = sorted(a / b for a, b in zip(seconds, times["plain"], strict=True))
        rows.append(
            {
                "network": name,
                "variant": key,
                "milliseconds": 1e3 * statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "spread": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
            }
        )
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="lenet300100", help=f"out of {networks.NAMES}")
    parser.add_argument("--num-values", default="8,64", help="values of K")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--jit-compile", choices=("auto", "true"), default="auto")
    parser.add_argument("--machine", default=platform.processor() or platform.machine())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    values = [int(k) for k in args.num_values.split(",")]
    jit_compile = True if args.jit_compile == "true" else "auto"
    rows = []
    for name in args.networks.split(","):
        rows += measure(name, values, args.batch_size, args.rounds, args.steps, jit_compile)
    print(f"{'network':12} {'variant':22} {'ms/step':>9} {'ratio':>7}  middle half")
    for row in rows:
        low, high = row["spread"]
        print(
            f"{row['network']:12} {row['variant']:22} {row['milliseconds']:9.2f} {row['ratio']:7.2f}"
            f"  {low:.2f} to {high:.2f}"
        )
    if args.out:
        backend = keras.backend.backend()
        versions = {
            "python": platform.python_version(),
            "keras": keras.__version__,
            backend: __import__(backend).__version__,
            "numpy": np.__version__,
        }
        result = {
            "command": " ".join(["python", "benchmarks/step_time.py", *(argv or sys.argv[1:])]),
            "machine": f"{args.machine}, {os.cpu_count()} cores",
            "versions": versions,
            "rows": rows,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
