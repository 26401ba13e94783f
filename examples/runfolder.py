"""A run's folder: who owns it, its state on disk, its logs, and its row in the results file.

    run.json        the recipe and the options: the folder belongs to this one run
    last.npz        the state after the last finished epoch; best.npz: after the best one so far
    epoch-0005.npz  the state after epoch 5, where asked for
    history.csv     one row per epoch
    results.json    written last: recipe, versions, device, times, accuracies

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
        for left in folder.glob(".*.tmp"):  # of a run that was killed while it wrote
            left.unlink()
        known = folder / "run.json"
        if known.exists():
            _check_identity(folder, read_json(known), identity)
        elif any(not path.name.startswith(".") for path in folder.iterdir()):
            raise RunError(f"{folder} holds files of something else; choose another --run-dir")
        else:
            write_json(known, {"run_id": uuid.uuid4().hex, **identity})
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


def _check_identity(folder, known, identity):
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


def save_state(path, model, bank=0, **extra):
    """Writes the changing variables of model and optimizer, and JSON values in `extra`.

    `bank` is the model's `bank_checksum`, which the caller computes once.
    """
    arrays = {}
    for group, variables in (("model", _changing(model)), ("optimizer", _of_optimizer(model))):
        for index, variable in enumerate(variables):
            # Keras numbers random generators over the whole process.
            name = re.sub(r"seed_generator_\d+", "seed_generator", variable.path)
            arrays[f"{group}/{index}/{name}"] = np.asarray(variable)
    extra["bank"] = bank
    arrays["extra"] = np.frombuffer(json.dumps(extra).encode(), np.uint8)
    write_atomic(path, lambda file: np.savez(file, **arrays))


def _of_optimizer(model):
    return model.optimizer.variables if getattr(model, "optimizer", None) is not None else []


def _read_arrays(path, *names, stream=None):
    try:
        # Opened here: np.load leaves a damaged file open.
        with stream or open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"cannot read the state {path}: {error}") from error


def read_extra(path):
    """The JSON values of a state alone."""
    return json.loads(_read_arrays(path, "extra")["extra"].tobytes())


def load_state(path, model, optimizer=True, bank=0, stream=None):
    """Puts a state back into an equal model; returns the JSON values.

    All shapes are checked before the first variable is touched. `stream` is the file at `path`, when
    it is open already.

    Raises:
        RunError: the file is missing, damaged, or of another model or other values.
    """
    arrays = _read_arrays(path, stream=stream)
    extra = json.loads(arrays.pop("extra").tobytes())
    groups = [("model", _changing(model))]
    if optimizer:
        groups.append(("optimizer", _of_optimizer(model)))
    pairs = []
    for group, variables in groups:
        names = [name for name in arrays if name.startswith(group + "/")]
        if len(names) != len(variables):
            raise RunError(
                f"{path} is of another model: {len(names)} {group} variables, not {len(variables)}"
            )
        for name, variable in zip(names, variables, strict=True):
            if arrays[name].shape != tuple(variable.shape):
                raise RunError(
                    f"{path} is of another model: {name} has shape {arrays[name].shape}, "
                    f"not {tuple(variable.shape)}"
                )
            pairs.append((variable, arrays[name]))
    if extra["bank"] != bank:
        raise RunError(f"{path} belongs to other random values than this seed and version give")
    for variable, array in pairs:
        variable.assign(array)
    return extra


def write_history(path, history):
    """Writes the list of per-epoch dicts as CSV."""
    if not history:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomic(path, text.getvalue().encode())
