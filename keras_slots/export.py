"""The selected network as a file that needs nothing of keras_slots."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_slots.transforms import materialize

FORMATS = ("tf_saved_model",)


def export_selected(
    model: keras.Model, path: str | os.PathLike, format: str = "tf_saved_model"
) -> Path:
    """Writes the selected network as a TensorFlow SavedModel for serving.

    The file holds the selected values and nothing else: no bank, no scores, no seed. Its signature
    `serving_default` takes what `model` takes, with a free batch size, and returns what
    `model(x, training=False)` returns.

    Args:
        model: Functional or Sequential model with at least one slot layer, on the TensorFlow backend.
        path: Folder to write; must not exist. It appears whole or not at all.
        format: `"tf_saved_model"`.

    Returns:
        The path that was written.

    Raises:
        ValueError: If `format` is unknown, the backend is not TensorFlow, or `materialize(model)` refuses the
            model.
        FileExistsError: If `path` exists.
        OSError: If `path` cannot be written.

    Example:

    >>> import os, tempfile
    >>> import keras, numpy as np, tensorflow as tf
    >>> from keras_slots import SlotDense, export_selected
    >>> model = keras.Sequential([keras.Input((4,)), SlotDense(3)])
    >>> path = export_selected(model, os.path.join(tempfile.mkdtemp(), "selected"))
    >>> serve = tf.saved_model.load(path).signatures["serving_default"]
    >>> [tuple(y.shape) for y in serve(tf.ones((2, 4))).values()]
    [(2, 3)]

    Reference:
        Aladago and Torresani, 2021, section 3: the trained network is the arg-max of every connection.
    """
    if format not in FORMATS:
        raise ValueError(f'`format` must be "tf_saved_model". Received: format={format!r}')
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`export_selected` writes a SavedModel with the TensorFlow backend. Received: backend "
            f"{keras.backend.backend()!r}. Save the model as a .keras file, and load and export it under "
            "KERAS_BACKEND=tensorflow."
        )
    path = Path(path)
    if os.path.lexists(path):  # False, not an error, where this process may not look
        raise FileExistsError(
            f"`path` must not exist, so that no earlier export is lost. Received: path='{path}'. Remove it or "
            "choose another."
        )
    plain = materialize(model, trainable=False)
    temporary = _folder_beside(path)
    try:
        _write_saved_model(plain, temporary / path.name)
        os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _folder_beside(path: Path) -> Path:
    """A new folder on the file system of `path`, to be renamed when it is whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise type(error)(
            f"`path` must be a place where this process can write. Received: path='{path}' ({error.strerror})"
        ) from error


def _write_saved_model(model: keras.Model, path: Path) -> None:
    from keras.export import ExportArchive

    # Without `track`, which would store every variable a second time.
    archive = ExportArchive()
    signature = keras.tree.map_structure(_free_batch, _inputs(model))
    archive.add_endpoint("serve", lambda inputs: model(inputs, training=False), [signature])
    archive.write_out(str(path), verbose=False)


def _inputs(model: keras.Model) -> Any:
    """The input structure; a Sequential model has one input and does not count as called."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model._inputs_struct


def _free_batch(tensor: keras.KerasTensor) -> keras.InputSpec:
    return keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name)
