"""What the tests of examples/ share: how its scripts are run."""

import importlib
import json

import numpy as np
import pytest

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


def assert_same_run(folder, other):
    """Two finished runs: the same values selected at every connection, and histories but for rounding."""
    import engine

    layers = [engine.load_model(f, "last")[1].layers for f in (folder, other)]
    compared = 0
    for first, second in zip(*layers, strict=True):
        if hasattr(first, "bank"):
            np.testing.assert_array_equal(np.asarray(first.kernel), np.asarray(second.kernel))
            compared += 1
    assert compared == 3
    first, second = (json.loads((f / "results.json").read_text()) for f in (folder, other))
    for epoch, again in zip(first["history"], second["history"], strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert epoch[name] == pytest.approx(again[name], rel=1e-6)
    assert first["row"]["test_last"] == pytest.approx(second["row"]["test_last"], rel=1e-6)
