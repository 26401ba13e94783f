"""From a recipe to a trained run folder: data, devices, model, fit, resume, results row.

Shared by train.py, finetune.py, sweep.py, tune.py and export.py.
"""

import contextlib
import dataclasses
import datetime
import random
from pathlib import Path

import keras
import numpy as np

import data as data_module
import devices as devices_module
import networks
import processes
from keeper import Keeper
from modeling import build_model, compile_model
from recipes import Recipe
from results import append_row, check_results, result_columns, versions
from runfolder import (
    RunError,
    bank_checksum,
    load_state,
    open_run,
    read_extra,
    read_json,
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


def evaluate(model, data, split, limit=None, replicas=1):
    """Accuracy on a split, or None when the split is empty."""
    if not data.count(split):
        return None
    batches = data.evaluation(split, limit, replicas)
    return float(model.evaluate(batches, verbose=0, return_dict=True)["accuracy"])


def fit(model, data, recipe, options, folder, callbacks=(), replicas=1):
    """Trains to the last epoch of the recipe, from wherever the folder's last state is.

    Returns:
        The `Keeper` with the history.
    """
    steps = min(options.limit_steps or data.steps_per_epoch, data.steps_per_epoch)
    limit = options.limit_steps or None
    keeper = Keeper(folder, data, options.save_epochs)
    _check_same_data(keeper)
    start = keeper.resume(model)
    if start == 0 and 0 in keeper.save_epochs:
        keeper.save("epoch-0000.npz")
    if start >= recipe.epochs:
        return keeper
    held = data.count("validation")
    validation = data.evaluation("validation", limit, replicas) if held else None
    callbacks = [keeper, *callbacks]
    if options.tensorboard and processes.index() == 0:
        callbacks.append(_tensorboard(folder))
    model.fit(
        data.training(start, recipe.epochs, steps),
        epochs=recipe.epochs,
        initial_epoch=start,
        steps_per_epoch=steps,
        validation_data=validation,
        callbacks=callbacks,
        verbose=options.verbose if processes.index() == 0 else 0,
        shuffle=False,  # the pipeline does it
    )
    return keeper


def _check_same_data(keeper):
    """Fails in every process when one of them has read other images than process 0."""
    fingerprint = keeper.facts["fingerprint"]
    first = processes.on_first(lambda: fingerprint)

    def check():
        if fingerprint != first:
            raise RunError(f"process {processes.index()} has other data than process 0")

    processes.everywhere(check)


def _tensorboard(folder):
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise RunError('--tensorboard needs pip install "keras-slots[tensorboard]"') from error
    return keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)


def run_identity(recipe, options, origin=""):
    """What makes two runs the same run."""
    same = {"dtype_policy": options.dtype_policy, "limit_steps": options.limit_steps}
    return dataclasses.asdict(recipe) | same | ({"origin": origin} if origin else {})


def default_run_dir(recipe, plain):
    """runs/<name>[-<digest when a field differs from `plain`>]-s<seed>."""
    changed = dataclasses.replace(recipe, seed=plain.seed) != plain
    middle = f"-{recipe.digest()}" if changed else ""
    return Path("runs") / f"{recipe.name}{middle}-s{recipe.seed}"


def train(recipe, options, callbacks=(), make_model=build_model, origin=""):
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
    with contextlib.ExitStack() as stack:
        folder = Path(options.run_dir)

        def open_folder():
            check_results(options.results, result_columns(recipe))
            stack.enter_context(open_run(folder, run_identity(recipe, options, origin)))
            return (folder / "results.json").exists()

        if not processes.on_first(open_folder):
            _train_in(folder, recipe, options, callbacks, make_model)

        def close_folder():
            row = read_json(folder / "results.json")["row"]
            append_row(options.results, row)
            return row

        return processes.on_first(close_folder)


def _train_in(folder, recipe, options, callbacks, make_model):
    _prepare_policy(options.dtype_policy)
    data = processes.everywhere(lambda: load_data(recipe, options))
    _set_random_seed(recipe.seed)
    devices = devices_module.choose(options.strategy, recipe.batch_size)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if options.jit_compile == "on" and devices.count > 1 and on_tensorflow:
        raise RunError("--jit-compile on does not work under a strategy; leave it auto")
    steps = min(options.limit_steps or data.steps_per_epoch, data.steps_per_epoch)
    with devices.scope():
        model = make_model(recipe, data.input_shape, data.num_classes)
        compile_model(model, recipe, options, steps, devices.count)
        keeper = fit(model, data, recipe, options, folder, callbacks, devices.count)
        limit = options.limit_steps or None
        scores = {"test_last": evaluate(model, data, "test", limit, devices.count)}
        keeper.load("best.npz", optimizer=False)
        scores["test_best"] = evaluate(model, data, "test", limit, devices.count)
    if processes.index() == 0:
        _write_results(folder, recipe, options, devices, data, model, keeper, scores)


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


def _write_results(folder, recipe, options, devices, data, model, keeper, scores):
    last, best = keeper.history[-1], keeper.history[keeper.best_epoch - 1]
    seconds = [row["seconds"] for row in keeper.history]
    measured = {
        "run_id": read_json(folder / "run.json")["run_id"],
        **run_identity(recipe, options),
        "note": options.note,
        **versions(),
        "device": devices.name,
        "devices": devices.count,
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


def state_file(folder, state):
    """The file of a state: "best", "last" or the number of a kept epoch."""
    name = f"epoch-{int(state):04d}" if str(state).isdigit() else str(state)
    path = Path(folder) / f"{name}.npz"
    if not path.exists():
        kept = ", ".join(sorted(file.stem for file in Path(folder).glob("*.npz"))) or "none"
        raise RunError(
            f"{folder} keeps no state {name} (it has: {kept}); "
            "train.py --save-epochs keeps those of chosen epochs"
        )
    return path


def load_model(folder, state="best"):
    """The model of a run folder with one of its states.

    Returns:
        `(recipe, model)`.
    """
    recipe, known = recipe_of(folder)
    path = state_file(folder, state)
    extra = read_extra(path)
    _prepare_policy(known["dtype_policy"])
    model = build_model(recipe, tuple(extra["input_shape"]), extra["num_classes"])
    load_state(path, model, optimizer=False, bank=bank_checksum(model))
    return recipe, model
