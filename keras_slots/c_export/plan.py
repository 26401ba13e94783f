"""A model as the list of stages that C code runs: convolutions, dense layers and what is merged into them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_slots.c_export.banks import Bank, bank_of
from keras_slots.kernels.base import SlotKernel
from keras_slots.layers.base import SlotLayer
from keras_slots.layers.composite import is_model
from keras_slots.transforms import materialized
from keras_slots.transforms.folding import scale_and_bias
from keras_slots.transforms.weights import pair_weights

Array = np.ndarray[Any, Any]

#: Layers that compute nothing at inference, or only change the shape.
_NOTHING = (
    *(layers.InputLayer, layers.Identity, layers.Flatten, layers.Reshape),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.AlphaDropout),
    *(layers.GaussianNoise, layers.GaussianDropout, layers.ActivityRegularization),
)
_POOLING = {
    **dict.fromkeys((layers.MaxPooling1D, layers.MaxPooling2D), ("max", False)),
    **dict.fromkeys((layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D), ("max", True)),
    **dict.fromkeys((layers.AveragePooling1D, layers.AveragePooling2D), ("average", False)),
    **dict.fromkeys((layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D), ("average", True)),
}
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_BOUNDS = {"linear": (-inf, inf), "relu": (0.0, inf), "relu6": (0.0, 6.0)}
#: Activations that do not change which output is largest, and are left out at the end.
_MONOTONE = ("softmax", "log_softmax", "sigmoid", "log_sigmoid", "tanh", "softplus", "softsign")
#: What the fields of the C code hold.
_LARGEST = 2**16 - 1


@dataclass(frozen=True)
class Window:
    """Windows of an image, with padding."""

    image: tuple[int, int, int]  # rows, columns, channels
    size: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]  # padding above and to the left
    count: tuple[int, int]  # windows in each direction


@dataclass
class Stage:
    """One function call of the C code.

    Attributes:
        kind: `"dense"`, `"convolution"`, `"max pooling"`, `"average pooling"`, `"affine"` or `"add"`.
        name: The name of its layer.
        inputs: The stages whose outputs it takes; -1 is the input of the network.
        shape: Of its output, without the batch.
        bank: The kernel of a dense layer or convolution.
        window: Of convolutions and pooling.
        depth: Input channels of an output of a convolution.
        pool: The largest of so many windows is the output of a convolution.
        gain: What the sum is multiplied by, for each output channel: `gain * sum + bias`.
        bias: See there.
        bounds: The output is clipped to them: relu has (0, inf).
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    bank: Bank | None = None
    window: Window | None = None
    depth: int = 0
    pool: tuple[int, int] = (1, 1)
    gain: Array = field(default_factory=lambda: np.ones(1))
    bias: Array = field(default_factory=lambda: np.zeros(1))
    bounds: tuple[float, float] = (-inf, inf)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def share(self) -> float:
        """What an entry of a window counts in its average; 1 for all other stages."""
        if self.kind != "average pooling":
            return 1.0
        assert self.window is not None
        return 1 / prod(self.window.size)


