"""The results file: one CSV row per run, with all that is needed to compare and to repeat it."""

import csv
import dataclasses
import io
import os
import platform
from pathlib import Path

from runfolder import RunError


def result_columns(recipe):
    """The columns of the results file, in order."""
    own = [field.name for field in dataclasses.fields(recipe)]
    return [
        *["run_id", *own, "dtype_policy", "limit_steps", "note"],
        *["keras_slots", "keras", "tensorflow", "numpy", "python"],
        *["device", "devices", "date", "connections", "train_images", "epochs_done"],
        *["seconds_per_epoch", "seconds_total", "best_epoch", "train_last", "val_best"],
        *["test_best", "val_last", "test_last"],
    ]


def versions():
    import keras
    import numpy as np
    import tensorflow as tf

    try:
        from keras_slots import __version__ as own
    except ImportError:  # the learned baseline runs without it
        own = ""
    return {
        "keras_slots": own,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def device(strategy):
    """Name and number of the devices that a strategy computes on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    else:
        name = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return {"device": name, "devices": strategy.num_replicas_in_sync}


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
    """Fails early when a row with these columns could not be appended."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", newline="") as file:
            file.seek(0)
            header = next(csv.reader(file), None)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"cannot write the results file {path}: {error}") from error
    if header is not None and header != list(columns):
        raise RunError(f"{path} has other columns than a results file; choose another --results")


def append_row(path, row):
    """Appends one run to a results file, once: a row with the same `run_id` stays alone."""
    check_results(path, row)
    if any(known["run_id"] == row["run_id"] for known in read_rows(path)):
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    if Path(path).stat().st_size == 0:
        writer.writeheader()
    writer.writerow(row)
    with open(path, "a", newline="") as file:  # one write: rows of parallel runs do not mix
        file.write(text.getvalue())
