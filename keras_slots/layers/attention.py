"""`SlotMultiHeadAttention` and `SlotGroupQueryAttention`."""

from __future__ import annotations

from typing import Any

import keras

from keras_slots._live_config import from_live_config, live_config
from keras_slots._registry import register
from keras_slots.layers.base import SLOT_ARGUMENTS, SlotLayer
from keras_slots.layers.dense import SlotEinsumDense
from keras_slots.values.philox import derive_seed


class SlotAttention(SlotLayer):
    """Mixin before a Keras attention layer that replaces its projections by `SlotEinsumDense` layers."""

    seed_limit = 2**31  # dropout uses the same seed

    def __setattr__(self, name: str, value: Any) -> None:
        # `build` of the Keras layer assigns each projection before building it.
        if type(value) is keras.layers.EinsumDense:
            slots = {argument: getattr(self, argument) for argument in SLOT_ARGUMENTS}
            slots["seed"] = derive_seed(self._seed, value.name)
            value = from_live_config(SlotEinsumDense, {**live_config(value), **slots}, value)
        super().__setattr__(name, value)


@register(keras.layers.MultiHeadAttention)
class SlotMultiHeadAttention(SlotAttention, keras.layers.MultiHeadAttention):
    """Multi-head attention whose projections select each weight from K fixed random values.

    Forward as the Keras layer, each projection with `W[...] = bank[..., k*]`. `layer.slot_kernels` holds the
    kernels of the projections by name, such as `"query/kernel"`. `seed` also seeds the dropout, so it must be
    below `2**31`. Not in the paper, which has no attention.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotMultiHeadAttention
    >>> layer, x = SlotMultiHeadAttention(2, 4), np.ones((1, 5, 8), dtype="float32")
    >>> tuple(layer(x, x).shape), sorted(layer.slot_kernels)
    ((1, 5, 8), ['attention_output/kernel', 'key/kernel', 'query/kernel', 'value/kernel'])
    """


@register(keras.layers.GroupQueryAttention)
class SlotGroupQueryAttention(SlotAttention, keras.layers.GroupQueryAttention):
    """Grouped-query attention whose projections select each weight from K fixed random values.

    Forward as the Keras layer, each projection with `W[...] = bank[..., k*]`. `layer.slot_kernels` holds the
    kernels of the projections by name, such as `"query/kernel"`. `seed` also seeds the dropout, so it must be
    below `2**31`. Not in the paper, which has no attention.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotGroupQueryAttention
    >>> layer, x = SlotGroupQueryAttention(4, 4, 2), np.ones((1, 5, 8), dtype="float32")
    >>> tuple(layer(x, x).shape), sorted(layer.slot_kernels)
    ((1, 5, 8), ['attention_output/kernel', 'key/kernel', 'query/kernel', 'value/kernel'])
    """
