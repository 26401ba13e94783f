"""Searches K, learning rate, score scale and bank scale with keras-tuner.

    python examples/paper/tune.py --network lenet300100 --data-dir DIR --trials 20 --epochs 5

Each trial is a run of the recipe with the searched fields changed, in its own run folder below
--out; the objective is the validation accuracy at the best epoch, never the test set. The same
command continues a search that was stopped, in the middle of a trial too. --fixed takes a field
out of the search. The table of trials is printed, best first, and written to OUT/trials.csv.

Only the ratio of learning rate and score scale matters without weight decay, so the search draws
that ratio and the score scale is fixed by default; --free-score-scale draws both.

Exit status: 0, 1 when the search failed, 2 for a wrong command line.
"""

import dataclasses
import sys
from pathlib import Path

import cli
from recipes import Options, Recipe
from runs import RunError, open_run, write_csv
from sources import check_source

SEARCHED = ("num_values", "learning_rate", "bank_scale")


def make_parser():
    parser = cli.Parser(description=__doc__, prog="tune.py")
    group = parser.add_argument_group("search")
    group.add_argument("--recipe", metavar="NAME", help="the recipe to start from")
    group.add_argument("--tuner", choices=("random", "bayesian"), default="bayesian")
    group.add_argument("--trials", type=cli.count, default=20, metavar="N", help="(default: 20)")
    fields = {"type": cli.listed(*SEARCHED), "default": [], "metavar": "FIELD,..."}
    group.add_argument("--fixed", help="fields left as the recipe has them", **fields)
    group.add_argument("--free-score-scale", action="store_true", help="search score_scale as well")
    group.add_argument("--tuner-seed", type=cli.count, default=0, metavar="N")
    group.add_argument("--out", metavar="DIR", default="runs/tuning", help="(default: %(default)s)")
    cli.add_flags(parser, Options)
    cli.add_flags(parser, Recipe)
    return parser


def search_space(hp, recipe, args):
    """The recipe fields that a trial tries, drawn from the hyperparameters `hp`."""
    tried = {}
    if "num_values" not in args.fixed:
        tried["num_values"] = hp.Choice("num_values", [2, 4, 8, 16, 32, 64])
    if "learning_rate" not in args.fixed:
        low, high = recipe.learning_rate / 10, recipe.learning_rate * 10
        tried["learning_rate"] = hp.Float("learning_rate", low, high, sampling="log")
    if "bank_scale" not in args.fixed:
        tried["bank_scale"] = hp.Float("bank_scale", 0.5, 2.5, sampling="log")
    if args.free_score_scale:
        scale = hp.Float("score_scale", 0.05, 5.0, sampling="log")
        tried |= {"score_scale": scale, "dense_score_scale": scale}
    return tried


def make_tuner(recipe, args, out):
    """A keras-tuner search whose trials are runs of `training.train`."""
    training = cli.import_training()
    import keras
    import keras_tuner

    bases = {"random": keras_tuner.RandomSearch, "bayesian": keras_tuner.BayesianOptimization}

    class RecipeSearch(bases[args.tuner]):
        """Runs recipes instead of compiled models, so that a trial can go on after a kill."""

        def run_trial(self, trial, *_, **__):
            tried = search_space(trial.hyperparameters, recipe, args)
            changed = dataclasses.replace(recipe, **tried, name=f"tune-{recipe.name}")
            keras.backend.clear_session()
            options = cli.options_from(args, out / f"trial-{trial.trial_id}")
            return {"val_accuracy": training.train(changed, options)["val_best"]}

        def load_model(self, trial):
            raise NotImplementedError("the trained model is in the run folder of the trial")

    def space(hp):
        search_space(hp, recipe, args)
        return keras.Sequential([keras.Input((1,))])

    return RecipeSearch(
        space,
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_trials=args.trials,
        seed=args.tuner_seed,
        directory=str(out),
        project_name="keras_tuner",
        overwrite=False,
    )


def trial_table(tuner):
    """A dict for each trial, the best first."""
    trials = sorted(tuner.oracle.trials.values(), key=lambda t: -(t.score or 0.0))
    names = sorted({name for trial in trials for name in trial.hyperparameters.values})
    rows = []
    for trial in trials:
        values = trial.hyperparameters.values
        tried = {name: f"{values[name]:.4g}" if name in values else "-" for name in names}
        row = {"trial": trial.trial_id, "status": trial.status.lower(), **tried}
        rows.append(row | {"validation_accuracy": trial.score})
    return rows


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        recipe, _ = cli.recipe_from(args)
    except ValueError as error:
        parser.error(str(error))
    if recipe.method != "slot":
        parser.error("tune.py searches slot machines: leave --method learned out")
    if not recipe.validation_share:
        parser.error("a search needs validation images: --validation-share must not be 0")
    if not args.trials:
        parser.error("--trials must be at least 1")
    check_source(recipe.dataset, args.data_dir, args.download)
    training = cli.import_training()
    try:
        import keras_tuner  # noqa: F401
    except ImportError as error:
        raise RunError('tune.py needs pip install "keras-slots[tuner]"') from error
    identity = training.run_identity(recipe, cli.options_from(args, "")) | {
        "search": [args.tuner, args.tuner_seed, args.fixed, args.free_score_scale]
    }
    with open_run(args.out, identity) as out:
        tuner = make_tuner(recipe, args, Path(out))
        tuner.search(verbose=0)
        rows = trial_table(tuner)
        write_csv(out / "trials.csv", rows)
    done = sum(row["status"] == "completed" for row in rows)
    print(f"\n{recipe.name}: {done} of {len(rows)} trials completed, {recipe.epochs} epochs each")
    header = [name.replace("_accuracy", " %") for name in rows[0]]
    cli.print_table([header, *(list(row.values()) for row in rows[:20])])
    if not done:
        raise RunError(f"no trial was completed; see {args.out}/keras_tuner")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "tune.py"))
