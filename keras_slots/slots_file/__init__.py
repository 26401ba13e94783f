"""`save_slots` writes the selected network as seeds and choices, `load_slots` turns them into a plain Keras model.

`container` reads and writes the bytes of a file, `records` those of one kernel, `coder` those of its choices.
"""

from __future__ import annotations

import copy
import math
import os
import re
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_slots._checks import check_choice
from keras_slots._files import check_path, write_file
from keras_slots._keras import inner_layers, reading_scope, set_first_value, without_values, writing_scope
from keras_slots._live_config import CONFIG_ERRORS, carried_in, live_config
from keras_slots.kernels.base import SlotKernel
from keras_slots.layers.base import SlotLayer
from keras_slots.layers.composite import is_model
from keras_slots.slots_file.container import Contents, Record, array_of, damaged, itemsize, join, split, stored
from keras_slots.slots_file.records import coding_of, find_choices, read_kernel, values_of, write_kernel
from keras_slots.transforms import materialized
from keras_slots.transforms.folding import fold_batch_norms
from keras_slots.transforms.weights import finalize, holds_assets, pair_weights

Array = np.ndarray[Any, Any]
Path_ = str | os.PathLike
#: The state of a random generator, as in dropout, is int64 on TensorFlow, uint32 on JAX and int32 on PyTorch.
_INTEGERS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


def save_slots(
    model: keras.Model,
    path: Path_,
    *,
    overwrite: bool = False,
    fold_batch_norm: bool = False,
    float_dtype: str | None = None,
) -> Path:
    """Writes the selected network as a `.slots` file: seeds, and one coded choice per connection.

    The file holds the architecture, the seed and the distribution of each bank, the choice of each connection,
    and all other weights (biases, batch normalization) unchanged. The result is read back and compared before it
    replaces an earlier file. `docs/slots_format.md` specifies the format, which `reader/slots.c` also reads.

    If the values of a kernel cannot be drawn from a seed (a Keras initializer, half precision, values that were
    replaced), the file holds its selected values, and there is a warning.

    Args:
        model: Model with at least one slot layer, of a kind that `slotify` takes.
        path: File to write, whose name ends in `.slots`. It is written completely or not at all.
        overwrite: Whether to replace an existing file once the new one is complete.
        fold_batch_norm: Whether to write batch normalizations as the scale and the bias of each channel, which
            `load_slots` brings back as an `EinsumDense` layer. The model then predicts the same up to rounding.
        float_dtype: `"float16"` rounds all floats but the kernels of slot layers: biases, batch normalization
            and ordinary layers. Those with a number that float16 cannot hold stay as they are. None: all stay.

    Returns:
        The path that was written.

    Raises:
        ValueError: If `path` has another suffix, `float_dtype` is unknown, `materialize(model)` refuses the model
            (not built, without slot layers, scores that are not finite), a layer has a vocabulary or a function
            that a file cannot hold, or its configuration brings back other weights.
        FileExistsError: If `path` exists and `overwrite` is False, or `path` is not a file.
        OSError: If `path` cannot be written.

    Warns:
        UserWarning: If the file holds the selected values of a kernel instead of its choices, or if `load_slots`
            needs `custom_objects` to read it.

    Example:

    >>> import os, tempfile
    >>> import keras
    >>> from keras_slots import SlotDense, load_slots, materialize, save_slots
    >>> model = keras.Sequential([keras.Input((64,)), SlotDense(300), SlotDense(10)])
    >>> path = save_slots(model, os.path.join(tempfile.mkdtemp(), "model.slots"))
    >>> bool((load_slots(path).get_weights()[0] == materialize(model).get_weights()[0]).all())
    True
    >>> path.stat().st_size < 12_000  # 89 kB in float32
    True

    Reference:
        Aladago and Torresani, 2021, section 3: the trained network is one choice per connection.
    """
    path = check_path(path, overwrite, suffix=".slots")
    plain, content, _ = file_of(model, fold_batch_norm, float_dtype)
    _check_architecture(content, plain)
    write_file(path, content)
    return path


