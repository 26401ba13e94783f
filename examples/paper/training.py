"""From a recipe to a trained run folder: data, devices, model, fit, resume, results row.

Shared by train.py, finetune.py, sweep.py and tune.py.
"""

import contextlib
import dataclasses
import datetime
import importlib
import math
import os
import platform
import random
import re
import time
import zlib
from pathlib import Path

import keras
import numpy as np

import data as data_module
import networks
from optimizers import make_loss, make_optimizer
from recipes import Recipe
from runs import (
    RunError,
    append_row,
    bank_checksum,
    check_identity,
    check_results,
    load_state,
    open_run,
    read_extra,
    read_json,
    save_state,
    state_file,
    write_csv,
    write_json,
)


def compile_model(model, recipe, options, steps, devices=1):
    """Compiles for `steps` training steps an epoch."""
    together = 1
    if recipe.network == "lenet300100" and (devices == 1 or keras.backend.backend() == "jax"):
        # Small steps are grouped; the results do not depend on it.
        together = max(n for n in range(1, min(200, steps) + 1) if steps % n == 0)
    model.compile(
        make_optimizer(recipe, steps),
        make_loss(recipe.label_smoothing),
        weighted_metrics=["accuracy"],
        steps_per_execution=together,
        jit_compile={"on": True, "off": False, "auto": "auto"}[options.jit_compile],
    )
    model.optimizer.build(model.trainable_variables)


