"""Builds, fits and drops small models one after another, and prints what stays in memory of each.

    python dropped_models.py

One JSON line for each kind of layer: median growth of the process per model, in bytes.
"""

import gc
import itertools
import json
import statistics

import keras
import numpy as np

import keras_slots
from keras_slots.kernels import SlotKernel

WARM_UP, COUNT = 3, 10
KINDS = {
    "plain": (keras.layers.Conv2D, keras.layers.Dense, {}),
    **{
        mode: (keras_slots.SlotConv2D, keras_slots.SlotDense, {"score_mode": mode}) for mode in SlotKernel.registry
    },
}


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def build_and_fit(conv, dense, arguments):
    """One model of three layers, trained for two steps."""
    x = inputs = keras.Input((6, 6, 2))
    x = conv(4, 3, activation="relu", **arguments)(x)
    x = dense(8, activation="relu", **arguments)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, dense(3, **arguments)(x))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 6, 6, 2)), rng.normal(size=(16, 3))
    model.fit(x, y, batch_size=8, verbose=0)
    model.predict(x, verbose=0)


def growth(kind):
    sizes = []
    for _ in range(WARM_UP + COUNT):
        build_and_fit(*KINDS[kind])
        gc.collect()
        sizes.append(resident())
    steps = itertools.pairwise(sizes[WARM_UP:])
    return statistics.median(after - before for before, after in steps)


if __name__ == "__main__":
    for kind in KINDS:
        print(json.dumps({"kind": kind, "growth": growth(kind)}), flush=True)
