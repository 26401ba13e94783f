"""What the command lines share: flags from dataclasses, one-line errors, tables."""

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, TypedDict, get_type_hints

import cyclopts
import tabulate
from rich.console import Console

from recipes import Options, SettingError
from runs import RunError
from sources import DataError

tabulate.MIN_PADDING = 0
STOPPED = 130  # what a shell reports for Ctrl-C


def make_app(name, description):
    """A command line that shows the docstring of its script, and leaves errors to `guarded`."""
    return cyclopts.App(
        name=name,
        help="",
        help_prologue=description,
        help_format="plaintext",
        help_formatter="plain",
        version_flags=(),
        console=Console(width=max(115, shutil.get_terminal_size().columns)),
        default_parameter=cyclopts.Parameter(negative=(), allow_repeating=True),
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )


def flags(owner, without=()):
    """The type of an argument that takes a flag for each field of a dataclass: a dict of those given."""
    hints = get_type_hints(owner, include_extras=True)
    hidden = {"name", "run_dir", "command", *without}
    taken = TypedDict(owner.__name__, {n: h for n, h in hints.items() if n not in hidden}, total=False)
    taken.__doc__ = owner.__doc__
    group = cyclopts.Group(owner.__name__, help=owner.__doc__.splitlines()[0])
    return Annotated[taken, cyclopts.Parameter(name="*", group=group)]


def listed(*choices):
    """The type of a comma-separated list of `choices`, or of positive numbers without any."""

    def parse(_, tokens):
        parts = tokens[-1].value.split(",")
        wrong = [p for p in parts if not (p in choices if choices else p.isdecimal() and int(p))]
        if wrong:
            wanted = f"names out of {', '.join(choices)}" if choices else "positive numbers"
            raise ValueError(f"expected {wanted}. Received: {', '.join(wrong)}")
        return parts if choices else [int(part) for part in parts]

    return Annotated[list[str if choices else int], cyclopts.Parameter(converter=parse, n_tokens=1)]


def options(given, run_dir):
    """The `Options` that the flags ask for, for one run folder."""
    return Options(**given, run_dir=str(run_dir), command=command_line(*sys.argv))


def command_line(script, *words):
    """The command that repeats a run, without the places of this machine."""
    words = [Path(word).name if Path(word).is_absolute() else str(word) for word in words]
    for index, word in enumerate(words[:-1]):
        if word == "--data-dir":
            words[index + 1] = "DIR"
    return shlex.join(["python", f"examples/paper/{Path(script).name}", *words])


def import_training():
    """The module that needs Keras; TensorFlow writes to stderr while it starts, whatever it is told."""
    import logging

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # of models built one after another
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        saved = os.dup(2)
        stack.callback(os.close, saved)
        stack.callback(os.dup2, saved, 2)
        os.dup2(nowhere.fileno(), 2)
        import training
    return training


def guarded(work, name):
    """Runs `work`; every failure is one line on stderr and a status, never a stack trace.

    The environment variable EXAMPLES_DEBUG=1 lets the trace through.
    """
    if os.environ.get("EXAMPLES_DEBUG"):
        return work() or 0
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on from the last epoch", file=sys.stderr)
        return STOPPED
    except Exception as error:
        text, status = " ".join(str(error).split()), 1
        if isinstance(error, (SettingError, cyclopts.CycloptsError)):
            text, status = f"{text} (see --help)", 2
        elif not isinstance(error, (RunError, DataError)):
            text = f"{type(error).__name__}: {text}"
        print(f"{name}: error: {text}", file=sys.stderr)
        return status


def run(app, argv=None):
    """The exit status of a script."""
    return guarded(lambda: app(argv), app.name[0])


def percent(share):
    return "-" if share is None else f"{100 * share:.2f}"


def print_table(rows):
    """Prints rows of texts and shares (floats become percent), titles first, the first column left-aligned."""
    texts = [[x if isinstance(x, str) else percent(x) for x in row] for row in rows]
    align = ["left", *["right"] * (len(rows[0]) - 1)]
    print(tabulate.tabulate(texts, "firstrow", "plain", disable_numparse=True, colalign=align))
