"""`SlotSimpleRNN`, `SlotLSTM`, `SlotGRU` and their cells."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_slots._keras import current_call, replace_parts, training_of_call
from keras_slots._live_config import from_live_config, live_config
from keras_slots._registry import register
from keras_slots.kernels import SlotKernel
from keras_slots.layers.base import SLOT_ARGUMENTS, Shape, SlotLayer, Tensor
from keras_slots.values.philox import derive_seed


class SlotCell(SlotLayer):
    """Mixin before a Keras cell, which makes its two kernels and reads them as `kernel` and `recurrent_kernel`.

    Both are selected once for all time steps of a call: the RNN layer around the cell asks for a dropout mask
    before its loop over time and drops the mask after it, and so it is with the selected values.
    """

    kernel_arguments = ("kernel", "recurrent")
    seed_limit = 2**31  # dropout uses the same seed

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._held: tuple[Tensor, ...] | None = None
        self._held_in: Any = None
        self._stepping = False
        if self.seed is not None:
            replace_parts(self, seed_generator=keras.random.SeedGenerator(self.seed))

    def __setattr__(self, name: str, value: Any) -> None:
        # `build` of the Keras cell assigns what `add_weight` returns.
        super().__setattr__(f"{name}_slots" if isinstance(value, SlotKernel) else name, value)

    def add_weight(self, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
        arguments = {"kernel": "kernel", "recurrent_kernel": "recurrent"}
        if name in arguments:
            return self.add_slot_kernel(kwargs["shape"], arguments[name], name=name)
        return super().add_weight(*args, name=name, **kwargs)

    @property
    def kernel(self) -> Tensor:
        """The values selected for the inputs: those of the call in progress, or the greedily selected ones."""
        return self._selected(self.kernel_slots) if self._held is None else self._held[0]

    @property
    def recurrent_kernel(self) -> Tensor:
        """The values selected for the state: those of the call in progress, or the greedily selected ones."""
        return self._selected(self.recurrent_kernel_slots) if self._held is None else self._held[1]

    def _selected(self, kernel: SlotKernel) -> Tensor:
        # `Bidirectional` reads the kernels itself where one program of the backend runs both directions.
        return kernel.select(training_of_call(kernel))

    def _hold(self, training: bool | None) -> None:
        kernels = self.kernel_slots, self.recurrent_kernel_slots
        self._held = tuple(ops.cast(kernel.select(training), self.compute_dtype) for kernel in kernels)

    def call(self, inputs: Tensor, states: Any, training: bool = False) -> tuple[Tensor, Any]:
        alone = self._held is None
        if alone:
            self._hold(training)
        self._stepping = True
        try:
            return super().call(inputs, states, training=training)
        finally:
            self._stepping = False
            if alone:
                self._held = None

    def get_dropout_mask(self, step_input: Tensor) -> Any:
        if not self._stepping:
            now = current_call(self.kernel_slots)
            # What a call held that ended with an error belongs to another pass.
            if self._held is None or self._held_in is not now:
                self._hold(training_of_call(self.kernel_slots))
                self._held_in = now
        return super().get_dropout_mask(step_input)

    def reset_dropout_mask(self) -> None:
        self._held = self._held_in = None
        super().reset_dropout_mask()


class SlotRecurrent(SlotLayer):
    """Mixin before a Keras RNN layer that replaces its cell by a slot cell of the same arguments."""

    cell: Any
    kernel_arguments = ("kernel", "recurrent")
    seed_limit = 2**31  # dropout uses the same seed

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        plain = self.cell
        config = live_config(plain) | {argument: getattr(self, argument) for argument in SLOT_ARGUMENTS}
        if hasattr(plain, "implementation"):  # not in its configuration
            config["implementation"] = plain.implementation
        replace_parts(self, cell=from_live_config(SlotLayer.registry[type(plain)], config, plain))

    def build(self, sequences_shape: Shape, initial_state_shape: Any = None) -> None:
        # Not in the constructor: a layer that is loaded gets its seed later. `Bidirectional` gives both of its
        # layers the same arguments.
        self.cell._seed = derive_seed(self._seed, "backwards") if self.go_backwards else self._seed
        super().build(sequences_shape, initial_state_shape)


@register(keras.layers.SimpleRNNCell)
class SlotSimpleRNNCell(SlotCell, keras.layers.SimpleRNNCell):
    """Cell of `SlotSimpleRNN`, for `keras.layers.RNN` and `keras.layers.StackedRNNCells`.

    Forward `h' = activation(x @ W + h @ R + b)`, W and R selected from banks of their own, once for all time steps
    of a call. Not in the paper, which has no recurrent layers.

    {shared}

    Example:

    >>> import keras, numpy as np
    >>> from keras_slots import SlotSimpleRNNCell
    >>> layer = keras.layers.RNN([SlotSimpleRNNCell(4), SlotSimpleRNNCell(3)])
    >>> tuple(layer(np.ones((1, 5, 2), dtype="float32")).shape)
    (1, 3)
    """


@register(keras.layers.LSTMCell)
class SlotLSTMCell(SlotCell, keras.layers.LSTMCell):
    """Cell of `SlotLSTM`, for `keras.layers.RNN` and `keras.layers.StackedRNNCells`.

    Forward as the Keras cell, with `kernel[...] = bank[..., k*]` and a recurrent kernel with a bank of its own,
    both selected once for all time steps of a call. Not in the paper, which has no recurrent layers.

    {shared}

    Example:

    >>> import keras, numpy as np
    >>> from keras_slots import SlotLSTMCell
    >>> layer = keras.layers.RNN([SlotLSTMCell(4), SlotLSTMCell(3)])
    >>> tuple(layer(np.ones((1, 5, 2), dtype="float32")).shape)
    (1, 3)
    """


@register(keras.layers.GRUCell)
class SlotGRUCell(SlotCell, keras.layers.GRUCell):
    """Cell of `SlotGRU`, for `keras.layers.RNN` and `keras.layers.StackedRNNCells`.

    Forward as the Keras cell, with `kernel[...] = bank[..., k*]` and a recurrent kernel with a bank of its own,
    both selected once for all time steps of a call. Not in the paper, which has no recurrent layers.

    {shared}

    Example:

    >>> import keras, numpy as np
    >>> from keras_slots import SlotGRUCell
    >>> layer = keras.layers.RNN([SlotGRUCell(4), SlotGRUCell(3)])
    >>> tuple(layer(np.ones((1, 5, 2), dtype="float32")).shape)
    (1, 3)
    """


@register(keras.layers.SimpleRNN)
class SlotSimpleRNN(SlotRecurrent, keras.layers.SimpleRNN):
    """Simple recurrent layer that selects each weight from K fixed random values.

    Forward `h' = activation(x @ W + h @ R + b)`, W and R selected from banks of their own, once for all time steps
    of a call. `layer.slot_kernels` holds both: `"simple_rnn_cell/kernel"` and
    `"simple_rnn_cell/recurrent_kernel"`. `seed` also seeds the dropout, so it must be below `2**31`. Not in the
    paper, which has no recurrent layers.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotSimpleRNN
    >>> layer = SlotSimpleRNN(4)
    >>> tuple(layer(np.ones((1, 5, 2), dtype="float32")).shape), sorted(layer.slot_kernels)
    ((1, 4), ['simple_rnn_cell/kernel', 'simple_rnn_cell/recurrent_kernel'])
    """


@register(keras.layers.LSTM)
class SlotLSTM(SlotRecurrent, keras.layers.LSTM):
    """LSTM layer that selects each weight from K fixed random values.

    Forward as the Keras layer, with `kernel[...] = bank[..., k*]` and a recurrent kernel with a bank of its own,
    both selected once for all time steps of a call. `layer.slot_kernels` holds both: `"lstm_cell/kernel"` and
    `"lstm_cell/recurrent_kernel"`. cuDNN, where `use_cudnn` lets Keras use it, computes with the selected values
    too. `seed` also seeds the dropout, so it must be below `2**31`. Not in the paper, which has no recurrent
    layers.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotLSTM
    >>> layer = SlotLSTM(4)
    >>> tuple(layer(np.ones((1, 5, 2), dtype="float32")).shape), sorted(layer.slot_kernels)
    ((1, 4), ['lstm_cell/kernel', 'lstm_cell/recurrent_kernel'])
    """


@register(keras.layers.GRU)
class SlotGRU(SlotRecurrent, keras.layers.GRU):
    """Gated recurrent layer that selects each weight from K fixed random values.

    Forward as the Keras layer, with `kernel[...] = bank[..., k*]` and a recurrent kernel with a bank of its own,
    both selected once for all time steps of a call. `layer.slot_kernels` holds both: `"gru_cell/kernel"` and
    `"gru_cell/recurrent_kernel"`. cuDNN, where `use_cudnn` lets Keras use it, computes with the selected values
    too. `seed` also seeds the dropout, so it must be below `2**31`. Not in the paper, which has no recurrent
    layers.

    {shared}

    Example:

    >>> import numpy as np
    >>> from keras_slots import SlotGRU
    >>> layer = SlotGRU(4)
    >>> tuple(layer(np.ones((1, 5, 2), dtype="float32")).shape), sorted(layer.slot_kernels)
    ((1, 4), ['gru_cell/kernel', 'gru_cell/recurrent_kernel'])
    """