def load_slots(
    path: Path_, *, custom_objects: dict[str, Any] | None = None, max_bytes: int = 2**33
) -> keras.Model:
    """Reads a `.slots` file into a plain Keras model, bitwise equal to `materialize` of the one that was saved.

    The file is data: no code from it runs, and all of it is checked before the model is created. All layers must
    be known to Keras, as for a `.keras` file; slot layers are not needed.

    Args:
        path: A file of `save_slots`.
        custom_objects: Classes and functions by name, for layers that Keras does not know.
        max_bytes: Maximum size of the weights in memory.

    Returns:
        A model that is not compiled and does not depend on keras_slots.

    Raises:
        ValueError: If the file is not a complete, undamaged `.slots` file of a known version, or if its weights
            do not fit its architecture or take more than `max_bytes`.
        OSError: If the file cannot be read.

    Example:

    >>> import os, tempfile
    >>> import keras
    >>> from keras_slots import SlotDense, load_slots, save_slots
    >>> model = keras.Sequential([keras.Input((4,)), SlotDense(3, name="logits")])
    >>> path = save_slots(model, os.path.join(tempfile.mkdtemp(), "model.slots"))
    >>> load_slots(path).get_layer("logits")
    <Dense name=logits, built=True>
    """
    architecture, records, _ = split(Path(path).read_bytes())
    _check_memory(sum(record.nbytes for record in records), max_bytes)
    with without_values() as created:  # do not trust the sizes in an architecture
        model = _model(architecture, custom_objects)
    if difference := _difference(model, records):
        raise damaged(difference)
    records = [replace(x, name=_name(v)) for x, v in zip(records, model.variables, strict=True)]
    known = {id(variable) for variable in model.variables}
    others = [variable for variable in created if id(variable) not in known]
    _check_memory(sum(math.prod(v.shape) * itemsize(v.dtype) for v in [*model.variables, *others]), max_bytes)
    for variable, record in zip(model.variables, records, strict=True):
        set_first_value(variable, _weight(record, variable))
    for variable in others:
        set_first_value(variable)
    for layer in inner_layers(model):
        finalize(layer)
    return model


def file_of(
    model: keras.Model, fold_batch_norm: bool = False, float_dtype: str | None = None
) -> tuple[keras.Model, bytes, dict[int, int]]:
    """The plain model of a file, its bytes, and how many each kernel takes, by the `id` of the kernel."""
    if float_dtype is not None:
        check_choice(float_dtype, "float_dtype", ("float16",))
    plain, pairs = materialized(model)
    kernels: dict[int, tuple[SlotKernel, str]] = {}
    for old, new in pairs:
        for layer in inner_layers(new):
            if holds_assets(layer) and not layer.variables:
                raise ValueError(
                    f"Layer '{layer.name}' has a vocabulary, which a .slots file cannot hold. Take it out of the "
                    "model and save it separately, or save `materialize(model)` as a .keras file."
                )
        if isinstance(old, SlotLayer):
            for variable, source in pair_weights(new, old, old.weight_sources()):
                if isinstance(source, SlotKernel):
                    kernels[id(variable)] = source, f"{old.name}/{variable.name}"
    if fold_batch_norm:
        plain, copies = fold_batch_norms(plain)
        same = {id(v): w for old, new in copies for v, w in zip(old.variables, new.variables, strict=False)}
        kernels = {id(same[old]): source for old, source in kernels.items()}
    _warn_of_unknown_classes(plain)
    records: list[Record] = []
    sizes: dict[int, int] = {}
    for variable in plain.variables:
        array = np.array(keras.ops.convert_to_numpy(variable))
        if id(variable) in kernels:
            kernel, name = kernels[id(variable)]
            records.append(_kernel_record(kernel, name, array))
            sizes[id(kernel)] = len(records[-1].payload)
        else:
            records.append(stored(_name(variable), _in_dtype(array, float_dtype)))
    return plain, join(_serialize(plain), records), sizes


