"""Searches K, learning rate and bank scale with keras-tuner.

    python examples/paper/tune.py --network lenet300100 --data-dir DIR --trials 20 --epochs 5

Each trial is a run of the recipe with those fields changed, in its own run folder below --out; the
objective is the validation accuracy at the best epoch. The same command continues a search that was
stopped, and ends with the command that trains the best trial again. (The score scale stays: without weight
decay only its ratio to the learning rate matters.)
"""

import dataclasses
import os
import shlex
from pathlib import Path

import keras_tuner
import pandas as pd

import cli
import report
import runs
import training
from recipes import Recipe, choose_recipe, make_recipe

SEED = 10_001  # in the place of 0, for which keras-tuner draws one from 1 to 10,000
app = cli.make_app("tune.py", __doc__)


class Search(keras_tuner.BayesianOptimization):
    """Runs recipes instead of compiled models, so that a trial can go on after a kill."""

    def run_trial(self, trial, recipe, folder, options, verbose):
        tried = dataclasses.replace(recipe, **trial.hyperparameters.values, name=f"tune-{recipe.name}")
        row = training.train(tried, folder / f"trial-{trial.trial_id}", options)
        print(f"trial {trial.trial_id}: {texts(trial)}, validation accuracy {row['val_best']:.2%}", flush=True)
        return {"val_accuracy": row["val_best"]}


def texts(trial):
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(trial.hyperparameters.values.items()))


def command_of(recipe, options):
    """The command that trains a recipe, with all that was changed in it."""
    changed = cli.changes(recipe, make_recipe(recipe.name)) | cli.changes(options, cli.DEFAULTS)
    script = ["python", "examples/paper/train.py", "--recipe", recipe.name]
    backend = os.environ.get("KERAS_BACKEND")
    return f"KERAS_BACKEND={backend} " * bool(backend) + shlex.join([*script, *cli.words_of(changed)])


@app.default
def main(
    *,
    recipe: str = "",
    trials: int = 20,
    out: Path = Path("runs/tuning"),
    options: cli.Options = cli.DEFAULTS,
    fields: cli.flags(Recipe) = None,
):
    """Prints the trials, best first, and writes them to OUT/trials.csv."""
    base, space = choose_recipe(recipe, fields or {}), keras_tuner.HyperParameters()
    space.Choice("num_values", [2, 4, 8, 16, 32, 64])
    low, high = base.learning_rate / 10, base.learning_rate * 10
    space.Float("learning_rate", low, high, sampling="log")
    space.Float("bank_scale", 0.5, 2.5, sampling="log")
    search = Search(
        hyperparameters=space,
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_trials=trials,
        seed=SEED,
        directory=out,
        project_name="keras_tuner",
    )
    search.search(base, out, options, verbose=0)
    rows = [
        {"trial": trial.trial_id, "status": trial.status.lower()}
        | {name: f"{value:.4g}" for name, value in sorted(trial.hyperparameters.values.items())}
        | {"validation_accuracy": trial.score}
        for trial in search.oracle.trials.values()
    ]
    table = pd.DataFrame(rows).sort_values("validation_accuracy", ascending=False)
    table.to_csv(out / "trials.csv", index=False)
    print(table.to_string(index=False))
    best = search.oracle.get_best_trials()[0]
    print(f"\nBest: trial {best.trial_id}. This command trains it again:\n")
    print(command_of(dataclasses.replace(base, **best.hyperparameters.values), options))
    folder = out / f"trial-{best.trial_id}"
    row = runs.read_json(folder / "results.json")["row"]
    print(f"\nIts run folder is {folder}, its row that of run_id {row['run_id']} in {options.results}.")
    print(f"All trials are in {out / 'trials.csv'}.")
    if limits := report.limits(row):
        print(f"Trials were limited to {limits}. {report.LIMITED}")


if __name__ == "__main__":
    app()
