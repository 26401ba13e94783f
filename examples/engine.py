"""From a recipe to a trained run folder: model, optimizer, fit, resume, results row.

Shared by train.py, finetune.py, sweep.py, tune.py and export.py.
"""

import dataclasses
import datetime
import json
import math
import platform
import time
import zlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import data as data_module
import networks
from modeling import build_model, compile_model, make_strategy
from runfolder import (
    RunError,
    append_row,
    bank_checksum,
    check_results,
    load_state,
    open_run,
    read_json,
    save_state,
    write_history,
    write_json,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What does not belong to a recipe: where things are, and how the machine is used."""

    data_dir: str | None = None
    download: bool = False
    run_dir: str | None = None
    results: str = "runs/results.csv"
    strategy: str = "auto"
    dtype_policy: str = "float32"
    jit_compile: str = "auto"
    limit_steps: int = 0
    save_epochs: tuple = ()
    steps_per_execution: int = 0
    tensorboard: bool = False
    verbose: int = 2
    note: str = ""


def load_data(recipe, options):
    """The data of a recipe, split and ready for `Data.training`."""
    return data_module.load(
        recipe.dataset,
        options.data_dir,
        validation_share=recipe.validation_share,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        augment=recipe.augmentation,
        split_seed=recipe.split_seed,
        download=options.download,
    )


class Keeper(keras.callbacks.Callback):
    """After every epoch: history, best and last state, each written whole or not at all."""

    def __init__(self, folder, save_epochs=(), fingerprint=0):
        super().__init__()
        self.folder, self.save_epochs, self.fingerprint = folder, set(save_epochs), fingerprint
        self.history, self.best, self.best_epoch = [], -math.inf, 0

    def resume(self, model):
        """Puts the last state back, if there is one; returns the number of finished epochs."""
        self.set_model(model)
        self.checksum = bank_checksum(model)
        if not (self.folder / "last.npz").exists():
            return 0
        extra = load_state(self.folder / "last.npz", model, bank=self.checksum)
        if extra["fingerprint"] != self.fingerprint:
            raise RunError(f"{self.folder} was trained on other data than these")
        self.history, self.best_epoch = extra["history"], extra["best_epoch"]
        self.best = -math.inf if extra["best"] is None else extra["best"]
        return len(self.history)

    def save(self, name):
        extra = {
            "history": self.history,
            "best": self.best if self.history else None,
            "best_epoch": self.best_epoch,
            "fingerprint": self.fingerprint,
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
        write_history(self.folder / "history.csv", self.history)


def evaluate(model, data, split, limit=None):
    """Accuracy on a split, or None when the split is empty."""
    if not data.count(split):
        return None
    batches = data.evaluation(split, limit, model.distribute_strategy.num_replicas_in_sync)
    return float(model.evaluate(batches, verbose=0, return_dict=True)["accuracy"])


def fit(model, data, recipe, options, folder, callbacks=()):
    """Trains to the last epoch of the recipe, from wherever the folder's last state is.

    Returns:
        The `Keeper` with the history.
    """
    steps = min(options.limit_steps or data.steps_per_epoch, data.steps_per_epoch)
    limit = options.limit_steps or None
    fingerprint = zlib.crc32(b"".join(np.ascontiguousarray(a) for a in data.splits["train"]))
    keeper = Keeper(folder, options.save_epochs, fingerprint)
    start = keeper.resume(model)
    if start == 0 and 0 in keeper.save_epochs:
        keeper.save("epoch-0000.npz")
    if start >= recipe.epochs:
        return keeper
    replicas = model.distribute_strategy.num_replicas_in_sync
    held = data.count("validation")
    validation = data.evaluation("validation", limit, replicas) if held else None
    callbacks = [keeper, *callbacks]
    if options.tensorboard:
        callbacks.append(_tensorboard(folder))
    model.fit(
        data.training(start, recipe.epochs, steps),
        epochs=recipe.epochs,
        initial_epoch=start,
        steps_per_epoch=steps,
        validation_data=validation,
        callbacks=callbacks,
        verbose=options.verbose,
        shuffle=False,  # tf.data does it
    )
    return keeper


def _tensorboard(folder):
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise RunError('--tensorboard needs pip install "keras-slots[tensorboard]"') from error
    return keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)


def run_identity(recipe, options):
    """What makes two runs the same run."""
    same = {"dtype_policy": options.dtype_policy, "limit_steps": options.limit_steps}
    return dataclasses.asdict(recipe) | same


def default_run_dir(recipe, plain):
    """runs/<name>[-<digest when a field differs from `plain`>]-s<seed>."""
    changed = dataclasses.replace(recipe, seed=plain.seed) != plain
    middle = f"-{recipe.digest()}" if changed else ""
    return Path("runs") / f"{recipe.name}{middle}-s{recipe.seed}"


def train(recipe, options, callbacks=()):
    """Trains one recipe in its run folder and appends its row to the results file.

    A folder that holds an unfinished run of the same recipe is continued; a finished one is only
    read. Returns the results row as a dict.
    """
    check_results(options.results, result_columns(recipe))
    with open_run(options.run_dir, run_identity(recipe, options)) as folder:
        finished = folder / "results.json"
        if not finished.exists():
            _train_in(folder, recipe, options, callbacks)
        row = read_json(finished)["row"]
        append_row(options.results, row)
    return row


def _train_in(folder, recipe, options, callbacks):
    data = load_data(recipe, options)
    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(options.dtype_policy)
    strategy = make_strategy(options.strategy, recipe.batch_size)
    if options.jit_compile == "on" and strategy.num_replicas_in_sync > 1:
        raise RunError("--jit-compile on does not work under a strategy; leave it auto")
    steps = min(options.limit_steps or data.steps_per_epoch, data.steps_per_epoch)
    with strategy.scope():
        model = build_model(recipe, data.input_shape, data.num_classes)
        compile_model(model, recipe, options, steps)
    keeper = fit(model, data, recipe, options, folder, callbacks)
    limit = options.limit_steps or None
    last, best = keeper.history[-1], keeper.history[keeper.best_epoch - 1]
    scores = {"test_last": evaluate(model, data, "test", limit)}
    load_state(folder / "best.npz", model, optimizer=False, bank=keeper.checksum)
    scores["test_best"] = evaluate(model, data, "test", limit)
    seconds = [row["seconds"] for row in keeper.history]
    measured = {
        "run_id": read_json(folder / "run.json")["run_id"],
        **run_identity(recipe, options),
        "note": options.note,
        **versions(),
        **device(strategy),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "connections": networks.count_connections(model),
        "train_images": data.count("train"),
        "epochs_done": len(keeper.history),
        # The first epoch also pays for tracing and compiling.
        "seconds_per_epoch": round(float(np.median(seconds[1:] or seconds)), 3),
        "seconds_total": round(sum(seconds), 1),
        "best_epoch": keeper.best_epoch,
        "train_last": last["accuracy"],
        "val_best": best.get("val_accuracy"),
        "val_last": last.get("val_accuracy"),
        **scores,
    }
    row = {name: measured[name] for name in result_columns(recipe)}
    write_json(folder / "results.json", {"row": row, "history": keeper.history})


def result_columns(recipe):
    """The columns of the results file, in order."""
    own = [field.name for field in dataclasses.fields(recipe)]
    return [
        *["run_id", *own, "dtype_policy", "limit_steps", "note"],
        *["keras_slots", "keras", "tensorflow", "numpy", "python"],
        *["device", "devices", "date", "connections", "train_images", "epochs_done"],
        *["seconds_per_epoch", "seconds_total", "best_epoch", "train_last", "val_best"],
        *["test_best", "val_last", "test_last"],
    ]


def versions():
    try:
        from keras_slots import __version__ as own
    except ImportError:  # the learned baseline runs without it
        own = ""
    return {
        "keras_slots": own,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def device(strategy):
    """Name and number of the devices that a strategy computes on."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    else:
        import os

        name = f"{platform.machine()} CPU, {len(os.sched_getaffinity(0))} cores"
    return {"device": name, "devices": strategy.num_replicas_in_sync}


def recipe_of(folder, cls):
    """The recipe that a run folder belongs to."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise RunError(f"{folder} is not a run folder: it has no run.json")
    known = read_json(path)
    try:
        fields = {field.name: known[field.name] for field in dataclasses.fields(cls)}
        return cls(**fields), known
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} does not describe a run: {json.dumps(str(error))}") from error
