"""`SlotDepthwiseConv1D`, `SlotDepthwiseConv2D`, `SlotSeparableConv1D` and `SlotSeparableConv2D`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from keras_slots._registry import register
from keras_slots.layers.base import (
    Activation,
    Constraint,
    Initializer,
    Regularizer,
    Shape,
    Size1D,
    Size2D,
    SlotArguments,
    Tensor,
)
from keras_slots.layers.conv import ChannelLayer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SlotDepthwiseConvolution(ChannelLayer):
    """Kernel, forward pass and bias of the depthwise convolutions."""

    kernel_arguments = ("depthwise",)

    def build(self, input_shape: Shape) -> None:
        channels = self.read_channels(input_shape)
        self.compute_output_shape(input_shape)  # Keras checks the shape there
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        self.slot_kernel = self.add_slot_kernel(shape, "depthwise", name="kernel")
        outputs = self.depth_multiplier * channels
        self.bias = self.add_bias((outputs,)) if self.use_bias else None

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernel = ops.cast(self.slot_kernel.select(training), self.compute_dtype)
        outputs = ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self.finish(outputs)


@register(keras.layers.DepthwiseConv1D)
class SlotDepthwiseConv1D(SlotDepthwiseConvolution, keras.layers.DepthwiseConv1D):
    """1-D depthwise convolution that selects each weight from K fixed random values.

    Forward `y = activation(depthwise_conv(x, W) + b)`, `W[t, c, m] = bank[t, c, m, k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`. Fans are read off the kernel as Keras
    does, as if it were an ordinary convolution.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    Args:
        kernel_size: Integer or tuple of one: the size of the window.
        strides: Step of the window along the axis.
        padding: `"valid"` or `"same"`.
        depth_multiplier: Number of outputs of each input channel.
        data_format: `"channels_last"` or `"channels_first"`; None: as set in Keras.
        dilation_rate: Dilation along the axis.
        activation: Activation function, or its name; None: none.
        use_bias: Whether the layer has a bias, an ordinary trained one.
        depthwise_initializer: Names the distribution of the values where `bank_initializer` is None.
        bias_initializer: Initializer of the bias.
        depthwise_regularizer: Acts on the greedily selected values.
        bias_regularizer: Acts on the bias.
        activity_regularizer: Acts on the output.
        depthwise_constraint: Must be None: the values are fixed.
        bias_constraint: Acts on the bias.
        **kwargs: The slot arguments, see `keras_slots.SlotArguments`; `name`, `dtype` and `trainable`.

    Raises:
        ValueError: As `SlotDense`.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotDepthwiseConv1D
    >>> layer = SlotDepthwiseConv1D(3, depth_multiplier=2)
    >>> tuple(layer(np.ones((1, 5, 3), dtype="float32")).shape)
    (1, 3, 6)
    """

    def __init__(
        self,
        kernel_size: Size1D,
        strides: Size1D = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Size1D = 1,
        activation: Activation = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        depthwise_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        depthwise_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Unpack[SlotArguments],
    ) -> None:
        super().__init__(
            kernel_size,
            strides=strides,
            padding=padding,
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )


@register(keras.layers.DepthwiseConv2D)
class SlotDepthwiseConv2D(SlotDepthwiseConvolution, keras.layers.DepthwiseConv2D):
    """2-D depthwise convolution that selects each weight from K fixed random values.

    Forward `y = activation(depthwise_conv(x, W) + b)`, `W[h, w, c, m] = bank[h, w, c, m, k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`. Fans are read off the kernel as Keras
    does, as if it were an ordinary convolution.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    Args:
        kernel_size: Integer or tuple of two: the size of the window.
        strides: Step of the window along height and width.
        padding: `"valid"` or `"same"`.
        depth_multiplier: Number of outputs of each input channel.
        data_format: `"channels_last"` or `"channels_first"`; None: as set in Keras.
        dilation_rate: Dilation along height and width.
        activation: Activation function, or its name; None: none.
        use_bias: Whether the layer has a bias, an ordinary trained one.
        depthwise_initializer: Names the distribution of the values where `bank_initializer` is None.
        bias_initializer: Initializer of the bias.
        depthwise_regularizer: Acts on the greedily selected values.
        bias_regularizer: Acts on the bias.
        activity_regularizer: Acts on the output.
        depthwise_constraint: Must be None: the values are fixed.
        bias_constraint: Acts on the bias.
        **kwargs: The slot arguments, see `keras_slots.SlotArguments`; `name`, `dtype` and `trainable`.

    Raises:
        ValueError: As `SlotDense`.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotDepthwiseConv2D
    >>> layer = SlotDepthwiseConv2D(3, depth_multiplier=2)
    >>> tuple(layer(np.ones((1, 5, 5, 3), dtype="float32")).shape)
    (1, 3, 3, 6)
    """

    def __init__(
        self,
        kernel_size: Size2D,
        strides: Size2D = (1, 1),
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Size2D = (1, 1),
        activation: Activation = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        depthwise_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        depthwise_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Unpack[SlotArguments],
    ) -> None:
        super().__init__(
            kernel_size,
            strides=strides,
            padding=padding,
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )


if TYPE_CHECKING:
    from typing_extensions import Unpack


class SlotSeparableConvolution(ChannelLayer):
    """The two kernels, forward pass and bias of the separable convolutions."""

    kernel_arguments = ("depthwise", "pointwise")

    def build(self, input_shape: Shape) -> None:
        channels = self.read_channels(input_shape)
        self.compute_output_shape(input_shape)  # Keras checks the shape there
        depthwise = (*self.kernel_size, channels, self.depth_multiplier)
        between = channels and self.depth_multiplier * channels
        pointwise = (*[1] * len(self.kernel_size), between, self.filters)
        self.depthwise_slots = self.add_slot_kernel(depthwise, "depthwise")
        self.pointwise_slots = self.add_slot_kernel(pointwise, "pointwise")
        self.bias = self.add_bias((self.filters,)) if self.use_bias else None

    @property
    def depthwise_kernel(self) -> Tensor:
        """The greedily selected depthwise values, in the shape of the Keras layer's kernel."""
        return self.depthwise_slots.select()

    @property
    def pointwise_kernel(self) -> Tensor:
        """The greedily selected pointwise values, in the shape of the Keras layer's kernel."""
        return self.pointwise_slots.select()

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernels = [
            ops.cast(slots.select(training), self.compute_dtype)
            for slots in (self.depthwise_slots, self.pointwise_slots)
        ]
        outputs = ops.separable_conv(
            inputs,
            *kernels,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self.finish(outputs)


@register(keras.layers.SeparableConv1D)
class SlotSeparableConv1D(SlotSeparableConvolution, keras.layers.SeparableConv1D):
    """1-D separable convolution whose two kernels select each weight from K fixed random values.

    Forward `y = activation(conv(depthwise_conv(x, D), P) + b)`, D and P selected from banks of their own;
    backward `d scores[..., k] = bank[..., k] * d D`, and the same for P, see `SlotDense`. `layer.slot_kernels`
    holds both: `"depthwise_kernel"` and `"pointwise_kernel"`.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple of one: the size of the window.
        strides: Step of the window along the axis.
        padding: `"valid"` or `"same"`.
        data_format: `"channels_last"` or `"channels_first"`; None: as set in Keras.
        dilation_rate: Dilation along the axis.
        depth_multiplier: Number of outputs of each input channel.
        activation: Activation function, or its name; None: none.
        use_bias: Whether the layer has a bias, an ordinary trained one.
        depthwise_initializer: Names the distribution of the depthwise values where `bank_initializer` is None.
        pointwise_initializer: Names that of the pointwise values where `bank_initializer` is None.
        bias_initializer: Initializer of the bias.
        depthwise_regularizer: Acts on the greedily selected depthwise values.
        pointwise_regularizer: Acts on the greedily selected pointwise values.
        bias_regularizer: Acts on the bias.
        activity_regularizer: Acts on the output.
        depthwise_constraint: Must be None: the values are fixed.
        pointwise_constraint: Must be None: the values are fixed.
        bias_constraint: Acts on the bias.
        **kwargs: The slot arguments, see `keras_slots.SlotArguments`; `name`, `dtype` and `trainable`.

    Raises:
        ValueError: As `SlotDense`.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotSeparableConv1D
    >>> layer = SlotSeparableConv1D(4, 3, padding="same")
    >>> tuple(layer(np.ones((1, 5, 3), dtype="float32")).shape), sorted(layer.slot_kernels)
    ((1, 5, 4), ['depthwise_kernel', 'pointwise_kernel'])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size1D,
        strides: Size1D = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Size1D = 1,
        depth_multiplier: int = 1,
        activation: Activation = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer = "glorot_uniform",
        pointwise_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        depthwise_regularizer: Regularizer = None,
        pointwise_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        depthwise_constraint: Constraint = None,
        pointwise_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Unpack[SlotArguments],
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            depth_multiplier=depth_multiplier,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            pointwise_initializer=pointwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            pointwise_regularizer=pointwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            pointwise_constraint=pointwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )


@register(keras.layers.SeparableConv2D)
class SlotSeparableConv2D(SlotSeparableConvolution, keras.layers.SeparableConv2D):
    """2-D separable convolution whose two kernels select each weight from K fixed random values.

    Forward `y = activation(conv(depthwise_conv(x, D), P) + b)`, D and P selected from banks of their own;
    backward `d scores[..., k] = bank[..., k] * d D`, and the same for P, see `SlotDense`. `layer.slot_kernels`
    holds both: `"depthwise_kernel"` and `"pointwise_kernel"`.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple of two: the size of the window.
        strides: Step of the window along height and width.
        padding: `"valid"` or `"same"`.
        data_format: `"channels_last"` or `"channels_first"`; None: as set in Keras.
        dilation_rate: Dilation along height and width.
        depth_multiplier: Number of outputs of each input channel.
        activation: Activation function, or its name; None: none.
        use_bias: Whether the layer has a bias, an ordinary trained one.
        depthwise_initializer: Names the distribution of the depthwise values where `bank_initializer` is None.
        pointwise_initializer: Names that of the pointwise values where `bank_initializer` is None.
        bias_initializer: Initializer of the bias.
        depthwise_regularizer: Acts on the greedily selected depthwise values.
        pointwise_regularizer: Acts on the greedily selected pointwise values.
        bias_regularizer: Acts on the bias.
        activity_regularizer: Acts on the output.
        depthwise_constraint: Must be None: the values are fixed.
        pointwise_constraint: Must be None: the values are fixed.
        bias_constraint: Acts on the bias.
        **kwargs: The slot arguments, see `keras_slots.SlotArguments`; `name`, `dtype` and `trainable`.

    Raises:
        ValueError: As `SlotDense`.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotSeparableConv2D
    >>> layer = SlotSeparableConv2D(4, 3, padding="same")
    >>> tuple(layer(np.ones((1, 5, 5, 3), dtype="float32")).shape), sorted(layer.slot_kernels)
    ((1, 5, 5, 4), ['depthwise_kernel', 'pointwise_kernel'])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size2D,
        strides: Size2D = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Size2D = (1, 1),
        depth_multiplier: int = 1,
        activation: Activation = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer = "glorot_uniform",
        pointwise_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        depthwise_regularizer: Regularizer = None,
        pointwise_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        depthwise_constraint: Constraint = None,
        pointwise_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Unpack[SlotArguments],
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            depth_multiplier=depth_multiplier,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            pointwise_initializer=pointwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            pointwise_regularizer=pointwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            pointwise_constraint=pointwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
