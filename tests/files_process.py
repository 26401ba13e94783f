"""Reads files of slot layers of all kinds; run as a script, on another backend than the one that wrote them.

python files_process.py FOLDER FILE.npz
"""

import sys
from pathlib import Path

import keras
import numpy as np

from keras_slots import SlotConv2D, SlotDense, ValueBank, load_slots, materialize, save_slots
from keras_slots.layers.base import SlotLayer

IMAGES = (8, 6, 6, 2)


def model():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(IMAGES[1:]),
            SlotConv2D(4, 3, score_mode="nearest", num_values=64, move_regularizer="l1"),
            layers.BatchNormalization(),
            SlotConv2D(4, 2, score_mode="nearest", num_values=5, sharing=ValueBank(5, bound=0.5, seed=1)),
            layers.Flatten(),
            layers.Dropout(0.1, seed=3),  # Keras saves no state of its generator
            SlotDense(12, selection="probabilistic", activation="relu"),
            SlotDense(11, score_mode="per_connection", activation="relu"),
            SlotDense(10, score_mode="per_connection", selection="probabilistic", sharing="layer"),
            SlotDense(9, score_initializer="nearest", num_values=3, bank_initializer="he_normal"),
            SlotDense(3, score_mode="per_connection", score_initializer="random_normal"),
        ]
    )


def images():
    return np.random.default_rng(0).normal(size=IMAGES).astype("float32")


def write(folder):
    """A model after three training steps, in every kind of file."""
    trained = model()
    trained.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
    trained.fit(images(), np.ones((8, 3)), batch_size=3, verbose=0)
    trained.save(Path(folder, "m.keras"))
    trained.save_weights(Path(folder, "m.weights.h5"))
    save_slots(trained, Path(folder, "m.slots"))
    return trained


def read(folder):
    """All numbers that the files bring back, by name, and under "outputs" what the models predict."""
    loaded, filled = keras.models.load_model(Path(folder, "m.keras"), compile=False), model()
    filled.load_weights(Path(folder, "m.weights.h5"))
    plain = {
        "keras": materialize(loaded),
        "weights": materialize(filled),
        "slots": load_slots(Path(folder, "m.slots")),
    }
    numbers = {}
    for name, source in {"loaded": loaded, "filled": filled, **plain}.items():
        for i, variable in enumerate(source.variables):
            numbers[f"{name}/{i}/{variable.name}"] = np.asarray(keras.ops.convert_to_numpy(variable))
        for i, layer in enumerate(x for x in source.layers if isinstance(x, SlotLayer)):
            for part in ("bank", "scores", "kernel", "selected_indices"):
                numbers[f"{name}/{i}/{part}"] = keras.ops.convert_to_numpy(getattr(layer, part))
    outputs = [x.predict(images(), verbose=0) for x in (loaded, filled, *plain.values())]
    return numbers | {"outputs": np.stack(outputs)}


if __name__ == "__main__":
    np.savez(sys.argv[2], **read(sys.argv[1]))
