"""`SlotMultiHeadAttention` and `SlotGroupQueryAttention`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from keras_slots._checks import check_integer
from keras_slots._registry import register
from keras_slots.layers.base import (
    SLOT_ARGUMENTS,
    Constraint,
    Initializer,
    Regularizer,
    SlotArguments,
    SlotLayer,
)
from keras_slots.layers.dense import SlotEinsumDense
from keras_slots.values.philox import derive_seed

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SlotAttention(SlotLayer):
    """Attention whose projections are `SlotEinsumDense` layers; all else is the Keras layer after it."""

    seed_limit = 2**31  # the dropout takes the same seed

    def __init__(self, *args: Any, seed: int | None = None, **kwargs: Any):
        if seed is not None:
            check_integer(seed, "seed", self.seed_limit)
        super().__init__(*args, seed=seed, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        # `build` of the Keras layer assigns each projection before it builds it.
        if type(value) is keras.layers.EinsumDense:
            value = self._slot_projection(value)
        super().__setattr__(name, value)

    def _slot_projection(self, plain: keras.layers.EinsumDense) -> SlotEinsumDense:
        slots = {name: getattr(self, name) for name in SLOT_ARGUMENTS}
        slots["seed"] = derive_seed(self._seed, plain.name)
        return SlotEinsumDense.from_config({**plain.get_config(), **slots})


@register(keras.layers.MultiHeadAttention)
class SlotMultiHeadAttention(SlotAttention, keras.layers.MultiHeadAttention):
    """Multi-head attention whose projections select each weight from K fixed random values.

    Forward as the Keras layer, each projection with `W[...] = bank[..., k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`. `layer.slot_kernels` holds the kernels of the
    projections by name, `"query/kernel"` and so on. Not in the paper, which has no attention.

    Args:
        num_heads: Positive integer, the number of attention heads.
        key_dim: Size of each head for query and key.
        value_dim: Size of each head for value; None: `key_dim`.
        dropout: Dropout rate of the attention scores.
        use_bias: Whether the projections have a bias, an ordinary trained one.
        output_shape: Shape of the output without batch and sequence; None: that of the query.
        attention_axes: Axes over which attention is applied; None: all but batch, heads and features.
        sliding_window: As of the Keras layer, from the version on that has it.
        flash_attention: As of the Keras layer.
        kernel_initializer: Names the distribution of the values where `bank_initializer` is None.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Acts on the greedily selected values.
        bias_regularizer: Acts on the biases.
        activity_regularizer: Acts on the outputs of the projections.
        kernel_constraint: Must be None: the values are fixed.
        bias_constraint: Acts on the biases.
        use_gate: As of the Keras layer, from the version on that has it.
        **kwargs: The slot arguments, see `keras_slots.SlotArguments`, of which `seed` is also that of the dropout;
            `name`, `dtype` and `trainable`.

    Raises:
        ValueError: As `SlotDense`, and for a `seed` of more than 31 bits.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotMultiHeadAttention
    >>> layer, x = SlotMultiHeadAttention(2, 4), np.ones((1, 5, 8), dtype="float32")
    >>> tuple(layer(x, x).shape), sorted(layer.slot_kernels)
    ((1, 5, 8), ['attention_output/kernel', 'key/kernel', 'query/kernel', 'value/kernel'])
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | tuple[int, ...] | None = None,
        attention_axes: int | tuple[int, ...] | None = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        use_gate: bool = False,
        **kwargs: Unpack[SlotArguments],
    ) -> None:
        newer: Any = {"sliding_window": sliding_window, "use_gate": use_gate}
        super().__init__(
            num_heads,
            key_dim,
            value_dim=value_dim,
            dropout=dropout,
            use_bias=use_bias,
            output_shape=output_shape,
            attention_axes=attention_axes,
            flash_attention=flash_attention,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **{
                name: value
                for name, value in newer.items()
                if value is not None and value is not False
            },
            **kwargs,
        )


@register(keras.layers.GroupQueryAttention)
class SlotGroupQueryAttention(SlotAttention, keras.layers.GroupQueryAttention):
    """Grouped-query attention whose projections select each weight from K fixed random values.

    Forward as the Keras layer, each projection with `W[...] = bank[..., k*]`; backward
    `d scores[..., k] = bank[..., k] * d W`, see `SlotDense`. `layer.slot_kernels` holds the kernels of the
    projections by name, `"query/kernel"` and so on. Not in the paper, which has no attention.

    Args:
        head_dim: Size of each head.
        num_query_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads.
        dropout: Dropout rate of the attention scores.
        use_bias: Whether the projections have a bias, an ordinary trained one.
        sliding_window: As of the Keras layer, from the version on that has it.
        flash_attention: As of the Keras layer.
        kernel_initializer: Names the distribution of the values where `bank_initializer` is None.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Acts on the greedily selected values.
        bias_regularizer: Acts on the biases.
        activity_regularizer: Acts on the outputs of the projections.
        kernel_constraint: Must be None: the values are fixed.
        bias_constraint: Acts on the biases.
        use_gate: As of the Keras layer, from the version on that has it.
        **kwargs: The slot arguments, see `keras_slots.SlotArguments`, of which `seed` is also that of the dropout;
            `name`, `dtype` and `trainable`.

    Raises:
        ValueError: As `SlotDense`, and for a `seed` of more than 31 bits.

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotGroupQueryAttention
    >>> layer, x = SlotGroupQueryAttention(4, 4, 2), np.ones((1, 5, 8), dtype="float32")
    >>> tuple(layer(x, x).shape), sorted(layer.slot_kernels)
    ((1, 5, 8), ['attention_output/kernel', 'key/kernel', 'query/kernel', 'value/kernel'])
    """

    def __init__(
        self,
        head_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        dropout: float = 0.0,
        use_bias: bool = True,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        use_gate: bool = False,
        **kwargs: Unpack[SlotArguments],
    ) -> None:
        newer: Any = {"sliding_window": sliding_window, "use_gate": use_gate}
        super().__init__(
            head_dim,
            num_query_heads,
            num_key_value_heads,
            dropout=dropout,
            use_bias=use_bias,
            flash_attention=flash_attention,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **{
                name: value
                for name, value in newer.items()
                if value is not None and value is not False
            },
            **kwargs,
        )
