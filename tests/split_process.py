"""Trains a small network on one device and on all; run as a script, with its values split over four.

Prints one JSON line for each case: bytes on one device, bytes on each of several, and whether both
select the same values everywhere.
"""

import contextlib
import json

import jax
import keras
import numpy as np

from keras_slots import SlotConv2D, SlotDense

CASES = (("per_value", "greedy"), ("per_connection", "greedy"), ("per_connection", "probabilistic"))


def split_over_all_devices():
    """`ModelParallel`: dense kernels are cut along their inputs, convolutions along their filters."""
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((1, len(devices)), ("batch", "model"), devices)
    layouts = keras.distribution.LayoutMap(mesh)
    for layer, kernel in (("dense", ("model", None)), ("conv", (None, None, None, "model"))):
        layouts[f".*{layer}.*/(lever|kernel$)"] = kernel
        layouts[f".*{layer}.*/(scores|bank|initial_scores)"] = (*kernel, None)
        layouts[f".*{layer}.*/(thresholds|steps)"] = (None, *kernel)
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False)


def network(score_mode, selection, units=256):
    slots = {"score_mode": score_mode, "selection": selection, "use_bias": False}
    return keras.Sequential(
        [
            keras.Input((4, 4, 4)),
            SlotConv2D(64, 3, padding="same", activation="relu", seed=1, name="conv", **slots),
            keras.layers.Flatten(),
            SlotDense(units, activation="relu", seed=2, name="dense1", **slots),
            SlotDense(8, seed=3, name="dense2", **slots),
        ]
    )


def train(distribution, score_mode, selection, **arguments):
    """The kernels after two epochs, and the bytes of all variables on each device."""
    keras.utils.set_random_seed(0)
    with distribution.scope() if distribution else contextlib.nullcontext():
        model = network(score_mode, selection, **arguments)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        rate = 0.1 if selection == "greedy" else 20.0
        model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(64, 4, 4, 4)), rng.integers(0, 8, 64)
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
        kernels = [np.asarray(layer.kernel) for layer in model.layers if hasattr(layer, "bank")]
    held = [0] * jax.device_count()
    for variable in [*model.variables, *model.optimizer.variables]:
        for shard in variable.value.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    return kernels, held


def same(kernels, others):
    return all(np.array_equal(a, b) for a, b in zip(kernels, others, strict=True))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    keras.config.set_dtype_policy("float64")
    for case in CASES:
        (kernels, one), (again, several) = (train(None, *case), train(split_over_all_devices(), *case))
        print(json.dumps({"case": case, "one": one[0], "several": several, "same": same(kernels, again)}))
