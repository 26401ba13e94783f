"""Searches K, learning rate and bank scale with keras-tuner.

    python examples/paper/tune.py --network lenet300100 --data-dir DIR --trials 20 --epochs 5

Each trial is a run of the recipe with the searched fields changed, in its own run folder below --out;
the objective is the validation accuracy at the best epoch, never the test set. The same command
continues a search that was stopped, in the middle of a trial too. The trials are printed, best first,
and written to OUT/trials.csv. The rate is searched alone: without weight decay only the ratio of
learning rate and score scale matters.
"""

import dataclasses
from pathlib import Path

import keras_tuner
import pandas as pd

import cli
import runs
from recipes import Recipe, choose_recipe

SEED = 10_001  # in the place of 0, for which keras-tuner draws one from 1 to 10,000
app = cli.make_app("tune.py", __doc__)


class Search(keras_tuner.BayesianOptimization):
    """Runs recipes instead of compiled models, so that a trial can go on after a kill."""

    def __init__(self, recipe, folder, options, **settings):
        self.recipe, self.folder, self.options = recipe, folder, options
        space = keras_tuner.HyperParameters()
        space.Choice("num_values", [2, 4, 8, 16, 32, 64])
        low, high = recipe.learning_rate / 10, recipe.learning_rate * 10
        space.Float("learning_rate", low, high, sampling="log")
        space.Float("bank_scale", 0.5, 2.5, sampling="log")
        objective = keras_tuner.Objective("val_accuracy", "max")
        places = {"directory": str(folder), "project_name": "keras_tuner"}
        super().__init__(hyperparameters=space, objective=objective, **places, **settings)

    def run_trial(self, trial, *_, **__):
        import training

        tried = trial.hyperparameters.values
        recipe = dataclasses.replace(self.recipe, **tried, name=f"tune-{self.recipe.name}")
        folder = self.folder / f"trial-{trial.trial_id}"
        return {"val_accuracy": training.train(recipe, folder, self.options)["val_best"]}


@app.default
def main(
    *,
    recipe: str = "",
    trials: int = 20,
    out: str = "runs/tuning",
    options: cli.Options = cli.Options(),  # noqa: B008
    fields: cli.flags(Recipe) = None,
):
    """Searches.

    Args:
        recipe: name of the recipe to start from
        trials: how many trials there are to be in the end
        out: folder of the search
    """
    base, folder = choose_recipe(recipe, fields or {}), Path(out)
    search = Search(base, folder, options, max_trials=trials, seed=SEED)
    search.search(verbose=0)
    rows = [
        {"trial": trial.trial_id, "status": trial.status.lower()}
        | {name: f"{value:.4g}" for name, value in sorted(trial.hyperparameters.values.items())}
        | {"validation_accuracy": trial.score}
        for trial in search.oracle.trials.values()
    ]
    table = pd.DataFrame(rows).sort_values("validation_accuracy", ascending=False)
    runs.write_whole(folder / "trials.csv", table.to_csv(index=False))
    print(table.to_string(index=False))


if __name__ == "__main__":
    app()
