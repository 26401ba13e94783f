"""A network of keras.applications whose convolutions select their weights.

`slotify` replaces every Dense and convolution layer by a slot layer. Batch norms and biases stay plain and train
as usual, while the kernels select. `materialize` turns the result into an ordinary model again.

Needs pip install "keras-slots[examples]". Takes half a minute on two cores, on scikit-learn's digits, offline,
and reaches 98.1 %.

    python examples/slotify_a_model.py
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_slots import SlotLayer, materialize, slotify

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=15, help="(default: %(default)s)")
args = parser.parse_args()

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = x.reshape(-1, 8, 8, 1).repeat(4, axis=1).repeat(4, axis=2) / 8 - 1
x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=0)

network = keras.applications.MobileNet(
    input_shape=(32, 32, 1), alpha=0.25, weights=None, classes=10, classifier_activation=None
)

# Depthwise convolutions have only nine weights per channel; they stay plain.
model = slotify(
    network,
    num_values=8,
    filters=lambda layer: not isinstance(layer, keras.layers.DepthwiseConv2D),
    score_mode="nearest",
)
slots = [layer for layer in model.layers if isinstance(layer, SlotLayer)]
connections = sum(int(np.prod(layer.kernel.shape)) for layer in slots)
print(f"{len(slots)} of {len(model.layers)} layers select among {connections:,} x 8 values")

model.compile(
    keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, args.epochs * 44)),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(x[: 44 * 32], y[: 44 * 32], batch_size=32, epochs=args.epochs, verbose=2)
accuracy = model.evaluate(x_test, y_test, verbose=0)[1]

plain = materialize(model)
assert [layer.name for layer in plain.layers] == [layer.name for layer in network.layers]
difference = np.abs(plain.predict(x_test, verbose=0) - model.predict(x_test, verbose=0)).max()
print(f"test accuracy {accuracy:.2%}; the ordinary model predicts the same within {difference:.1e}")
