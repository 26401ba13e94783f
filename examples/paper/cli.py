"""What the command lines share."""

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal, TypedDict, get_type_hints

import cyclopts
from cyclopts import Parameter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts
# For a list that is given as 1,2,3.
COMMAS = Parameter(n_tokens=1, converter=lambda kind, tokens: cyclopts.convert(kind, tokens[0].value.split(",")))


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Options:
    """Where things are, and how the machine is used: nothing that decides a result.

    Attributes:
        data_dir: an .npz file, a folder with one, or the tensorflow-datasets folder
        download: let tensorflow-datasets fetch what is missing
        results: the file that gets a row for each run
        strategy: devices that share a batch: one (none), all (mirrored), all GPUs (auto)
        save_epochs: epochs whose state is kept, such as 0,1,5; 0: before training
        verbose: 0 silent, 1 progress bar, 2 a line per epoch
    """

    data_dir: str | None = None
    download: bool = False
    results: str = "runs/results.csv"
    strategy: Literal["auto", "none", "mirrored"] = "auto"
    save_epochs: Annotated[list[int], COMMAS] = ()
    verbose: Literal[0, 1, 2] = 2


DEFAULTS = Options()


def make_app(name, description):
    """A command line whose --help shows the docstring of its script."""
    return cyclopts.App(
        name=name,
        help_prologue=description,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        result_action="return_value",
    )


def flags(owner, without=()):
    """The type of an argument that takes a flag for each field of a dataclass: a dict of those given."""
    hints = get_type_hints(owner, include_extras=True)
    hints = {name: hint for name, hint in hints.items() if name not in ("name", *without)}
    taken = TypedDict(owner.__name__, hints, total=False)
    taken.__doc__ = owner.__doc__
    return Annotated[taken, Parameter(name="*")]


def words_of(changed):
    """The flags that give fields the values in `changed`, as words of a command."""
    for name, value in changed.items():
        yield f"--{name.replace('_', '-')}"
        if value is not True:
            yield ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def changes(new, old):
    """The fields of a dataclass that differ."""
    old = dataclasses.asdict(old)
    return {name: value for name, value in dataclasses.asdict(new).items() if value != old[name]}


def command_line():
    """The command that repeats this run, without the places of this machine."""
    script, *words = (Path(word).name if Path(word).is_absolute() else word for word in sys.argv)
    if "--data-dir" in words:
        words[words.index("--data-dir") + 1] = "DIR"
    return shlex.join(["python", f"examples/paper/{Path(script).name}", *words])
