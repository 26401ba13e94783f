"""Writes the files of tests/fixtures, which later versions have to read.

    python tests/make_fixtures.py FOLDER

`vN.slots` is the same wherever it is written, but for the compression of its architecture. The files of a version
stay as they are once it is released; a new version of the format gets files of its own.
"""

import json
import sys
import zlib
from pathlib import Path

import keras
import numpy as np

import keras_slots
from comparisons import numpy_of
from keras_slots import SlotDense, ValueBank, load_slots, save_slots
from keras_slots.slots_file import container
from small_models import KERNELS, moved

#: Without low precision, which rounds otherwise elsewhere, and kernels of Keras' initializers, which are stored.
FORMS = {name: entry for name, entry in KERNELS.items() if "bfloat16" not in name and name != "keras"}


def model_of_all_forms():
    """A chain of layers, one for each way in which a `.slots` file holds a kernel, and a plain one."""
    layers = [
        SlotDense(24 + number % 5, name=name, **{"num_values": 8, "seed": number} | arguments)
        for number, (name, (arguments, _)) in enumerate(FORMS.items())
    ]
    layers.append(keras.layers.Dense(3, name="plain", kernel_initializer="ones"))
    return moved(keras.Sequential([keras.Input((24,)), *layers], name="forms"))


def model_of_all_modes():
    """One layer of each score mode, one that draws, and one of a bank of its own."""
    inputs = keras.Input((4,))
    layers = {
        "scores": SlotDense(3, name="scores"),
        "levers": SlotDense(3, score_mode="per_connection", num_values=16, name="levers"),
        "nearest": SlotDense(3, score_mode="nearest", name="nearest"),
        "draws": SlotDense(3, selection="probabilistic", name="draws"),
        "bank": SlotDense(3, sharing=ValueBank(8, bound=0.5, seed=3), name="bank"),
    }
    return keras.Model(inputs, [layer(inputs) for layer in layers.values()])


def facts_of(file):
    """Shapes, forms and a checksum of what a `.slots` file holds."""
    arrays = [numpy_of(variable) for variable in load_slots(file).variables]
    return {
        "shapes": [list(array.shape) for array in arrays],
        "forms": [record.form for record in container.split(file.read_bytes()).records],
        "crc32": zlib.crc32(b"".join(array.astype("<f4").tobytes() for array in arrays)),
    }


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    file = save_slots(model_of_all_forms(), folder / f"v{container.VERSION}.slots", overwrite=True)
    file.with_suffix(".json").write_text(json.dumps(facts_of(file), indent=1) + "\n", encoding="utf-8")
    saved = folder / f"saved_{keras_slots.__version__.replace('.', '_')}"
    saved.mkdir(exist_ok=True)
    model = moved(model_of_all_modes())
    model.save(saved / "model.keras")
    model.save_weights(saved / "model.weights.h5", overwrite=True)
    kernels = {layer.name: numpy_of(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}
    np.savez(saved / "kernels.npz", **kernels)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
