"""Searches K, learning rate, score scale and bank scale with keras-tuner.

    python examples/paper/tune.py --network lenet300100 --data-dir DIR --trials 20 --epochs 5

Each trial is a run of the recipe with the searched fields changed, in its own run folder below
--out; the objective is the validation accuracy at the best epoch, never the test set. The same
command continues a search that was stopped, in the middle of a trial too. --fixed takes a field
out of the search. The table of trials is printed, best first, and written to OUT/trials.csv,
followed by the command that trains the best one.

Without weight decay only the ratio of learning rate and score scale matters, so the score scale is
fixed by default; --free-score-scale searches both.

Exit status: 0, 1 when the search failed, 2 for a wrong command line.
"""

import dataclasses
import shlex
import sys
from typing import Literal

import cli
from recipes import Options, Recipe, SettingError, choose_recipe
from runs import RunError, open_run, write_csv
from sources import check_source

SEARCHED = ("num_values", "learning_rate", "bank_scale")
NO_ZERO = 10_001  # in the place of seed 0, for which keras-tuner draws one from 1 to 10,000
app = cli.make_app("tune.py", __doc__)


def search_space(hp, recipe, fixed, free_score_scale):
    """The recipe fields that a trial tries, drawn from the hyperparameters `hp`."""
    tried = {}
    if "num_values" not in fixed:
        tried["num_values"] = hp.Choice("num_values", [2, 4, 8, 16, 32, 64])
    if "learning_rate" not in fixed:
        low, high = recipe.learning_rate / 10, recipe.learning_rate * 10
        tried["learning_rate"] = hp.Float("learning_rate", low, high, sampling="log")
    if "bank_scale" not in fixed:
        tried["bank_scale"] = hp.Float("bank_scale", 0.5, 2.5, sampling="log")
    if free_score_scale:
        scale = hp.Float("score_scale", 0.05, 5.0, sampling="log")
        tried |= {"score_scale": scale, "dense_score_scale": scale}
    return tried


def make_tuner(kind, space, train, **settings):
    """A keras-tuner search over `space(hp)` whose trials are `train(number of the trial, fields)`."""
    import keras
    import keras_tuner

    bases = {"random": keras_tuner.RandomSearch, "bayesian": keras_tuner.BayesianOptimization}

    class RecipeSearch(bases[kind]):
        """Runs recipes instead of compiled models, so that a trial can go on after a kill."""

        def run_trial(self, trial, *_, **__):
            keras.backend.clear_session()
            return {"val_accuracy": train(trial.trial_id, space(trial.hyperparameters))}

        def load_model(self, trial):
            raise NotImplementedError("the trained model is in the run folder of the trial")

    def hypermodel(hp):
        space(hp)
        return keras.Sequential([keras.Input((1,))])

    objective = keras_tuner.Objective("val_accuracy", "max")
    return RecipeSearch(hypermodel, objective=objective, overwrite=False, **settings)


def trial_table(tuner):
    """A dict for each trial, the best first."""
    trials = sorted(tuner.oracle.trials.values(), key=lambda t: -(t.score or 0.0))
    names = sorted({name for trial in trials for name in trial.hyperparameters.values})
    for trial in trials:
        values = trial.hyperparameters.values
        tried = {name: f"{values[name]:.4g}" if name in values else "-" for name in names}
        row = {"trial": trial.trial_id, "status": trial.status.lower(), **tried}
        yield row | {"validation_accuracy": trial.score}


@app.default
def main(
    *,
    recipe: str = "",
    tuner: Literal["random", "bayesian"] = "bayesian",
    trials: int = 20,
    fixed: cli.listed(*SEARCHED) = (),
    free_score_scale: bool = False,
    tuner_seed: int = 0,
    out: str = "runs/tuning",
    options: cli.flags(Options) = None,
    fields: cli.flags(Recipe) = None,
):
    """Searches.

    Args:
        recipe: name of the recipe to start from
        trials: how many trials there are to be in the end
        fixed: comma-separated fields that stay as the recipe has them
        free_score_scale: search score_scale as well
        out: folder of the search
    """
    base, _ = choose_recipe(recipe, fields or {})
    options = options or {}
    settings = cli.options(options, "")
    if base.method != "slot":
        raise SettingError("tune.py searches slot machines: leave --method learned out")
    if not base.validation_share:
        raise SettingError("a search needs validation images: --validation-share must not be 0")
    if trials < 1 or tuner_seed < 0:
        raise SettingError("--trials must be at least 1, and --tuner-seed 0 or more")
    check_source(base.dataset, settings.data_dir, settings.download)
    training = cli.import_training()
    try:
        import keras_tuner  # noqa: F401
    except ImportError as error:
        raise RunError('tune.py needs pip install "keras-slots[tuner]"') from error
    search = [tuner, tuner_seed, list(fixed), free_score_scale]
    with open_run(out, training.run_identity(base, settings) | {"search": search}) as folder:

        def space(hp):
            return search_space(hp, base, fixed, free_score_scale)

        def train(number, tried):
            values = ", ".join(f"{name} {value:.4g}" for name, value in tried.items())
            print(f"trial {number}: {values}", flush=True)
            changed = dataclasses.replace(base, **tried, name=f"tune-{base.name}")
            row = training.train(changed, cli.options(options, folder / f"trial-{number}"))
            print(f"trial {number}: validation {cli.percent(row['val_best'])} %", flush=True)
            return row["val_best"]

        places = {"directory": str(folder), "project_name": "keras_tuner"}
        seed = tuner_seed or NO_ZERO
        found = make_tuner(tuner, space, train, max_trials=trials, seed=seed, **places)
        found.search(verbose=0)
        rows = list(trial_table(found))
        write_csv(folder / "trials.csv", rows)
        best = max(found.oracle.trials.values(), key=lambda t: t.score or 0.0).hyperparameters
    done = sum(row["status"] == "completed" for row in rows)
    print_trials(base, rows, done, settings.limit_steps)
    if not done:
        raise RunError(f"no trial was completed; see {out}/keras_tuner")
    print(f"all trials: {folder / 'trials.csv'}; a row for each run: {settings.results}")
    print(f"the best one: {best_command(recipe, fields or {}, options, space(best))}")


def print_trials(base, rows, done, limit_steps):
    limited = f", limited to {limit_steps} batches: no results" if limit_steps else ""
    completed = f"{done} of {len(rows)} trials completed, {base.epochs} epochs each{limited}"
    print(f"\n{base.name}: {completed}")
    header = [name.replace("_accuracy", " %") for name in rows[0]]
    cli.print_table([header, *(list(row.values()) for row in rows[:20])])


def best_command(recipe, fields, options, tried):
    """The command line that trains the best trial's recipe."""
    where = {name: options[name] for name in ("data_dir", "download") if name in options}
    given = {"recipe": recipe} if recipe else {}
    words = []
    for name, value in (given | fields | tried | where).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-"))
        else:
            words += [flag, value if isinstance(value, str) else repr(value)]
    return shlex.join(["python", "examples/paper/train.py", *words])


if __name__ == "__main__":
    sys.exit(cli.run(app))
