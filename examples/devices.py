"""The devices that a run computes on: one, or several that share every batch."""

import contextlib
import dataclasses
import os
import platform
from typing import Any

import keras

import processes
from runfolder import RunError


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a run computes on.

    Attributes:
        count: devices that share a batch.
        name: what one of them is called.
        strategy: `tf.distribute` strategy, `keras.distribution` or None.
    """

    count: int
    name: str
    strategy: Any = None

    def scope(self):
        """The context in which the model is built and trained."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()


def choose(strategy, batch_size):
    """The devices of `--strategy`.

    Args:
        strategy: "none" takes one device, "mirrored" all, "auto" all when they are several GPUs, or
            when there are several processes. "split" spreads the values, not the batch (JAX).
        batch_size: images in a batch, over all devices.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    devices, name = _on_tensorflow() if on_tensorflow else _on_jax()
    if strategy == "split":
        return Devices(len(devices), name, split_over(devices))
    several = len(devices) > 1 and "CPU" not in name
    if processes.count() > 1:
        if strategy == "none":
            raise RunError("--strategy none uses one device; several processes need mirrored")
        several = True
    if strategy != "mirrored" and not (strategy == "auto" and several):
        return Devices(1, name)
    if batch_size % len(devices):
        raise RunError(
            f"--batch-size {batch_size} cannot be spread evenly over {len(devices)} devices; "
            f"choose a multiple of {len(devices)}"
        )
    if on_tensorflow:
        return Devices(len(devices), name, _mirrored(devices))
    # Every process cuts its own share out of a batch (numpy_pipeline.py).
    parallel = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    return Devices(len(devices), name, parallel)


def split_over(devices):
    """`ModelParallel` for the networks of networks.py: every device holds a part of the values.

    Dense kernels are cut along their inputs, whose number is even where that of classes is not, and
    convolutions along their filters. Scores and bank of a connection stay together.
    """
    if keras.backend.backend() != "jax":
        raise RunError("--strategy split needs the JAX backend: set KERAS_BACKEND=jax")
    if processes.count() > 1:
        raise RunError("--strategy split works in one process; use mirrored with several")
    mesh = keras.distribution.DeviceMesh((1, len(devices)), ("batch", "model"), devices)
    layouts = keras.distribution.LayoutMap(mesh)
    for layer, kernel in (("dense", ("model", None)), ("conv", (None, None, None, "model"))):
        layouts[f".*{layer}[^/]*/(kernel|lever)"] = kernel
        layouts[f".*{layer}[^/]*/(scores|bank|initial_scores)"] = (*kernel, None)
        layouts[f".*{layer}[^/]*/(thresholds|steps)"] = (None, *kernel)
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    )


def on_gpu():
    """Whether there is an accelerator to compute on."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_logical_devices("GPU"))
    import jax

    return jax.default_backend() != "cpu"


def _cpu():
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def _on_tensorflow():
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    if not gpus:
        return tf.config.list_logical_devices("CPU"), _cpu()
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return gpus, details.get("device_name", "GPU")


def _on_jax():
    import jax

    devices = keras.distribution.list_devices()
    return devices, jax.devices()[0].device_kind if on_gpu() else _cpu()


def _mirrored(devices):
    import tensorflow as tf

    # TensorFlow's collective on CPU mixes up the strategies of one process.
    on_cpu = all(device.device_type == "CPU" for device in devices)
    reduction = tf.distribute.ReductionToOneDevice() if on_cpu else None
    names = [device.name for device in devices]
    return tf.distribute.MirroredStrategy(names, cross_device_ops=reduction)
