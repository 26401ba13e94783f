"""`SlotEmbedding` and `SlotReversibleEmbedding`."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_slots._keras import set_mask
from keras_slots._registry import register
from keras_slots.kernels import SlotKernel
from keras_slots.layers.base import Shape, SlotLayer, Tensor
from keras_slots.values import initializers


@register(keras.layers.Embedding)
class SlotEmbedding(SlotLayer, keras.layers.Embedding):
    """Embedding that selects each weight from K fixed random values.

    The output is `y[n, j] = W[x[n], j]` with `W[i, j] = bank[i, j, k*]`, where k* is the selected index. Only the
    rows that a call asks for are selected, in training too, unless it may ask for as many rows as the table has.
    The gradient of the other rows is zero.

    `layer.embeddings` is the whole selected table, with a gradient, for an output layer that shares it:
    `logits = keras.ops.matmul(x, keras.ops.transpose(layer.embeddings))`.

    Keras' default `embeddings_initializer` is uniform on [-0.05, 0.05), whatever the size of the table. The fans
    of the table are then those at which the Glorot bound is 0.05, so that the scores, and the default bank of
    `score_mode="nearest"`, match it. This holds for every `RandomUniform`, `RandomNormal` and `TruncatedNormal`
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
        self.slot_kernel = self._add_table((self.input_dim, self.output_dim), "embeddings", "embeddings")
        self.built = True

    def _add_table(self, shape: tuple[int, int], argument: str, name: str) -> SlotKernel:
        source, fans = initializers.of_fixed_size(self.embeddings_initializer)
        return self.add_slot_kernel(shape, argument, name=name, fans=fans, initializer=source)

    @property
    def embeddings(self) -> Tensor:
        """The greedily selected table, `(input_dim, output_dim)`."""
        return self._single_kernel("embeddings").select()

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if keras.backend.standardize_dtype(inputs.dtype) == "int64":
            inputs = ops.clip(inputs, -(2**31), 2**31 - 1)  # no number may become that of another row
        rows = ops.cast(inputs, "int32")
        return ops.cast(self.slot_kernel.select_rows(rows, training), self.compute_dtype)


@register(keras.layers.ReversibleEmbedding)
class SlotReversibleEmbedding(SlotEmbedding, keras.layers.ReversibleEmbedding):
    """Embedding that can also project back to tokens, and selects each weight from K fixed random values.

    Forward as `SlotEmbedding`. With `reverse=True` the output is `y = x @ transpose(W)`, with the same selected
    table W; with `tie_weights=False` it is `y = x @ V`, where V has values and choices of its own. Not in the
    paper, which has no embeddings.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotReversibleEmbedding
    >>> layer = SlotReversibleEmbedding(1000, 4)
    >>> x = layer(np.array([[3, 7, 999]]))
    >>> tuple(x.shape), tuple(layer(x, reverse=True).shape), list(layer.slot_kernels)
    ((1, 3, 4), (1, 3, 1000), ['embeddings'])
    """

    reverse_regularizer = None  # Keras has none

    def build(self, input_shape: Shape | None = None) -> None:
        if self.built:
            return
        super().build(input_shape)
        if not self.tie_weights:
            shape = (self.output_dim, self.input_dim)
            self.reverse_slot_kernel = self._add_table(shape, "reverse", "reverse_embeddings")

    @property
    def embeddings(self) -> Tensor:
        """The greedily selected table, `(input_dim, output_dim)`."""
        return self.slot_kernel.select()

    @property
    def reverse_embeddings(self) -> Tensor:
        """The greedily selected weights of the way back, `(output_dim, input_dim)`, unless they are tied."""
        return self.reverse_slot_kernel.select()

    def call(  # type: ignore[override]
        self, inputs: Tensor, reverse: bool = False, training: bool | None = None
    ) -> Tensor:
        if not reverse:
            outputs = super().call(inputs, training)
            mask = keras.layers.Embedding.compute_mask(self, inputs)
            if mask is not None:
                set_mask(outputs, mask)
            return outputs
        if self.tie_weights:
            kernel = ops.transpose(self.slot_kernel.select(training))
        else:
            kernel = self.reverse_slot_kernel.select(training)
        kernel = ops.cast(kernel, self.compute_dtype)  # as Keras casts variables
        if self.reverse_dtype is not None:
            inputs, kernel = ops.cast(inputs, self.reverse_dtype), ops.cast(kernel, self.reverse_dtype)
        logits = ops.matmul(inputs, kernel)
        cap = self.logit_soft_cap
        return logits if cap is None else ops.multiply(ops.tanh(ops.divide(logits, cap)), cap)

    def compute_output_spec(self, inputs: Any, reverse: bool = False, training: bool | None = None) -> Any:
        return super().compute_output_spec(inputs, reverse)
