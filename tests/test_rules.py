"""Selection rules as objects: names, configuration, and a rule of the user's own."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_slots import SelectionRule, SlotConv2D, SlotDense
from keras_slots.selection import RULES, Greedy, Probabilistic, get_rule, serialize_rule
from slot_cases import compiled_model, numpy_of, small_data, small_model


@keras.saving.register_keras_serializable(package="tests")
class Worst(SelectionRule):
    """The value with the lowest score but `rank`: needs no random numbers."""

    def __init__(self, rank=0):
        self.rank = rank

    def index(self, scores, uniform=None):
        return ops.cast(ops.argsort(scores, axis=-1)[..., self.rank], "int32")

    def get_config(self):
        return {"rank": self.rank}


def test_get_rule_knows_every_name_and_keeps_objects():
    assert {name: type(get_rule(name)) for name in RULES} == RULES
    rule = Worst(2)
    assert get_rule(rule) is rule


@pytest.mark.parametrize("rule", [Greedy(), Probabilistic(), Worst(), Worst(3)])
def test_serialize_rule_and_back_gives_an_equal_rule(rule):
    again = get_rule(serialize_rule(rule))
    assert again == rule and hash(again) == hash(rule) and repr(again) == repr(rule)
    assert again != Worst(99)


@pytest.mark.parametrize("wrong", ["best", None, 3, Greedy, keras.layers.Dense(2)])
def test_get_rule_refuses_what_is_no_rule_and_says_what_is(wrong):
    text = '`selection` must be one of "greedy", "probabilistic", or a `keras_slots.SelectionRule`'
    with pytest.raises(ValueError, match=text):
        get_rule(wrong)


@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_slot_layers_follow_a_rule_of_the_users_own_in_training_alone(mode):
    layer = SlotDense(4, num_values=5, selection=Worst(1), score_mode=mode, use_bias=False, seed=1)
    eye = np.eye(6, dtype="float32")
    trained, inferred = numpy_of(layer(eye, training=True)), numpy_of(layer(eye))
    bank, scores = numpy_of(layer.bank), numpy_of(layer.scores)
    order = scores.argsort(-1)

    def values(place):
        return np.take_along_axis(bank, order[..., place][..., None], -1)[..., 0]

    np.testing.assert_array_equal(trained, values(1))
    np.testing.assert_array_equal(inferred, values(-1))


@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_a_model_with_a_rule_of_the_users_own_trains_and_is_saved(tmp_path, mode):
    model = compiled_model(small_model(selection=Worst(1), score_mode=mode))
    x, y = small_data(32)
    model.fit(x, y, batch_size=16, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("conv").selection == Worst(1)
    np.testing.assert_array_equal(numpy_of(loaded(x)), numpy_of(model(x)))
    np.testing.assert_array_equal(
        numpy_of(loaded.get_layer("conv")(x, training=True)),
        numpy_of(model.get_layer("conv")(x, training=True)),
    )


class Twice(keras.layers.Layer):
    """Calls one layer twice."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, x, training=None):
        return ops.stack([self.inner(x, training=training) for _ in range(2)])


@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_probabilistic_selection_draws_one_network_in_a_forward_pass(mode):
    inner = SlotConv2D(3, 2, selection="probabilistic", score_mode=mode, seed=1)
    outer = Twice(inner)
    x = small_data(2)[0]
    passes = [numpy_of(outer(x, training=True)) for _ in range(3)]
    for first, second in passes:
        np.testing.assert_array_equal(first, second)
    assert np.any(passes[0] != passes[1]) and np.any(passes[1] != passes[2])
