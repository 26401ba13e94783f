"""`SlotDense` and `SlotEinsumDense`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from keras_slots._keras import einsum_shapes
from keras_slots._registry import register
from keras_slots.layers.base import (
    Activation,
    Constraint,
    Initializer,
    Regularizer,
    Shape,
    SlotArguments,
    SlotLayer,
    Tensor,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


@register(keras.layers.Dense)
class SlotDense(SlotLayer, keras.layers.Dense):
    """Fully connected layer that selects each weight from K fixed random values.

    Forward: `y = activation(x @ W + b)` with `W[i, j] = bank[i, j, k*]`, k* the selected index, for greedy
    selection `argmax_k scores[i, j, k]`. Backward, straight through the selection:
    `d scores[i, j, k] = bank[i, j, k] * sum_n x[n, i] * d y[n, j]` for all k. The bank never changes.

    Args:
        units: Positive integer, the number of outputs.
        activation: As of `keras.layers.Dense`, like all arguments up to `bias_constraint`.
        use_bias: Whether the layer has a bias, an ordinary trained one.
        kernel_initializer: Names the distribution of the values where `bank_initializer` is None.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: Acts on the greedily selected values.
        bias_regularizer: Acts on the bias.
        activity_regularizer: Acts on the output.
        kernel_constraint: Must be None: the values are fixed.
        bias_constraint: Acts on the bias.
        **kwargs: The slot arguments `num_values`, `selection`, `score_mode`, `bank_initializer`,
            `score_initializer`, `sharing`, `move_regularizer` and `seed`, see `keras_slots.SlotArguments`; `name`,
            `dtype` and `trainable`.

    Input shape:
        `(batch, ..., input_dim)`.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: For slot arguments outside their choices, `kernel_constraint`, LoRA and quantization.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotDense
    >>> layer = SlotDense(3, num_values=4, seed=1)
    >>> tuple(layer(np.ones((2, 5), dtype="float32")).shape)
    (2, 3)
    >>> tuple(layer.bank.shape), tuple(layer.kernel.shape)
    ((5, 3, 4), (5, 3))

    Reference:
        Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3, equations 1 to 3. The paper has
        no bias; pass `use_bias=False` for its networks. The score scale is the author's code's, not the text's.
    """

    def __init__(
        self,
        units: int,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Unpack[SlotArguments],
    ) -> None:
        super().__init__(
            units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )

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

    Forward `y = activation(einsum(equation, x, W) + b)`, `W[...] = bank[..., k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`. fan_out counts the kernel axes that appear in the
    output, fan_in the others.

    Args:
        equation: Einsum string with two operands, such as `"abc,cd->abd"`.
        output_shape: Output shape without the batch axis.
        activation: As of `keras.layers.EinsumDense`, like all arguments up to `bias_constraint`.
        bias_axes: The axes of the output that have a bias, such as `"d"`; None: no bias.
        kernel_initializer: Names the distribution of the values where `bank_initializer` is None.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: Acts on the greedily selected values.
        bias_regularizer: Acts on the bias.
        kernel_constraint: Must be None: the values are fixed.
        bias_constraint: Acts on the bias.
        **kwargs: The slot arguments, see `keras_slots.SlotArguments`; `name`, `dtype` and `trainable`.

    Raises:
        ValueError: As `SlotDense`.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotEinsumDense
    >>> layer = SlotEinsumDense("abc,cde->abde", output_shape=(None, 2, 4), num_values=2)
    >>> tuple(layer(np.ones((3, 5, 6), dtype="float32")).shape), tuple(layer.bank.shape)
    ((3, 5, 2, 4), (6, 2, 4, 2))
    """

    def __init__(
        self,
        equation: str,
        output_shape: int | tuple[int | None, ...],
        activation: Activation = None,
        bias_axes: str | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Unpack[SlotArguments],
    ) -> None:
        super().__init__(
            equation,
            output_shape,
            activation=activation,
            bias_axes=bias_axes,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )

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
        # Keras before 3.15 reads it off what its own `build` has noted.
        return einsum_shapes(self, input_shape)[2]

    def _fans(self, kernel_shape: tuple[int, ...]) -> tuple[int, int]:
        operands, output = self.equation.replace(" ", "").split("->")
        kernel_axes = operands.split(",")[1].replace("...", "")
        fan_in = fan_out = 1
        for axis, size in zip(kernel_axes, kernel_shape, strict=True):
            if axis in output:
                fan_out *= size
            else:
                fan_in *= size
        return fan_in, fan_out
