"""What the tests of examples/paper share: how its scripts are run."""

import importlib

import cli

# Small and quick, on data that come with scikit-learn.
DIGITS = ["--dataset", "digits", "--batch-size", "64", "--verbose", "0"]


def run(script, *flags):
    """Runs a script's `main` as its command line would, and returns the exit status."""
    module = importlib.import_module(script)
    try:
        return cli.guarded(module.main, f"{script}.py", [str(flag) for flag in flags])
    except SystemExit as leave:
        return leave.code


def error_of(capsys, script, *flags, status):
    """The single line that a failing run leaves on stderr."""
    assert run(script, *flags) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{script}.py: error: ")
    return lines[0]
