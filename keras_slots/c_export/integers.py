"""The constants of the integer variant: activations are bytes, `(byte - zero) * scale`, calibrated on data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_slots.c_export.plan import Stage, Window

Array = np.ndarray[Any, Any]

_BATCH = 32


@dataclass(frozen=True)
class Bytes:
    """What a byte of an activation means: `(byte - zero) * scale`."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Requantization:
    """How a sum becomes a byte: `((sum * multipliers >> shift) + bias + offset) >> 8`."""

    multipliers: Array
    bias: Array | None
    offset: int
    shift: int


@dataclass(frozen=True)
class Addition:
    """How two bytes become their sum: `((a - zero) * first + (b - zero) * second + offset) >> shift`."""

    multipliers: tuple[int, int]
    offset: int
    shift: int


@dataclass(frozen=True)
class Integers:
    """The constants of all stages, in their order.

    Attributes:
        input: The bytes of the input.
        bytes: Those of the output of each stage.
        steps: A `Requantization` or `Addition`, or None for max pooling.
        sums: Whether the last stage gives the sums of its connections instead of bytes: bias in units of them.
        output_scale: What an output times it is worth.
    """

    input: Bytes
    bytes: list[Bytes]
    steps: list[Requantization | Addition | None]
    sums: bool
    output_scale: float

    def of(self, stage: int) -> Bytes:
        """The bytes of the output of a stage; -1 is the input of the network."""
        return self.input if stage < 0 else self.bytes[stage]


def calibrated(stages: list[Stage], data: Array) -> Integers:
    """The constants for activations in the ranges that they have on the data."""
    ranges = _ranges(stages, data)
    given = _bytes(*ranges[-1])
    bytes_: list[Bytes] = []
    steps: list[Requantization | Addition | None] = []

    def of(stage: int) -> Bytes:
        return given if stage < 0 else bytes_[stage]

    for number, stage in enumerate(stages):
        if stage.kind == "max pooling":
            bytes_.append(of(stage.inputs[0]))
            steps.append(None)
            continue
        out = _bytes(*ranges[number])
        if stage.kind == "add":
            steps.append(_addition([of(i).scale for i in stage.inputs], out))
        else:
            steps.append(_requantization(stage, of(stage.inputs[0]).scale * _unit(stage), out))
        bytes_.append(out)
    last = stages[-1]
    scale = of(last.inputs[0]).scale * _unit(last)
    sums = last.kind == "dense" and last.bounds == (-np.inf, np.inf) and bool((last.gain == last.gain[0]).all())
    sums = sums and last.gain[0] > 0
    if not sums:
        return Integers(given, bytes_, steps, False, bytes_[-1].scale)
    scale *= float(last.gain[0])
    bias = _clipped(np.broadcast_to(last.bias, last.channels) / scale) if last.bias.any() else None
    steps[-1] = Requantization(np.zeros(0, "int64"), bias, 0, 0)
    return Integers(given, bytes_, steps, True, scale)


def check_sums(stages: list[Stage]) -> None:
    """Raises an error if the sum of an output may not fit into 32 bits."""
    for stage in stages:
        if stage.bank is not None:
            most = 255 * int(np.abs(stage.bank.integers(stage.bank.weights)).sum(axis=0).max())
            if most > 2**30:
                raise ValueError(
                    f"Layer '{stage.name}' has too many connections for integers: the sum of an output may reach "
                    f"{most}, and 2**30 is the limit. Use fewer inputs, or leave `calibration_data` out."
                )


def _unit(stage: Stage) -> float:
    if stage.bank is None:
        return stage.share
    assert stage.bank.unit is not None
    return float(stage.bank.unit)


