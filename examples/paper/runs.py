"""What a run leaves: its folder and its row in the results file.

    run.json           the recipe, and what the run starts from
    history.csv        one row per epoch
    results.json       written last: the row of the results file, and the history
    state/last.npz     the state after the last finished epoch; best.npz: after the best one so far
    state/epoch-5.npz  the state after epoch 5, where asked for

A state holds all that training changes (weights, optimizer, random streams) and no bank: the values
are built from the seed again.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd


def read_json(path):
    return json.loads(Path(path).read_text())


def write_whole(path, content):
    """Writes bytes or text so that a kill leaves the old file or the new one."""
    from keras_slots._files import write_file  # brings Keras, which readers do not need

    write_file(Path(path), content if isinstance(content, bytes) else content.encode())


def _changing(model):
    """The variables of a state; Keras' own files leave out the random streams."""
    slots = [layer for layer in model.layers if hasattr(layer, "bank")]
    fixed = {id(variable) for layer in slots for variable in layer.non_trainable_weights}
    return [variable for variable in model.variables if id(variable) not in fixed]


def save_state(path, model, optimizer=False, **facts):
    """Writes the changing variables of a model, and of its optimizer, and JSON values in `facts`."""
    import io

    variables = _changing(model) + (model.optimizer.variables if optimizer else [])
    arrays = [np.asarray(variable) for variable in variables]
    if not all(np.isfinite(array).all() for array in arrays):
        raise SystemExit(f"NaN or infinity: {path} keeps the last good epoch; lower --learning-rate")
    content = io.BytesIO()
    np.savez(content, *arrays, facts=json.dumps(facts))
    write_whole(path, content.getvalue())


def read_state(path):
    """The arrays of a state, and its JSON values."""
    with np.load(path, allow_pickle=False) as file:
        *arrays, facts = (file[name] for name in file.files)
    return arrays, json.loads(str(facts))


def load_state(path, model, optimizer=False):
    """Puts a state back into an equal model; returns its JSON values."""
    arrays, facts = read_state(path)
    variables = _changing(model) + (model.optimizer.variables if optimizer else [])
    for array, variable in zip(arrays, variables, strict=optimizer):
        variable.assign(array)
    return facts


def state_file(folder, state):
    """The file of a state: "best", "last", "averaged" or the number of a kept epoch."""
    path = Path(folder, "state", f"epoch-{state}.npz" if str(state).isdigit() else f"{state}.npz")
    if not path.exists():
        raise SystemExit(f"There is no {path}; train.py --save-epochs keeps states of chosen epochs")
    return path


def read_rows(path):
    """The rows of a results file, as texts."""
    if not Path(path).exists():
        return []
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def append_row(path, row):
    """Adds the row of a run to a results file, once."""
    known = read_rows(path)
    if known and list(known[0]) != list(row):
        raise SystemExit(f"{path} has other columns; choose another --results")
    if all(old["run_id"] != str(row["run_id"]) for old in known):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([row]).to_csv(path, mode="a", header=not known, index=False)
