"""The slot layers: Keras layers whose kernel is selected from a bank of fixed random values."""

import keras

from keras_slots.slot_layer import SlotLayer, slot_layer


@slot_layer(keras.layers.Dense)
class SlotDense(SlotLayer, keras.layers.Dense):
    """Fully connected layer that selects each weight from K fixed random values.

    Forward: `y = activation(x @ W + b)` with `W[i, j] = bank[i, j, k*]`, k* the selected index, for greedy
    selection `argmax_k scores[i, j, k]`. Backward, straight through the selection:
    `d scores[i, j, k] = bank[i, j, k] * sum_n x[n, i] * d y[n, j]` for all k. The bank never changes.

    Args:
        units: Positive integer, the number of outputs.
        {slot_args}

    Input shape:
        `(batch, ..., input_dim)`.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: For arguments outside the choices above, `kernel_constraint`, LoRA and quantization.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotDense
    >>> layer = SlotDense(3, num_values=4, seed=1)
    >>> layer(np.ones((2, 5), dtype="float32")).shape
    TensorShape([2, 3])
    >>> tuple(layer.bank.shape), tuple(layer.kernel.shape)
    ((5, 3, 4), (5, 3))

    Reference:
        Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3, equations 1 to 3. The paper has
        no bias; pass `use_bias=False` for its networks. The score scale is the author's code's, not the text's.
    """


@slot_layer(keras.layers.Conv1D)
class SlotConv1D(SlotLayer, keras.layers.Conv1D):
    """1-D convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv(x, W) + b)`, `W[t, c, f] = bank[t, c, f, k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple of one.
        {slot_args}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv1D
    >>> tuple(SlotConv1D(4, 3, padding="causal")(np.ones((2, 10, 3), dtype="float32")).shape)
    (2, 10, 4)
    """


@slot_layer(keras.layers.Conv2D)
class SlotConv2D(SlotLayer, keras.layers.Conv2D):
    """2-D convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv(x, W) + b)`, `W[h, w, c, f] = bank[h, w, c, f, k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple of two.
        {slot_args}

    Input shape:
        `(batch, height, width, channels)`, or channels first as `data_format` says.

    Output shape:
        `(batch, new_height, new_width, filters)`, or channels first.

    Raises:
        ValueError: As `SlotDense`.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv2D
    >>> layer = SlotConv2D(8, 3, padding="same", num_values=2)
    >>> tuple(layer(np.ones((2, 6, 6, 3), dtype="float32")).shape), tuple(layer.bank.shape)
    ((2, 6, 6, 8), (3, 3, 3, 8, 2))

    Reference:
        Aladago and Torresani, 2021, https://arxiv.org/abs/2101.06475, section 3.
    """


@slot_layer(keras.layers.Conv3D)
class SlotConv3D(SlotLayer, keras.layers.Conv3D):
    """3-D convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv(x, W) + b)`, `W[..., c, f] = bank[..., c, f, k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple of three.
        {slot_args}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv3D
    >>> tuple(SlotConv3D(4, 2)(np.ones((1, 4, 4, 4, 3), dtype="float32")).shape)
    (1, 3, 3, 3, 4)
    """


@slot_layer(keras.layers.Conv2DTranspose)
class SlotConv2DTranspose(SlotLayer, keras.layers.Conv2DTranspose):
    """2-D transposed convolution that selects each weight from K fixed random values.

    Forward `y = activation(conv_transpose(x, W) + b)`, `W[h, w, f, c] = bank[h, w, f, c, k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`. Fans are read off the kernel as Keras does, the
    output channels before the input channels.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or tuple of two.
        {slot_args}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotConv2DTranspose
    >>> layer = SlotConv2DTranspose(4, 3, strides=2, padding="same")
    >>> tuple(layer(np.ones((1, 5, 5, 3), dtype="float32")).shape)
    (1, 10, 10, 4)
    """


@slot_layer(keras.layers.DepthwiseConv2D)
class SlotDepthwiseConv2D(SlotLayer, keras.layers.DepthwiseConv2D):
    """2-D depthwise convolution that selects each weight from K fixed random values.

    Forward `y = activation(depthwise_conv(x, W) + b)`, `W[h, w, c, m] = bank[h, w, c, m, k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`. Fans are read off the kernel as Keras does, as if
    it were an ordinary convolution.

    Args:
        kernel_size: Integer or tuple of two.
        {slot_args}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotDepthwiseConv2D
    >>> tuple(SlotDepthwiseConv2D(3, depth_multiplier=2)(np.ones((1, 5, 5, 3), dtype="float32")).shape)
    (1, 3, 3, 6)
    """

    _kernel_argument = "depthwise"


@slot_layer(keras.layers.EinsumDense)
class SlotEinsumDense(SlotLayer, keras.layers.EinsumDense):
    """Einsum layer that selects each weight from K fixed random values.

    Forward `y = activation(einsum(equation, x, W) + b)`, `W[...] = bank[..., k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`. fan_out counts the kernel axes that appear in the
    output, fan_in the others.

    Args:
        equation: Einsum string with two operands, such as `"abc,cd->abd"`.
        output_shape: Output shape without the batch axis.
        {slot_args}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotEinsumDense
    >>> layer = SlotEinsumDense("abc,cde->abde", output_shape=(None, 2, 4), num_values=2)
    >>> tuple(layer(np.ones((3, 5, 6), dtype="float32")).shape), tuple(layer.bank.shape)
    ((3, 5, 2, 4), (6, 2, 4, 2))
    """

    def _kernel_fans(self, shape: tuple[int, ...]) -> tuple[int, int]:
        operands, output = self.equation.replace(" ", "").split("->")
        kernel_axes = operands.split(",")[1].replace("...", "")
        fan_in = fan_out = 1
        for axis, size in zip(kernel_axes, shape, strict=True):
            if axis in output:
                fan_out *= size
            else:
                fan_in *= size
        return fan_in, fan_out
