"""`SlotDepthwiseConv1D`, `SlotDepthwiseConv2D`, `SlotSeparableConv1D` and `SlotSeparableConv2D`."""

from __future__ import annotations

import keras
from keras import ops

from keras_slots._registry import register
from keras_slots.kernels import SlotKernel
from keras_slots.layers.base import Shape, Tensor
from keras_slots.layers.conv import ConvolutionLayer


class SlotDepthwiseConvolution(ConvolutionLayer):
    """Mixin before a depthwise Keras convolution."""

    kernel_arguments = ("depthwise",)

    def _add_kernels(self, input_shape: Shape, channels: int | None) -> int:
        self.compute_output_shape(input_shape)  # Keras checks the shape here
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        self.slot_kernel = self.add_slot_kernel(shape, "depthwise", name="kernel")
        return self.depth_multiplier * channels

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return ops.depthwise_conv(inputs, kernel, **self._geometry())


@register(keras.layers.DepthwiseConv1D)
class SlotDepthwiseConv1D(SlotDepthwiseConvolution, keras.layers.DepthwiseConv1D):
    """1-D depthwise convolution that selects each weight from K fixed random values.

    Forward `y = activation(depthwise_conv(x, W) + b)`, `W[t, c, m] = bank[t, c, m, k*]`.
    Fans are read off the kernel as Keras does, as if it were an ordinary convolution.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotDepthwiseConv1D
    >>> tuple(SlotDepthwiseConv1D(3, depth_multiplier=2)(np.ones((1, 5, 3), dtype="float32")).shape)
    (1, 3, 6)
    """


@register(keras.layers.DepthwiseConv2D)
class SlotDepthwiseConv2D(SlotDepthwiseConvolution, keras.layers.DepthwiseConv2D):
    """2-D depthwise convolution that selects each weight from K fixed random values.

    Forward `y = activation(depthwise_conv(x, W) + b)`, `W[h, w, c, m] = bank[h, w, c, m, k*]`.
    Fans are read off the kernel as Keras does, as if it were an ordinary convolution.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotDepthwiseConv2D
    >>> tuple(SlotDepthwiseConv2D(3, depth_multiplier=2)(np.ones((1, 5, 5, 3), dtype="float32")).shape)
    (1, 3, 3, 6)
    """


class SlotSeparableConvolution(ConvolutionLayer):
    """Mixin before a separable Keras convolution."""

    kernel_arguments = ("depthwise", "pointwise")

    def _add_kernels(self, input_shape: Shape, channels: int | None) -> int:
        self.compute_output_shape(input_shape)  # Keras checks the shape here
        depthwise = (*self.kernel_size, channels, self.depth_multiplier)
        between = channels and self.depth_multiplier * channels
        pointwise = (*[1] * len(self.kernel_size), between, self.filters)
        self.depthwise_slots = self.add_slot_kernel(depthwise, "depthwise")
        self.pointwise_slots = self.add_slot_kernel(pointwise, "pointwise")
        return self.filters

    @property
    def depthwise_kernel(self) -> Tensor:
        """The greedily selected depthwise values, in the shape of the Keras layer's kernel."""
        return self.depthwise_slots.select()

    @property
    def pointwise_kernel(self) -> Tensor:
        """The greedily selected pointwise values, in the shape of the Keras layer's kernel."""
        return self.pointwise_slots.select()

    def _kernels(self) -> tuple[SlotKernel, ...]:
        return self.depthwise_slots, self.pointwise_slots

    def convolution_op(self, inputs: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        return ops.separable_conv(inputs, depthwise, pointwise, **self._geometry())


@register(keras.layers.SeparableConv1D)
class SlotSeparableConv1D(SlotSeparableConvolution, keras.layers.SeparableConv1D):
    """1-D separable convolution whose two kernels select each weight from K fixed random values.

    Forward `y = activation(conv(depthwise_conv(x, D), P) + b)`, D and P selected from banks of their own.
    `layer.slot_kernels` holds both: `"depthwise_kernel"` and `"pointwise_kernel"`.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotSeparableConv1D
    >>> layer = SlotSeparableConv1D(4, 3, padding="same")
    >>> tuple(layer(np.ones((1, 5, 3), dtype="float32")).shape), sorted(layer.slot_kernels)
    ((1, 5, 4), ['depthwise_kernel', 'pointwise_kernel'])
    """


@register(keras.layers.SeparableConv2D)
class SlotSeparableConv2D(SlotSeparableConvolution, keras.layers.SeparableConv2D):
    """2-D separable convolution whose two kernels select each weight from K fixed random values.

    Forward `y = activation(conv(depthwise_conv(x, D), P) + b)`, D and P selected from banks of their own.
    `layer.slot_kernels` holds both: `"depthwise_kernel"` and `"pointwise_kernel"`.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotSeparableConv2D
    >>> layer = SlotSeparableConv2D(4, 3, padding="same")
    >>> tuple(layer(np.ones((1, 5, 5, 3), dtype="float32")).shape), sorted(layer.slot_kernels)
    ((1, 5, 5, 4), ['depthwise_kernel', 'pointwise_kernel'])
    """
