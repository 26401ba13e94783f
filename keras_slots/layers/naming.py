"""Names of the kernels and weights of layers and models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count

import keras

from keras_slots._keras import direct_layers
from keras_slots.kernels import SlotKernel


def named_weights(layer: keras.layers.Layer) -> dict[str, SlotKernel | keras.Variable]:
    """The weights of a layer and its inner layers by name, as `"query/kernel"`; a kernel is one weight."""
    pairs: list[tuple[str, SlotKernel | keras.Variable]] = []
    for name, part in _named_parts(layer):
        if isinstance(part, SlotKernel):
            pairs.append((name, part))
            continue
        inner = {id(v) for x in direct_layers(part) for v in x.weights}
        pairs += [(f"{name}/{v.name}".lstrip("/"), v) for v in part.weights if id(v) not in inner]
    names = Counter(name for name, _ in pairs)
    if len(names) < len(pairs):
        raise ValueError(
            f"Layer '{layer.name}' has several weights with the same name, so they cannot be told apart. "
            f"Received: {sorted(name for name in names if names[name] > 1)}. Give its inner layers, and the "
            "variables of `add_weight`, different names."
        )
    return dict(pairs)


def named_kernels_of(layer: keras.layers.Layer) -> dict[str, SlotKernel]:
    """The kernels of a layer and of its inner layers, by name."""
    kernels = [(name, x) for name, x in _named_parts(layer) if isinstance(x, SlotKernel)]
    names = unique_names(name for name, _ in kernels)
    return dict(zip(names, (kernel for _, kernel in kernels), strict=True))


def _named_parts(
    layer: keras.layers.Layer, name: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layer and all layers inside it by name, down to kernels, without duplicates."""
    seen = set() if seen is None else seen
    seen.add(id(layer))
    yield name, layer
    if isinstance(layer, SlotKernel):
        return
    for part in direct_layers(layer):
        if id(part) not in seen:
            yield from _named_parts(part, f"{name}/{part.name}".lstrip("/"), seen)


def unique_names(names: Iterable[str]) -> list[str]:
    """Makes names unique by appending a number to repeated ones.

    Example:

    >>> unique_names(["a", "a", "a_1", "b"])
    ['a', 'a_2', 'a_1', 'b']
    """
    names = list(names)
    taken, unique = set(names), []
    for name in names:
        if name in unique:
            name = next(x for i in count(1) if (x := f"{name}_{i}") not in taken)
            taken.add(name)
        unique.append(name)
    return unique
