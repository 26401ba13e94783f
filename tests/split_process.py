"""Trains with all values on one device and split over all devices; started by test_distribution.py.

    python split_process.py EXAMPLES

Prints one JSON line for each case: bytes on one device, bytes on each of several, and whether both
select the same values everywhere.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])

import jax
import keras
import numpy as np

import devices
import networks

CASES = (("per_value", "greedy"), ("per_connection", "greedy"), ("per_connection", "probabilistic"))


def train(strategy, score_mode, selection):
    """The kernels after a few steps, and the bytes of all variables on each device."""
    slots = networks.slot_layers(num_values=8, score_mode=score_mode, selection=selection)
    with devices.choose(strategy, 8).scope():
        model = networks.build("conv2", (4, 4, 3), 10, layers=slots, dropout=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(32, 4, 4, 3)), rng.integers(0, 10, 32)
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False)
        kernels = [np.asarray(layer.kernel) for layer in model.layers if hasattr(layer, "bank")]
    held = [0] * jax.device_count()
    for variable in [*model.variables, *model.optimizer.variables]:
        for shard in variable.value.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    return kernels, held


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    keras.config.set_dtype_policy("float64")
    for case in CASES:
        (kernels, one), (again, several) = train("none", *case), train("split", *case)
        same = all(np.array_equal(a, b) for a, b in zip(kernels, again, strict=True))
        print(json.dumps({"case": case, "one": one[0], "several": several, "same": same}))
