"""Export: the selected network as files that do not depend on keras_slots, and their sizes.

Needs pip install "keras-slots[examples]", TensorFlow. Takes half a minute on two cores, offline.

    python examples/export.py --out export-output
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_slots import SlotDense, export_selected, materialize

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("export-output"), help="(default: %(default)s)")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split((x / 16).astype("float32"), y, test_size=0.2, random_state=0)

slots = {"num_values": 8, "score_mode": "per_connection", "use_bias": False}
model = keras.Sequential(
    [
        keras.Input((64,)),
        SlotDense(300, activation="relu", **slots),
        SlotDense(100, activation="relu", **slots),
        SlotDense(10, **slots),
    ]
)
model.compile(
    keras.optimizers.SGD(0.1, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(x, y, batch_size=32, epochs=5, verbose=2)

# To continue training: everything, including banks and optimizer. Loading it needs keras_slots.
model.save(args.out / "model.keras")

# To serve: only the selected values.
saved_model = export_selected(model, args.out / "selected", overwrite=True)

# An ordinary Keras model, to save, to fine-tune or to quantize.
plain = materialize(model)
plain.save(args.out / "plain.keras")

# Another process, which cannot import keras_slots, loads both and predicts.
np.save(args.out / "images.npy", x_test)
script = """
import sys, numpy as np, keras, tensorflow as tf
sys.modules["keras_slots"] = None  # importing it would fail
x = np.load("images.npy")
serving = tf.saved_model.load("selected").signatures["serving_default"]
(name,) = serving.structured_input_signature[1]
(served,) = serving(**{name: tf.constant(x)}).values()
np.savez("predictions.npz", selected=served, plain=keras.models.load_model("plain.keras")(x))
"""
subprocess.run([sys.executable, "-c", script], cwd=args.out, check=True)

expected = np.asarray(model(x_test, training=False))
with np.load(args.out / "predictions.npz") as predictions:
    for name in ("selected", "plain"):
        difference = np.abs(predictions[name] - expected).max()
        accuracy = (predictions[name].argmax(-1) == y_test).mean()
        print(f"{name}: accuracy {accuracy:.2%}, logits differ by at most {difference:.1e}")

for name in ("model.keras", "plain.keras", "selected"):
    path = args.out / name
    files = path.rglob("*") if path.is_dir() else [path]
    print(f"{name:12}{sum(file.stat().st_size for file in files if file.is_file()):>10,} bytes")
