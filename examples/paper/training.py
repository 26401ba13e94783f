"""From a recipe to a trained run folder: data, devices, model, fit, resume, results row."""

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
import keras_slots
import networks
import runs
from optimizers import make_loss, make_optimizer
from recipes import Recipe
from runs import RunError

# The columns of the results file, in order.
RESULT_COLUMNS = [
    *["run_id", *(field.name for field in dataclasses.fields(Recipe)), "limit_steps", "note"],
    *["keras_slots", "keras", "backend", "tensorflow", "jax", "numpy", "python"],
    *["device", "devices", "date", "connections", "train_images", "epochs_done"],
    *["seconds_per_epoch", "seconds_total", "cpu_seconds_total", "best_epoch", "train_last"],
    *["val_best", "test_best", "val_last", "test_last", "val_mirror", "test_mirror"],
    *["val_averaged", "test_averaged", "command"],
]


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


def prepare(recipe):
    """Sets the policy and the seed of a recipe, before its model is built."""
    keras.config.set_dtype_policy(recipe.dtype_policy)
    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(recipe.seed)
        return
    random.seed(recipe.seed)  # all that Keras draws seeds from; its own function imports TensorFlow
    if recipe.dtype_policy == "float64" and keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)  # JAX makes float32 of it otherwise


def run_identity(recipe, options, origin=""):
    """What makes two runs the same run."""
    same = {"limit_steps": options.limit_steps}
    return dataclasses.asdict(recipe) | same | ({"origin": origin} if origin else {})


def run_folder(recipe, digest, limit_steps=0):
    """<name>[-<digest>][-limit<N>]-s<seed>; the digest tells apart recipes that share a name."""
    middle = f"-{recipe.digest()}" if digest else ""
    limited = f"-limit{limit_steps}" if limit_steps else ""
    return f"{recipe.name}{middle}{limited}-s{recipe.seed}"


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
    runs.read_rows(options.results, RESULT_COLUMNS)
    if (folder / "results.json").exists():
        runs.check_identity(folder, identity)
    else:
        # Whatever can be wrong with data and devices is found before there is a folder.
        data = load_data(recipe, options)
        distribution, devices = choose_devices(options.strategy, recipe.batch_size)
        prepare(recipe)
        scope = distribution.scope() if distribution else contextlib.nullcontext()
        with runs.open_run(folder, identity), scope:
            model = make_model(recipe, data.input_shape, data.num_classes)
            Run(recipe, options, data, model, devices).finish(callbacks, bool(origin))
    row = runs.read_json(folder / "results.json")["row"]
    runs.append_row(options.results, row)
    return row


