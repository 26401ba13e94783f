"""What all layers with a channel axis have in common."""

from typing import Any

import keras
from keras import ops

from keras_slots.layers.arguments import Shape, Tensor
from keras_slots.slot_layer import SlotLayer


class ChannelLayer(SlotLayer):
    """Reads the channels off an input shape, and adds bias and activation to an output."""

    def read_channels(self, input_shape: Shape) -> Any:
        """The number of input channels, which the layer expects from now on."""
        first = self.data_format == "channels_first"
        channels = input_shape[1 if first else -1]
        rank = len(self.kernel_size)
        self.input_spec = keras.layers.InputSpec(
            min_ndim=rank + 2, axes={1 if first else -1: channels}
        )
        return channels

    def finish(self, outputs: Tensor) -> Tensor:
        """`activation(outputs + bias)`, the bias along the channel axis."""
        if self.bias is not None:
            ones = (1,) * len(self.kernel_size)
            channels = self.bias.shape[0]
            last = self.data_format == "channels_last"
            shape = (1, *ones, channels) if last else (1, channels, *ones)
            outputs = ops.add(outputs, ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)
