"""What the command lines of the examples share: flags, one-line errors, tables."""

import argparse
import dataclasses
import logging
import os
import shlex
import sys

from recipes import Recipe, get_recipe, make_recipe

STOPPED = 130  # what a shell reports for Ctrl-C


class Parser(argparse.ArgumentParser):
    """Keeps the description as written, and reports a wrong command line in one line."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args=None, namespace=None):
        found = super().parse_args(args, namespace)
        found.script, found.words = self.prog, args
        return found

    def error(self, message):
        print(f"{self.prog}: error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def parse_bool(text):
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false. Received: {text}")


parse_bool.__name__ = "true or false"


def count(text):
    """A whole number that is not negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more. Received: {text}")
    return value


def epoch_list(text):
    """Comma-separated epochs."""
    return tuple(sorted({count(part) for part in text.split(",")}))


count.__name__, epoch_list.__name__ = "whole number", "list of epochs"  # argparse says it


def add_data_flags(parser):
    """Where the data are."""
    place = parser.add_argument_group("places")
    place.add_argument(
        "--data-dir",
        metavar="DIR",
        help="an .npz file, a folder with one (mnist.npz), or the tensorflow-datasets folder",
    )
    place.add_argument(
        "--download", action="store_true", help="let tensorflow-datasets fetch what is missing"
    )
    return place


def add_run_flags(parser):
    """The flags behind `training.Options`, all but the run folder."""
    place = add_data_flags(parser)
    place.add_argument(
        "--results",
        metavar="FILE",
        default="runs/results.csv",
        help="results file, one row per run (default: %(default)s)",
    )
    place.add_argument("--note", default="", help="a word of your own for the results row")
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--strategy",
        choices=("auto", "none", "mirrored"),
        default="auto",
        help="devices that share a batch: one (none), all (mirrored), all GPUs (auto)",
    )
    machine.add_argument(
        "--jit-compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="XLA for the training step (default: auto, as Keras decides)",
    )
    machine.add_argument(
        "--limit-steps",
        type=count,
        default=0,
        metavar="N",
        help="at most N steps in an epoch and N batches in an evaluation: for trying out",
    )
    machine.add_argument(
        "--save-epochs",
        type=epoch_list,
        default=(),
        metavar="E,E,...",
        help="epochs whose state is kept, for finetune.py and plots.py (0: before training)",
    )
    machine.add_argument(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        help="0 silent, 1 progress bar, 2 a line per epoch (default: 1 on a terminal, else 2)",
    )


def add_recipe_flags(parser, without=()):
    """One flag per field of `Recipe` but those in `without`; flags not given stay None."""
    group = parser.add_argument_group("recipe", "fields of the recipe, each overridden by its flag")
    for field in dataclasses.fields(Recipe):
        if field.name in ("name", *without):
            continue
        settings = {"help": field.metadata["help"], "default": None}
        if field.metadata["choices"]:
            settings["choices"] = field.metadata["choices"]
        else:
            settings["type"] = parse_bool if field.type is bool else field.type
            settings["metavar"] = field.type.__name__.upper()
        group.add_argument("--" + field.name.replace("_", "-"), **settings)


def given_fields(args):
    """The recipe fields that flags were given for."""
    names = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    return {n: getattr(args, n) for n in names if getattr(args, n, None) is not None}


def recipe_from(args):
    """The recipe that the flags ask for, and the named one that it came from."""
    given = given_fields(args)
    if args.recipe:
        plain = get_recipe(args.recipe)
    else:
        selection = {"greedy": "gs", "probabilistic": "ps"}[given.get("selection", "greedy")]
        method = "learned" if given.get("method") == "learned" else selection
        num_values = max(given.get("num_values", 8), 1)
        network = given.get("network", "lenet300100")
        plain = make_recipe("ours", network, method, num_values, given.get("sharing", "connection"))
    return dataclasses.replace(plain, **given), plain


def options_from(args, run_dir):
    """`training.Options` from parsed flags."""
    import training

    verbose = (1 if sys.stdout.isatty() else 2) if args.verbose is None else args.verbose
    names = [field for field in training.Options.__dataclass_fields__ if hasattr(args, field)]
    values = {name: getattr(args, name) for name in names}
    values["command"] = command_line(args.script, args.words)
    return training.Options(**values | {"run_dir": str(run_dir), "verbose": verbose})


def command_line(name, argv=None):
    """The command that repeats a run, without the place of its data."""
    words = [str(word) for word in (sys.argv[1:] if argv is None else argv)]
    for index, word in enumerate(words[:-1]):
        if word == "--data-dir":
            words[index + 1] = "DIR"
    return shlex.join(["python", f"examples/paper/{name}", *words])


def guarded(main, name, argv=None):
    """Runs `main`; every failure is one line on stderr and a status, never a stack trace.

    The environment variable EXAMPLES_DEBUG=1 lets the trace through.
    """
    # TensorFlow talks about devices that are not there, and about models built one after another.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if os.environ.get("EXAMPLES_DEBUG"):
        return main(argv)
    try:
        return main(argv)
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on from the last epoch", file=sys.stderr)
        return STOPPED
    except Exception as error:
        text = " ".join(str(error).split())
        own = type(error).__name__ in ("RunError", "DataError")
        print(
            f"{name}: error: {text if own else f'{type(error).__name__}: {text}'}", file=sys.stderr
        )
        return 1


def percent(value):
    return "-" if value is None else f"{100 * value:.2f}"


def print_table(rows):
    """Prints rows of texts and shares (floats become percent), the first column left-aligned."""
    texts = [[v if isinstance(v, str) else percent(v) for v in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    for row in texts:
        cells = [row[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
