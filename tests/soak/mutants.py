"""Planted bugs: one changed place in keras_slots each, and the tests that must notice it.

    python tests/soak/mutants.py [--quick] [--only NAME ...]

Each bug of `planted.py` is a patch of one file: text that is there exactly once, and what takes its place. It is
planted in a copy of the project, where the tests named beside it run until the first one fails. A bug that no test
notices survives.
"""

import argparse
import importlib
import json
import os
import re
import shlex
import shutil
import signal
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
    """Runs tests in a copy; the exit status of pytest and what it printed last.

    In a fork of this process, which has imported the backend and nothing of keras_slots: an import of TensorFlow
    takes longer than most of these tests.
    """
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            _be_pytest(folder, words, output.fileno())
        deadline, ended = time.monotonic() + timeout, (0, 0)
        while ended[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
            ended = os.waitpid(child, os.WNOHANG)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 124, "it ran out of time"
        output.seek(0)
        return os.waitstatus_to_exitcode(ended[1]), output.read()[-4000:].strip()


def _be_pytest(folder, words, output):
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        sys.dont_write_bytecode = True
        sys.path[:] = [str(folder), *(x for x in sys.path if x != str(ROOT))]
        import pytest

        start = ["-q", "-n", "0", "--no-header", "-p", "no:cacheprovider"]
        status = pytest.main([*start, *words])
        sys.stdout.flush()
    finally:
        os._exit(status)


def plant(mutants, backend):
    """Plants each bug, runs its tests, and returns `{name: survived}`.

    Raises:
        SystemExit: If a patch does not fit, no test ran, or the test that notices a bug fails without it too.
    """
    importlib.import_module(backend)
    importlib.import_module("keras")
    importlib.import_module("scipy.stats")
    assert "keras_slots" not in sys.modules
    mutants = [m for m in mutants if backend in m.backends]
    survived, noticing, broken = {}, set(), []
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
                broken.append(f"mutant '{mutant.name}': no test ran, {status}\n{output}")
                continue
            noticing |= set(found)
            survived[mutant.name] = status == 0
            seconds = time.monotonic() - began
            by = found[0].partition("::")[2] if found else ""
            say(f"{'SURVIVED' if status == 0 else 'killed'} {seconds:3.0f} s  {mutant.name}  {by}")
        status, output = run_tests(folder, sorted(noticing), backend, 1800) if noticing else (0, "")
        if status != 0:
            broken.append(f"tests that noticed a bug fail without it on {backend}\n{output}")
    if broken:
        raise SystemExit("\n".join(broken))
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
