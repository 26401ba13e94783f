"""`SlotEmbedding`."""

from __future__ import annotations

import keras
from keras import ops

from keras_slots._registry import register
from keras_slots.layers.base import Shape, SlotLayer, Tensor
from keras_slots.values import initializers


@register(keras.layers.Embedding)
class SlotEmbedding(SlotLayer, keras.layers.Embedding):
    """Embedding that selects each weight from K fixed random values.

    The output is `y[n, j] = W[x[n], j]` with `W[i, j] = bank[i, j, k*]`, where k* is the selected index. Only the
    rows that a call asks for are selected, in training too, unless it may ask for as many as there are. The
    gradient of the other rows is zero.

    `layer.embeddings` is the whole selected table, with a gradient, for an output layer that shares it:
    `logits = keras.ops.matmul(x, keras.ops.transpose(layer.embeddings))`.

    Keras' default `embeddings_initializer` is uniform on [-0.05, 0.05), whatever the size of the table. The fans
    of the table are then those at which the Glorot bound is 0.05, so that scores, and the default bank of
    `score_mode="nearest"`, fit to it. This holds for every `RandomUniform`, `RandomNormal` and `TruncatedNormal`
    of mean 0. Not in the paper, which has no embeddings.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotEmbedding
    >>> layer = SlotEmbedding(1000, 4)
    >>> tuple(layer(np.array([[3, 7, 999]])).shape), tuple(layer.embeddings.shape)
    ((1, 3, 4), (1000, 4))
    """

    kernel_arguments = ("embeddings",)
    built: bool

    def build(self, input_shape: Shape | None = None) -> None:
        if not hasattr(self, "num_values"):
            # The constructor of the Keras layer builds it to assign `weights`.
            raise ValueError(
                "`weights` must be None in a slot layer, whose values are fixed. Received: a table of weights. "
                'With score_mode="nearest" levers can start there: '
                "`embeddings_initializer=keras.initializers.Constant(weights)`."
            )
        if self.built:
            return
        source, fans = initializers.of_fixed_size(self.embeddings_initializer)
        self.slot_kernel = self.add_slot_kernel(
            (self.input_dim, self.output_dim), "embeddings", name="embeddings", fans=fans, initializer=source
        )
        self.built = True

    @property
    def embeddings(self) -> Tensor:
        """The greedily selected table, `(input_dim, output_dim)`."""
        return self._single_kernel("embeddings").select()

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        rows = ops.cast(inputs, "int32")
        return ops.cast(self.slot_kernel.select_rows(rows, training), self.compute_dtype)