class Run(keras.callbacks.Callback):
    """One run in its folder: training to the last epoch, evaluation, results.

    As a callback it keeps, after every epoch, the history and the best and the last state.
    """

    def __init__(self, recipe, options, data, model, devices=1):
        super().__init__()
        self.recipe, self.options, self.data, self.devices = recipe, options, data, devices
        self.folder = Path(options.run_dir)
        self.set_model(model)
        self.checksum = runs.bank_checksum(model)
        self.steps = min(options.limit_steps or data.steps_per_epoch, data.steps_per_epoch)
        images = b"".join(np.ascontiguousarray(array) for array in data.splits["train"])
        self.facts = {"history": [], "best": None, "best_epoch": 0, "start": None}
        self.facts |= {"input_shape": list(data.input_shape), "num_classes": data.num_classes}
        self.facts["fingerprint"] = zlib.crc32(images)
        self.compile_model()

    def compile_model(self):
        together = 1
        small = self.recipe.network == "lenet300100"
        if small and (self.devices == 1 or keras.backend.backend() == "jax"):
            # Small steps are grouped; the results do not depend on it.
            sizes = range(1, min(200, self.steps) + 1)
            together = max(size for size in sizes if self.steps % size == 0)
        self.model.compile(
            make_optimizer(self.recipe, self.steps),
            make_loss(self.recipe.label_smoothing),
            weighted_metrics=["accuracy"],
            steps_per_execution=together,
            jit_compile={"on": True, "off": False, "auto": "auto"}[self.options.jit_compile],
        )
        self.model.optimizer.build(self.model.trainable_variables)

    def finish(self, callbacks=(), from_selected=False):
        """Goes on from the folder's last state and writes results.json."""
        if (self.folder / "state" / "last.npz").exists():
            facts = self.load("last")
            if facts["fingerprint"] != self.facts["fingerprint"]:
                raise RunError(f"{self.folder} was trained on other data than these")
            self.facts = {name: facts[name] for name in self.facts}
        start = len(self.facts["history"])
        if start == 0 and from_selected:
            self.facts["start"] = self.accuracy("validation")
        if start == 0 and 0 in self.options.save_epochs:
            self.save("epoch-0")
        if start < self.recipe.epochs:
            held = self.data.count("validation")
            self.model.fit(
                self.data.training(start, self.recipe.epochs, self.steps),
                epochs=self.recipe.epochs,
                initial_epoch=start,
                steps_per_epoch=self.steps,
                validation_data=self.batches("validation") if held else None,
                callbacks=[self, *callbacks],
                verbose=self.options.verbose,
                shuffle=False,  # the pipeline does it
            )
        row = self.result_row()
        facts = {name: self.facts[name] for name in ("start", "history")}
        runs.write_json(self.folder / "results.json", {"row": row, **facts})

    def load(self, state, optimizer=True):
        """Puts a state back and returns its JSON values."""
        path = runs.state_file(self.folder, state)
        return runs.load_state(path, self.model, self.checksum, optimizer)

    def save(self, state, optimizer=False):
        path = self.folder / "state" / f"{state}.npz"
        runs.save_state(path, self.model, self.checksum, optimizer, **self.facts)

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
        self.facts["history"].append(row)
        # Without validation images the last epoch is the best.
        score, best = row.get("val_accuracy", epoch), self.facts["best"]
        if best is None or score > best:
            self.facts |= {"best": score, "best_epoch": epoch + 1}
            self.save("best")
        if epoch + 1 in self.options.save_epochs:
            self.save(f"epoch-{epoch + 1}")
        self.save("last", optimizer=True)
        runs.write_csv(self.folder / "history.csv", self.facts["history"])

    def batches(self, split, mirror=False):
        limit = self.options.limit_steps or None
        return self.data.evaluation(split, limit, self.devices, mirror)

    def accuracy(self, split):
        """Accuracy on a split, or None when the split is empty."""
        if not self.data.count(split):
            return None
        measured = self.model.evaluate(self.batches(split), verbose=0, return_dict=True)
        return float(measured["accuracy"])

    def mirrored_accuracy(self, split):
        """The same from the mean logits of each image and its mirror image."""
        if not self.data.count(split) or not data_module.CHANGES[self.recipe.augmentation][1]:
            return None
        both = [self.batches(split, mirror) for mirror in (False, True)]
        logits = sum(self.model.predict(batches, verbose=0).astype("float32") for batches in both)
        labels, weights = (np.concatenate([b[i] for b in both[0].batches]) for i in (1, 2))
        return float(np.average(logits.argmax(-1) == labels, weights=weights))

    def final_accuracies(self):
        """What the finished run reaches on the test images, which are not looked at before.

        Best and last epoch; the last with mirror images; the weights averaged over the last steps,
        which are levers or scores in a slot machine, whose values no average touches.
        """
        self.load("best", optimizer=False)
        found = {"test_best": self.accuracy("test")}
        self.load("last")
        found["test_last"] = self.accuracy("test")
        parts = (("val", "validation"), ("test", "test"))
        found |= {f"{part}_mirror": self.mirrored_accuracy(split) for part, split in parts}
        if self.recipe.averaging:
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            self.renew_statistics()
            self.save("averaged")
            found |= {f"{part}_averaged": self.accuracy(split) for part, split in parts}
        return found

    def renew_statistics(self, batches=50):
        """Gives the batch norms the means and variances that the averaged weights have."""
        norms = [x for x in self.model.layers if isinstance(x, keras.layers.BatchNormalization)]
        batches = min(batches, self.data.steps_per_epoch) if norms else 0
        for number, (images, _) in enumerate(self.data.training(0, 1, batches) if norms else ()):
            for norm in norms:
                norm.momentum = number / (number + 1)  # the plain mean over the batches
            self.model(images, training=True)

    def result_row(self):
        """The row of a finished run."""
        history, best = self.facts["history"], self.facts["best_epoch"]
        seconds = [row["seconds"] for row in history]
        measured = {
            **dataclasses.asdict(self.recipe),
            **{name: getattr(self.options, name) for name in ("limit_steps", "note", "command")},
            **self.final_accuracies(),
            **versions(),
            "run_id": runs.read_json(self.folder / "run.json")["run_id"],
            "device": processor(),
            "devices": self.devices,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "connections": networks.count_connections(self.model),
            "train_images": self.data.count("train"),
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
        return {name: measured.get(name) for name in RESULT_COLUMNS}


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


def recipe_of(folder):
    """The recipe that a run folder belongs to, and all of its run.json."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise RunError(f"{folder} is not a run folder: it has no run.json")
    known = runs.read_json(path)
    try:
        fields = {field.name: known[field.name] for field in dataclasses.fields(Recipe)}
        return Recipe(**fields), known
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} does not describe a run: {error}") from error


def slot_recipe_of(folder):
    """As `recipe_of`, with an error for the run of a learned network, which selects nothing."""
    recipe, known = recipe_of(folder)
    if recipe.method != "slot":
        raise RunError(f"{folder} holds a learned network, which selects nothing")
    return recipe, known


def load_model(folder, state="best"):
    """The recipe of a run folder, and its model with one of its states."""
    recipe, _ = recipe_of(folder)
    path = runs.state_file(folder, state)
    extra = runs.read_state(path)[1]
    prepare(recipe)
    model = networks.build_model(recipe, tuple(extra["input_shape"]), extra["num_classes"])
    runs.load_state(path, model, runs.bank_checksum(model), optimizer=False)
    return recipe, model
