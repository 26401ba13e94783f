"""`register`: any class and any Keras layer, and no other one in its place by accident."""

import functools

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import (
    GlorotUniform,
    NearestScores,
    SelectionRule,
    SlotDense,
    SlotLayer,
    materialize,
    register,
    slotify,
)
from keras_slots._config import EqualByConfig
from keras_slots.kernels import SlotKernel
from keras_slots.kernels.per_value import PerValueKernel
from keras_slots.values.source import ValueSource, sources_with_role

L = keras.layers
pytestmark = pytest.mark.usefixtures("own_registrations")


def test_the_docstring_of_slot_layers_names_every_rule_mode_and_bank():
    registered = SelectionRule.registry | SlotKernel.registry | sources_with_role("bank")
    names = [name for name, cls in registered.items() if cls.__module__.startswith("keras_slots")]
    assert [name for name in names if f'"{name}"' not in SlotLayer.__doc__] == []


def passing_on(constructor):
    @functools.wraps(constructor)
    def wrapped(self, **kwargs):
        return constructor(self, **kwargs)

    return wrapped


class WithKwargs(L.Layer):
    def __init__(self, units=3, scale=2.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.scale = units, scale
        self.kernel_initializer, self.kernel_regularizer = "glorot_uniform", None

    def build(self, input_shape):
        self.weight = self.add_weight(name="kernel", shape=(input_shape[-1], self.units))

    def call(self, inputs):
        return inputs @ self.weight * self.scale

    def get_config(self):
        return {**super().get_config(), "units": self.units, "scale": self.scale}


class WithoutKwargs(WithKwargs):
    def __init__(self, units=3, scale=2.0, name=None):
        super().__init__(units, scale, name=name)

    def get_config(self):
        return {"units": self.units, "scale": self.scale, "name": self.name}


class LocalSeed(WithKwargs):
    def __init__(self, units=3, scale=2.0, **kwargs):
        seed = num_values = selection = None
        super().__init__(units, scale, **kwargs)
        self.nothing = (seed, num_values, selection)


class OwnSeed(WithKwargs):
    def __init__(self, units=3, scale=2.0, seed=None, **kwargs):
        super().__init__(units, scale, **kwargs)
        self.seed = seed

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


class WrappedSeed(OwnSeed):
    @passing_on
    def __init__(self, units=3, scale=2.0, seed=None, **kwargs):
        super().__init__(units=units, scale=scale, seed=seed, **kwargs)


class PassedSeed(OwnSeed):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class NoConstructor(OwnSeed):
    pass


def slot_class(plain, **options):
    """A slot layer without a constructor of its own."""

    def build(self, input_shape):
        self.values = self.add_slot_kernel((input_shape[-1], self.units))

    def call(self, inputs, training=None):
        return inputs @ self.values.select(training) * self.scale

    cls = type(f"Slot{plain.__name__}", (SlotLayer, plain), {"build": build, "call": call})
    return register(plain, **options)(cls)


PLAIN = (WithKwargs, WithoutKwargs, LocalSeed, OwnSeed, WrappedSeed, PassedSeed, NoConstructor)


@pytest.mark.parametrize("plain", PLAIN, ids=lambda cls: cls.__name__)
def test_a_layer_of_any_constructor_is_slotified_and_materialized(plain, tmp_path):
    cls = slot_class(plain)
    model = keras.Sequential([keras.Input((4,)), plain(units=5, scale=0.5, name="own")])
    slot = slotify(model, 3, seed=6)
    layer = slot.layers[0]
    assert type(layer) is cls and (layer.num_values, layer.scale, layer.name) == (3, 0.5, "own")
    x = np.eye(4, dtype="float32")
    back = materialize(slot).layers[0]
    assert type(back) is plain and (back.units, back.scale, back.name) == (5, 0.5, "own")
    np.testing.assert_array_equal(numpy_of(back(x)), numpy_of(slot(x)))
    assert getattr(back, "seed", None) == (layer.seed if issubclass(plain, OwnSeed) else None)
    slot.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy_of(loaded(x)), numpy_of(slot(x)))


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_materialized_layer_without_kwargs_is_frozen_as_asked(trainable, frozen):
    layer = slot_class(WithoutKwargs)(5, name="own")
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.trainable = not frozen
    assert materialize(model, trainable).layers[0].trainable is (trainable and not frozen)


def test_another_slot_layer_of_a_keras_layer_is_refused_unless_asked_for(own_registrations):
    class Other(SlotDense):
        pass

    before = dict(own_registrations)
    text = "Received: key=Dense, which belongs to keras_slots.layers.dense.SlotDense, for .*Other.*`replace=True`"
    with pytest.raises(ValueError, match=text):
        register(L.Dense)(Other)
    assert own_registrations == before and Other.plain_class is L.Dense
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    assert type(slotify(model).layers[0]) is SlotDense
    assert register(L.Dense, replace=True)(Other) is Other
    assert type(slotify(model).layers[0]) is Other


