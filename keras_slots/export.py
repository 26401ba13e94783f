"""The selected network as a file that needs nothing of keras_slots."""

import os
import shutil
import tempfile
from pathlib import Path

import keras

from keras_slots.cloning import holds_assets
from keras_slots.keras_internals import inner_layers
from keras_slots.transforms import materialize

FORMATS = ("tf_saved_model",)


def export_selected(
    model: keras.Model,
    path: str | os.PathLike,
    format: str = "tf_saved_model",
    overwrite: bool = False,
) -> Path:
    """Writes the selected network as a TensorFlow SavedModel for serving.

    The file holds the selected values and nothing else: no bank, no scores, no seed. Its signature
    `serving_default` takes what `model` takes, with a free batch size, and returns what
    `model(x, training=False)` returns.

    Args:
        model: Functional or Sequential model with at least one slot layer, on the TensorFlow backend.
        path: Folder to write. It appears whole or not at all.
        format: `"tf_saved_model"`.
        overwrite: Whether a folder that exists is replaced, once the new one is whole.

    Returns:
        The path that was written.

    Raises:
        ValueError: If `format` is unknown, the backend is not TensorFlow, or `materialize(model)` refuses the
            model.
        FileExistsError: If `path` exists and `overwrite` is False, or `path` is no folder.
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
    # `lexists` is False, not an error, where this process may not look.
    if os.path.lexists(path) and not (overwrite and path.is_dir() and not path.is_symlink()):
        raise FileExistsError(
            "`path` must not exist, so that no earlier export is lost, or be a folder to replace with "
            f"`overwrite=True`. Received: path='{path}', overwrite={overwrite}. Remove it or choose another."
        )
    put_saved_model(materialize(model, trainable=False), path)
    return path


def put_saved_model(plain: keras.Model, path: Path) -> None:
    """Writes a model without slot layers to a folder, which appears whole or not at all."""
    temporary = _folder_beside(path)
    try:
        _write_saved_model(plain, temporary / path.name)
        _put(temporary / path.name, path, temporary / "replaced")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _folder_beside(path: Path) -> Path:
    """A new folder on the file system of `path`, to be renamed when it is whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise type(error)(
            f"`path` must be a place where this process can write. Received: path='{path}' ({error.strerror})"
        ) from error


def _put(new: Path, path: Path, replaced: Path) -> None:
    """Moves `new` to `path`, and what was there to `replaced`; back again if that fails."""
    if not os.path.lexists(path):
        os.replace(new, path)
        return
    os.replace(path, replaced)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(replaced, path)
        raise


def _write_saved_model(model: keras.Model, path: Path) -> None:
    from keras.export import ExportArchive

    # `track` would store every variable a second time, but tables of vocabularies must be tracked.
    archive = ExportArchive()
    for layer in inner_layers(model):
        if holds_assets(layer) and layer.built and not layer.variables:
            archive.track(layer)
    # A Sequential model has one input and does not count as called.
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    signature = keras.tree.map_structure(_free_batch, inputs)
    archive.add_endpoint("serve", lambda inputs: model(inputs, training=False), [signature])
    archive.write_out(str(path), verbose=False)


def _free_batch(tensor: keras.KerasTensor) -> keras.InputSpec:
    return keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name)
