"""Hostile and broken files: changed `.slots` files, every truncation, flipped bits, full disks, read-only folders.

    python tests/soak/hostile.py [--quick] [--only changed flips places reader]

`changed` has the checksum of each changed file put right, so that what stands behind it is tried.
"""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from scorecard import ROOT, main, row, say

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples" / "paper")]
MOST_BYTES = 64 * 2**20
MOST_SECONDS = 0.05
INTERESTING = (0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 129, 254, 255)


def _files():
    import keras_slots
    from small_models import dense_model, moved, saved

    names = ("lever", "strata", "grid", "bank", "many", "nearest_layer", "conv")
    found = {name: saved(name)[0] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        model = moved(dense_model((9,), 16, score_mode="per_connection"))
        path = keras_slots.save_slots(model, Path(folder, "m.slots"))
        found["small"] = path.read_bytes()
    return found


def _mutated(content, random):
    """A file with a few changes, at any place behind the magic bytes, and with the right length and checksum."""
    from slots_reference import with_checksum

    new = bytearray(content)
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(8, len(new) - 4))
        kind = random.integers(0, 6)
        if kind == 0:
            new[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            new[at] = int(random.choice(INTERESTING))
        elif kind == 2:
            new[at : at + 4] = random.bytes(4)
        elif kind == 3:  # a large number where a size may be
            new[at : at + 4] = int(random.choice([2**31 - 1, 2**31, 2**32 - 1])).to_bytes(4, "little")
        elif kind == 4:
            del new[at : at + int(random.integers(1, 9))]
        else:
            new[at:at] = random.bytes(int(random.integers(1, 9)))
    while len(new) < 16:
        new.append(0)
    return with_checksum(new)


def _read(content):
    """Reads all of a file but for its model; whether it was refused."""
    from keras_slots.slots_file.container import array_of, split
    from keras_slots.slots_file.records import read_kernel

    try:
        _, records, _ = split(content)
        if sum(record.nbytes for record in records) > 2**20:
            return True  # as `load_slots(path, max_bytes=2**20)` does before it decodes
        for record in records:
            array_of(record) if record.form == "stored" else read_kernel(record)
    except ValueError as error:
        if ".slots" not in str(error):
            raise
        return True
    return False


def _seconds(content):
    began = time.process_time()
    with contextlib.suppress(Exception):
        _read(content)
    return time.process_time() - began


def changed(quick):
    import numpy as np

    files = list(_files().values())
    random = np.random.default_rng(0)
    tried = 1000 if quick else 5000
    survived = refused = slow = 0
    slowest = largest = 0.0
    for number in range(tried):
        content = _mutated(files[number % len(files)], random)
        traced = number % 10 == 0  # tracing makes it slow
        if traced:
            tracemalloc.start()
        began = time.process_time()
        try:
            refused += _read(content)
            fine = True
        except Exception as error:
            say(f"changed file {number}: {type(error).__name__}: {error}")
            fine = False
        seconds = time.process_time() - began
        if seconds > MOST_SECONDS and not traced:  # or was it the machine?
            seconds = min(seconds, *(_seconds(content) for _ in range(5)))
        if traced:
            largest = max(largest, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            fine &= largest <= MOST_BYTES
        else:
            slowest = max(slowest, seconds)
            slow += seconds > MOST_SECONDS
        survived += fine
    yield row(
        "hostile",
        "changed .slots files with right checksums, read in Python",
        survived - slow,
        tried,
        "only our error, <= 50 ms and 64 MiB each",
        refused=refused,
        slowest_milliseconds=round(1e3 * slowest, 1),
        slower_than_50_ms=slow,
        largest_mebibytes=round(largest / 2**20, 1),
    )
    yield from _loaded(files, random, quick)


def _loaded(files, random, quick):
    """The same through `load_slots`, Keras and all."""
    from keras_slots import load_slots

    tried, survived, refused = (50 if quick else 500), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.slots")
        for number in range(tried):
            path.write_bytes(_mutated(files[number % len(files)], random))
            try:
                load_slots(path, max_bytes=2**20)
                survived += 1
            except ValueError as error:
                refused += 1
                named = any(word in str(error) for word in (".slots", "Keras cannot make"))
                survived += named
                if not named:
                    say(f"loaded file {number}: {error}")
            except Exception as error:
                say(f"loaded file {number}: {type(error).__name__}: {error}")
    yield row(
        "hostile",
        "changed .slots files with right checksums, by load_slots",
        survived,
        tried,
        "only our error",
        refused=refused,
    )


def flips(quick):
    """Every truncation and 20,000 flipped bits."""
    import numpy as np

    from keras_slots.slots_file.container import split

    content = _files()["conv"]
    ends = range(0, len(content), 20 if quick else 1)
    refused = sum(_refused(split, content[:end]) for end in ends)
    yield row("hostile", "truncations of a .slots file", refused, len(ends), "none accepted")
    # A bit of any of the files, none of them twice.
    files = list(_files().values())
    places = [(number, bit) for number, file in enumerate(files) for bit in range(8 * len(file))]
    count = 2000 if quick else 20_000
    chosen = np.random.default_rng(1).choice(len(places), count, replace=False)
    refused = 0
    for number, bit in (places[i] for i in chosen):
        flipped = bytearray(files[number])
        flipped[bit // 8] ^= 1 << bit % 8
        refused += _refused(split, bytes(flipped))
    yield row("hostile", "flipped bits of .slots files", refused, count, "none accepted")


def _refused(function, *args):
    try:
        function(*args)
    except ValueError as error:
        return ".slots file" in str(error)
    return False


# Places that cannot be written.


@contextlib.contextmanager
def _full_disk(folder):
    """No file may grow beyond 200 bytes, as on a disk that is full after them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def _read_only(folder):
    """A folder without the right to write, and this process not the one that may all the same."""
    mode, user = os.stat(folder).st_mode, os.geteuid()
    os.chmod(folder, 0o555)
    if user == 0:
        os.chmod(folder.parent, 0o755)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        os.chmod(folder, mode)


def places(quick):
    import keras

    import keras_slots
    import runs
    from small_models import dense_model, moved

    model = moved(dense_model(score_mode="per_connection"))

    def exported(path):
        keras_slots.export_selected(model, path, format="litert", overwrite=True)

    writers = {
        "save_slots": ("m.slots", lambda path: keras_slots.save_slots(model, path, overwrite=True)),
        "write_json": ("run.json", lambda path: runs.write_json(path, {"a": "b" * 999})),
        "save_state": ("last.npz", lambda path: runs.save_state(path, model)),
    }
    if keras.backend.backend() == "tensorflow":
        writers["export_selected"] = ("m.tflite", exported)
    broken = {"full disk": _full_disk, "read-only folder": _read_only}
    for place, enter in broken.items():
        survived = tried = 0
        for name, (file, write) in writers.items():
            for old in (None, b"the old file"):
                tried += 1
                survived += _kept(name, place, enter, file, write, old)
        yield row(
            "hostile",
            f"writing to a {place}",
            survived,
            tried,
            "a clear error, the old file intact, nothing left behind",
        )


def _kept(name, place, enter, file, write, old):
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "folder")
        folder.mkdir()
        path = folder / file
        if old is not None:
            path.write_bytes(old)
        error = None
        with enter(folder):
            try:
                write(path)
            except (OSError, RuntimeError) as caught:
                error = caught
        left = sorted(x.name for x in folder.iterdir())
        intact = left == ([file] if old else []) and (old is None or path.read_bytes() == old)
        # The error names the place, in its text or as the file of an `OSError`.
        named = error is not None and str(folder) in f"{error}{getattr(error, 'filename', '')}"
        if not (intact and named):
            say(f"{name}, {place}: {left}, {type(error).__name__}: {error}")
        return intact and named


def reader(quick):
    """L6: the reader in C, a million changed files under its sanitizers."""
    mark = "thousands" if quick else "million"
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "slow or not slow"]
    began = time.perf_counter()
    done = subprocess.run(
        [*words, "tests/test_slots_reader.py", "-k", mark],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "KERAS_SLOTS_HAS_GCC": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        say(done.stdout[-3000:])
    tried = 4000 if quick else 1_000_000
    yield row(
        "hostile",
        "L6 changed .slots files, read by reader/slots.c under sanitizers",
        tried if done.returncode == 0 else 0,
        tried,
        "refused with a status, or read; no report of a sanitizer",
        seconds=round(time.perf_counter() - began),
    )


PARTS = {"changed": changed, "flips": flips, "places": places, "reader": reader}

if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS))
