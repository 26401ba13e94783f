"""A run's folder: who owns it, its state on disk, and its row in the results file.

    run.json           the recipe and the options: the folder belongs to this one run
    history.csv        one row per epoch
    results.json       written last: recipe, versions, processor, command, times, accuracies
    state/last.npz     the state after the last finished epoch; best.npz: after the best one so far
    state/epoch-5.npz  the state after epoch 5, where asked for

A kill leaves each file as it was before or as it is after, nothing between.
A state holds everything that training changes (weights, optimizer, random streams) and no bank:
values are rebuilt from the seed, and a checksum tells when they are not the same.
"""

import contextlib
import csv
import io
import json
import re
import uuid
import zipfile
import zlib
from pathlib import Path

import numpy as np


class RunError(RuntimeError):
    """A run cannot start or go on. The message is one line that says what to do."""


def write_whole(path, content):
    """Writes bytes so that a reader or a kill sees the old file or the new one."""
    from keras_slots._files import write_file  # brings Keras, which readers do not need

    try:
        write_file(Path(path), content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}") from error


def write_json(path, content):
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def csv_text(rows, header=True):
    """A list of dicts with the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path, rows):
    write_whole(path, csv_text(rows).encode())


@contextlib.contextmanager
def open_run(folder, identity):
    """Takes a folder for one run: makes it, or checks that it holds the run of that `identity`.

    Yields the folder as a `Path`, locked against a second process. Raises `RunError` when it cannot be
    written, holds something else, or is in use.
    """
    folder, known = Path(folder), Path(folder, "run.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        message = f"cannot write the run folder {folder}: {error.strerror}; choose another --run-dir"
        raise RunError(message) from error
    with lock:
        with contextlib.suppress(ImportError):  # on Windows: one process per folder is up to the user
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(f"{folder} is in use by another process") from error
        for left in folder.rglob(".*"):  # by a run that was killed while it wrote
            if re.fullmatch(r"\..+\.(npz|json|csv)\.\w+", left.name):
                left.unlink()
        if known.exists():
            check_identity(folder, identity)
        elif any(not path.name.startswith(".") for path in folder.iterdir()):
            raise RunError(f"{folder} holds files of something else; choose another --run-dir")
        else:
            write_json(known, {"run_id": uuid.uuid4().hex, **identity})
        (folder / "state").mkdir(exist_ok=True)
        yield folder


def check_identity(folder, identity):
    """Raises `RunError` when the folder belongs to another run."""
    known = read_json(Path(folder) / "run.json")
    wrong = [
        f"{name}: there {known.get(name)}, here {value}"
        for name, value in identity.items()
        if known.get(name) != value
    ]
    if wrong:
        text = "; ".join(wrong[:4])
        raise RunError(f"{folder} holds another run ({text}); choose another --run-dir")


def bank_checksum(model):
    """One checksum over the banks of all layers; 0 for a model without."""
    checksum = 0
    for layer in model.layers:
        if hasattr(layer, "bank"):
            checksum = zlib.crc32(np.ascontiguousarray(layer.bank), checksum)
    return checksum


def _named_variables(model, optimizer):
    """The names and variables of a state: all but what a slot layer does not train, its bank among them."""
    slots = [layer for layer in model.layers if hasattr(layer, "bank")]
    fixed = {id(v) for layer in slots for v in layer.non_trainable_weights}
    groups = {"model": [v for v in model.variables if id(v) not in fixed]}
    if optimizer and getattr(model, "optimizer", None):
        groups["optimizer"] = model.optimizer.variables
    for group, variables in groups.items():
        for index, variable in enumerate(variables):
            # Keras numbers random generators over the whole process.
            name = re.sub(r"(seed_generator|sampler)_\d+", r"\1", variable.path)
            yield f"{group}/{index}/{name}", variable


def save_state(path, model, bank=0, optimizer=True, **extra):
    """Writes the changing variables of model and optimizer, and JSON values in `extra`.

    `bank` is the model's `bank_checksum`, which the caller computes once. Raises `RunError` when a
    variable holds NaN or infinity, or the file cannot be written.
    """
    arrays = {name: np.asarray(variable) for name, variable in _named_variables(model, optimizer)}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RunError(
                f"{name} holds NaN or infinity, so {path} is not written and keeps its last good state; "
                "lower --learning-rate"
            )
    arrays["extra"] = np.frombuffer(json.dumps(extra | {"bank": bank}).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())


def read_state(path):
    """The arrays of a state by name, and its JSON values."""
    try:
        # Opened here: np.load leaves a damaged file open.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop("extra").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"cannot read the state {path}: {error}") from error


def load_state(path, model, bank=0, optimizer=True):
    """Puts a state back into an equal model; returns the JSON values.

    Raises `RunError`, before a variable is changed, when the file is damaged, or of another model or
    other values.
    """
    arrays, extra = read_state(path)
    arrays = [array for name, array in arrays.items() if optimizer or name.startswith("model/")]
    variables = [variable for _, variable in _named_variables(model, optimizer)]
    there, wanted = [x.shape for x in arrays], [tuple(x.shape) for x in variables]
    if there != wanted:
        raise RunError(f"{path} is of another model: it holds shapes {there}, not {wanted}")
    if extra["bank"] != bank:
        raise RunError(f"{path} belongs to other random values than this seed and version give")
    for array, variable in zip(arrays, variables, strict=True):
        variable.assign(array)
    return extra


def state_file(folder, state):
    """The file of a state: "best", "last", "averaged" or the number of a kept epoch."""
    name = f"epoch-{int(state)}" if str(state).isdigit() else str(state)
    path = Path(folder) / "state" / f"{name}.npz"
    if not path.exists():
        kept = ", ".join(sorted(file.stem for file in path.parent.glob("*.npz"))) or "none"
        raise RunError(
            f"{folder} has no state {name} (it has: {kept}); train.py --save-epochs keeps those of chosen epochs"
        )
    return path


def read_rows(path, columns=None):
    """The rows of a results file; none when it does not exist.

    Raises `RunError` when it cannot be read, or no row with these `columns` could be appended.
    """
    try:
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            if columns is not None and (reader.fieldnames or columns) != columns:
                raise RunError(f"{path} has other columns than a results file; choose another --results")
            return list(reader)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"cannot read the results file {path}: {error}") from error


def append_row(path, row):
    """Appends one run to a results file, once: a second row with the same `run_id` is left out."""
    if any(known["run_id"] == row["run_id"] for known in read_rows(path, list(row))):
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", newline="") as file:
            file.write(csv_text([row], header=file.tell() == 0))  # one write: rows do not mix
    except OSError as error:
        raise RunError(f"cannot write the results file {path}: {error}") from error
