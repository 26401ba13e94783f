"""The results file: one CSV row per run, with all that is needed to compare and to repeat it."""

import csv
import dataclasses
import importlib
import io
import platform
from pathlib import Path

from runfolder import RunError


def result_columns(recipe):
    """The columns of the results file, in order."""
    own = [field.name for field in dataclasses.fields(recipe)]
    return [
        *["run_id", *own, "dtype_policy", "limit_steps", "note"],
        *["keras_slots", "keras", "backend", "tensorflow", "jax", "numpy", "python"],
        *["device", "devices", "date", "connections", "train_images", "epochs_done"],
        *["seconds_per_epoch", "seconds_total", "best_epoch", "train_last", "val_best"],
        *["test_best", "val_last", "test_last"],
    ]


def versions():
    """Versions of all that computes; the backend that does not run stays empty."""
    import keras
    import numpy as np

    try:
        from keras_slots import __version__ as own
    except ImportError:  # the learned baseline runs without it
        own = ""
    backend = keras.backend.backend()
    return {
        "keras_slots": own,
        "keras": keras.__version__,
        "backend": backend,
        **dict.fromkeys(("tensorflow", "jax"), ""),
        backend: importlib.import_module(backend).__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


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
    """Fails early when a row with these columns could not be appended; returns those of the file.

    A file of the time when there was one backend goes on without the columns that it lacks.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", newline="") as file:
            file.seek(0)
            header = next(csv.reader(file), None)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"cannot write the results file {path}: {error}") from error
    old = [name for name in columns if name not in ("backend", "jax")]
    if header not in (None, list(columns), old):
        raise RunError(f"{path} has other columns than a results file; choose another --results")
    return header or list(columns)


def append_row(path, row):
    """Appends one run to a results file, once: a row with the same `run_id` stays alone."""
    columns = check_results(path, row)
    if any(known["run_id"] == row["run_id"] for known in read_rows(path)):
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if Path(path).stat().st_size == 0:
        writer.writeheader()
    writer.writerow(row)
    with open(path, "a", newline="") as file:  # one write: rows of parallel runs do not mix
        file.write(text.getvalue())
