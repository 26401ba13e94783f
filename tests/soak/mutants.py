"""Planted bugs: one changed place in keras_slots each, and the tests that must notice it.

    python tests/soak/mutants.py [--quick] [--only NAME ...]

Each bug of `planted.py` is a patch of one file: text that is there exactly once, and what takes its place. It is
planted in a copy of the project, where the tests named beside it run until the first one fails. A bug that no test
notices survives.
"""

import argparse
import json
import os
import re
import shlex
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


def run_tests(folder, words, backend, timeout=580):
    """Runs tests in a copy; the exit status of pytest and what it printed last."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--no-header"]
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return 124, "it ran out of time"
    return done.returncode, (done.stderr[-500:] + done.stdout[-4000:]).strip()


def plant(mutants, backend):
    """Plants each bug, runs its tests, and returns `{name: survived}`.

    Raises:
        SystemExit: If a patch does not fit, no test ran, or the test that notices a bug fails without it too.
    """
    mutants = [m for m in mutants if backend in m.backends]
    survived, noticing = {}, set()
    with tempfile.TemporaryDirectory() as name:
        folder = make_copy(Path(name, "copy"))
        for mutant in mutants:
            mutant.planted((folder / "keras_slots" / mutant.file).read_text())
        for mutant in mutants:
            path, began = folder / "keras_slots" / mutant.file, time.monotonic()
            honest = path.read_text()
            path.write_text(mutant.planted(honest))
            status, output = run_tests(folder, ["-x", *shlex.split(mutant.tests)], backend)
            path.write_text(honest)
            found = re.findall(
                r"^(?:FAILED|ERROR) (tests/\S+::.+?)(?: - .*)?$", output, re.MULTILINE
            )
            if status not in (0, 1, 124) or (status == 1 and not found):
                raise SystemExit(f"mutant '{mutant.name}': no test ran, {status}\n{output}")
            noticing |= set(found)
            survived[mutant.name] = status == 0
            seconds = time.monotonic() - began
            by = found[0].partition("::")[2] if found else ""
            say(f"{'SURVIVED' if status == 0 else 'killed'} {seconds:3.0f} s  {mutant.name}  {by}")
        status, output = run_tests(folder, sorted(noticing), backend, 1800) if noticing else (0, "")
        if status != 0:
            raise SystemExit(f"tests that noticed a bug fail without it on {backend}\n{output}")
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
