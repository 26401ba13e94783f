"""From a recipe to a trained run folder: model, optimizer, fit, resume, results row.

Shared by train.py, finetune.py, sweep.py, tune.py and export.py.
"""

import dataclasses
import datetime
from pathlib import Path

import keras
import numpy as np

import data as data_module
import networks
from keeper import Keeper
from modeling import build_model, compile_model, make_strategy
from recipes import Recipe
from results import append_row, check_results, device, result_columns, versions
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
    keeper = Keeper(folder, data, options.save_epochs)
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
    check_results(options.results, result_columns(recipe))
    with open_run(options.run_dir, run_identity(recipe, options, origin)) as folder:
        finished = folder / "results.json"
        if not finished.exists():
            _train_in(folder, recipe, options, callbacks, make_model)
        row = read_json(finished)["row"]
        append_row(options.results, row)
    return row


def _train_in(folder, recipe, options, callbacks, make_model):
    data = load_data(recipe, options)
    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(options.dtype_policy)
    strategy = make_strategy(options.strategy, recipe.batch_size)
    if options.jit_compile == "on" and strategy.num_replicas_in_sync > 1:
        raise RunError("--jit-compile on does not work under a strategy; leave it auto")
    steps = min(options.limit_steps or data.steps_per_epoch, data.steps_per_epoch)
    with strategy.scope():
        model = make_model(recipe, data.input_shape, data.num_classes)
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
    keras.config.set_dtype_policy(known["dtype_policy"])
    model = build_model(recipe, tuple(extra["input_shape"]), extra["num_classes"])
    load_state(path, model, optimizer=False, bank=bank_checksum(model))
    return recipe, model
