"""What the command lines share: a flag for every field, one-line errors, tables."""

import argparse
import dataclasses
import logging
import os
import shlex
import sys
from pathlib import Path

from recipes import Options, Recipe, get_recipe, make_recipe

STOPPED = 130  # what a shell reports for Ctrl-C


class Parser(argparse.ArgumentParser):
    """Keeps the description as written, and reports a wrong command line in one line."""

    def __init__(self, **kwargs):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args=None, namespace=None):
        found = super().parse_args(args, namespace)
        found.command = command_line(self.prog, sys.argv[1:] if args is None else args)
        return found

    def error(self, message):
        print(f"{self.prog}: error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def command_line(name, words):
    """The command that repeats a run, without the places of this machine."""
    words = [str(word) for word in words]
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    for index, word in enumerate(words[:-1]):
        if word == "--data-dir":
            words[index + 1] = "DIR"
    return shlex.join(["python", f"examples/paper/{name}", *words])


def parse_bool(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false. Received: {text}")
    return text.lower() == "true"


def count(text):
    """A whole number that is not negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more. Received: {text}")
    return value


def listed(*choices):
    """A parser of comma-separated names out of `choices`, or of positive numbers without any."""

    def parse(text):
        parts = text.split(",")
        wrong = [p for p in parts if not (p in choices if choices else p.isdecimal() and int(p))]
        if wrong:
            wanted = f"names out of {', '.join(choices)}" if choices else "positive numbers"
            raise argparse.ArgumentTypeError(f"expected {wanted}. Received: {', '.join(wrong)}")
        return parts if choices else [int(part) for part in parts]

    return parse


def epochs(text):
    """Comma-separated epochs, 0 among them."""
    return tuple(sorted({count(part) for part in text.split(",")}))


count.__name__, epochs.__name__ = "whole number", "list of epochs"  # argparse says it
TYPES = {bool: parse_bool, int: int, float: float, str: str, "count": count, "epochs": epochs}


def add_flags(parser, owner, without=()):
    """One flag for each field of a dataclass that has a help text; flags not given stay None."""
    group = parser.add_argument_group(owner.__name__.lower(), owner.__doc__.splitlines()[0])
    for field in dataclasses.fields(owner):
        if field.name in without or not field.metadata.get("help"):
            continue
        flag, text = "--" + field.name.replace("_", "-"), field.metadata["help"]
        kind, choices = field.metadata["kind"] or field.type, field.metadata["choices"]
        if kind == "switch":
            group.add_argument(flag, action="store_const", const=True, help=text)
        else:
            shown = None if choices else field.name.split("_")[-1].upper()
            group.add_argument(flag, type=TYPES[kind], choices=choices, metavar=shown, help=text)


def given(args, owner):
    """The fields of a dataclass that flags were given for."""
    values = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(owner)}
    return {name: value for name, value in values.items() if value is not None}


def recipe_from(args):
    """The recipe that the flags ask for, and the named one that it came from."""
    own = given(args, Recipe)
    if args.recipe:
        plain = get_recipe(args.recipe)
    else:
        method = {"greedy": "gs", "probabilistic": "ps"}[own.get("selection", "greedy")]
        method = "learned" if own.get("method") == "learned" else method
        network, num_values = own.get("network", "lenet300100"), max(own.get("num_values", 8), 1)
        plain = make_recipe("ours", network, method, num_values, own.get("sharing", "connection"))
    return dataclasses.replace(plain, **own), plain


def options_from(args, run_dir):
    """The `Options` that the flags ask for."""
    return Options(**given(args, Options) | {"run_dir": str(run_dir), "command": args.command})


def import_training():
    """The module that needs Keras; TensorFlow writes to stderr while it starts, whatever it is told."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # of models built one after another
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import training
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
    return training


def guarded(main, name, argv=None):
    """Runs `main`; every failure is one line on stderr and a status, never a stack trace.

    The environment variable EXAMPLES_DEBUG=1 lets the trace through.
    """
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
