"""One network trained by several hosts, on JAX: each feeds its share of every batch.

Start it on each host (or once per GPU, with CUDA_VISIBLE_DEVICES) with the same command except for
--process-id. Up to rounding, the result is that of one process with the whole batch. Keras 3 trains over
several hosts only on JAX. Without --hosts a single process trains.

Needs pip install "keras-slots[examples,jax]". Takes seconds on two cores, on scikit-learn's digits, offline.

    python examples/several_hosts_jax.py --hosts host0:1234 --processes 2 --process-id 0    # on host0
    python examples/several_hosts_jax.py --hosts host0:1234 --processes 2 --process-id 1    # on host1
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_slots import SlotDense

EPOCHS, BATCH_SIZE = 10, 32  # of all processes together

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--hosts", help="HOST:PORT of process 0, to which the others connect")
parser.add_argument("--processes", type=int, default=1, help="number of processes")
parser.add_argument("--process-id", type=int, default=0, help="number of this process, from 0")
parser.add_argument("--out", default="several-hosts.keras", help="file that process 0 writes")
args = parser.parse_args()

if args.hosts:  # before any computation
    keras.distribution.initialize(args.hosts, args.processes, args.process_id)
keras.utils.set_random_seed(0)  # all processes draw the same values and the same order

# Every process gives Keras its own share of a batch, so Keras must not split it again.
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
share = BATCH_SIZE // jax.process_count()
own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=0.2, random_state=0)


class Share(keras.utils.PyDataset):
    """This process's share of each batch; the order of the images is the same in all processes."""

    def on_epoch_begin(self):
        self.order = np.random.permutation(len(x))  # noqa: NPY002

    def __len__(self):
        return len(x) // BATCH_SIZE

    def __getitem__(self, index):
        rows = self.order[index * BATCH_SIZE :][:BATCH_SIZE][own]
        return x[rows], y[rows]


def network():
    slots = {"num_values": 8, "score_mode": "per_connection", "use_bias": False}
    hidden = SlotDense(100, activation="relu", **slots)
    return keras.Sequential([keras.Input((64,)), hidden, SlotDense(10, **slots)])


model = network()
rate = keras.optimizers.schedules.CosineDecay(0.3, EPOCHS * (len(x) // BATCH_SIZE))
model.compile(
    keras.optimizers.SGD(rate, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
batches = Share()
batches.on_epoch_begin()
model.fit(batches, epochs=EPOCHS, verbose=2 if jax.process_index() == 0 else 0)

# All processes hold the whole network. To compute in one process alone, copy it to a network without distribution.
weights = model.get_weights()
keras.distribution.set_distribution(None)
if jax.process_index() == 0:
    alone = network()
    alone.set_weights(weights)
    alone.save(args.out)
    accuracy = (alone.predict(x_test, verbose=0).argmax(-1) == y_test).mean()
    print(f"{jax.process_count()} process(es): test accuracy {accuracy:.2%}")
