"""From a recipe to a trained run folder: data, devices, model, fit, resume, results row.

Shared by train.py, finetune.py, sweep.py, tune.py, compare.py and plots.py.
"""

import contextlib
import dataclasses
import random
from pathlib import Path

import keras
import numpy as np

import data as data_module
import networks
from keeper import Keeper, result_columns, result_row
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
    state_file,
    write_json,
)


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
        distribution, devices = choose_devices(options.strategy, recipe.batch_size)
        prepare(recipe)
        scope = distribution.scope() if distribution else contextlib.nullcontext()
        with open_run(folder, identity), scope:
            model = make_model(recipe, data.input_shape, data.num_classes)
            keeper = Keeper(folder, data, options.save_epochs)
            Trainer(recipe, options, data, model, keeper, devices).run(callbacks, bool(origin))
    row = read_json(folder / "results.json")["row"]
    append_row(options.results, row)
    return row


@dataclasses.dataclass
class Trainer:
    """One run in its folder: training to the last epoch, evaluation, results."""

    recipe: Recipe
    options: object
    data: data_module.Data
    model: keras.Model
    keeper: Keeper
    devices: int = 1

    def run(self, callbacks=(), from_selected=False):
        """Goes on from the folder's last state and writes results.json."""
        steps = min(
            self.options.limit_steps or self.data.steps_per_epoch, self.data.steps_per_epoch
        )
        compile_model(self.model, self.recipe, self.options, steps, self.devices)
        start = self.keeper.resume(self.model)
        if start == 0 and from_selected:
            self.keeper.facts["start"] = self.accuracy("validation")
        if start == 0 and 0 in self.keeper.save_epochs:
            self.keeper.save("epoch-0")
        if start < self.recipe.epochs:
            held = self.data.count("validation")
            self.model.fit(
                self.data.training(start, self.recipe.epochs, steps),
                epochs=self.recipe.epochs,
                initial_epoch=start,
                steps_per_epoch=steps,
                validation_data=self.batches("validation") if held else None,
                callbacks=[self.keeper, *callbacks],
                verbose=self.options.verbose,
                shuffle=False,  # the pipeline does it
            )
        folder, recipe = self.keeper.folder, self.recipe
        row = result_row(
            self.keeper,
            run_id=read_json(folder / "run.json")["run_id"],
            devices=self.devices,
            connections=networks.count_connections(self.model),
            train_images=self.data.count("train"),
            **dataclasses.asdict(recipe),
            **{name: getattr(self.options, name) for name in ("limit_steps", "note", "command")},
            **self.final_accuracies(),
        )
        facts = {"start": self.keeper.facts["start"], "history": self.keeper.history}
        write_json(folder / "results.json", {"row": row, **facts})

    def batches(self, split, mirror=False):
        limit = self.options.limit_steps or None
        return self.data.evaluation(split, limit, self.devices, mirror)

    def accuracy(self, split):
        """Accuracy on a split, or None when the split is empty."""
        if not self.data.count(split):
            return None
        return float(
            self.model.evaluate(self.batches(split), verbose=0, return_dict=True)["accuracy"]
        )

    def mirrored_accuracy(self, split):
        """The same from the mean logits of each image and its mirror image."""
        if not self.data.count(split) or not data_module.CHANGES[self.recipe.augmentation][1]:
            return None
        both = [self.batches(split, mirror) for mirror in (False, True)]
        logits = sum(self.model.predict(batches, verbose=0).astype("float32") for batches in both)
        labels, weights = (np.concatenate([b[i] for b in both[0].batches]) for i in (1, 2))
        return float(np.average(logits.argmax(-1) == labels, weights=weights))

    def final_accuracies(self):
        """What the finished run reaches on the test images, which are looked at here alone.

        Best and last epoch; the last with mirror images; the weights averaged over the last steps,
        which are levers or scores in a slot machine, whose values no average touches.
        """
        self.keeper.load("best", optimizer=False)
        found = {"test_best": self.accuracy("test")}
        self.keeper.load("last")
        found["test_last"] = self.accuracy("test")
        parts = (("val", "validation"), ("test", "test"))
        found |= {f"{part}_mirror": self.mirrored_accuracy(split) for part, split in parts}
        if self.recipe.averaging:
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            self.renew_statistics()
            self.keeper.save("averaged")
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


def recipe_of(folder):
    """The recipe that a run folder belongs to, and all of its run.json."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise RunError(f"{folder} is not a run folder: it has no run.json")
    known = read_json(path)
    try:
        fields = {field.name: known[field.name] for field in dataclasses.fields(Recipe)}
        return Recipe(**fields), known
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} does not describe a run: {error}") from error


def load_model(folder, state="best"):
    """The recipe of a run folder, and its model with one of its states."""
    recipe, _ = recipe_of(folder)
    path = state_file(folder, state)
    extra = read_extra(path)
    prepare(recipe)
    model = networks.build_model(recipe, tuple(extra["input_shape"]), extra["num_classes"])
    load_state(path, model, bank_checksum(model), optimizer=False)
    return recipe, model