def test_the_same_class_again_takes_its_own_place():
    first, again = slot_class(WithKwargs), slot_class(WithKwargs)
    model = keras.Sequential([keras.Input((4,)), WithKwargs()])
    assert first is not again and type(slotify(model).layers[0]) is again


def test_a_keras_layer_whose_arguments_would_be_lost_is_refused(own_registrations):
    class Silent(L.Layer):
        def __init__(self, scale=2.0, **kwargs):
            super().__init__(**kwargs)

    with pytest.raises(ValueError, match=r"must have a `get_config`.*\['scale'\].*Silent"):
        slot_class(Silent)
    assert Silent not in own_registrations


# Score modes, rules and distributions


def lambda_of(kernel_class):
    return lambda **arguments: kernel_class(**arguments)


class Unmoved(PerValueKernel):
    measures_moves = True


class Abstract(SlotKernel):
    pass


class Taken(PerValueKernel):
    pass


class Last(SelectionRule):
    def index(self, scores, uniform=None):
        return keras.ops.full(scores.shape[:-1], scores.shape[-1] - 1, "int32")


class Wide(GlorotUniform):
    def __init__(self, scale=3.0, *, seed=None):
        super().__init__(scale, seed=seed)


class NoRole(ValueSource):
    pass


@pytest.mark.parametrize(
    ("key", "cls", "text"),
    [
        ("own", lambda_of(PerValueKernel), "decorates a subclass of .*not a function that creates"),
        ("own", L.Dense, "decorates a subclass of `SelectionRule`"),
        ("own", Unmoved, r"Received: Unmoved without \['moves'\]"),
        ("own", Abstract, r"Received: Abstract without \['add_variables', 'bank'"),
        (
            "nearest",
            Taken,
            "`key` is taken. Received: key='nearest', which belongs to keras_slots.kernels.nearest.NearestKernel",
        ),
        ("greedy", Last, "`key` is taken. Received: key='greedy', which belongs to keras_slots.selection.Greedy"),
        (
            "he_normal",
            Wide,
            (
                "`key` is taken. Received: key='he_normal', which belongs to "
                "keras_slots.values.distributions.HeNormal"
            ),
        ),
        ("own", NoRole, "`NoRole.roles` must contain 'bank', 'scores' or 'start'"),
        (7, Last, "`key` must be the name of a selection rule. Received: key=7"),
        ("own", SlotDense, "`key` must be the Keras layer that computes the same"),
    ],
)
def test_register_refuses_what_could_not_do_its_work(key, cls, text):
    tables = [dict(x.registry) for x in (SelectionRule, SlotKernel, ValueSource, SlotLayer)]
    with pytest.raises(ValueError, match=text):
        register(key)(cls)
    assert tables == [x.registry for x in (SelectionRule, SlotKernel, ValueSource, SlotLayer)]


def test_register_gives_rules_distributions_and_score_modes_a_name_for_every_layer(tmp_path):
    for key, cls in (("last", Last), ("wide", Wide), ("taken", Taken)):
        assert register(key)(cls) is cls
        assert register(key)(cls) is cls  # as when a cell of a notebook is run twice
    arguments = {"selection": "last", "bank_initializer": "wide", "score_mode": "taken"}
    layer = SlotDense(3, seed=1, **arguments)
    model = keras.Sequential([keras.Input((5,)), layer])
    assert type(layer.slot_kernel) is Taken and layer.bank_initializer == Wide()
    np.testing.assert_array_equal(
        numpy_of(layer(np.eye(5, dtype="float32"), training=True)), numpy_of(layer.bank)[..., -1]
    )
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras").layers[0]
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(numpy_of(again.kernel), numpy_of(layer.kernel))


def test_register_replaces_where_it_is_asked_to():
    register("nearest", replace=True)(Taken)
    layer = SlotDense(3, score_mode="nearest")
    layer.build((None, 2))
    assert type(layer.slot_kernel) is Taken
    with pytest.raises(ValueError, match='`move_regularizer` must be None for score_mode="nearest"'):
        SlotDense(3, score_mode="nearest", move_regularizer="l1")


@pytest.mark.parametrize("role", ["bank", "scores", "start"])
def test_a_source_that_lacks_the_method_of_its_role_is_an_error_that_names_it(role):
    class Silent(EqualByConfig, ValueSource):
        roles = frozenset({role})

        def get_config(self):
            return {}

    layer = {
        "bank": lambda: SlotDense(3, name="hidden", bank_initializer=Silent()),
        "scores": lambda: SlotDense(3, name="hidden", score_initializer=Silent()),
        "start": lambda: SlotDense(3, name="hidden", score_initializer=NearestScores(Silent())),
    }[role]()
    method = {"bank": "rows", "scores": "score_rows", "start": "start_rows"}[role]
    with pytest.raises(ValueError, match=f"'hidden'.*`Silent` must have a method `{method}`"):
        layer.build((None, 4))
