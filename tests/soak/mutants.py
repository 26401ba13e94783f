"""Planted bugs: one changed place in keras_slots each, and the tests that must notice it.

    python tests/soak/mutants.py [--quick] [--only NAME ...]

Each bug of `planted.py` is a patch of one file: text that is there exactly once, and what takes its place. It is
planted in a copy of the project, where the tests named beside it run until the first one fails. A bug that no test
notices survives.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from planted import MUTANTS
from scorecard import ROOT, row, say

NEEDED = ("keras_slots", "tests", "examples", "reader", "benchmarks", "docs", "pyproject.toml")


def make_copy(folder):
    """A copy of the project in `folder`."""
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            skip = shutil.ignore_patterns("__pycache__", "*.pyc", "soak")
            shutil.copytree(source, folder / name, ignore=skip)
        else:
            shutil.copy2(source, folder / name)
    return folder


def run_tests(folder, tests, backend, timeout=580):
    """Runs tests in a copy; the exit status of pytest and what it printed last."""
    command = f"{sys.executable} -m pytest -n 0 -x -q --no-header -p no:cacheprovider {tests}"
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return 124, "it ran out of time"
    return done.returncode, (done.stderr[-500:] + done.stdout[-2500:]).strip()


def plant(mutants, backend):
    """Plants each bug, runs its tests, and returns `{name: survived}`.

    Raises:
        SystemExit: If a patch does not fit, or the tests of a bug fail, or are none, without it.
    """
    mutants = [m for m in mutants if backend in m.backends]
    survived = {}
    with tempfile.TemporaryDirectory() as name:
        folder = make_copy(Path(name, "copy"))
        for mutant in mutants:
            mutant.planted((folder / "keras_slots" / mutant.file).read_text())
        files = {word for m in mutants for word in m.tests.split() if word.endswith(".py")}
        status, output = run_tests(folder, f"{' '.join(sorted(files))} -n 2", backend, 1800)
        if status != 0:
            raise SystemExit(f"without a bug the tests end with {status} on {backend}\n{output}")
        say(f"without a bug: {output.splitlines()[-1]}")
        for mutant in mutants:
            path, began = folder / "keras_slots" / mutant.file, time.monotonic()
            honest = path.read_text()
            path.write_text(mutant.planted(honest))
            status, output = run_tests(folder, mutant.tests, backend)
            path.write_text(honest)
            if status not in (0, 1, 2, 124):  # 2: the tests cannot even be collected
                raise SystemExit(f"mutant '{mutant.name}': no test ran, {status}\n{output}")
            survived[mutant.name] = status == 0
            seconds = time.monotonic() - began
            say(f"{'SURVIVED' if status == 0 else 'killed  '} {seconds:5.0f} s  {mutant.name}")
    return survived


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="every tenth bug alone")
    parser.add_argument("--only", nargs="*", help="names of bugs, or parts of names")
    args = parser.parse_args(argv)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    chosen = [m for m in MUTANTS if not args.only or any(part in m.name for part in args.only)]
    survived = plant(chosen[:: 10 if args.quick else 1], backend)
    survivors = [name for name, alive in survived.items() if alive]
    killed = len(survived) - len(survivors)
    figure = "every planted bug is noticed by a test"
    line = row("mutants", "planted bugs killed", killed, len(survived), figure, survivors=survivors)
    print(json.dumps(line), flush=True)
    return 0 if line["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