def choose_devices(strategy, batch_size):
    """The `tf.distribute` or Keras distribution of `--strategy` (None: one device), and its devices.

    "none" takes one device, "mirrored" all, "auto" all when they are several GPUs.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if on_tensorflow:
        import tensorflow as tf

        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        devices = [d.name for d in tf.config.list_logical_devices("GPU" if on_gpu else "CPU")]
    else:
        devices = keras.distribution.list_devices()
        on_gpu = not devices[0].startswith("cpu")
    if strategy == "none" or len(devices) == 1 or (strategy == "auto" and not on_gpu):
        return None, 1
    if batch_size % len(devices):
        raise RunError(
            f"--batch-size {batch_size} cannot be spread evenly over {len(devices)} devices; "
            f"choose a multiple of {len(devices)}"
        )
    if not on_tensorflow:
        return keras.distribution.DataParallel(devices=devices), len(devices)
    # TensorFlow's collective on CPU mixes up the strategies of one process.
    reduction = None if on_gpu else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction), len(devices)


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


class Keeper(keras.callbacks.Callback):
    """After every epoch: history, best and last state, each written whole or not at all."""

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
        if not (self.folder / "state" / "last.npz").exists():
            return 0
        extra = self.load("last")
        if extra["fingerprint"] != self.facts["fingerprint"]:
            raise RunError(f"{self.folder} was trained on other data than these")
        self.history, self.best_epoch = extra["history"], extra["best_epoch"]
        self.best = -math.inf if extra["best"] is None else extra["best"]
        return len(self.history)

    def load(self, state, optimizer=True):
        """Puts a state back and returns its JSON values."""
        return load_state(state_file(self.folder, state), self.model, self.checksum, optimizer)

    def save(self, state, optimizer=False):
        extra = {
            "history": self.history,
            "best": self.best if self.history else None,
            "best_epoch": self.best_epoch,
            **self.facts,
        }
        path = self.folder / "state" / f"{state}.npz"
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
        score = row.get("val_accuracy", epoch)
        if score > self.best:
            self.best, self.best_epoch = score, epoch + 1
            self.save("best")
        if epoch + 1 in self.save_epochs:
            self.save(f"epoch-{epoch + 1}")
        self.save("last", optimizer=True)
        write_csv(self.folder / "history.csv", self.history)


def load_data(recipe, options):
    """The data of a recipe, split and ready for `Data.training`."""
    return data_module.load(
        recipe.dataset,
        options.data_dir,
        options.download,
        validation_share=recipe.validation_share,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        augment=recipe.augmentation,
        split_seed=recipe.split_seed,
    )


def run_identity(recipe, options, origin=""):
    """What makes two runs the same run."""
    same = {"limit_steps": options.limit_steps}
    return dataclasses.asdict(recipe) | same | ({"origin": origin} if origin else {})


def default_run_dir(recipe, plain, limit_steps=0):
    """runs/<name>[-<digest when a field differs from `plain`>][-limit<N>]-s<seed>."""
    changed = dataclasses.replace(recipe, seed=plain.seed) != plain
    middle = f"-{recipe.digest()}" if changed else ""
    limited = f"-limit{limit_steps}" if limit_steps else ""
    return Path("runs") / f"{recipe.name}{middle}{limited}-s{recipe.seed}"


def train(recipe, options, callbacks=(), make_model=networks.build_model, origin=""):
    """Trains one recipe in its run folder and appends its row to the results file.

    A folder that holds an unfinished run of the same recipe is continued; a finished one is only
    read.

    Args:
        recipe: the `Recipe`.
        options: the `Options`.
        callbacks: further Keras callbacks.
        make_model: `make_model(recipe, input_shape, num_classes)` gives the model to train.
        origin: names what `make_model` starts from, so that the run is known by it.

    Returns:
        The results row, a dict.
    """
    folder, identity = Path(options.run_dir), run_identity(recipe, options, origin)
    check_results(options.results, result_columns())
    if (folder / "results.json").exists():
        check_identity(folder, identity)
    else:
        # Whatever can be wrong with data and devices is found before there is a folder.
        data = load_data(recipe, options)
        devices = choose_devices(options.strategy, recipe.batch_size)
        with open_run(folder, identity):
            _train_in(folder, recipe, options, data, devices, callbacks, make_model)
    row = read_json(folder / "results.json")["row"]
    append_row(options.results, row)
    return row


def _train_in(folder, recipe, options, data, devices, callbacks, make_model):
    _prepare_policy(recipe.dtype_policy)
    _set_random_seed(recipe.seed)
    distribution, count = devices
    steps = min(options.limit_steps or data.steps_per_epoch, data.steps_per_epoch)
    with distribution.scope() if distribution else contextlib.nullcontext():
        model = make_model(recipe, data.input_shape, data.num_classes)
        compile_model(model, recipe, options, steps, count)
        keeper = Keeper(folder, data, options.save_epochs)
        start = keeper.resume(model)
        if start == 0 and 0 in keeper.save_epochs:
            keeper.save("epoch-0")
        limit = options.limit_steps or None
        if start < recipe.epochs:
            held = data.count("validation")
            model.fit(
                data.training(start, recipe.epochs, steps),
                epochs=recipe.epochs,
                initial_epoch=start,
                steps_per_epoch=steps,
                validation_data=data.evaluation("validation", limit, count) if held else None,
                callbacks=[keeper, *callbacks],
                verbose=options.verbose,
                shuffle=False,  # the pipeline does it
            )
        accuracies = final_accuracies(model, recipe, data, keeper, limit, count)
    _write_results(folder, recipe, options, data, model, keeper, (count, accuracies))


def final_accuracies(model, recipe, data, keeper, limit=None, replicas=1):
    """What the finished run reaches on the test images, which are looked at here alone.

    Returns:
        A dict: the last epoch, with mirrored images (mean logits of both) and with averaged weights,
        on validation and test images; the best epoch on the test images.
    """

    def accuracy(split):
        if not data.count(split):
            return None
        batches = data.evaluation(split, limit, replicas)
        return float(model.evaluate(batches, verbose=0, return_dict=True)["accuracy"])

    def with_mirror(split):
        if not data.count(split) or not data_module.CHANGES[recipe.augmentation][1]:
            return None
        both = [data.evaluation(split, limit, replicas, mirror=m) for m in (False, True)]
        logits = sum(model.predict(batches, verbose=0).astype("float32") for batches in both)
        labels, weights = (np.concatenate([b[i] for b in both[0].batches]) for i in (1, 2))
        return float(np.average(logits.argmax(-1) == labels, weights=weights))

    found = {}
    keeper.load("best", optimizer=False)
    found["test_best"] = accuracy("test")
    keeper.load("last")
    found["test_last"] = accuracy("test")
    found |= {f"{part}_mirror": with_mirror(split) for part, split in _PARTS}
    if recipe.averaging:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        _renew_statistics(model, data)
        keeper.save("averaged")
        found |= {f"{part}_averaged": accuracy(split) for part, split in _PARTS}
    return found


_PARTS = (("val", "validation"), ("test", "test"))


def _renew_statistics(model, data, batches=50):
    """Gives the batch norms the means and variances that the averaged weights have."""
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    if not norms:
        return
    batches = data.training(0, 1, min(batches, data.steps_per_epoch))
    for number, (images, _) in enumerate(batches):
        for norm in norms:
            norm.momentum = number / (number + 1)  # the plain mean over the batches
        model(images, training=True)


def _set_random_seed(seed):
    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
    else:
        random.seed(seed)  # all that Keras draws seeds from; its own function imports TensorFlow


def _prepare_policy(policy):
    keras.config.set_dtype_policy(policy)
    if policy == "float64" and keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)  # JAX makes float32 of it otherwise


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


def _versions():
    """Versions of all that computes; the backend that does not run stays empty."""
    import keras_slots

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


def _write_results(folder, recipe, options, data, model, keeper, measured):
    (count, accuracies), history = measured, keeper.history
    last, best = history[-1], history[keeper.best_epoch - 1]
    seconds = [row["seconds"] for row in history]
    measured = {
        "run_id": read_json(folder / "run.json")["run_id"],
        **run_identity(recipe, options),
        "note": options.note,
        **_versions(),
        "device": processor(),
        "devices": count,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "connections": networks.count_connections(model),
        "train_images": data.count("train"),
        "epochs_done": len(history),
        # The first epoch also pays for tracing and compiling.
        "seconds_per_epoch": round(float(np.median(seconds[1:] or seconds)), 3),
        "seconds_total": round(sum(seconds), 1),
        "cpu_seconds_total": round(sum(row["cpu_seconds"] for row in history), 1),
        "best_epoch": keeper.best_epoch,
        "train_last": last["accuracy"],
        "val_best": best.get("val_accuracy"),
        "val_last": last.get("val_accuracy"),
        **accuracies,
        "command": options.command,
    }
    row = {name: measured.get(name) for name in result_columns()}
    write_json(folder / "results.json", {"row": row, "history": history})


def recipe_of(folder):
    """The recipe that a run folder belongs to, and all of its run.json."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise RunError(f"{folder} is not a run folder: it has no run.json")
    known = read_json(path)
    try:
        return Recipe(
            **{field.name: known[field.name] for field in dataclasses.fields(Recipe)}
        ), known
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} does not describe a run: {error}") from error


def load_model(folder, state="best"):
    """The model of a run folder with one of its states.

    Returns:
        `(recipe, model)`.
    """
    recipe, _ = recipe_of(folder)
    path = state_file(folder, state)
    extra = read_extra(path)
    _prepare_policy(recipe.dtype_policy)
    model = networks.build_model(recipe, tuple(extra["input_shape"]), extra["num_classes"])
    load_state(path, model, bank_checksum(model), optimizer=False)
    return recipe, model