def _serialize(model: keras.Model) -> dict[str, Any]:
    """Serializes a model to a dictionary that a file can hold; refuses functions and objects that none can."""
    for layer in inner_layers(model):
        if is_model(layer) or isinstance(layer, SlotLayer):
            continue
        try:
            config = live_config(layer)
        except CONFIG_ERRORS:
            continue  # made by a composite, whose configuration is enough; if not, Keras says so below
        for argument, value in carried_in(config):
            named = isinstance(value, types.FunctionType) and value.__name__ != "<lambda>"
            if not (named or hasattr(value, "get_config")):
                raise ValueError(
                    f"A file cannot hold the `{argument}` of layer '{layer.name}'. Expected a function with a "
                    f"name, or an object with a `get_config`. Received: {value!r}. Write it as a named function, "
                    "decorated with `keras.saving.register_keras_serializable()`."
                )
    try:
        with writing_scope():
            serialized: dict[str, Any] = keras.saving.serialize_keras_object(model)
    except CONFIG_ERRORS as error:
        raise ValueError(
            f"A file cannot hold model '{model.name}': Keras cannot write its configuration. {error}"
        ) from error
    _number_shared_layers(serialized, {id(layer) for layer in inner_layers(model)})
    return serialized


def _number_shared_layers(config: dict[str, Any], layers: set[int]) -> None:
    """Numbers layers that are in several places from 0, in the place of the `id` of every object."""
    marked = [(part, part.pop("shared_object_id", None)) for part in _dictionaries_in(config)]
    places = Counter(key for _, key in marked)
    numbers: dict[int, int] = {}
    for part, key in marked:
        if key in layers and places[key] > 1:
            part["shared_object_id"] = numbers.setdefault(key, len(numbers))


def _dictionaries_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _dictionaries_in(part)


def _in_dtype(array: Array, dtype: str | None) -> Array:
    """The array, in that dtype if it holds floats that the dtype can hold."""
    if dtype is None or array.dtype not in ("float32", "float64"):
        return array
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype)
    return rounded if np.isfinite(rounded).all() else array


def name_records(contents: Contents) -> list[Record]:
    """The records with the names of their weights, or as they are if Keras cannot create the model."""
    try:
        with without_values():
            names = [_name(variable) for variable in _model(contents.architecture, None).variables]
    except ValueError:
        names = []
    if len(names) != len(contents.records):
        return contents.records
    return [replace(record, name=name) for record, name in zip(contents.records, names, strict=True)]


