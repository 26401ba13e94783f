"""The selected network as a file that does not depend on keras_slots."""

import errno
import importlib.util
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras

from keras_slots._checks import check_choice
from keras_slots._files import (
    check_path,
    errors_name_path,
    sync,
    temporary_path_beside,
    unwritable_path_error,
    write_file,
)
from keras_slots._keras import inner_layers
from keras_slots._litert import calibration_samples, converted_to_integers, integer_kernels
from keras_slots.c_export import c_header
from keras_slots.layers.composite import is_model
from keras_slots.transforms import materialize
from keras_slots.transforms.weights import holds_assets

FORMATS = ("tf_saved_model", "litert", "onnx", "c")
# Packages that a writer imports besides TensorFlow; the extra has the name of the format.
_PACKAGES = {"onnx": ("onnx", "tf2onnx")}
# Raised by `write`, and does not name the file.
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def export_selected(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    format: str = "tf_saved_model",
    overwrite: bool = False,
    calibration_data: Any = None,
) -> Path:
    """Writes the selected network for serving: as a TensorFlow SavedModel, a LiteRT or ONNX file, or C code.

    The header in C holds the choices and makes each weight from the hash of its bank while it is used, for
    microcontrollers; `docs/microcontrollers.md` describes it. It works on every backend.

    Any other file holds only the selected values: no bank, no scores, no seed. It takes the inputs of `model`,
    with a free batch size, and returns what `model(x, training=False)` returns. The signature of SavedModel and
    LiteRT files is `serving_default`. Its arguments have the names of the inputs; `"my input"` becomes `my_input`.

    LiteRT and ONNX need a model that computes in float32. The LiteRT file uses only built-in operations, so that
    the plain interpreter runs it, and the ONNX file is checked with `onnx.checker`. A model that the format
    cannot express is refused.

    With calibration data, C code and LiteRT files compute with integers: weights and activations of eight bits,
    with the scales of activations chosen to fit these inputs. The weights of banks of
    `StratifiedUniform(bits=8)` are exact. For C code banks must be of that kind, or shared; in LiteRT files the
    weights of other banks are rounded.

    Args:
        model: Functional or Sequential model with at least one slot layer; all formats but C need the
            TensorFlow backend.
        path: Folder (SavedModel) or file to write. It is written completely or not at all. For C code it ends in
            `.h`, and all names in it begin with the name of the file.
        format: `"tf_saved_model"`; `"litert"`, a `.tflite` file, which the extra `litert` can run; `"onnx"`,
            which needs the extra `onnx`; or `"c"`.
        overwrite: Whether to replace an earlier export once the new one is complete: a file, or a folder that is
            empty or holds nothing but a SavedModel. If the process is killed while it moves folders, the earlier
            export may be left beside `path`, complete, as `<name>.replaced-...`.
        calibration_data: For C code and LiteRT files that compute with integers: an array of inputs, `(n, ...)`,
            such as 500 training inputs; for several inputs, arrays in the structure that the model takes. None:
            they compute with floats.

    Returns:
        The path that was written.

    Raises:
        ValueError: If `format` is unknown, or needs the TensorFlow backend and another one is in use; if the
            format cannot express the model, `calibration_data` are not inputs of it, or `materialize(model)`
            refuses it.
        ImportError: If the packages of the format are not installed.
        FileExistsError: If `path` exists and `overwrite` is False, or `path` is not an earlier export.
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
        Aladago and Torresani, 2021, section 3: the trained network takes the arg-max at every connection.
    """
    check_choice(format, "format", FORMATS)
    if format == "c":
        path = check_path(path, overwrite, suffix=".h")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", path.stem):
            raise ValueError(
                "`path` must have a name that names in C can begin with: letters, digits and underscores. "
                f"Received: path='{path}'. Pass for example 'network.h'."
            )
        write_file(path, c_header(model, path.stem, calibration_data).encode())
        return path
    if calibration_data is not None and format != "litert":
        raise ValueError(
            f'`calibration_data` must be None for format="{format}": only "litert" and "c" compute with integers. '
            "Leave it out."
        )
    _check_format(format)
    path = check_path(path, overwrite, folder=format == "tf_saved_model")
    plain = materialize(model, trainable=False)
    if not is_model(plain):
        raise ValueError(
            "`model` must be a Functional or Sequential model, whose inputs are known. Received: model "
            f"'{model.name}' of type {type(plain).__name__}. Call `materialize(model).export(path)` instead."
        )
    options = {}
    if calibration_data is not None:
        samples = calibration_samples(_signature(plain)[0], calibration_data)
        options["convert"] = partial(converted_to_integers, samples=samples, kernels=integer_kernels(model))
    write_export(plain, path, format, overwrite=overwrite, **options)
    return path


