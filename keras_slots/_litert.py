"""LiteRT files in integers, whose weights are the integers of the banks.

TensorFlow's converter rounds the weights of an output channel so that the largest becomes 127. With a bank of
`StratifiedUniform(bits=8)` they are `q * unit` with integers q, times the gain of a batch normalization that is
folded into them. So the converter stores

    rint(q * 127 / m), with the scale |gain| * unit * m / 127,          m = max |q|

or the negative if the gain is negative. That is how a kernel is found in the file. Then q takes the place of the
rounded integers, with the scale |gain| * unit, and the bias, whose scale is that of the weights times that of the
input, is brought to its new scale.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import keras
import numpy as np

from keras_slots._checks import check_calibration_data
from keras_slots._keras import inner_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.values.stratified import Grid, StratifiedUniform

Array = np.ndarray[Any, Any]

#: Operations whose second input is a weight with scales of its own.
_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


@dataclass(frozen=True)
class IntegerKernel:
    """A kernel whose selected values are `integers * unit`, bit for bit, with integers of at most eight bits."""

    path: str
    integers: Array
    unit: np.float32

    def in_place_of(self, rounded: Array, scales: Array) -> tuple[Array, Array] | None:
        """The integers and scales to replace those of the converter; None if they are not of this kernel.

        Args:
            rounded: `(n, channels)`.
            scales: `(channels,)`.
        """
        swapped = np.moveaxis(np.atleast_2d(self.integers), -2, -1)  # in transposed convolutions
        for integers in (self.integers, swapped):
            if integers.size != rounded.size:
                continue
            columns = integers.reshape(rounded.shape)
            columns = columns * np.sign((columns * rounded).sum(axis=0))  # 0 where the gain is 0
            stretch = 127 / np.maximum(np.abs(columns).max(axis=0), 1)
            if (np.rint(columns * stretch) == rounded).all():
                scales = np.where(columns.any(axis=0), scales * stretch, scales)
                exact = np.isclose(scales, self.unit, rtol=1e-6, atol=0)
                return columns, np.where(exact, self.unit, scales)
        return None


def integer_kernels(model: keras.Model) -> list[IntegerKernel]:
    """The kernels of a model whose values are integers of at most eight bits times one number."""
    found = []
    for kernel in inner_layers(model):
        if not isinstance(kernel, SlotKernel) or not kernel.built:
            continue
        initial = kernel.initial
        source = initial.bank_source
        if isinstance(source, StratifiedUniform) and source.bits is not None and source.bits <= 8:
            unit = Grid(kernel.num_values, source.bits).unit(source.bound(initial.fans))
            values = keras.ops.convert_to_numpy(kernel.select())
            integers = np.rint(values / unit).astype("int64")
            if np.array_equal(integers.astype("float32") * unit, values):  # a bank can be overwritten
                found.append(IntegerKernel(kernel.path, integers, unit))
    return found


def calibration_samples(inputs: Any, data: Any) -> list[dict[str, Array]]:
    """Calibration data as a batch of one for each sample, by the names of the inputs.

    Args:
        inputs: The `keras.InputSpec` of the input, or a structure of them.
        data: Array of inputs, or the same structure of arrays.
    """
    parts = [data]
    if keras.tree.is_nested(inputs):
        names = keras.tree.map_structure(lambda spec: spec.name, inputs)
        try:
            keras.tree.assert_same_structure(names, data)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`calibration_data` must be arrays in the structure of the inputs of the model, {names}. "
                f"Received: {type(data).__name__}. Pass for example the first 500 training inputs."
            ) from error
        parts = keras.tree.flatten(data)
    arrays = {
        spec.name: check_calibration_data(part, spec.shape[1:]).astype(spec.dtype)
        for spec, part in zip(keras.tree.flatten(inputs), parts, strict=True)
    }
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"`calibration_data` must have as many rows for each input. Received: {counts} rows. Pass all inputs "
            "of the same samples."
        )
    return [{name: array[[row]] for name, array in arrays.items()} for row in range(min(counts.values()))]


def converted_to_integers(
    converter: Any, samples: list[dict[str, Array]], kernels: list[IntegerKernel]
) -> tuple[bytes, list[str]]:
    """The file in integers of a `tf.lite.TFLiteConverter`, and the paths of the kernels whose integers it has not.

    Raises:
        ValueError: If LiteRT computes a part of the model in floats.
    """
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter(samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its interpreter moves to another package
        file = _File(converter.convert())
    # Whatever its documentation says, the converter leaves what has no integers in floats.
    floats = {name for name, *tensors in file.operations() if "float32" in map(file.type_of, chain(*tensors))}
    floats -= {"QUANTIZE", "DEQUANTIZE"}
    if floats:
        raise ValueError(
            f"{sorted(floats)} exist in floats only. Leave `calibration_data` out for a file in floats"
        )
    rounded = _set_integers(file, kernels)
    return file.content(), rounded


def _set_integers(file: _File, kernels: list[IntegerKernel]) -> list[str]:
    """Puts the integers of the kernels into the file; returns the paths of those that it does not find."""
    missing = {kernel.path for kernel in kernels}
    ratios: dict[int, Any] = {}  # of new scales to old ones, by the id of their tensor; None: they stay

    def replace(weight: Any) -> Array | None:
        old, columns = weight.quantization.scale, file.columns(weight)
        found = [(kernel, *new) for kernel in kernels if (new := kernel.in_place_of(columns, old)) is not None]
        if not found:
            return None
        missing.difference_update(kernel.path for kernel, *_ in found)
        # Several fit if they are equal, or if a channel has one weight.
        _, integers, scales = max(found, key=lambda x: int((x[2] == x[0].unit).sum()))
        file.set_columns(weight, integers, scales)
        return scales / old

    for name, inputs, _ in file.operations():
        if name not in _WITH_WEIGHTS or not file.is_constant(inputs[1]):
            continue
        weight, *others = inputs[1:]
        if id(weight) not in ratios:
            ratios[id(weight)] = replace(weight)
        ratio = ratios[id(weight)]
        for bias in filter(file.is_constant, others):
            if ratio is not None and id(bias) not in ratios:
                ratios[id(bias)] = None
                file.set_columns(bias, np.rint(file.columns(bias) / ratio), bias.quantization.scale * ratio)
    return sorted(missing)


class _File:
    """A LiteRT file as objects of TensorFlow's schema."""

    def __init__(self, content: bytes):
        from tensorflow.lite.tools import flatbuffer_utils

        self._tools = flatbuffer_utils
        self._model = flatbuffer_utils.convert_bytearray_to_object(content)
        self._uses = Counter(tensor.buffer for graph in self._model.subgraphs for tensor in graph.tensors)

    def content(self) -> bytes:
        return self._tools.convert_object_to_bytearray(self._model)

    def operations(self) -> Iterator[tuple[str, list[Any], list[Any]]]:
        """Name, inputs and outputs of each operation; a bias that there is not is left out."""
        for graph in self._model.subgraphs:
            for x in graph.operators:
                name = self._tools.opcode_to_name(self._model, x.opcodeIndex)
                inputs, outputs = ([graph.tensors[i] for i in part if i >= 0] for part in (x.inputs, x.outputs))
                yield name, inputs, outputs

    def is_constant(self, tensor: Any) -> bool:
        return self._model.buffers[tensor.buffer].data is not None

    def type_of(self, tensor: Any) -> str:
        """The type of a tensor, such as `"int8"`."""
        return self._tools.type_to_name(tensor.type).lower()

    def columns(self, tensor: Any) -> Array:
        """The numbers of a constant tensor, those of a scale in each column."""
        numbers = self._model.buffers[tensor.buffer].data.view(self.type_of(tensor)).reshape(tensor.shape)
        last = np.moveaxis(numbers, tensor.quantization.quantizedDimension, -1)
        return last.reshape(-1, len(tensor.quantization.scale)).astype("int64")

    def set_columns(self, tensor: Any, columns: Array, scales: Array) -> None:
        """Replaces numbers and scales of a constant tensor."""
        if self._uses[tensor.buffer] > 1:  # the converter stores equal numbers once
            self._uses[tensor.buffer] -= 1
            self._model.buffers.append(type(self._model.buffers[0])())
            tensor.buffer = len(self._model.buffers) - 1
        numbers = np.empty(tensor.shape, self.type_of(tensor))
        last = np.moveaxis(numbers, tensor.quantization.quantizedDimension, -1)
        last[...] = columns.reshape(last.shape)
        self._model.buffers[tensor.buffer].data = numbers.reshape(-1).view("uint8")
        tensor.quantization.scale = scales.astype("float32")
