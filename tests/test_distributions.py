"""Distributions against closed forms, hand numbers and Keras' own."""

import hashlib
import math

import keras
import numpy as np
import pytest

from keras_slots.values import initializers
from keras_slots.values.distributions import (
    Distribution,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    SignedConstant,
    UniformScores,
    VarianceScaling,
)
from keras_slots.values.initializers import compute_fans
from keras_slots.values.philox import BANK_STREAM, SCORE_STREAM
from value_cases import ALL, CLASSES, FANS, PRESETS, in_json, one_round_trip


@pytest.mark.parametrize("name", PRESETS)
def test_sample_has_mean_variance_and_bound_of_the_formula(name):
    cls, stddev, bound = PRESETS[name]
    count = 400_000
    values = cls().sample(1, count, FANS).astype(np.float64)
    square = values**2
    assert abs(values.mean()) < 5 * stddev / math.sqrt(count)
    assert abs(square.mean() - stddev**2) < 5 * square.std() / math.sqrt(count) + 1e-7 * stddev**2
    assert np.abs(values).max() <= bound * (1 + 1e-7)
    assert np.abs(values).max() > 0.99 * bound
    assert cls().rms(FANS) == pytest.approx(stddev, rel=1e-12)


def test_uniform_scores_go_from_zero_to_the_glorot_bound():
    count, bound = 400_000, math.sqrt(6 / 400)
    values = UniformScores(0.1).sample(1, count, FANS).astype(np.float64)
    assert values.min() >= 0
    assert 0.0999 * bound < values.max() < 0.1 * bound
    standard_error = 0.1 * bound / math.sqrt(12 * count)
    assert abs(values.mean() - 0.05 * bound) < 5 * standard_error
    assert abs(values.var() - (0.1 * bound) ** 2 / 12) < 5 * 0.01 * bound**2 / math.sqrt(180 * count)


def test_signed_constant_has_exactly_two_values():
    constant = float(np.float32(math.sqrt(2 / 300)))
    values = SignedConstant().sample(0, 1000, FANS)
    assert set(values.tolist()) == {constant, -constant}


def test_glorot_uniform_at_seed_zero_is_the_hand_number():
    # first word of philox4x64-10 at key (0, 0), counter 0: 0xca36314c
    u = (0xCA36314C >> 8) / 2**24
    bound = np.float32(math.sqrt(6 / 400))
    first = GlorotUniform().sample(0, 1, FANS)[0]
    assert first == bound * np.float32(2 * u - 1)


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_sample_of_a_window_is_a_slice_of_the_whole(distribution):
    whole = distribution.sample(5, 10_000, FANS)
    for start, count in [(0, 10_000), (8, 1), (13, 4097), (9999, 1)]:
        window = distribution.sample(5, count, FANS, start=start)
        np.testing.assert_array_equal(window, whole[start : start + count])


@pytest.mark.parametrize("cls", [*CLASSES, UniformScores])
def test_scale_multiplies_every_value(cls):
    plain = cls().sample(5, 1000, FANS)
    np.testing.assert_array_equal(cls(scale=4.0).sample(5, 1000, FANS), 4 * plain)
    np.testing.assert_allclose(cls(scale=0.3).sample(5, 1000, FANS), 0.3 * plain, rtol=3e-7)


@pytest.mark.parametrize("cls", CLASSES)
def test_sample_gives_uncorrelated_banks_and_scores_of_one_seed(cls):
    count = 100_000
    bank = cls().sample(9, count, FANS)
    scores = UniformScores().sample(9, count, FANS)
    assert abs(np.corrcoef(bank, scores)[0, 1]) < 5 / math.sqrt(count)


def test_sample_takes_the_stream_of_banks_or_scores_by_default():
    for distribution, stream in [(GlorotUniform(), BANK_STREAM), (UniformScores(), SCORE_STREAM)]:
        default = distribution.sample(3, 100, FANS)
        np.testing.assert_array_equal(default, distribution.sample(3, 100, FANS, stream=stream))
        other = distribution.sample(3, 100, FANS, stream=1 - stream)
        assert (default != other).any()


def test_sample_of_different_seeds_differs():
    samples = [GlorotUniform().sample(seed, 1000, FANS) for seed in range(100)]
    assert len({bank.tobytes() for bank in samples}) == 100


def test_distribution_with_a_seed_ignores_that_of_the_layer():
    expected = HeUniform().sample(7, 100, FANS)
    np.testing.assert_array_equal(HeUniform(seed=7).sample(123, 100, FANS), expected)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("shape", ["uniform", "truncated_normal"])
def test_variance_scaling_has_the_moments_of_its_keras_namesake(mode, shape):
    kernel_shape = (400, 300)
    ours = VarianceScaling(1.7, mode, shape).sample(1, 120_000, compute_fans(kernel_shape))
    theirs = keras.initializers.VarianceScaling(1.7, mode, shape, seed=1)(kernel_shape)
    theirs = keras.ops.convert_to_numpy(theirs)
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.02)
    np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.01)


def test_rms_counts_an_empty_fan_as_one_as_keras_does():
    assert HeUniform().rms((0, 0)) == math.sqrt(2)