def _check_architecture(content: bytes, plain: keras.Model) -> None:
    """Raises an error if Keras makes another model of a file, and warns if it can make none."""
    architecture, records, _ = split(content)
    try:
        with without_values(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras' own were shown when the model was made
            again = _model(architecture, {cls.__name__: cls for cls in _own_classes(plain)})
    except ValueError as error:
        warnings.warn(
            f"`load_slots` cannot read this file by itself: {error} Try that before you rely on the file, or also "
            "save the model as a .keras file.",
            stacklevel=3,
        )
        return
    if difference := _difference(again, records):
        raise ValueError(
            f"A file cannot hold model '{plain.name}': once written as JSON, {difference}. Return from each "
            "`get_config` what JSON can hold."
        )


def _check_memory(needed: int, max_bytes: int) -> None:
    if needed > max_bytes:
        raise ValueError(
            f"The weights of the .slots file take {needed} bytes in memory, more than `max_bytes`. Received: "
            f"max_bytes={max_bytes}. Pass a larger value if you trust the file."
        )


def _model(architecture: dict[str, Any], custom_objects: dict[str, Any] | None) -> keras.Model:
    try:
        with reading_scope():
            model = keras.saving.deserialize_keras_object(
                copy.deepcopy(architecture),  # Keras modifies the dictionary that it reads
                custom_objects=custom_objects,
                safe_mode=True,
            )
    except Exception as error:
        # Keras raises various errors for a configuration that it cannot read; the first one has the reason.
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise ValueError(
            f"Keras cannot create the model of the .slots file: {str(cause)[:200]} ... Pass classes that it does "
            "not know in `custom_objects`."
        ) from error
    if not isinstance(model, keras.Model):
        raise damaged(f"it describes a {type(model).__name__}, not a model")
    return model


def _difference(model: keras.Model, records: list[Record]) -> str | None:
    """How the weights of the records differ from those of a model, if they do."""
    expected = [(tuple(v.shape), keras.backend.standardize_dtype(v.dtype)) for v in model.variables]
    received = [(record.shape, record.dtype) for record in records]
    different = [pair for pair in zip(expected, received, strict=False) if not _fits(*pair)]
    if not different and len(expected) == len(received):
        return None
    first = ": {} and {}".format(*different[0]) if different else ""
    return f"its architecture has {len(expected)} weights and the file {len(received)}, which differ{first}"


def _fits(expected: tuple[tuple[int, ...], str], received: tuple[tuple[int, ...], str]) -> bool:
    """Whether the shapes are equal, and the dtypes are equal, both integers, or floats of which half is stored."""
    (shape, dtype), (its_shape, its_dtype) = expected, received
    same = dtype == its_dtype or {dtype, its_dtype} <= _INTEGERS
    return shape == its_shape and (same or (its_dtype == "float16" and dtype in ("float32", "float64")))


def _weight(record: Record, variable: keras.Variable) -> Array:
    """The weight of a record in the dtype of its variable; an integer dtype may differ from that in the file."""
    array = array_of(record) if record.form == "stored" else read_kernel(record)
    weight = array.astype(keras.backend.standardize_dtype(variable.dtype), copy=False)
    if array.dtype.kind in "iu" and (weight != array).any():
        raise ValueError(
            f"The weight '{record.name}' of the .slots file has integers that {weight.dtype} cannot hold. Load "
            "the file on the backend that wrote it."
        )
    return weight


def _kernel_record(kernel: SlotKernel, name: str, array: Array) -> Record:
    if kernel.num_values == 1:
        return stored(name, array)
    try:
        values = values_of(kernel)
        found = find_choices(kernel, values, array.reshape(-1).astype("float32"))
        if found is None:
            raise ValueError(
                "its values are not those that its seed and dtype describe, so something has overwritten them"
            )
    except ValueError as error:
        warnings.warn(
            f"The file stores the selected values of kernel '{name}', {array.dtype.itemsize} bytes per "
            f"connection: {error}.",
            stacklevel=4,
        )
        return stored(name, array)
    coding = coding_of(found, values, array.shape)
    return write_kernel(name, array, found.index, values, coding)


def _own_classes(model: keras.Model) -> set[type]:
    """The layer classes of a model that are neither those of Keras nor our own."""
    classes = map(type, inner_layers(model))
    return {cls for cls in classes if not cls.__module__.startswith(("keras.", "keras_slots."))}


def _warn_of_unknown_classes(plain: keras.Model) -> None:
    """Warns of layer classes that a reader of the file must register."""
    strange = sorted(cls.__name__ for cls in _own_classes(plain))
    if strange:
        warnings.warn(
            f"The model has layer classes that Keras does not know: {strange}. To load the file, register "
            "them, or pass `load_slots(path, custom_objects={name: class})`.",
            stacklevel=4,
        )


def _name(variable: Any) -> str:
    # Keras numbers random generators per process, but the same model should give the same bytes.
    return re.sub(r"(seed_generator)_\d+", r"\1", "/".join(variable.path.split("/")[-2:]))
