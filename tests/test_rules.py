"""Selection rules as objects: names, configuration, and a rule of the user's own."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from comparisons import numpy_of
from keras_slots import GlorotUniform, NearestScores, SelectionRule, SlotConv2D, SlotDense, slotify
from keras_slots.selection import Greedy, get_rule, serialize_rule
from keras_slots.values.source import sources_with_role
from mode_table import DRAWING_MODES
from small_models import compiled_model, small_data, small_model


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
    assert {name: type(get_rule(name)) for name in SelectionRule.registry} == SelectionRule.registry
    rule = Worst(2)
    assert get_rule(rule) is rule


@pytest.mark.parametrize("rule", [*(cls() for cls in SelectionRule.registry.values()), Worst(), Worst(3)])
def test_serialize_rule_and_back_gives_an_equal_rule(rule):
    again = get_rule(serialize_rule(rule))
    assert again == rule and hash(again) == hash(rule) and repr(again) == repr(rule)
    assert again != Worst(99)


def test_a_rule_without_an_index_cannot_be_made():
    class Unfinished(SelectionRule):
        def random_shape(self, kernel_shape, num_values):
            return kernel_shape

    with pytest.raises(TypeError, match="index"):
        Unfinished()


@pytest.mark.parametrize("wrong", ["best", None, 3, Greedy, keras.layers.Dense(2)])
def test_get_rule_refuses_what_is_no_rule_and_says_what_is(wrong):
    names = ", ".join(f'"{name}"' for name in SelectionRule.registry)
    text = f"`selection` must be one of {names}, or a `keras_slots.SelectionRule`"
    with pytest.raises(ValueError, match=text):
        get_rule(wrong)


@pytest.mark.parametrize("mode", DRAWING_MODES)
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


@pytest.mark.quick("per_connection")
@pytest.mark.parametrize("mode", DRAWING_MODES)
def test_a_model_with_a_rule_of_the_users_own_trains_and_is_saved(tmp_path, mode):
    model = compiled_model(small_model(selection=Worst(1), score_mode=mode))
    x, y = small_data(32)
    model.fit(x, y, batch_size=16, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("conv").selection == Worst(1)
    np.testing.assert_array_equal(numpy_of(loaded(x)), numpy_of(model(x)))
    np.testing.assert_array_equal(
        numpy_of(loaded.get_layer("conv")(x, training=True)), numpy_of(model.get_layer("conv")(x, training=True))
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


@pytest.mark.parametrize("mode", DRAWING_MODES)
def test_probabilistic_selection_draws_one_network_in_a_forward_pass(mode):
    inner = SlotConv2D(3, 2, selection="probabilistic", score_mode=mode, seed=1)
    outer = Twice(inner)
    x = small_data(2)[0]
    passes = [numpy_of(outer(x, training=True)) for _ in range(3)]
    for first, second in passes:
        np.testing.assert_array_equal(first, second)
    assert np.any(passes[0] != passes[1]) and np.any(passes[1] != passes[2])


class Plain(SelectionRule):
    """The first value: a rule that takes no argument."""

    def index(self, scores, uniform=None):
        return ops.zeros(scores.shape[:-1], "int32")


class Place(Plain):
    """Lacks the configuration of its one argument."""

    def __init__(self, place=0):
        self.place = place


class Half(Worst):
    """Its configuration is that of its base, which lacks `half`."""

    def __init__(self, rank=0, *, half=False):
        super().__init__(rank)
        self.half = half


class Passing(Place):
    """Passes all on to a base that lacks it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)


class Many(Plain):
    """Takes any number of arguments."""

    def __init__(self, *places):
        self.places = places


@dataclasses.dataclass(frozen=True)
class Data(Plain):
    """A constructor that nobody wrote."""

    place: int = 0


class Wide(GlorotUniform):
    """A distribution that lacks `width`."""

    def __init__(self, width=1.0, **kwargs):
        super().__init__(**kwargs)
        self.width = width


class Far(NearestScores):
    """Scores that lack `distance`."""

    def __init__(self, distance=1.0):
        super().__init__()
        self.distance = distance


LACKING = {
    "place": (lambda: {"selection": Place(2)}, "place"),
    "default": (lambda: {"selection": Place()}, "place"),
    "half": (lambda: {"selection": Half(1)}, "half"),
    "passing": (lambda: {"selection": Passing(place=2)}, "place"),
    "many": (lambda: {"selection": Many(1, 2)}, "places"),
    "data": (lambda: {"selection": Data(1)}, "place"),
    "bank": (lambda: {"bank_initializer": Wide(2.0)}, "width"),
    "scores": (lambda: {"score_initializer": Wide(2.0)}, "width"),
    "dependent": (lambda: {"score_initializer": Far()}, "distance"),
    "start": (lambda: {"score_initializer": NearestScores(Wide())}, "width"),
}


@pytest.mark.parametrize(("arguments", "lacks"), LACKING.values(), ids=LACKING)
def test_what_lacks_an_argument_in_its_configuration_is_refused(arguments, lacks):
    text = rf"`\w+` must have a `get_config` that.*lacks \['{lacks}'\].*Give the class \w+ a"
    with pytest.raises(ValueError, match=text):
        SlotDense(3, **arguments())
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=text):
        slotify(model, **arguments())


@pytest.mark.parametrize("rule", [Plain(), Worst(2), *(rule() for rule in SelectionRule.registry.values())])
def test_rules_whose_configuration_is_whole_are_taken(rule):
    assert get_rule(rule) is rule


@pytest.mark.parametrize("distribution", sources_with_role("bank").values())
def test_distributions_of_the_library_have_whole_configurations(distribution):
    SlotDense(3, bank_initializer=distribution()).build((None, 4))


def test_rules_of_other_arguments_select_otherwise_and_share_no_program():
    x = np.eye(6, dtype="float32")
    layers = [SlotDense(4, selection=Worst(rank), use_bias=False, seed=1) for rank in range(3)]
    first, second, third = (numpy_of(layer(x, training=True)) for layer in layers)
    assert np.all(first != second) and np.all(second != third)


def test_a_rule_cannot_be_changed_once_it_is_made():
    rule = Worst(1)
    for change in (
        lambda: setattr(rule, "rank", 2),
        lambda: delattr(rule, "rank"),
        lambda: setattr(rule, "new", 2),
    ):
        with pytest.raises(AttributeError, match=r"Worst\(rank=1\) cannot be changed.*Make another"):
            change()
    assert rule == Worst(1)