class Planner:
    """Collects the stages of a model, and what C code cannot express."""

    def __init__(self, model: keras.Model):
        plain, pairs = materialized(model, trainable=False)
        self.slots = {id(new): old for old, new in pairs if isinstance(old, SlotLayer)}
        self.stages: list[Stage] = []
        self.problems: list[str] = []
        #: The stage that holds a tensor, by the `id` of the tensor, which `calls` keeps.
        self.stage_of: dict[int, int] = {}
        self.calls = _calls(plain)
        self.uses = [id(tensor) for _, inputs, _ in self.calls for tensor in inputs]

    def run(self) -> list[Stage]:
        """The stages.

        Raises:
            ValueError: If C code cannot express the model; lists the layers.
        """
        first, ends = self.calls[0][2], {id(self.calls[-1][2])}
        for layer, inputs, output in reversed(self.calls):
            if type(layer) is layers.Identity and id(output) in ends:
                ends.update(map(id, inputs))
        self.input_shape = tuple(first.shape[1:])
        self.stage_of[id(first)] = -1
        if None in self.input_shape:
            self.problems.append(f"the input has the shape {first.shape}. Give `keras.Input` a shape without None")
        for layer, inputs, output in self.calls[1:]:
            if self.problems and None in self.input_shape:
                break
            try:
                self.stage_of[id(output)] = self.add(layer, inputs, output, id(output) in ends)
            except ValueError as error:
                self.problems.append(f"layer '{layer.name}' ({type(layer).__name__}): {error}")
                self.stage_of[id(output)] = self._append(Stage("unknown", layer.name, (), tuple(output.shape[1:])))
        if not self.problems and not self.stages:
            self.problems.append("it has no layer to compute")
        if self.problems:
            raise ValueError(
                '`model` must have only what C code can express for format="c". Received: '
                + "; ".join(self.problems)
                + ". docs/microcontrollers.md lists all layers that it can."
            )
        return self.stages

    def add(self, layer: Any, inputs: list[Any], output: Any, is_last: bool) -> int:
        """Adds what a layer computes; returns the stage that holds its output."""
        kind, shape, name = type(layer), tuple(output.shape[1:]), layer.name
        source = self.stage_of[id(inputs[0])]
        # The stage before, if nothing else needs its output.
        before = self.stages[source] if source >= 0 and self._uses_of(source) == 1 else None
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            raise ValueError('its `data_format` must be "channels_last"')
        if kind in _NOTHING:
            return source
        if id(layer) in self.slots:
            return self._kernel_layer(layer, source, inputs[0], shape, is_last)
        if kind in _POOLING:
            return self._pooling(layer, source, before, inputs[0], shape)
        if kind is layers.BatchNormalization:
            axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
            if axis not in (-1, len(shape)):
                raise ValueError("its `axis` must be the last one")
            gain, bias = scale_and_bias(layer)
            return self._affine(name, source, before, shape, gain, bias)
        if kind is layers.Rescaling:
            gain, bias = (np.atleast_1d(np.asarray(x, "float64")) for x in (layer.scale, layer.offset))
            return self._affine(name, source, None, shape, gain, bias)
        if kind in (layers.Activation, layers.ReLU, layers.Softmax):
            return self._activation(layer, source, before, shape, is_last)
        # With one tensor, the other summand is a constant.
        if kind.__name__ == "Add" and len(inputs) > 1 and len({tuple(x.shape) for x in inputs}) == 1:
            total = source
            for tensor in inputs[1:]:
                total = self._append(Stage("add", name, (total, self.stage_of[id(tensor)]), shape))
            return total
        if getattr(layer, "weights", None):
            raise ValueError(
                "its weights are not selected, or C code has no such layer. Use the slot layer of a dense layer, "
                "a convolution or a depthwise or separable one (`slotify` does)"
            )
        raise ValueError("C code has no such layer. Leave it out, or compute it outside of the network")

    def _uses_of(self, stage: int) -> int:
        """The number of layers that use what a stage holds, but for those that are merged into it."""
        tensors = [key for key, value in self.stage_of.items() if value == stage]
        return sum(map(self.uses.count, tensors)) - (len(tensors) - 1)

    def _append(self, stage: Stage) -> int:
        window, bank = stage.window, stage.bank
        sizes: tuple[int, ...] = (
            (*window.image, *window.size, *window.strides, *window.before) if window is not None else ()
        )
        sizes += bank.index.shape if bank is not None else ()
        if max(sizes, default=0) > _LARGEST:
            raise ValueError(f"its inputs, outputs, rows and columns may be at most {_LARGEST:,}")
        self.stages.append(stage)
        return len(self.stages) - 1

    def _kernel_layer(self, layer: Any, source: int, tensor: Any, shape: tuple, is_last: bool) -> int:
        slot, kind, name = self.slots[id(layer)], type(layer), layer.name
        if kind not in (layers.Dense, *_CONVOLUTIONS, *_DEPTHWISE, *_SEPARABLE):
            raise ValueError("C code has no such layer. Use dense layers and convolutions")
        # The weights of the plain layer, and the slot kernels in their place.
        pairs = pair_weights(layer, slot, slot.weight_sources())
        kernels = [(variable, kernel) for variable, kernel in pairs if isinstance(kernel, SlotKernel)]
        bias = ops.convert_to_numpy(layer.bias).astype("float64") if layer.use_bias else np.zeros(1)
        bounds = _bounds(layer.activation, is_last)
        inside = _image(tuple(tensor.shape[1:]))
        if kind is layers.Dense:
            ((_, kernel),) = kernels
            bank = bank_of(kernel, inside[2])
            stage = Stage("dense", name, (source,), shape, bank, bias=bias, bounds=bounds)
            if inside[:2] != (1, 1):  # at every position
                window = Window(inside, (1, 1), (1, 1), (1, 1), (0, 0), inside[:2])
                stage = replace(stage, kind="convolution", window=window, depth=inside[2])
            return self._append(stage)
        out = _image(shape)
        for number, (variable, kernel) in enumerate(kernels):
            *size, _, _ = variable.shape
            depthwise = kind in _DEPTHWISE or (kind in _SEPARABLE and number == 0)
            depth = 1 if depthwise else variable.shape[-2]
            bank = bank_of(kernel, prod(size) * depth)
            window = _window(layer, inside, tuple(size), out[:2], unit_steps=number > 0)
            ends = number == len(kernels) - 1
            stage = Stage("convolution", name, (source,), (*out[:2], bank.index.shape[1]), bank, window, depth)
            if ends:
                stage = replace(stage, shape=shape, bias=bias, bounds=bounds)
            source, inside = self._append(stage), (*out[:2], bank.index.shape[1])
        return source

    def _pooling(self, layer: Any, source: int, before: Stage | None, tensor: Any, shape: tuple) -> int:
        what, whole = _POOLING[type(layer)]
        image = _image(tuple(tensor.shape[1:]))
        if whole:
            window = Window(image, image[:2], (1, 1), (1, 1), (0, 0), (1, 1))
        else:
            window = _window(layer, image, layer.pool_size, _image(shape)[:2])
        # The part of the image that the windows cover; what is left over at its edges is not needed.
        covered = (window.count[0] * window.size[0], window.count[1] * window.size[1])
        inside = covered[0] <= image[0] and covered[1] <= image[1]
        apart = inside and (whole or window.size == window.strides)
        # A layer between the two may have changed the shape of what the convolution made.
        if before is not None and before.kind == "convolution" and apart and what == "max":
            assert before.window is not None
            if (*before.window.count, before.channels) == image:
                before.window, before.pool = replace(before.window, count=covered), window.size
                before.shape = shape
                return source
        if what == "average" and not inside and prod(window.size) > 2048:
            raise ValueError("its windows may have at most 2,048 entries, or no padding")
        return self._append(Stage(f"{what} pooling", layer.name, (source,), shape, window=window))

    def _affine(self, name: str, source: int, before: Stage | None, shape: tuple, gain: Any, bias: Any) -> int:
        if (
            before is not None
            and before.kind in ("dense", "convolution", "affine")
            and (before.bounds, before.pool, before.channels) == ((-inf, inf), (1, 1), len(gain))
        ):
            before.gain, before.bias = before.gain * gain, before.bias * gain + bias
            return source
        if len(gain) not in (1, shape[-1]):
            raise ValueError("its scale must be one number, or one for each channel")
        return self._append(Stage("affine", name, (source,), shape, gain=gain, bias=bias))

    def _activation(self, layer: Any, source: int, before: Stage | None, shape: tuple, is_last: bool) -> int:
        if type(layer) is layers.ReLU:
            if layer.negative_slope or layer.threshold:
                raise ValueError("its `negative_slope` and `threshold` must be 0")
            bounds = (0.0, inf if layer.max_value is None else float(layer.max_value))
        elif type(layer) is layers.Softmax:
            if layer.axis not in (-1, len(shape)):
                raise ValueError("its `axis` must be the last one")
            bounds = _bounds(keras.activations.softmax, is_last)
        else:
            bounds = _bounds(layer.activation, is_last)
        if bounds == (-inf, inf):
            return source
        if before is not None and before.kind != "max pooling":
            low, high = (min(max(x, bounds[0]), bounds[1]) for x in before.bounds)
            before.bounds = low, high
            return source
        return self._append(Stage("affine", layer.name, (source,), shape, bounds=bounds))


