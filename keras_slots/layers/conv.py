"""`SlotConv1D`, `SlotConv2D`, `SlotConv3D` and their transposed siblings."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_slots._registry import register
from keras_slots.layers.base import Shape, SlotLayer, Tensor


class ChannelLayer(SlotLayer):
    """Mixin that reads the number of channels from the input shape, and applies bias and activation."""

    def read_channels(self, input_shape: Shape) -> Any:
        """Returns the number of input channels, and makes the layer expect it from now on."""
        first = self.data_format == "channels_first"
        channels = input_shape[1 if first else -1]
        rank = len(self.kernel_size)
        self.input_spec = keras.layers.InputSpec(min_ndim=rank + 2, axes={1 if first else -1: channels})
        return channels

    def finish(self, outputs: Tensor) -> Tensor:
        """Returns `activation(outputs + bias)`, with the bias along the channel axis."""
        if self.bias is not None:
            ones = (1,) * len(self.kernel_size)
            channels = self.bias.shape[0]
            last = self.data_format == "channels_last"
            shape = (1, *ones, channels) if last else (1, channels, *ones)
            outputs = ops.add(outputs, ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)


class SlotConvolution(ChannelLayer):
    """Mixin before a Keras convolution: kernel, forward pass and bias."""

    def build(self, input_shape: Shape) -> None:
        channels = self.read_channels(input_shape)
        if channels is not None and channels % self.groups:
            raise ValueError(
                f"`groups` must divide the number of input channels. Received: groups={self.groups} for an input "
                f"of {channels} channels (input shape {input_shape})."
            )
        self.compute_output_shape(input_shape)  # Keras checks the shape here
        inside = channels and channels // self.groups
        self.slot_kernel = self.add_slot_kernel((*self.kernel_size, inside, self.filters))
        self.bias = self.add_bias((self.filters,)) if self.use_bias else None

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernel = ops.cast(self.slot_kernel.select(training), self.compute_dtype)
        outputs = self.convolution_op(inputs, kernel)
        return self.finish(outputs)

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """The convolution of the Keras layer, with the padding of `padding="causal"`, done in `call` by Keras."""
        if self.padding != "causal":
            return super().convolution_op(inputs, kernel)
        return ops.conv(
            ops.pad(inputs, self._compute_causal_padding()),
            kernel,
            strides=list(self.strides),
            padding="valid",
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@register(keras.layers.Conv1D)
class SlotConv1D(SlotConvolution, keras.layers.Conv1D):
    """1-D convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv(x, W) + b)`, `W[t, c, f] = bank[t, c, f, k*]`; backward, straight through the
    selection, `d scores[..., k] = bank[..., k] * d W[...]` for all k.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    {arguments}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv1D
    >>> tuple(SlotConv1D(4, 3, padding="causal")(np.ones((2, 10, 3), dtype="float32")).shape)
    (2, 10, 4)
    """


@register(keras.layers.Conv2D)
class SlotConv2D(SlotConvolution, keras.layers.Conv2D):
    """2-D convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv(x, W) + b)`, `W[h, w, c, f] = bank[h, w, c, f, k*]`; backward, straight through
    the selection, `d scores[..., k] = bank[..., k] * d W[...]` for all k.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    {arguments}

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

    Forward `y = activation(conv(x, W) + b)`, `W[d, h, w, c, f] = bank[d, h, w, c, f, k*]`; backward, straight
    through the selection, `d scores[..., k] = bank[..., k] * d W[...]` for all k.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    {arguments}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv3D
    >>> tuple(SlotConv3D(4, 2)(np.ones((1, 4, 4, 4, 3), dtype="float32")).shape)
    (1, 3, 3, 3, 4)
    """


class SlotConvolutionTranspose(ChannelLayer):
    """Mixin before a transposed Keras convolution: kernel, forward pass and bias."""

    def build(self, input_shape: Shape) -> None:
        channels = self.read_channels(input_shape)
        self.slot_kernel = self.add_slot_kernel((*self.kernel_size, self.filters, channels))
        self.bias = self.add_bias((self.filters,)) if self.use_bias else None

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernel = ops.cast(self.slot_kernel.select(training), self.compute_dtype)
        outputs = ops.conv_transpose(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self.finish(outputs)


@register(keras.layers.Conv1DTranspose)
class SlotConv1DTranspose(SlotConvolutionTranspose, keras.layers.Conv1DTranspose):
    """1-D transposed convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv_transpose(x, W) + b)`, `W[t, f, c] = bank[t, f, c, k*]`; backward, straight
    through the selection, `d scores[..., k] = bank[..., k] * d W[...]` for all k. Fans are read off the kernel
    as Keras does, the output channels before the input channels.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    {arguments}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv1DTranspose
    >>> layer = SlotConv1DTranspose(4, 3, strides=2, padding="same")
    >>> tuple(layer(np.ones((1, 5, 3), dtype="float32")).shape)
    (1, 10, 4)
    """


@register(keras.layers.Conv2DTranspose)
class SlotConv2DTranspose(SlotConvolutionTranspose, keras.layers.Conv2DTranspose):
    """2-D transposed convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv_transpose(x, W) + b)`, `W[h, w, f, c] = bank[h, w, f, c, k*]`; backward,
    straight through the selection, `d scores[..., k] = bank[..., k] * d W[...]` for all k. Fans are read off the
    kernel as Keras does, the output channels before the input channels.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    {arguments}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv2DTranspose
    >>> layer = SlotConv2DTranspose(4, 3, strides=2, padding="same")
    >>> tuple(layer(np.ones((1, 5, 5, 3), dtype="float32")).shape)
    (1, 10, 10, 4)
    """


@register(keras.layers.Conv3DTranspose)
class SlotConv3DTranspose(SlotConvolutionTranspose, keras.layers.Conv3DTranspose):
    """3-D transposed convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv_transpose(x, W) + b)`, `W[d, h, w, f, c] = bank[d, h, w, f, c, k*]`; backward,
    straight through the selection, `d scores[..., k] = bank[..., k] * d W[...]` for all k. Fans are read off the
    kernel as Keras does, the output channels before the input channels.

    Reference: Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.

    {arguments}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv3DTranspose
    >>> layer = SlotConv3DTranspose(4, 3, strides=2, padding="same")
    >>> tuple(layer(np.ones((1, 3, 3, 3, 3), dtype="float32")).shape)
    (1, 6, 6, 6, 4)
    """
