"""Batch normalizations as the scale and the bias of each channel, which is all that inference needs of them."""

from __future__ import annotations

import keras
import numpy as np

from keras_slots._keras import receives_mask
from keras_slots.layers.base import copied_array
from keras_slots.transforms.cloning import clone, copied_layer
from keras_slots.transforms.weights import Pairs, copy_states


def scale_and_bias(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """What a batch normalization does to each channel at inference, float64: `y = scale * x + bias`.

    scale = gamma / sqrt(variance + epsilon)        bias = beta - mean * scale
    """
    mean, variance = (copied_array(x).astype("float64") for x in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale *= copied_array(norm.gamma)
    return scale, -mean * scale + (copied_array(norm.beta) if norm.center else 0.0)


def fold_batch_norms(plain: keras.Model) -> tuple[keras.Model, Pairs]:
    """Returns a copy whose batch normalizations are layers `y = x * kernel + bias`, and the pairs of layers.

    Kernel and bias are those of `scale_and_bias`. The layer is an `EinsumDense`. Batch normalizations of another
    axis than the last one, those that compute in half precision, and those that a mask passes, are copied.

    Args:
        plain: Built model without slot layers.
    """
    # Composites are copied as a whole: their own classes make what is inside them.
    folded, pairs = clone(plain, _converted, lambda layer: False, "save_slots")
    copy_states([(old, new) for old, new in pairs if type(old) is type(new)])
    for old, new in pairs:
        if type(old) is not type(new):
            scale, bias = scale_and_bias(old)
            new.kernel.assign(scale)
            new.bias.assign(bias)
    return folded, pairs


def _converted(layer: keras.layers.Layer, place: str) -> keras.layers.Layer:
    if type(layer) is not keras.layers.BatchNormalization or layer.compute_dtype != "float32":
        return copied_layer(layer)
    if layer.axis not in (-1, layer.input_spec.ndim - 1) or receives_mask(layer):
        return copied_layer(layer)  # an `EinsumDense` passes no mask on
    channels = layer.moving_mean.shape[0]
    return keras.layers.EinsumDense(
        "...c,c->...c", channels, bias_axes="c", name=layer.name, dtype=layer.dtype_policy
    )
