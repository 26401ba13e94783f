"""A microcontroller: a network that recognizes handwritten digits in a few kilobytes, as one header in C.

Its weights are never stored: a choice of 1.6 bits for each says which of three random numbers it is, and C code
makes the number from a hash while it is used. The header is for any microcontroller with a compiler of C99.

Needs pip install "keras-slots[examples]". Takes half a minute on two cores, offline. Then the second command runs
the network on this computer, and the third on an emulated Cortex-M0 with 16 kB of RAM, which needs the Debian
packages gcc-arm-none-eabi and qemu-system-arm. See docs/microcontrollers.md.

    python examples/microcontroller.py
    make -C examples/microcontroller run
    make -C examples/microcontroller m0
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_slots import SlotConv2D, SlotDense, StratifiedUniform, export_selected

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("microcontroller-output"), help="(default: %(default)s)")
parser.add_argument("--epochs", type=int, default=40, help="(default: %(default)s)")
args = parser.parse_args()

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=0)

# Eight bits: the weights that training chooses from are those that the integers of the C code hold exactly.
slots = {"num_values": 3, "score_mode": "nearest", "bank_initializer": StratifiedUniform(1.5, bits=8)}
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        SlotConv2D(8, 3, padding="same", use_bias=False, **slots),
        layers.BatchNormalization(),
        layers.ReLU(),
        SlotConv2D(16, 3, padding="same", use_bias=False, **slots),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(),
        SlotConv2D(16, 3, use_bias=False, **slots),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        SlotDense(10, **slots),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
rate = keras.optimizers.schedules.CosineDecay(0.01, args.epochs * -(-len(x) // 32))
model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
model.fit(x, y, batch_size=32, epochs=args.epochs, verbose=0)
accuracy = model.evaluate(x_test, y_test, verbose=0)[1]

args.out.mkdir(parents=True, exist_ok=True)
header = export_selected(model, args.out / "network.h", format="c", calibration_data=x[:500], overwrite=True)
print(header.read_text(encoding="utf-8").partition("*/")[0])

# The pixels go from 0 to 1, so that an input byte is a pixel times 255.
images = np.round(x_test * 255).astype("uint8").reshape(len(x_test), -1)
rows = ",\n".join("{" + ",".join(map(str, image)) + "}" for image in images)
text = f"""/* Held-out images of scikit-learn's digits. */
#include <stdint.h>

#define IMAGES {len(images)}
#define CLASSES 10
static const uint8_t labels[IMAGES] = {{{",".join(map(str, y_test))}}};
static const uint8_t images[IMAGES][{images.shape[1]}] = {{
{rows}}};
"""
(args.out / "images.h").write_text(text, encoding="utf-8")
print(f"Keras, with floats: {round(accuracy * len(x_test))} of {len(x_test)} right")
