"""`SlotDense` and `SlotEinsumDense`."""

from __future__ import annotations

import math

import keras
from keras import ops

from keras_slots._keras import einsum_shapes
from keras_slots._registry import register
from keras_slots.layers.base import Shape, SlotLayer, Tensor


@register(keras.layers.Dense)
class SlotDense(SlotLayer, keras.layers.Dense):
    """Fully connected layer that selects each weight from K fixed random values.

    The output is `y = activation(x @ W + b)` with `W[i, j] = bank[i, j, k*]`, where k* is the selected index; for
    greedy selection it is `argmax_k scores[i, j, k]`. The gradient passes straight through the selection:
    `d W[i, j] = sum_n x[n, i] * d y[n, j]`. Inputs of shape `(batch, ..., input_dim)` give outputs of shape
    `(batch, ..., units)`.

    These are equations 1 to 3 of the paper. Its networks have no bias: pass `use_bias=False` for them. The scale
    of the scores is that of the author's code, not of the text.

    {shared}

    Example:

    >>> import keras
    >>> from sklearn.datasets import load_digits
    >>> from keras_slots import SlotDense
    >>> x, y = load_digits(return_X_y=True)
    >>> layer = SlotDense(10, score_mode="nearest", num_values=8, seed=1)
    >>> model = keras.Sequential([keras.Input((64,)), layer])
    >>> tuple(layer.bank.shape), tuple(layer.kernel.shape)
    ((64, 10, 8), (64, 10))
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("adam", loss, metrics=["accuracy"])
    >>> history = model.fit(x / 16, y, epochs=10, verbose=0).history
    >>> history["accuracy"][-1] > 0.8
    True
    """

    def build(self, input_shape: Shape) -> None:
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.slot_kernel = self.add_slot_kernel((input_shape[-1], self.units))
        self.bias = self.add_bias((self.units,)) if self.use_bias else None

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernel = ops.cast(self.slot_kernel.select(training), self.compute_dtype)
        outputs = ops.matmul(inputs, kernel)
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)


@register(keras.layers.EinsumDense)
class SlotEinsumDense(SlotLayer, keras.layers.EinsumDense):
    """Einsum layer that selects each weight from K fixed random values.

    Forward `y = activation(einsum(equation, x, W) + b)`, `W[...] = bank[..., k*]`. fan_out is the product of the
    kernel axes that appear in the output, fan_in that of the others. Not in the paper, which has only dense
    layers and convolutions.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotEinsumDense
    >>> layer = SlotEinsumDense("abc,cde->abde", output_shape=(None, 2, 4), num_values=2)
    >>> tuple(layer(np.ones((3, 5, 6), dtype="float32")).shape), tuple(layer.bank.shape)
    ((3, 5, 2, 4), (6, 2, 4, 2))
    """

    def build(self, input_shape: Shape) -> None:
        kernel_shape, bias_shape, _ = einsum_shapes(self, input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))
        self.slot_kernel = self.add_slot_kernel(kernel_shape, fans=self._fans(kernel_shape))
        self.bias = None if bias_shape is None else self.add_bias(bias_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernel = ops.cast(self.slot_kernel.select(training), self.compute_dtype)
        outputs = ops.einsum(self.equation, inputs, kernel)
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        # Before 3.15, Keras uses an attribute that its own `build` sets.
        return einsum_shapes(self, input_shape)[2]

    def _fans(self, kernel_shape: tuple[int, ...]) -> tuple[int, int]:
        operands, output = self.equation.replace(" ", "").split("->")
        kernel_axes = operands.split(",")[1].replace("...", "")
        sizes = list(zip(kernel_axes, kernel_shape, strict=True))
        fan_in = math.prod(size for axis, size in sizes if axis not in output)
        fan_out = math.prod(size for axis, size in sizes if axis in output)
        return fan_in, fan_out