def _check_format(format: str) -> None:
    """Raises an error if this backend and the installed packages cannot write a format other than C."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`export_selected` writes with the TensorFlow backend. Received: backend "
            f"{keras.backend.backend()!r}. Save the model as a .keras file, and load and export it under "
            "KERAS_BACKEND=tensorflow."
        )
    if not all(map(importlib.util.find_spec, _PACKAGES.get(format, ()))):
        raise ImportError(f'`format="{format}"` needs pip install "keras-slots[{format}]"')


def write_export(
    plain: keras.Model, path: Path, format: str = "tf_saved_model", *, overwrite: bool = False, **options: Any
) -> None:
    """Writes a model without slot layers to a folder or file, completely or not at all.

    `options` are those of the writer of the format.
    """
    _check_format(format)
    if format != "tf_saved_model":
        _check_float32(plain, format)
    with errors_name_path(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new, old = scratch / path.name, temporary_path_beside(path, "replaced")
    try:
        _write(plain, new, path, format, options)
        check_path(path, overwrite, folder=new.is_dir())  # again, because writing took time
        with errors_name_path(path):
            for file in (new, *new.rglob("*")):
                sync(file)
            if path.is_dir():
                os.replace(path, old)
            os.replace(new, path)
    finally:
        # An interrupt can come between any two steps, so look at what is on the disk.
        if old.exists():
            in_place = path.exists() and not new.exists()
            os.replace(old, scratch / "replaced" if in_place else path)
        shutil.rmtree(scratch, ignore_errors=True)


def _write(plain: keras.Model, new: Path, path: Path, format: str, options: dict[str, Any]) -> None:
    import tensorflow as tf

    try:
        _WRITERS[format](plain, new, **options)
    except (OSError, tf.errors.OpError) as error:
        # The model may raise these types too; errors of its files name the folder, or come from `write`.
        if new.parent.name not in str(error) and getattr(error, "errno", None) not in _WRITE_ERRORS:
            raise
        cause = error if isinstance(error, OSError) else OSError(str(error.message))
        raise unwritable_path_error(path, cause) from error


def _check_float32(model: keras.Model, format: str) -> None:
    others = {x.name: x.compute_dtype for x in inner_layers(model) if x.compute_dtype != "float32"}
    others.pop(model.name, None)
    if others:
        raise ValueError(
            f"`model` must compute in float32 for format={format!r}. Received: the layers {others}. Build the "
            'model again with `keras.config.set_dtype_policy("float32")`, and give it the weights of this one.'
        )


def _write_saved_model(model: keras.Model, path: Path) -> None:
    from keras.export import ExportArchive

    # `track` would store every variable twice, but vocabulary tables must be tracked.
    archive = ExportArchive()
    for layer in inner_layers(model):
        if holds_assets(layer) and layer.built and not layer.variables:
            archive.track(layer)
    archive.add_endpoint("serve", lambda inputs: model(inputs, training=False), _signature(model))
    archive.write_out(str(path), verbose=False)


def _write_litert(model: keras.Model, path: Path, convert: Callable[[Any], tuple] | None = None) -> None:
    import tensorflow as tf

    # Not `keras.Model.export`: it only exists since Keras 3.13, and its file may need TensorFlow.
    saved_model = path.with_name("saved_model")
    _write_saved_model(model, saved_model)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    try:
        content, rounded = (converter.convert(), []) if convert is None else convert(converter)
    except OSError:
        raise
    except Exception as error:
        operations = [x for x in str(error).splitlines() if x.startswith(("TF Select", "Custom"))]
        raise _unsupported_operation_error(model, "LiteRT", "; ".join(operations) or error) from error
    if rounded:
        warnings.warn(
            f"The weights of {rounded} are rounded and not the integers of their bank: LiteRT does not use them "
            "as those of a dense layer or convolution.",
            stacklevel=5,
        )
    path.write_bytes(content)


def _write_onnx(model: keras.Model, path: Path) -> None:
    import onnx

    _trace(model)
    unchecked = path.with_name("unchecked.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages about NumPy
        try:
            model.export(str(unchecked), format="onnx", input_signature=_signature(model), verbose=False)
            # The converter passes unknown operations on.
            onnx.checker.check_model(str(unchecked), full_check=True)
        except OSError:
            raise
        except Exception as error:
            raise _unsupported_operation_error(model, "ONNX", error) from error
    path.write_bytes(unchecked.read_bytes())


def _trace(model: keras.Model) -> None:
    """Traces the model, so that its own errors are not mistaken for errors of the converter."""
    import tensorflow as tf

    signature = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype, x.name), _signature(model))
    call = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    call.get_concrete_function(*signature)


def _unsupported_operation_error(model: keras.Model, name: str, why: object) -> ValueError:
    return ValueError(
        f"`model` may only have operations that {name} has. Received: model '{model.name}'. The converter says: "
        f'{str(why)[:300]}. Export it with format="tf_saved_model", or leave such layers out of the model.'
    )


_WRITERS = {"tf_saved_model": _write_saved_model, "litert": _write_litert, "onnx": _write_onnx}


def _signature(model: keras.Model) -> list:
    # A Sequential model has one input, and Keras does not mark it as called.
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    names = _argument_names([tensor.name for tensor in keras.tree.flatten(inputs)])

    def with_free_batch(tensor: keras.KerasTensor) -> keras.InputSpec:
        return keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=names[tensor.name])

    return [keras.tree.map_structure(with_free_batch, inputs)]


def _argument_names(names: list[str]) -> dict[str, str]:
    """Input name -> a name that TensorFlow takes for an argument: itself, or one without special characters."""
    arguments = {name: name for name in names if re.fullmatch(r"[A-Za-z0-9]\w*", name, re.ASCII)}
    for name in names:
        base = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "input"
        free = (
            x for x in (base, *(f"{base}_{n}" for n in range(2, len(names) + 2))) if x not in arguments.values()
        )
        arguments.setdefault(name, next(free))
    return arguments
