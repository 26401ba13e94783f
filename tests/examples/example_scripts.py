"""What the tests of examples/paper share: how its scripts are run."""

import importlib
import sys
from unittest import mock

import cli

# Small and quick, on data that come with scikit-learn.
DIGITS = ["--dataset", "digits", "--batch-size", "64", "--verbose", "0"]


def run(script, *flags):
    """Runs a script as its command line would, and returns the exit status."""
    words = [str(flag) for flag in flags]
    with mock.patch.object(sys, "argv", [f"{script}.py", *words]):
        return cli.run(importlib.import_module(script).app, words)


def error_of(capsys, script, *flags, status):
    """The single line that a failing run leaves on stderr."""
    assert run(script, *flags) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{script}.py: error: ")
    return lines[0]
