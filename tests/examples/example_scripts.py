"""What the tests of examples/paper share: how its scripts are run."""

import importlib
import sys
from unittest import mock

# Small and quick, on data that come with scikit-learn.
DIGITS = ["--dataset", "digits", "--batch-size", "64", "--verbose", "0"]


def run(script, *flags):
    """Runs a script as its command line would."""
    words = [str(flag) for flag in flags]
    with mock.patch.object(sys, "argv", [f"{script}.py", *words]):
        importlib.import_module(script).app(words)
