"""From a recipe to a trained run folder: data, devices, model, fit, resume, results row."""

import contextlib
import dataclasses
import datetime
import importlib
import os
import platform
import re
import time
import uuid
from pathlib import Path

import keras
import numpy as np
import pandas as pd

import keras_slots
import runs
from cli import command_line
from data import CHANGES, Data, read_arrays
from networks import build_model, count_connections
from optimizers import make_loss, make_optimizer
from recipes import Recipe

EVALUATION_BATCH = 1000


def load_data(recipe, options):
    return Data(recipe, read_arrays(recipe.dataset, options.data_dir, options.download))


def choose_devices(strategy):
    """The distribution of --strategy (None: one device), and its number of devices."""
    backend = keras.backend.backend()
    if backend == "torch":
        return None, 1  # Keras has no strategy there.
    on_tensorflow = backend == "tensorflow"
    if on_tensorflow:
        import tensorflow as tf

        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
        devices = devices or [device.name for device in tf.config.list_logical_devices("CPU")]
    else:
        devices = keras.distribution.list_devices()
    on_cpu = "cpu" in devices[0].lower()
    if strategy == "none" or len(devices) == 1 or (strategy == "auto" and on_cpu):
        return None, 1
    if not on_tensorflow:
        return keras.distribution.DataParallel(devices=devices), len(devices)
    # TensorFlow's collective on CPU mixes up the strategies of one process.
    reduction = tf.distribute.ReductionToOneDevice() if on_cpu else None
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction), len(devices)


def train(recipe, folder, options, weights=None, origin=None):
    """Trains a recipe in its run folder, or goes on there; returns the row that the results file has.

    It starts from `weights`, if they are given, and `origin` says whose they are, as JSON values by which
    the run is known. A finished run is only read.
    """
    folder = Path(folder)
    file, done = folder / "run.json", folder / "results.json"
    identity = dataclasses.asdict(recipe) | {"origin": origin}
    if not file.exists():
        (folder / "state").mkdir(parents=True, exist_ok=True)
        runs.write_json(file, identity | {"run_id": uuid.uuid4().hex})
    known = runs.read_json(file)
    if known != identity | {"run_id": known["run_id"]}:
        raise SystemExit(f"{folder} holds another run; choose another --run-dir")
    if not done.exists():
        keras.backend.clear_session()
        keras.config.set_dtype_policy(recipe.dtype_policy)
        data = load_data(recipe, options)
        distribution, devices = choose_devices(options.strategy)
        with distribution.scope() if distribution else contextlib.nullcontext():
            model = build_model(recipe, data.input_shape, data.num_classes)
            if weights is not None:
                model.set_weights(weights)
            run = Run(recipe, folder, options, data, model, devices)
            run.fit()
            row = {"run_id": known["run_id"], **run.row()}
        runs.write_json(done, {"row": row, "origin": origin, "history": run.history})
    row = runs.read_json(done)["row"]
    runs.append_row(options.results, row)
    return row


