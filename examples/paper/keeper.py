"""What a run keeps: its state after every epoch, and at the end the row of its results."""

import contextlib
import dataclasses
import datetime
import importlib
import math
import os
import platform
import re
import time
import zlib
from pathlib import Path

import keras
import numpy as np

import keras_slots
from recipes import Recipe
from runs import RunError, bank_checksum, load_state, save_state, state_file, write_csv


class Keeper(keras.callbacks.Callback):
    """After every epoch: history, best and last state, each written whole or not at all."""

    def __init__(self, folder, data, save_epochs=()):
        super().__init__()
        self.folder, self.save_epochs = folder, set(save_epochs)
        images = b"".join(np.ascontiguousarray(array) for array in data.splits["train"])
        self.fingerprint = zlib.crc32(images)
        shape = {"input_shape": list(data.input_shape), "num_classes": data.num_classes}
        self.facts = {"history": [], "best": None, "best_epoch": 0, "start": None, **shape}

    @property
    def history(self):
        return self.facts["history"]

    def resume(self, model):
        """Puts the last state back, if there is one; returns the number of finished epochs."""
        self.set_model(model)
        self.checksum = bank_checksum(model)
        if not (self.folder / "state" / "last.npz").exists():
            return 0
        extra = self.load("last")
        if extra["fingerprint"] != self.fingerprint:
            raise RunError(f"{self.folder} was trained on other data than these")
        self.facts = {name: extra[name] for name in self.facts}
        return len(self.history)

    def load(self, state, optimizer=True):
        """Puts a state back and returns its JSON values."""
        return load_state(state_file(self.folder, state), self.model, self.checksum, optimizer)

    def save(self, state, optimizer=False):
        path = self.folder / "state" / f"{state}.npz"
        extra = self.facts | {"fingerprint": self.fingerprint}
        save_state(path, self.model, self.checksum, optimizer, **extra)

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise RunError(
                f"the loss of epoch {epoch + 1} is {logs['loss']}; the state after epoch {epoch} "
                f"is kept in {self.folder}; lower --learning-rate"
            )
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(time.perf_counter() - self.started[0], 4)
        row["cpu_seconds"] = round(time.process_time() - self.started[1], 4)
        self.history.append(row)
        # Without validation images the last epoch is the best.
        score, best = row.get("val_accuracy", epoch), self.facts["best"]
        if best is None or score > best:
            self.facts |= {"best": score, "best_epoch": epoch + 1}
            self.save("best")
        if epoch + 1 in self.save_epochs:
            self.save(f"epoch-{epoch + 1}")
        self.save("last", optimizer=True)
        write_csv(self.folder / "history.csv", self.history)


def result_columns():
    """The columns of the results file, in order."""
    own = [field.name for field in dataclasses.fields(Recipe)]
    return [
        *["run_id", *own, "limit_steps", "note"],
        *["keras_slots", "keras", "backend", "tensorflow", "jax", "numpy", "python"],
        *["device", "devices", "date", "connections", "train_images", "epochs_done"],
        *["seconds_per_epoch", "seconds_total", "cpu_seconds_total", "best_epoch", "train_last"],
        *["val_best", "test_best", "val_last", "test_last", "val_mirror", "test_mirror"],
        *["val_averaged", "test_averaged", "command"],
    ]


def result_row(keeper, **measured):
    """The row of a finished run: what the columns say, from its history and from `measured`."""
    history, best = keeper.history, keeper.facts["best_epoch"]
    seconds = [row["seconds"] for row in history]
    measured |= versions() | {
        "device": processor(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "epochs_done": len(history),
        # The first epoch also pays for tracing and compiling.
        "seconds_per_epoch": round(float(np.median(seconds[1:] or seconds)), 3),
        "seconds_total": round(sum(seconds), 1),
        "cpu_seconds_total": round(sum(row["cpu_seconds"] for row in history), 1),
        "best_epoch": best,
        "train_last": history[-1]["accuracy"],
        "val_best": history[best - 1].get("val_accuracy"),
        "val_last": history[-1].get("val_accuracy"),
    }
    return {name: measured.get(name) for name in result_columns()}


def versions():
    """Versions of all that computes; the backend that does not run stays empty."""
    backend = keras.backend.backend()
    return {
        "keras_slots": keras_slots.__version__,
        "keras": keras.__version__,
        "backend": backend,
        **dict.fromkeys(("tensorflow", "jax"), ""),
        backend: importlib.import_module(backend).__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def processor():
    """What computes: the name of the GPU or of the processor, and its cores."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    else:
        import jax

        if jax.default_backend() != "cpu":
            return jax.devices()[0].device_kind
    name = platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        name = found[1] if found else name
    return f"{name}, {os.cpu_count()} cores"
