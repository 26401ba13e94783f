"""Numbers that describe the choices of a model.

A choice is measured by its *position*: the number of values of the connection that are smaller than the selected
one. Training moves positions away from those of the initial scores. The seed determines these, so only the
distances from them carry information.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_slots._keras import direct_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.layers.base import SlotLayer
from keras_slots.layers.naming import unique_names

Array = np.ndarray[Any, Any]

_SAMPLED_VALUES = 2**20  # enough to know the mean magnitude to a thousandth


def named_kernels(model: keras.layers.Layer) -> dict[str, tuple[SlotLayer, SlotKernel]]:
    """All kernels of a model, at any depth, with the slot layers that own them, by unique names.

    A kernel has the name of its layer, or `layer/kernel` if the layer has several kernels. If two layers have the
    same name, the names of the models and layers that contain them are prepended; if these are the same too, a
    number is appended. Layers that are not built are left out.

    Example:

    >>> from keras_slots import SlotDense, SlotSeparableConv2D
    >>> layers = [SlotSeparableConv2D(4, 3, name="conv"), SlotDense(2, name="logits")]
    >>> list(named_kernels(keras.Sequential([keras.Input((8, 8, 3)), *layers])))
    ['conv/depthwise_kernel', 'conv/pointwise_kernel', 'logits']
    """
    found = list(_slot_layers(model, (), set()))
    short = [layer.name for _, layer in found]
    long = ["/".join((*path, layer.name)) for path, layer in found]
    names = [x if short.count(x) == 1 else y for x, y in zip(short, long, strict=True)]
    kernels: list[tuple[str, tuple[SlotLayer, SlotKernel]]] = []
    for name, (_, layer) in zip(unique_names(names), found, strict=True):
        parts = layer.slot_kernels if layer.built else {}
        kernels += [(name if len(parts) == 1 else f"{name}/{part}", (layer, x)) for part, x in parts.items()]
    unique = unique_names(name for name, _ in kernels)
    return dict(zip(unique, (pair for _, pair in kernels), strict=True))


def unbuilt_layers(model: keras.layers.Layer) -> list[str]:
    """Names of the slot layers of a model that are not built."""
    return [layer.name for _, layer in _slot_layers(model, (), set()) if not layer.built]


def _slot_layers(layer: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for part in direct_layers(layer):
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, SlotLayer):
            yield path, part  # not the layers inside it: it names their kernels
        else:
            yield from _slot_layers(part, (*path, part.name), seen)


def positions(kernel: SlotKernel, trained: Any = None) -> Array:
    """The positions selected by `trained`, or now: unsigned integers, one per connection in C order."""
    dtype = "uint8" if kernel.num_values <= 2**8 else "uint16"
    return keras.ops.convert_to_numpy(kernel.positions(trained)).reshape(-1).astype(dtype)


def start_positions(kernel: SlotKernel) -> Array | None:
    """The positions of the initial choices; None if they cannot be restored."""
    start = kernel.start_values()
    return None if start is None else positions(kernel, start)


def selected_values(kernel: SlotKernel) -> Array:
    """The selected values, float32 of the kernel's shape."""
    return keras.ops.convert_to_numpy(kernel.select_greedily()).astype("float32")


def available_values(kernel: SlotKernel) -> Array:
    """The values of the bank, float32 in one dimension: all of them, or the first million."""
    return kernel.sample_values(_SAMPLED_VALUES).astype("float32")


def mean_magnitude(values: Array) -> float:
    """Mean of the absolute values."""
    return float(np.abs(values).mean(dtype="float64"))


def bits_per_choice(positions: Array, start: Array, num_values: int) -> float:
    """Entropy of how far the choices have moved, in bits per connection.

    `H = -sum_d p_d log2 p_d`, where `p_d` is the share of connections with `positions - start = d`. An arithmetic
    coder that knows the seed and these shares, but does not use the place within the layer, needs that many bits.

    Example:

    >>> bits_per_choice(np.array([0, 1, 2, 3], "uint8"), np.array([0, 1, 1, 2], "uint8"), 8)
    1.0
    """
    moved = positions.astype("int32") - start
    counts = np.bincount(moved + (num_values - 1)).astype("float64")
    shares = counts[counts > 0] / len(positions)
    return abs(float((shares * np.log2(shares)).sum()))
