"""A run that survives being killed at any moment, and ends as if it had not been.

After every epoch Keras saves the whole model (levers, seeds, optimizer) under a temporary name, and the file is
renamed, so that a kill leaves the old state or the new one. (Keras' own BackupAndRestore overwrites its backup in
place, and loses it if it is killed meanwhile.) The order of the images depends only on the epoch. (Dropout
would resume with other masks, because Keras does not save its random state.)

Needs pip install "keras-slots[examples]". Takes seconds on two cores, on scikit-learn's digits.

    python examples/resume.py --out resume-output    # stop it at any moment: Ctrl-C, kill -9, power off
    python examples/resume.py --out resume-output    # the same command resumes
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_slots import SlotDense

EPOCHS, BATCH_SIZE = 12, 32

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("resume-output"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
state = args.out / "state.keras"

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=0.2, random_state=0)


class Batches(keras.utils.PyDataset):
    """The images in an order that differs between epochs, but is the same whenever an epoch is run again."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch
        self.on_epoch_begin()

    def on_epoch_begin(self):
        self.order = np.random.Generator(np.random.Philox([0, self.epoch])).permutation(len(x))

    def on_epoch_end(self):
        self.epoch += 1

    def __len__(self):
        return len(x) // BATCH_SIZE

    def __getitem__(self, index):
        rows = self.order[index * BATCH_SIZE :][:BATCH_SIZE]
        return x[rows], y[rows]


class SaveWhole(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if not all(np.isfinite(x).all() for x in (logs["loss"], *self.model.get_weights())):
            sys.exit(f"NaN or infinity in epoch {epoch + 1}: {state} keeps the last good epoch")
        unfinished = args.out / "unfinished.keras"
        self.model.save(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file)  # on the disk before it gets its final name
        unfinished.replace(state)


if state.exists():
    model = keras.models.load_model(state)
else:
    keras.utils.set_random_seed(0)
    slots = {"num_values": 8, "score_mode": "per_connection", "use_bias": False}
    model = keras.Sequential(
        [keras.Input((64,)), SlotDense(100, activation="relu", **slots), SlotDense(10, **slots)]
    )
    rate = keras.optimizers.schedules.CosineDecay(0.3, EPOCHS * (len(x) // BATCH_SIZE))
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

done = int(model.optimizer.iterations) // (len(x) // BATCH_SIZE)
print(f"{done} of {EPOCHS} epochs are done")
settings = {"epochs": EPOCHS, "initial_epoch": done, "verbose": 2}
model.fit(Batches(done), callbacks=[SaveWhole()], shuffle=False, **settings)  # Batches shuffles
print(f"test accuracy: {model.evaluate(x_test, y_test, verbose=0)[1]:.2%}")
