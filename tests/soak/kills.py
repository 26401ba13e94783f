"""Kills: a training run that is killed again and again, and our own files, crashed after every step of a write.

python tests/soak/kills.py [--quick] [--only runs steps]
"""

import csv
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scorecard import ROOT, main, row, say

PAPER = ROOT / "examples" / "paper"
sys.path.insert(0, str(PAPER))
from runs import read_state  # noqa: E402

RUNS = {
    "greedy, dropout": ["--num-values", "4", "--dropout", "0.2", "--averaging", "0.9"],
    "probabilistic": ["--num-values", "4", "--selection", "probabilistic"],
}


def command(folder, flags, epochs):
    start = [sys.executable, str(PAPER / "train.py"), "--dataset", "digits", "--batch-size", "64"]
    places = ["--run-dir", str(folder / "run"), "--results", str(folder / "results.csv")]
    return [*start, "--verbose", "0", "--epochs", str(epochs), *flags, *places]


def start(words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def arrays(path):
    """The arrays of a state, and how many epochs it has seen."""
    found, facts = read_state(path)
    return found, len(facts["history"])


def kill(process, state, rng, in_save):
    """Kills the process at a random moment, or while a file is being written; whether it was still running."""
    seen = set(state.iterdir()) if state.exists() else set()
    left = rng.randint(1, 5)  # a random one of the next writes
    moment = None
    while process.poll() is None:
        time.sleep(0.0002)
        now = set(state.iterdir()) if state.exists() else set()
        new = {path for path in now - seen if path.name.startswith(".")}
        seen |= new
        if new and moment is None:
            moment = time.monotonic() + rng.uniform(0.0, 1.0)
        left -= len(new)
        if (in_save and new and left <= 0) or (not in_save and moment is not None and time.monotonic() > moment):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    return process.returncode == -signal.SIGKILL


def killed_run(name, flags, kills, epochs, rng):
    """Kills one run `kills` times and lets it go on each time; counts what was lost."""
    with tempfile.TemporaryDirectory() as work:
        whole, broken = Path(work, "whole"), Path(work, "broken")
        for folder in (whole, broken):
            folder.mkdir()
        reference = start(command(whole, flags, epochs))
        _, errors = reference.communicate()
        assert reference.returncode == 0, errors
        state, epoch, lost, caught, done = broken / "run" / "state", 0, 0, 0, 0
        while done < kills:
            # Three of four while a file is written.
            if not kill(start(command(broken, flags, epochs)), state, rng, done % 4 != 3):
                break  # it had finished: make it longer
            done += 1
            caught += any(state.glob(".*"))
            try:
                _, now = arrays(state / "last.npz") if (state / "last.npz").exists() else ([], 0)
            except (OSError, ValueError, KeyError) as error:
                say(f"kill {done} of '{name}': the last state cannot be read: {error}")
                lost += 1
                continue
            lost += now < epoch
            say(f"kill {done} of '{name}': {now} epochs are kept")
            epoch = now
        process = start(command(broken, flags, epochs))
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        differ = [file for file in ("last.npz", "best.npz") if _differ(whole, broken, file)]
        rows = [_only_row(f / "results.csv") for f in (whole, broken)]
        scores = [k for k in rows[0] if k.startswith(("test_", "val_", "train_last", "best_epoch"))]
        same = not differ and all(rows[0][k] == rows[1][k] for k in scores)
        left = sum(path.name != ".lock" for path in (broken / "run").rglob(".*"))
    return row(
        "kills",
        f"SIGKILL of a run, {name}",
        done - lost if same and not left else 0,
        kills,
        "none lost, final weights equal bit for bit",
        in_the_middle_of_a_write=caught,
        equal=same,
        files_left=left,
    )


def _only_row(path):
    with path.open(newline="") as file:
        (found,) = csv.DictReader(file)
    return found


def _differ(whole, broken, file):
    one, other = (arrays(folder / "run" / "state" / file)[0] for folder in (whole, broken))
    return len(one) != len(other) or not all(map(np.array_equal, one, other))


def runs(quick):
    rng = random.Random(0)
    kills = 3 if quick else 20
    for name, flags in list(RUNS.items())[: 1 if quick else None]:
        yield killed_run(name, flags, kills, 40 if quick else 300, rng)


# A crash after every single write, sync and rename: each try is a process of its own that ends without a word.


class Crashing:
    """Counts the steps of a write, and ends the process right after step number `at`."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def step(self, function=None, *args, **kwargs):
        value = function(*args, **kwargs) if function else None
        self.count += 1
        if self.count == self.at:
            os._exit(9)
        return value

    def wrap(self, holder, name):
        honest = getattr(holder, name)
        setattr(holder, name, lambda *args, **kwargs: self.step(honest, *args, **kwargs))

    def file(self, honest):
        crashing = self

        class File:
            def write(self, data):
                half = memoryview(data)[: len(memoryview(data).cast("B")) // 2]
                honest.write(half)
                honest.flush()
                crashing.step()  # half of it is there
                honest.write(memoryview(data)[len(half) :])
                return crashing.step(lambda: len(data))

            def flush(self):
                return crashing.step(honest.flush)

            def __enter__(self):
                return self

            def __exit__(self, *args):
                return honest.__exit__(*args)

            def __getattr__(self, name):
                return getattr(honest, name)

        return File()


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _writers():
    """Our writers, each `(module that is watched, write a path and bytes, read what is in the path)`."""
    atomic = _load(ROOT / "keras_slots" / "_files.py")
    return {"keras_slots/_files.py: write_file": (atomic, atomic.write_file, Path.read_bytes)}


def _crash(module, write, path, content, at):
    """Whether a child that crashes after step `at` came that far."""
    child = os.fork()
    if child == 0:
        crashing = Crashing(at)
        for name in ("fsync", "replace", "unlink"):
            crashing.wrap(module.os, name)
        honest_open, honest_fdopen = open, os.fdopen
        module.open = lambda *args, **kwargs: crashing.file(crashing.step(honest_open, *args, **kwargs))
        module.os.fdopen = lambda *args, **kwargs: crashing.file(crashing.step(honest_fdopen, *args, **kwargs))
        try:
            write(path, content)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def steps(quick):
    old, new = b"old" * 5000, b"new" * 7000
    for name, (module, write, read) in _writers().items():
        survived = tried = 0
        for before in (None, old):
            for at in range(1, 200):
                with tempfile.TemporaryDirectory() as work:
                    path = Path(work, "file.bin")
                    if before is not None:
                        write(path, before)
                    if not _crash(module, write, path, new, at):
                        break
                    tried += 1
                    survived += (read(path) if path.exists() else None) in (before, new)
                    write(path, b"later")  # what was left behind is in nobody's way
                    assert read(path) == b"later"
        yield row("kills", f"crash after each step of {name}", survived, tried, "old or new file")


if __name__ == "__main__":
    sys.exit(main(__doc__, {"runs": runs, "steps": steps}))