class Run(keras.callbacks.Callback):
    """One run in its folder. As a callback it keeps, after every epoch, history and states."""

    def __init__(self, recipe, folder, options, data, model, devices):
        super().__init__()
        self.recipe, self.folder, self.options = recipe, folder, options
        self.data, self.devices, self.history = data, devices, []
        self.images = {split: data.evaluation(split, devices) for split in ("validation", "test")}
        self.evaluation_batch = EVALUATION_BATCH // devices * devices
        steps, together = len(data), 1
        grouped = {"tensorflow": devices == 1, "jax": True, "torch": False}[keras.backend.backend()]
        if recipe.network == "lenet300100" and grouped:
            # Small steps are grouped where Keras can; the results do not depend on it.
            together = max(size for size in range(1, min(200, steps) + 1) if steps % size == 0)
        self.set_model(model)
        model.compile(
            make_optimizer(recipe, steps),
            make_loss(recipe.label_smoothing),
            weighted_metrics=["accuracy"],
            steps_per_execution=together,
        )
        model.optimizer.build(model.trainable_variables)

    def fit(self):
        """Goes on from the folder's last state."""
        runs.remove_unfinished(self.folder)
        if (self.folder / "state" / "last.npz").exists():
            self.load("last", optimizer=True)
        elif 0 in self.options.save_epochs:
            self.save("epoch-0")
        self.model.fit(
            self.data,
            epochs=self.recipe.epochs,
            initial_epoch=len(self.history),
            validation_data=self.images["validation"],
            validation_batch_size=self.evaluation_batch,
            callbacks=[self],
            verbose=self.options.verbose,
            shuffle=False,  # the data have their own order
        )

    def on_epoch_begin(self, epoch, logs=None):
        self.data.start(epoch)
        self.started = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        if not np.isfinite(row["loss"]):
            raise SystemExit(f"The loss of epoch {epoch + 1} is {row['loss']}; lower --learning-rate")
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(time.perf_counter() - self.started[0], 4)
        row["cpu_seconds"] = round(time.process_time() - self.started[1], 4)
        self.history.append(row)
        if self.best_epoch == epoch + 1:
            self.save("best")
        if epoch + 1 in self.options.save_epochs:
            self.save(f"epoch-{epoch + 1}")
        self.save("last", optimizer=True)
        history = pd.DataFrame(self.history).to_csv(index=False)
        runs.write_whole(self.folder / "history.csv", history)

    @property
    def best_epoch(self):
        return 1 + int(np.argmax([row["val_accuracy"] for row in self.history]))

    def save(self, state, optimizer=False):
        path = self.folder / "state" / f"{state}.npz"
        shape = {"input_shape": self.data.input_shape, "num_classes": self.data.num_classes}
        runs.save_state(path, self.model, optimizer, history=self.history, **shape)

    def load(self, state, optimizer=False):
        path = runs.state_file(self.folder, state)
        self.history = runs.load_state(path, self.model, optimizer)["history"]

    def accuracy(self, split, mirror=False):
        """Accuracy on a split, or that of the mean logits of each image and its mirror image."""
        x, y, weights = self.images[split]
        size = {"batch_size": self.evaluation_batch, "verbose": 0}
        if not mirror:
            found = self.model.evaluate(x, y, sample_weight=weights, **size, return_dict=True)
            return float(found["accuracy"])
        both = (self.model.predict(images, **size) for images in (x, x[:, :, ::-1]))
        logits = sum(one.astype("float32") for one in both)
        return float(np.average(logits.argmax(-1) == y, weights=weights))

    def renew_statistics(self):
        """Gives the batch norms the means and variances that the averaged weights have."""
        norms = [x for x in self.model.layers if isinstance(x, keras.layers.BatchNormalization)]
        self.data.start(0)
        for number in range(min(50, len(self.data)) if norms else 0):
            for norm in norms:
                norm.momentum = number / (number + 1)  # the plain mean over the batches
            self.model(self.data[number][0], training=True)

    def row(self):
        """The row of the finished run: the test images are looked at here alone."""
        last, recipe = self.history[-1], self.recipe
        measured = {"best_epoch": self.best_epoch, "train_last": last["accuracy"]}
        measured["val_best"] = self.history[self.best_epoch - 1]["val_accuracy"]
        self.load("best")
        measured["test_best"] = self.accuracy("test")
        self.load("last", optimizer=True)
        measured |= {"val_last": last["val_accuracy"], "test_last": self.accuracy("test")}
        _, mirrored, *_ = CHANGES.get(recipe.augmentation, (0, None))
        for split, short in (("validation", "val"), ("test", "test")):
            measured[f"{short}_mirror"] = self.accuracy(split, mirror=True) if mirrored else None
        if recipe.averaging:
            # Levers or scores in a slot machine, whose values no average touches.
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            self.renew_statistics()
        for split, short in (("validation", "val"), ("test", "test")):
            measured[f"{short}_averaged"] = self.accuracy(split) if recipe.averaging else None
        seconds = [row["seconds"] for row in self.history]
        return {
            **dataclasses.asdict(recipe),
            **environment(),
            "devices": self.devices,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "connections": count_connections(self.model),
            "train_images": len(self.data.x),
            "epochs_done": len(self.history),
            # The first epoch also pays for tracing and compiling.
            "seconds_per_epoch": round(float(np.median(seconds[1:] or seconds)), 3),
            "seconds_total": round(sum(seconds), 1),
            "cpu_seconds_total": round(sum(row["cpu_seconds"] for row in self.history), 1),
            **measured,
            "command": command_line(),
        }


def environment():
    """Versions of all that computes, and the name of the GPU or processor."""
    backend = keras.backend.backend()
    library = importlib.import_module(backend)
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    device = f"{named[1] if named else platform.machine()}, {os.cpu_count()} cores"
    if backend == "torch" and library.cuda.is_available():
        device = library.cuda.get_device_name()
    elif backend == "jax" and library.default_backend() != "cpu":
        device = library.devices()[0].device_kind
    elif backend == "tensorflow" and library.config.list_physical_devices("GPU"):
        first = library.config.list_physical_devices("GPU")[0]
        device = library.config.experimental.get_device_details(first)["device_name"]
    return {
        "keras_slots": keras_slots.__version__,
        "keras": keras.__version__,
        "backend": backend,
        **dict.fromkeys(("tensorflow", "jax"), ""),
        backend: library.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device,
    }


def recipe_of(folder):
    """The recipe that a run folder belongs to."""
    known = runs.read_json(Path(folder, "run.json"))
    return Recipe(**{field.name: known[field.name] for field in dataclasses.fields(Recipe)})


def load_model(folder, state="best"):
    """The recipe of a run folder, and its model with one of its states: Keras' own layers, in full precision."""
    recipe, path = recipe_of(folder), runs.state_file(folder, state)
    facts = runs.read_state(path)[1]
    keras.config.set_dtype_policy(keras.DTypePolicy(recipe.dtype_policy).variable_dtype)
    model = build_model(recipe, tuple(facts["input_shape"]), facts["num_classes"], fused=False)
    runs.load_state(path, model)
    return recipe, model
