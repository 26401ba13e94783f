"""A run's folder: who owns it, its state on disk, and its row in the results file.

    run.json           the recipe and the options: the folder belongs to this one run
    history.csv        one row per epoch
    results.json       written last: recipe, versions, processor, command, times, accuracies
    state/last.npz     the state after the last finished epoch; best.npz: after the best one so far
    state/epoch-5.npz  the state after epoch 5, where asked for

Each file is written to a temporary name, synced and renamed: a kill leaves the old one or the new.
A state holds everything that training changes (weights, optimizer, random streams) and no bank:
values are rebuilt from the seed, and a checksum tells when they are not the same.
"""

import contextlib
import csv
import io
import json
import os
import re
import uuid
import zipfile
import zlib
from pathlib import Path

import numpy as np


class RunError(RuntimeError):
    """A run cannot start or go on. The message is one line that says what to do."""


def write_atomic(path, content):
    """Writes a file so that a reader or a kill sees the old content or the new, nothing between.

    `content` is bytes, or a function that writes to the open file it is given.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path, content):
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def write_csv(path, rows):
    """Writes a list of dicts with the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


@contextlib.contextmanager
def open_run(folder, identity):
    """Takes a folder for one run: makes it, or checks that it holds the same run.

    Args:
        folder: path of the run folder.
        identity: a flat dict of what decides the result (recipe fields and options).

    Yields:
        The folder as a `Path`, locked against a second process.

    Raises:
        RunError: the folder cannot be written, holds something else, or is in use.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise RunError(
            f"cannot write the run folder {folder}: {error.strerror}; choose another --run-dir"
        ) from error
    with lock:
        _lock(lock, folder)
        for left in folder.rglob(".*.tmp"):  # of a run that was killed while it wrote
            left.unlink()
        known = folder / "run.json"
        if known.exists():
            check_identity(folder, identity)
        elif any(not path.name.startswith(".") for path in folder.iterdir()):
            raise RunError(f"{folder} holds files of something else; choose another --run-dir")
        else:
            write_json(known, {"run_id": uuid.uuid4().hex, **identity})
        (folder / "state").mkdir(exist_ok=True)
        yield folder


def _lock(file, folder):
    try:
        import fcntl
    except ImportError:  # not on Windows: one process per folder is then up to the user
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RunError(f"{folder} is in use by another process") from error


def check_identity(folder, identity):
    """Raises `RunError` when the folder belongs to another run."""
    known = read_json(Path(folder) / "run.json")
    wrong = [
        f"{name}: there {known.get(name)}, here {value}"
        for name, value in identity.items()
        if known.get(name) != value
    ]
    if wrong:
        raise RunError(
            f"{folder} holds another run ({'; '.join(wrong[:4])}); choose another --run-dir"
        )


def bank_checksum(model):
    """One checksum over the banks of all layers; 0 for a model without."""
    checksum = 0
    for layer in model.layers:
        if hasattr(layer, "bank"):
            checksum = zlib.crc32(np.ascontiguousarray(layer.bank), checksum)
    return checksum


def _changing(model):
    """The variables that training changes, in a fixed order.

    All but what a slot layer does not train: its bank, and what follows from bank and seed.
    """
    slots = [layer for layer in model.layers if hasattr(layer, "bank")]
    fixed = {id(v) for layer in slots for v in layer.non_trainable_weights}
    return [variable for variable in model.variables if id(variable) not in fixed]


def _groups(model, optimizer):
    """The names and variables of a state."""
    own = model.optimizer.variables if optimizer and getattr(model, "optimizer", None) else []
    for group, variables in (("model", _changing(model)), ("optimizer", own)):
        for index, variable in enumerate(variables):
            # Keras numbers random generators over the whole process.
            name = re.sub(r"(seed_generator|sampler)_\d+", r"\1", variable.path)
            yield f"{group}/{index}/{name}", variable


def save_state(path, model, bank=0, optimizer=True, **extra):
    """Writes the changing variables of model and optimizer, and JSON values in `extra`.

    `bank` is the model's `bank_checksum`, which the caller computes once.

    Raises:
        RunError: a variable holds NaN or infinity, or the file cannot be written.
    """
    arrays = {name: np.asarray(variable) for name, variable in _groups(model, optimizer)}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RunError(
                f"{name} holds NaN or infinity, so {path} is not written and keeps its last good state; "
                "lower --learning-rate"
            )
    arrays["extra"] = np.frombuffer(json.dumps(extra | {"bank": bank}).encode(), np.uint8)
    write_atomic(path, lambda file: np.savez(file, **arrays))


def _read_arrays(path, *names):
    try:
        # Opened here: np.load leaves a damaged file open.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"cannot read the state {path}: {error}") from error


def read_extra(path):
    """The JSON values of a state alone."""
    return json.loads(_read_arrays(path, "extra")["extra"].tobytes())


def load_state(path, model, bank=0, optimizer=True):
    """Puts a state back into an equal model; returns the JSON values.

    All shapes are checked before the first variable is touched.

    Raises:
        RunError: the file is missing, damaged, or of another model or other values.
    """
    arrays = _read_arrays(path)
    extra = json.loads(arrays.pop("extra").tobytes())
    if not optimizer:
        arrays = {name: array for name, array in arrays.items() if name.startswith("model/")}
    variables = [variable for _, variable in _groups(model, optimizer)]
    if len(arrays) != len(variables):
        raise RunError(f"{path} is of another model: {len(arrays)} variables, not {len(variables)}")
    pairs = list(zip(arrays.items(), variables, strict=True))
    for (name, array), variable in pairs:
        if array.shape != tuple(variable.shape):
            raise RunError(
                f"{path} is of another model: {name} has shape {array.shape}, "
                f"not {tuple(variable.shape)}"
            )
    if extra["bank"] != bank:
        raise RunError(f"{path} belongs to other random values than this seed and version give")
    for (_, array), variable in pairs:
        variable.assign(array)
    return extra


def state_file(folder, state):
    """The file of a state: "best", "last", "averaged" or the number of a kept epoch."""
    name = f"epoch-{int(state)}" if str(state).isdigit() else str(state)
    path = Path(folder) / "state" / f"{name}.npz"
    if not path.exists():
        kept = ", ".join(sorted(file.stem for file in path.parent.glob("*.npz"))) or "none"
        raise RunError(
            f"{folder} keeps no state {name} (it has: {kept}); "
            "train.py --save-epochs keeps those of chosen epochs"
        )
    return path


def read_rows(path):
    """The rows of a results file; none when it does not exist."""
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"cannot read the results file {path}: {error}") from error


def check_results(path, columns):
    """Fails early when a row with these columns could not be appended; returns the rows there are."""
    rows = read_rows(path)
    with contextlib.suppress(FileNotFoundError), open(path, newline="") as file:
        if next(csv.reader(file), list(columns)) != list(columns):
            raise RunError(
                f"{path} has other columns than a results file; choose another --results"
            )
    return rows


def append_row(path, row):
    """Appends one run to a results file, once: a row with the same `run_id` stays alone."""
    if any(known["run_id"] == row["run_id"] for known in check_results(path, row)):
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", newline="") as file:
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
            file.write(text.getvalue())  # one write: rows of parallel runs do not mix
    except OSError as error:
        raise RunError(f"cannot write the results file {path}: {error}") from error
