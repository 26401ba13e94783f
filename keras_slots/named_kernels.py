"""The kernels of a model, each by a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_slots._keras import direct_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.slot_layer import SlotLayer, unique_names


def named_kernels(model: keras.layers.Layer) -> dict[str, tuple[SlotLayer, SlotKernel]]:
    """All kernels of a model, at any depth, with the slot layers that own them, by names that no two share.

    A kernel is called as its layer; one of several kernels of a layer `layer/kernel`. Where two layers have one
    name, the names of the models and layers around them come before it, and a number behind it where these are the
    same too.

    Raises:
        ValueError: If a slot layer is not built.

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
        if not layer.built:
            continue
        parts = layer.slot_kernels
        for part, kernel in parts.items():
            kernels.append((name if len(parts) == 1 else f"{name}/{part}", (layer, kernel)))
    unique = unique_names(name for name, _ in kernels)
    return dict(zip(unique, (pair for _, pair in kernels), strict=True))


def unbuilt_layers(model: keras.layers.Layer) -> list[str]:
    """Names of the slot layers of a model that no call has built."""
    return [layer.name for _, layer in _slot_layers(model, (), set()) if not layer.built]


def _slot_layers(
    layer: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for part in direct_layers(layer):
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, SlotLayer):
            yield path, part  # not those inside it: it names their kernels
        else:
            yield from _slot_layers(part, (*path, part.name), seen)