@pytest.mark.parametrize(
    ("name", "checksum"),
    [
        ("glorot_uniform", "a83961c578c9eefab9b82f5d78da5d63c2eddfd974539b0ed6a34ce01f8b667a"),
        ("glorot_normal", "6882114451331e2f1a6913a2ef628c346f8b9bb8270c019a0a5733642b4ff00d"),
        ("he_uniform", "b0d790b19e12c108d70f3d11e571169dec42128e4672f0980fb8fe6025be7c6a"),
        ("he_normal", "dd00129fec4f31a518ff695aaf6c868491831d4d064491b4109a730e1a088db0"),
        ("signed_constant", "64f4ebcc483328ab2d416fadefe0489a2b8e9ba6bedd98716efd720c75d10629"),
        ("uniform_scores", "9ab3eb74a110ac12702fee85c318839d60208920fb16c2b9fc031ebfbce9e4fb"),
    ],
)
def test_sample_has_golden_checksums(name, checksum):
    distribution = initializers.get_scores(name)
    values = distribution.sample(20_240_607, 100_000, compute_fans((3, 3, 64, 128)), start=77)
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == checksum


def test_variance_scaling_has_a_golden_checksum():
    distribution = VarianceScaling(1.0, "fan_out", "truncated_normal", scale=0.7)
    values = distribution.sample(2**63 + 1, 100_000, (11, 13))
    assert (
        hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
        == "a80d6850428616e20ebd529a4c6822fd4af9da1f9a5b34699fae53c2cd663777"
    )


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_distribution_survives_json(distribution):
    for copy in (
        one_round_trip(distribution),
        type(distribution).from_config(in_json(distribution.get_config())),
        initializers.get_scores(in_json(initializers.serialize(distribution))),
    ):
        assert type(copy) is type(distribution)
        assert copy == distribution
        assert hash(copy) == hash(distribution)
        np.testing.assert_array_equal(copy.sample(3, 50, FANS), distribution.sample(3, 50, FANS))


def test_distribution_is_registered_under_the_package():
    registered = keras.saving.serialize_keras_object(HeNormal())["registered_name"]
    assert registered == "keras_slots>HeNormal"


def test_distribution_equals_only_its_own_class_and_arguments():
    distinct = [*ALL, HeNormal(), HeNormal(2.0), GlorotNormal(), HeNormal(seed=1)]
    assert len(set(distinct)) == len(distinct)
    assert HeNormal(2) == HeNormal(2.0)
    assert HeNormal() != "he_normal"
    assert HeUniform() != VarianceScaling(2.0, "fan_in", "uniform")


def test_distribution_repr_is_the_call_that_makes_it():
    assert repr(HeNormal(2.0, seed=3)) == "HeNormal(scale=2.0, seed=3)"
    assert repr(VarianceScaling(3.0, "fan_out", "uniform", seed=4)) == (
        "VarianceScaling(variance=3.0, mode='fan_out', distribution='uniform', scale=1.0, seed=4)"
    )


@pytest.mark.parametrize("cls", [*CLASSES, UniformScores, VarianceScaling])
@pytest.mark.parametrize(
    "scale", [0, -1.0, math.nan, math.inf, True, np.True_, "1", None, 1j, [1.0], 10**400, np.ones(1)]
)
def test_distribution_refuses_a_scale_that_is_no_positive_number(cls, scale):
    with pytest.raises(ValueError, match=r"`scale` must be a positive finite number. Received: sc"):
        cls(scale=scale)


@pytest.mark.parametrize("scale", [1, np.float32(1.0), np.int64(1), np.float64(1.0)])
def test_distribution_keeps_a_numpy_scale_as_a_python_float(scale):
    assert type(HeNormal(scale).get_config()["scale"]) is float


@pytest.mark.parametrize("scale", [1e-300, 1e-35, 1e40, 1e300])
def test_sample_refuses_values_outside_float32(scale):
    with pytest.raises(ValueError, match=r"`scale` must give values that float32 can hold.*nearer"):
        GlorotUniform(scale).sample(0, 10, FANS)


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**64, "3"])
def test_distribution_refuses_a_bad_seed(seed):
    with pytest.raises(ValueError, match=r"`seed` must be an integer, .*Received: seed="):
        GlorotUniform(seed=seed)


@pytest.mark.parametrize("fans", [(3,), (1, 2, 3), (-1, 3), (3, math.inf), (math.nan, 3)])
def test_sample_refuses_bad_fans(fans):
    with pytest.raises(ValueError, match=r"`fans` must be a pair .*Received: fans=.*compute_fans"):
        GlorotUniform().sample(0, 10, fans)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variance": 0.0}, "`variance` must be a positive finite number. Received: variance=0.0"),
        ({"mode": "fan"}, '`mode` must be "fan_in", .* Received: mode=.fan.'),
        ({"mode": None}, '`mode` must be "fan_in", .* Received: mode=None'),
        ({"distribution": "normal"}, "`distribution` must be .*='normal'"),
        ({"distribution": "positive_uniform"}, '`distribution` must be "uniform", "truncated_normal" or'),
        ({"distribution": "untruncated_normal"}, "unbounded.*RandomNormal"),
    ],
)
def test_variance_scaling_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        VarianceScaling(**arguments)


def test_distribution_is_the_base_of_all():
    assert all(isinstance(distribution, Distribution) for distribution in ALL)
