"""Trains a network of slot layers in float64 on the digits; run as a script, on another backend.

python agreement_process.py SCORE_MODE SELECTION FILE.npz
"""

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

from keras_slots import SlotDense

STEPS, BATCH = 470, 13


def train(score_mode, selection="greedy"):
    """The banks and the selected kernels of all layers after `STEPS` steps, and the last loss."""
    x, y = load_digits(return_X_y=True)
    order = np.resize(np.random.default_rng(0).permutation(len(x)), STEPS * BATCH)
    slots = {"score_mode": score_mode, "selection": selection, "use_bias": False}
    model = keras.Sequential(
        [
            keras.Input((64,)),
            SlotDense(60, activation="relu", seed=1, **slots),
            SlotDense(30, activation="relu", seed=2, **slots),
            SlotDense(10, seed=3, **slots),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = 0.1 if selection == "greedy" else 20.0
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss)
    model.fit(x[order] / 16, y[order], batch_size=BATCH, shuffle=False, verbose=0)
    arrays = {}
    for number, layer in enumerate(model.layers):
        arrays[f"bank{number}"] = keras.ops.convert_to_numpy(layer.bank)
        arrays[f"kernel{number}"] = keras.ops.convert_to_numpy(layer.kernel)
    return arrays | {"loss": model.history.history["loss"][-1]}


if __name__ == "__main__":
    keras.config.set_dtype_policy("float64")
    np.savez(sys.argv[3], **train(sys.argv[1], sys.argv[2]))