def _calls(model: keras.Model) -> list[tuple[Any, list[Any], Any]]:
    """The calls of a model and of the models in it: layer, inputs, output; the first is the input."""
    if not is_model(model):
        raise ValueError(
            '`model` must have a graph for format="c": a Functional or Sequential model. Received: model '
            f"'{model.name}' of type {type(model).__name__}."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            '`model` must have one input and one output for format="c". Received: model '
            f"'{model.name}' with {len(model.inputs)} and {len(model.outputs)}."
        )
    calls: list[tuple[Any, list[Any], Any]] = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        if is_model(layer) and len(layer.inputs) == len(layer.outputs) == 1:
            calls.append((layers.Identity(), [run(layer, args[0])], output))
            return output
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        if not isinstance(output, keras.KerasTensor) or not tensors:
            raise ValueError(
                f"`model` must have layers with one output for format=\"c\". Received: layer '{layer.name}' "
                f"({type(layer).__name__})."
            )
        calls.append((layer, tensors, output))
        return output

    def run(part: Any, *tensors: Any) -> Any:
        twin = keras.Model(part.inputs[0], part.outputs[0])
        # Keras clones a model from an input alone, which stands for the tensor that a nested one is called on.
        start = keras.Input([*tensors, *part.inputs][0].shape[1:], dtype=part.inputs[0].dtype)
        calls.append((layers.Identity(name="input"), list(tensors), start))
        copy = keras.models.clone_model(
            twin, input_tensors=start, clone_function=lambda layer: layer, call_function=call
        )
        return copy.outputs[0]

    run(model)
    return calls


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns and channels of a shape."""
    if len(shape) > 3:
        raise ValueError(f"its input has {len(shape)} axes. Give it at most rows, columns and channels")
    rows, columns, channels = (*[1] * (3 - len(shape)), *shape)
    return rows, columns, channels


def _window(layer: Any, image: tuple, size: tuple, count: tuple, unit_steps: bool = False) -> Window:
    """The windows of a convolution or pooling; with `unit_steps`, those of a pointwise convolution."""

    def both(value: Any) -> tuple[int, int]:
        values = (value,) * len(size) if isinstance(value, int) else tuple(value)
        return (1, values[0]) if len(values) == 1 else (values[0], values[1])  # sequences have one row

    strides = (1, 1) if unit_steps else both(layer.strides)
    dilation = (1, 1) if unit_steps else both(getattr(layer, "dilation_rate", 1))
    before = []
    for length, width, stride, step, n in zip(image[:2], both(size), strides, dilation, count, strict=True):
        beyond = (width - 1) * step
        missing = max(0, (n - 1) * stride + 1 + beyond - length)
        before.append({"valid": 0, "same": missing // 2, "causal": beyond}[layer.padding])
    return Window(image, both(size), strides, dilation, (before[0], before[1]), count)


def _bounds(activation: Any, is_last: bool) -> tuple[float, float]:
    name = getattr(activation, "__name__", str(activation))
    known = getattr(keras.activations, name, None) is activation
    if known and name in _BOUNDS:
        return _BOUNDS[name]
    if known and is_last and name in _MONOTONE:
        return _BOUNDS["linear"]
    where = "" if is_last else ", and here no other: such as softmax may be at the end only"
    raise ValueError(f"its activation is {name!r}. C code has 'linear', 'relu' and 'relu6'{where}")
