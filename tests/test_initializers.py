"""Names, objects and configurations of distributions, and fans by Keras' rules."""

import math

import keras
import numpy as np
import pytest

from keras_slots.values import initializers
from keras_slots.values.distributions import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    UniformScores,
    VarianceScaling,
)
from keras_slots.values.initializers import compute_fans
from keras_slots.values.value_bank import ValueBank
from value_cases import ALL, PRESETS, in_json, named


@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((), (1, 1)),
        ((7,), (7, 7)),
        ((784, 300), (784, 300)),
        ((5, 16, 32), (80, 160)),
        ((3, 3, 16, 32), (144, 288)),
        ((2, 3, 4, 5, 6), (120, 144)),
    ],
)
def test_compute_fans_of_hand_worked_shapes(shape, fans):
    assert compute_fans(shape) == fans


@pytest.mark.parametrize("shape", [(7,), (7, 8), (2, 7, 8), (2, 3, 7, 8), (2, 3, 4, 7, 8)])
def test_compute_fans_follows_the_rule_of_keras(shape):
    values = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform", seed=1)((*shape,))
    limit_in = math.sqrt(3 / compute_fans(shape)[0])
    assert 0.5 * limit_in < np.abs(keras.ops.convert_to_numpy(values)).max() <= limit_in * 1.000001
    values = keras.initializers.VarianceScaling(1.0, "fan_out", "uniform", seed=1)((*shape,))
    limit_out = math.sqrt(3 / compute_fans(shape)[1])
    assert 0.5 * limit_out < np.abs(keras.ops.convert_to_numpy(values)).max() < limit_out * 1.000001


@pytest.mark.parametrize("name", PRESETS)
def test_get_knows_each_name(name):
    assert initializers.get(name) == PRESETS[name][0]()


@pytest.mark.parametrize("distribution", ALL[:-1], ids=named)
def test_get_returns_our_objects_as_they_are(distribution):
    assert initializers.get(distribution) is distribution


def test_get_makes_an_object_of_a_class():
    assert initializers.get(HeNormal) == HeNormal()
    assert initializers.get(keras.initializers.HeNormal) == HeNormal()


@pytest.mark.parametrize(
    ("initializer", "distribution"),
    [
        (keras.initializers.GlorotUniform(), GlorotUniform()),
        (keras.initializers.GlorotNormal(), GlorotNormal()),
        (keras.initializers.HeUniform(), HeUniform()),
        (keras.initializers.HeNormal(), HeNormal()),
        (keras.initializers.LecunUniform(), VarianceScaling(1.0, "fan_in", "uniform")),
        (keras.initializers.LecunNormal(), VarianceScaling(1.0, "fan_in", "truncated_normal")),
        (
            keras.initializers.VarianceScaling(3.0, "fan_avg", "uniform"),
            VarianceScaling(3.0, "fan_avg", "uniform"),
        ),
        (keras.initializers.GlorotUniform(seed=5), GlorotUniform(seed=5)),
        (keras.initializers.LecunNormal(seed=5), VarianceScaling(seed=5)),
        ("GlorotNormal", GlorotNormal()),
        ("lecun_uniform", VarianceScaling(1.0, "fan_in", "uniform")),
        ({"class_name": "HeNormal", "config": {"seed": 2}}, HeNormal(seed=2)),
    ],
    ids=named,
)
def test_get_turns_a_keras_initializer_into_the_equal_distribution(initializer, distribution):
    assert initializers.get(initializer) == distribution
    assert initializers.get_scores(initializer) == distribution
    if isinstance(initializer, keras.initializers.Initializer):
        serialized = in_json(keras.saving.serialize_keras_object(initializer))
        assert initializers.get(serialized) == distribution


def test_get_keeps_the_moments_of_a_keras_initializer():
    kernel_shape = (3, 3, 32, 64)
    for name in ["GlorotUniform", "GlorotNormal", "HeUniform", "HeNormal", "LecunUniform"]:
        initializer = getattr(keras.initializers, name)(seed=1)
        theirs = keras.ops.convert_to_numpy(initializer(kernel_shape))
        ours = initializers.get(initializer).sample(0, theirs.size, compute_fans(kernel_shape))
        np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.02)
        np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.01)


