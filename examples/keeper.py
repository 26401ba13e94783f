"""The callback that keeps a run: history, best and last state, after every epoch."""

import math
import time
import zlib

import keras
import numpy as np

import processes
from runfolder import RunError, bank_checksum, load_state, save_state, write_history


class Keeper(keras.callbacks.Callback):
    """After every epoch: history, best and last state, each written whole or not at all.

    Of several processes, process 0 writes and reads, and the others follow it.
    """

    def __init__(self, folder, data, save_epochs=()):
        super().__init__()
        self.folder, self.save_epochs = folder, set(save_epochs)
        images = b"".join(np.ascontiguousarray(array) for array in data.splits["train"])
        self.facts = {
            "fingerprint": zlib.crc32(images),
            "input_shape": list(data.input_shape),
            "num_classes": data.num_classes,
        }
        self.history, self.best, self.best_epoch = [], -math.inf, 0

    def resume(self, model):
        """Puts the last state back, if there is one; returns the number of finished epochs."""
        self.set_model(model)
        self.checksum = bank_checksum(model)
        extra = self.load("last.npz")
        if extra is None:
            return 0
        if extra["fingerprint"] != self.facts["fingerprint"]:
            raise RunError(f"{self.folder} was trained on other data than these")
        self.history, self.best_epoch = extra["history"], extra["best_epoch"]
        self.best = -math.inf if extra["best"] is None else extra["best"]
        return len(self.history)

    def load(self, name, optimizer=True):
        """Puts a state back and returns its JSON values; None when there is no such state."""
        path = self.folder / name
        stream = processes.open_shared(path)
        if stream is None:
            return None
        return load_state(path, self.model, optimizer, self.checksum, stream)

    def save(self, name):
        if processes.index() > 0:
            return
        extra = {
            "history": self.history,
            "best": self.best if self.history else None,
            "best_epoch": self.best_epoch,
            **self.facts,
        }
        save_state(self.folder / name, self.model, bank=self.checksum, **extra)

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise RunError(
                f"the loss of epoch {epoch + 1} is {logs['loss']}; the state after epoch {epoch} "
                f"is kept in {self.folder}; lower --learning-rate"
            )
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(time.perf_counter() - self.started, 4)
        self.history.append(row)
        # Without validation images the last epoch is the best.
        score = row.get("val_accuracy", epoch)
        improved = score > self.best
        if improved:
            self.best, self.best_epoch = score, epoch + 1
            self.save("best.npz")
        if epoch + 1 in self.save_epochs:
            self.save(f"epoch-{epoch + 1:04d}.npz")
        self.save("last.npz")
        if processes.index() == 0:
            write_history(self.folder / "history.csv", self.history)
