"""A cell that selects at random inside `keras.layers.RNN` on JAX: what docs/how_it_works.md says of it."""

import jax
import keras
import numpy as np
import pytest
from keras import ops

from keras_slots import SlotDense


class Cell(keras.layers.Layer):
    """Adds up what one slot layer makes of each step."""

    def __init__(self):
        super().__init__()
        self.state_size = 4
        self.slots = SlotDense(4, selection="probabilistic", use_bias=False, seed=1)

    def build(self, shape):
        self.slots.build(shape)

    def call(self, x, states, training=None):
        step = self.slots(x, training=training)
        return step, [states[0] + step]


def model_of(unroll):
    rnn = keras.layers.RNN(Cell(), unroll=unroll, return_sequences=True)
    model = keras.Sequential([keras.Input((5, 3)), rnn])
    model.compile("sgd", "mse")
    return model


X = np.ones((8, 5, 3), "float32")


def test_an_unrolled_cell_trains_with_one_draw_in_all_steps():
    model = model_of(unroll=True)
    model.fit(X, np.zeros((8, 5, 4)), epochs=2, verbose=0)
    first, second = (ops.convert_to_numpy(model(X, training=True)) for _ in range(2))
    for outputs in (first, second):
        np.testing.assert_array_equal(outputs, np.broadcast_to(outputs[:, :1], outputs.shape))
    assert np.any(first != second)


def test_a_cell_in_a_loop_stops_fit_and_moves_no_random_state():
    model = model_of(unroll=False)
    first, second = (ops.convert_to_numpy(model(X, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        model.fit(X, np.zeros((8, 5, 4)), verbose=0)