def test_get_takes_a_new_seed_of_a_seed_generator_each_time():
    def seeds():
        generator = keras.random.SeedGenerator(11)
        initializer = keras.initializers.GlorotUniform(seed=generator)
        return [initializers.get(initializer).seed for _ in range(3)]

    assert len(set(seeds())) == 3
    assert seeds() == seeds()


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.RandomUniform(-1, 1, seed=1),
        keras.initializers.Constant(0.5),
        keras.initializers.Orthogonal(seed=1),
    ],
)
def test_get_returns_other_keras_initializers_as_they_are(initializer):
    assert initializers.get(initializer) is initializer
    assert initializers.get_scores(initializer) is initializer


def test_get_finds_names_of_other_keras_initializers():
    assert isinstance(initializers.get("zeros"), keras.initializers.Zeros)
    restored = initializers.get(in_json(initializers.serialize(keras.initializers.Constant(0.5))))
    assert isinstance(restored, keras.initializers.Constant)
    assert restored.value == 0.5


@pytest.mark.parametrize("get", [initializers.get, initializers.get_scores])
@pytest.mark.parametrize("name", ["random_uniform", "random_normal", "truncated_normal"])
def test_get_takes_what_can_only_be_meant_of_keras(get, name):
    expected = type(keras.initializers.get(name))
    assert type(get(name)) is type(get(expected())) is expected
    assert type(get(in_json(initializers.serialize(expected())))) is expected


@pytest.mark.parametrize("get", [initializers.get, initializers.get_scores])
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_get_refuses_a_name_that_says_no_more_than_the_kind_of_a_distribution(get, name):
    with pytest.raises(ValueError, match=rf"whose size does not depend.*\.Random{name.title()}\(\)"):
        get(name)


def test_get_replaces_no_subclass_of_a_keras_initializer():
    class Mine(keras.initializers.HeNormal):
        pass

    mine = Mine(seed=0)
    assert initializers.get(mine) is mine


@pytest.mark.parametrize(
    "identifier", ["glorot", "Glorot_Uniform", "", None, 3, 0.5, {}, {"class_name": "Nothing", "config": {}}]
)
def test_get_refuses_what_is_unknown_and_lists_the_names(identifier):
    with pytest.raises(ValueError, match=r"`bank_initializer` must be one of") as caught:
        initializers.get(identifier)
    for part in [*map(repr, PRESETS), f"Received: bank_initializer={identifier!r}", "for example"]:
        assert part in str(caught.value)
    assert isinstance(identifier, dict) or "Cause:" not in str(caught.value)


def test_get_refuses_a_bad_configuration_with_its_cause():
    config = initializers.serialize(HeNormal())
    config["config"]["scale"] = -1.0
    with pytest.raises(ValueError, match=r"`bank_initializer` must be one of") as caught:
        initializers.get(config)
    assert "`scale` must be a positive finite number" in str(caught.value)
    config["config"] = {"unknown": 1}
    with pytest.raises(ValueError, match=r"`bank_initializer` must be one of"):
        initializers.get(config)


def test_get_scores_refuses_what_is_unknown_and_lists_the_names():
    with pytest.raises(ValueError, match=r"`score_initializer` must be one of 'uniform_scores'"):
        initializers.get_scores("uniform_score")


def test_get_scores_is_uniform_when_nothing_is_said():
    assert initializers.get_scores(None) == UniformScores(1.0)
    assert initializers.get_scores("uniform_scores") == UniformScores(1.0)


def test_get_refuses_scores_and_value_banks():
    with pytest.raises(ValueError, match=r"not of scores.*Pass it as `score_initializer`"):
        initializers.get(UniformScores())
    with pytest.raises(ValueError, match=r"cannot be a `ValueBank`.*Pass it as `sharing`"):
        initializers.get(ValueBank(2, bound=0.1, seed=1))
    with pytest.raises(ValueError, match=r"cannot be a `ValueBank`.*Pass it as `sharing`"):
        initializers.get_scores(initializers.serialize(ValueBank(2, bound=0.1, seed=1)))


def test_get_refuses_an_untruncated_normal_with_the_way_out():
    initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")
    with pytest.raises(ValueError, match=r"unbounded.*RandomNormal\(stddev="):
        initializers.get(initializer)


def test_get_refuses_fan_axes():
    axes = {"input_axes": [0], "output_axes": [1]}
    try:
        initializer = keras.initializers.VarianceScaling(**axes)
    except TypeError:  # Keras before these arguments
        initializer = keras.initializers.VarianceScaling()
        initializer.input_axes, initializer.output_axes = [0], [1]
    with pytest.raises(ValueError, match=r"`bank_initializer` cannot have `input_axes`.*\[0\]"):
        initializers.get(initializer)


def test_serialize_of_nothing_is_nothing():
    assert initializers.serialize(None) is None