def _bytes(low: float, high: float) -> Bytes:
    """Bytes for numbers in a range, which is made to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return Bytes(scale, round(-low / scale))


def _requantization(stage: Stage, scale: float, out: Bytes) -> Requantization:
    """For sums in units of `scale`."""
    ratio = stage.gain * (scale / out.scale)
    if (ratio == ratio[0]).all():
        ratio = ratio[:1]
    # Multipliers of 31 bits.
    shift = int(np.clip(30 - np.frexp(np.abs(ratio).max())[1] + 1, 8, 62 + 8)) - 8
    multipliers = np.clip(np.rint(ratio * 2.0 ** (shift + 8)), -(2**31 - 1), 2**31 - 1).astype("int64")
    bias = _clipped(np.broadcast_to(stage.bias, stage.channels) / out.scale * 256) if stage.bias.any() else None
    return Requantization(multipliers, bias, 256 * out.zero + 128, shift)


def _addition(scales: list[float], out: Bytes) -> Addition:
    ratio = np.array(scales) / out.scale
    shift = int(np.clip(19 - np.frexp(ratio.max())[1] + 1, 1, 22))
    first, second = (int(x) for x in np.rint(ratio * 2.0**shift))
    return Addition((first, second), (out.zero << shift) + (1 << (shift - 1)), shift)


def _clipped(bias: Array) -> Array:
    return np.clip(np.rint(bias), -(2**30), 2**30).astype("int64")


def _ranges(stages: list[Stage], data: Array) -> dict[int, tuple[float, float]]:
    """Smallest and largest output of each stage; -1 is the input."""
    ranges: dict[int, tuple[float, float]] = {}
    for start in range(0, len(data), _BATCH):
        outputs = {-1: data[start : start + _BATCH].astype("float32")}
        for number, stage in enumerate(stages):
            outputs[number] = evaluate(stage, *(outputs[i] for i in stage.inputs))
        for number, x in outputs.items():
            low, high = ranges.get(number, (np.inf, -np.inf))
            ranges[number] = (min(low, float(x.min())), max(high, float(x.max())))
    return ranges


def evaluate(stage: Stage, *inputs: Array) -> Array:
    """The outputs of a stage for a batch, in float32."""
    x, n = inputs[0], len(inputs[0])
    if stage.kind == "dense":
        assert stage.bank is not None
        y = x.reshape(n, -1) @ stage.bank.weights
    elif stage.kind == "convolution":
        assert stage.window is not None and stage.bank is not None
        patches = _patches(x, stage.window, 0.0)
        y = _grouped_product(patches, stage.bank.weights, stage.depth)
    elif stage.kind == "add":
        y = x.reshape(n, *stage.shape) + inputs[1].reshape(n, *stage.shape)
    elif stage.kind == "affine":
        y = x.reshape(n, *stage.shape)
    else:
        assert stage.window is not None
        patches = _patches(x, stage.window, np.nan)
        y = (np.nanmax if stage.kind == "max pooling" else np.nanmean)(patches, axis=3)
    y = np.clip(y * stage.gain.astype("float32") + stage.bias.astype("float32"), *stage.bounds)
    if stage.pool != (1, 1):
        rows, columns = stage.pool
        y = y.reshape(n, y.shape[1] // rows, rows, y.shape[2] // columns, columns, -1).max(axis=(2, 4))
    return y.reshape(n, *stage.shape)


def _patches(x: Array, window: Window, fill: float) -> Array:
    """What each window sees, `(n, rows, columns, height * width, channels)`."""
    x = x.reshape(-1, *window.image)
    ends = [
        (n - 1) * stride + (size - 1) * step + 1
        for n, stride, size, step in zip(window.count, window.strides, window.size, window.dilation, strict=True)
    ]
    pads = [
        (before, max(0, end - before - length))
        for before, end, length in zip(window.before, ends, window.image[:2], strict=True)
    ]
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    rows, columns = (
        (np.arange(n) * stride)[:, None] + np.arange(size) * step
        for n, stride, size, step in zip(window.count, window.strides, window.size, window.dilation, strict=True)
    )
    seen = x[:, rows[:, None, :, None], columns[None, :, None, :]]
    return seen.reshape(*seen.shape[:3], -1, seen.shape[-1])


def _grouped_product(patches: Array, weights: Array, depth: int) -> Array:
    groups = patches.shape[-1] // depth
    outputs = weights.shape[1] // groups
    parts = [
        patches[..., g * depth : (g + 1) * depth].reshape(*patches.shape[:3], -1)
        @ weights[:, g * outputs : (g + 1) * outputs]
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=-1)
