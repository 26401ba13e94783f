"""A network learns to read digits by selecting its weights among random values.

Every connection has 8 random values that never change. Training selects one of them; only biases are trained as
usual. Compares that with ordinary training, and writes the selected network as a small file and as a SavedModel.

Offline: the 1,797 images of 8 x 8 pixels come with scikit-learn. Takes half a minute on two cores.

    python examples/quickstart.py --out quickstart-output
"""

import argparse
import functools
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"  # a SavedModel needs it
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_slots import SlotDense, export_selected, load_slots, materialize, save_slots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("quickstart-output"), help="(default: %(default)s)")
parser.add_argument("--epochs", type=int, default=30, help="(default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of the values and of the split (default: %(default)s)")
args = parser.parse_args()

keras.utils.set_random_seed(args.seed)
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=args.seed)


def accuracy(network):
    return np.mean(np.argmax(network(x_test, training=False), axis=-1) == y_test)


def trained(dense, verbose):
    """A network with either kind of layer, trained as usual; and its accuracy before."""
    network = keras.Sequential([keras.Input((64,)), dense(100, activation="relu", name="hidden"), dense(10)])
    before = accuracy(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    network.fit(x, y, epochs=args.epochs, validation_data=(x_test, y_test), verbose=verbose)
    return network, before


model, before = trained(functools.partial(SlotDense, num_values=8, score_mode="nearest"), verbose=2)
learned, _ = trained(keras.layers.Dense, verbose=0)
print(f"\naccuracy on {len(y_test)} held-out images")
print(f"random values, before training   {before:>6.1%}")
print(f"the same values, selected        {accuracy(model):>6.1%}")
print(f"ordinary weights, trained        {accuracy(learned):>6.1%}")

plain = materialize(model)  # an ordinary Keras model that holds the selected values
file = save_slots(model, args.out / "digits.slots", overwrite=True)  # seeds and choices
folder = export_selected(model, args.out / "selected", overwrite=True)  # needs no keras_slots
for loaded in (load_slots(file), keras.layers.TFSMLayer(folder, call_endpoint="serve")):
    np.testing.assert_allclose(loaded(x_test), plain(x_test), atol=1e-4)
print(f"\n{file}: {file.stat().st_size:,} bytes in place of {4 * plain.count_params():,}")
print(f"{folder}: a SavedModel. Both, loaded back, predict the same.")
