"""`SlotConv1D`, `SlotConv2D`, `SlotConv3D` and their transposed siblings."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_slots._registry import register
from keras_slots.kernels import SlotKernel
from keras_slots.layers.base import Shape, SlotLayer, Tensor


class ConvolutionLayer(SlotLayer):
    """Mixin before a Keras convolution of any kind.

    Subclasses have `_add_kernels`, which returns the number of output channels, and `convolution_op`.
    """

    def build(self, input_shape: Shape) -> None:
        axis = self._channel_axis()
        self.input_spec = keras.layers.InputSpec(min_ndim=self.rank + 2, axes={axis: input_shape[axis]})
        outputs = self._add_kernels(input_shape, input_shape[axis])
        self.bias = self.add_bias((outputs,)) if self.use_bias else None

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernels = (ops.cast(kernel.select(training), self.compute_dtype) for kernel in self._kernels())
        outputs = self.convolution_op(inputs, *kernels)
        if self.bias is not None:
            shape = [1] * (self.rank + 2)
            shape[self._channel_axis()] = self.bias.shape[0]
            outputs = ops.add(outputs, ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)

    def _kernels(self) -> tuple[SlotKernel, ...]:
        """The kernels whose values `convolution_op` takes, in order."""
        return (self.slot_kernel,)

    def _geometry(self) -> dict[str, Any]:
        """The arguments that all convolutions of `keras.ops` have in common."""
        names = ("strides", "padding", "dilation_rate", "data_format")
        return {name: getattr(self, name) for name in names}

    def _channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1


class SlotConvolution(ConvolutionLayer):
    """Mixin before a Keras convolution."""

    def _add_kernels(self, input_shape: Shape, channels: int | None) -> int:
        if channels is not None and channels % self.groups:
            raise ValueError(
                f"`groups` must divide the number of input channels. Received: groups={self.groups} for an input "
                f"of {channels} channels (input shape {input_shape})."
            )
        self.compute_output_shape(input_shape)  # Keras checks the shape here
        inside = channels and channels // self.groups
        self.slot_kernel = self.add_slot_kernel((*self.kernel_size, inside, self.filters))
        return self.filters

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """The convolution of the Keras layer, with the padding of `padding="causal"`, done in `call` by Keras."""
        if self.padding != "causal":
            return super().convolution_op(inputs, kernel)
        inputs = ops.pad(inputs, self._compute_causal_padding())
        return ops.conv(inputs, kernel, **{**self._geometry(), "padding": "valid"})


@register(keras.layers.Conv1D)
class SlotConv1D(SlotConvolution, keras.layers.Conv1D):
    """1-D convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv(x, W) + b)`, `W[t, c, f] = bank[t, c, f, k*]`.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv1D
    >>> tuple(SlotConv1D(4, 3, padding="causal")(np.ones((2, 10, 3), dtype="float32")).shape)
    (2, 10, 4)
    """


@register(keras.layers.Conv2D)
class SlotConv2D(SlotConvolution, keras.layers.Conv2D):
    """2-D convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv(x, W) + b)`, `W[h, w, c, f] = bank[h, w, c, f, k*]`.

    {shared}

    Example:

    >>> import keras
    >>> from sklearn.datasets import load_digits
    >>> from keras_slots import SlotConv2D
    >>> x, y = load_digits(return_X_y=True)
    >>> conv = SlotConv2D(10, 3, strides=2, score_mode="nearest", seed=1)
    >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv, keras.layers.GlobalMaxPooling2D()])
    >>> tuple(conv.bank.shape), tuple(conv.kernel.shape)
    ((3, 3, 1, 10, 8), (3, 3, 1, 10))
    >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> losses = model.fit(x.reshape(-1, 8, 8, 1) / 16, y, epochs=5, verbose=0).history["loss"]
    >>> losses[-1] < losses[0]
    True
    """


@register(keras.layers.Conv3D)
class SlotConv3D(SlotConvolution, keras.layers.Conv3D):
    """3-D convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv(x, W) + b)`, `W[d, h, w, c, f] = bank[d, h, w, c, f, k*]`.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv3D
    >>> tuple(SlotConv3D(4, 2)(np.ones((1, 4, 4, 4, 3), dtype="float32")).shape)
    (1, 3, 3, 3, 4)
    """


class SlotConvolutionTranspose(ConvolutionLayer):
    """Mixin before a transposed Keras convolution."""

    def _add_kernels(self, input_shape: Shape, channels: int | None) -> int:
        self.slot_kernel = self.add_slot_kernel((*self.kernel_size, self.filters, channels))
        return self.filters

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv_transpose(inputs, kernel, output_padding=self.output_padding, **self._geometry())


@register(keras.layers.Conv1DTranspose)
class SlotConv1DTranspose(SlotConvolutionTranspose, keras.layers.Conv1DTranspose):
    """1-D transposed convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv_transpose(x, W) + b)`, `W[t, f, c] = bank[t, f, c, k*]`.
    Fans are read off the kernel as Keras does, the output channels before the input channels.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv1DTranspose
    >>> tuple(SlotConv1DTranspose(4, 3, strides=2, padding="same")(np.ones((1, 5, 3), dtype="float32")).shape)
    (1, 10, 4)
    """


@register(keras.layers.Conv2DTranspose)
class SlotConv2DTranspose(SlotConvolutionTranspose, keras.layers.Conv2DTranspose):
    """2-D transposed convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv_transpose(x, W) + b)`, `W[h, w, f, c] = bank[h, w, f, c, k*]`.
    Fans are read off the kernel as Keras does, the output channels before the input channels.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv2DTranspose
    >>> tuple(SlotConv2DTranspose(4, 3, strides=2, padding="same")(np.ones((1, 5, 5, 3), dtype="float32")).shape)
    (1, 10, 10, 4)
    """


@register(keras.layers.Conv3DTranspose)
class SlotConv3DTranspose(SlotConvolutionTranspose, keras.layers.Conv3DTranspose):
    """3-D transposed convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv_transpose(x, W) + b)`, `W[d, h, w, f, c] = bank[d, h, w, f, c, k*]`.
    Fans are read off the kernel as Keras does, the output channels before the input channels.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv3DTranspose
    >>> tuple(SlotConv3DTranspose(4, 3, strides=2)(np.ones((1, 3, 3, 3, 3), dtype="float32")).shape)
    (1, 7, 7, 7, 4)
    """
