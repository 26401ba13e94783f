"""What a run leaves: its folder and its row in the results file.

    run.json           the recipe, and what the run starts from
    history.csv        one row per epoch
    results.json       written last: the row of the results file, and the history
    state/last.npz     the state after the last finished epoch; best.npz: after the best one so far
    state/epoch-5.npz  the state after epoch 5, where asked for

A state holds all that training changes (weights, optimizer, and random streams, which Keras' own files
leave out) and no bank: the values are built from the seed again.
"""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd


def read_json(path):
    return json.loads(Path(path).read_text())


def write_json(path, content):
    write_whole(path, json.dumps(content, indent=2))


def write_whole(path, content):
    """Writes bytes or text so that a kill leaves the old file or the new one."""
    from keras_slots._files import write_file  # brings Keras, which readers do not need

    write_file(Path(path), content if isinstance(content, bytes) else content.encode())


def remove_unfinished(folder):
    """Removes what killed writes have left in a run folder."""
    for path in Path(folder).rglob(".*.*.*"):  # names that `write_file` makes
        path.unlink()


def _variables(model, optimizer):
    slots = [layer for layer in model.layers if hasattr(layer, "bank")]
    fixed = {id(variable) for layer in slots for variable in layer.non_trainable_weights}
    variables = [variable for variable in model.variables if id(variable) not in fixed]
    return variables + (model.optimizer.variables if optimizer else [])


def save_state(path, model, optimizer=False, **facts):
    """Writes the state of a model, with its optimizer or without, and JSON values in `facts`."""
    arrays = [np.asarray(variable) for variable in _variables(model, optimizer)]
    if not all(np.isfinite(array).all() for array in arrays):
        raise SystemExit(f"NaN or infinity: {path} keeps the last good epoch; lower --learning-rate")
    content = io.BytesIO()
    np.savez(content, *arrays, facts=json.dumps(facts))
    write_whole(path, content.getvalue())


def read_state(path):
    """The arrays of a state, and its JSON values."""
    with np.load(path, allow_pickle=False) as file:
        return [file[name] for name in file.files[1:]], json.loads(str(file["facts"]))


def load_state(path, model, optimizer=False):
    """Puts a state back into an equal model; returns its JSON values."""
    arrays, facts = read_state(path)
    for array, variable in zip(arrays, _variables(model, optimizer), strict=optimizer):
        variable.assign(array)
    return facts


def state_file(folder, state):
    """The file of a state: "best", "last" or the number of a kept epoch."""
    path = Path(folder, "state", f"epoch-{state}.npz" if str(state).isdigit() else f"{state}.npz")
    if not path.exists():
        raise SystemExit(f"There is no {path}; train.py --save-epochs keeps states of chosen epochs")
    return path


def append_row(path, row):
    """Adds the row of a run to a results file, once."""
    path, frame = Path(path), pd.DataFrame([row])
    known = pd.read_csv(path, dtype=str) if path.exists() else pd.DataFrame(columns=frame.columns)
    if list(known) != list(frame):
        raise SystemExit(f"{path} has other columns; choose another --results")
    if row["run_id"] not in set(known["run_id"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path, mode="a", header=not path.exists(), index=False)
