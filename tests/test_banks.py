"""Distributions, their lookup by name, and value banks, against closed forms and Keras' rules."""

import hashlib
import json
import math
import random

import keras
import numpy as np
import pytest

from keras_slots import banks
from keras_slots.banks import (
    Distribution,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    SignedConstant,
    UniformScores,
    ValueBank,
    VarianceScaling,
    compute_fans,
)
from keras_slots.random_streams import BANK_STREAM, SCORE_STREAM

FANS = (300, 100)
GLOROT, HE = math.sqrt(2 / 400), math.sqrt(2 / 300)
# standard deviation and bound of each, in closed form
PRESETS = {
    "glorot_uniform": (GlorotUniform, GLOROT, math.sqrt(6 / 400)),
    "glorot_normal": (GlorotNormal, GLOROT, 2 * GLOROT / 0.87962566103423978),
    "he_uniform": (HeUniform, HE, math.sqrt(6 / 300)),
    "he_normal": (HeNormal, HE, 2 * HE / 0.87962566103423978),
    "signed_constant": (SignedConstant, HE, HE),
}
CLASSES = [entry[0] for entry in PRESETS.values()]
ALL = [
    *(cls(0.5) for cls in CLASSES),
    HeNormal(seed=2**64 - 1),
    VarianceScaling(3.0, "fan_out", "uniform", scale=0.25, seed=4),
    VarianceScaling(),
    UniformScores(0.1),
]


def in_json(config):
    return json.loads(json.dumps(config))


def one_round_trip(obj):
    return keras.saving.deserialize_keras_object(in_json(keras.saving.serialize_keras_object(obj)))


# --- values


@pytest.mark.parametrize("name", PRESETS)
def test_mean_variance_and_bound_are_those_of_the_formula(name):
    cls, stddev, bound = PRESETS[name]
    count = 400_000
    values = cls().sample(1, count, FANS).astype(np.float64)
    square = values**2
    assert abs(values.mean()) < 5 * stddev / math.sqrt(count)
    assert abs(square.mean() - stddev**2) < 5 * square.std() / math.sqrt(count) + 1e-7 * stddev**2
    assert np.abs(values).max() <= bound * (1 + 1e-7)
    assert np.abs(values).max() > 0.999 * bound
    assert cls().rms(FANS) == pytest.approx(stddev, rel=1e-12)


def test_scores_are_uniform_from_zero_to_the_glorot_bound():
    count, bound = 400_000, math.sqrt(6 / 400)
    values = UniformScores(0.1).sample(1, count, FANS).astype(np.float64)
    assert values.min() >= 0
    assert 0.0999 * bound < values.max() < 0.1 * bound
    standard_error = 0.1 * bound / math.sqrt(12 * count)
    assert abs(values.mean() - 0.05 * bound) < 5 * standard_error
    assert abs(values.var() - (0.1 * bound) ** 2 / 12) < 5 * 0.01 * bound**2 / math.sqrt(
        180 * count
    )


def test_signed_constant_has_exactly_two_values():
    constant = float(np.float32(math.sqrt(2 / 300)))
    values = SignedConstant().sample(0, 1000, FANS)
    assert set(values.tolist()) == {constant, -constant}


def test_hand_numbers_of_the_glorot_uniform_bank_at_seed_zero():
    # first word of philox4x64-10 at key (0, 0), counter 0: 0xca36314c
    u = (0xCA36314C >> 8) / 2**24
    bound = np.float32(math.sqrt(6 / 400))
    first = GlorotUniform().sample(0, 1, FANS)[0]
    assert first == bound * np.float32(2 * u - 1)


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_a_window_is_a_slice_of_the_bank(distribution):
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
def test_bank_and_scores_of_one_seed_are_uncorrelated(cls):
    count = 100_000
    bank = cls().sample(9, count, FANS)
    scores = UniformScores().sample(9, count, FANS)
    assert abs(np.corrcoef(bank, scores)[0, 1]) < 5 / math.sqrt(count)


def test_scores_take_the_score_stream_and_banks_the_bank_stream_by_default():
    for distribution, stream in [(GlorotUniform(), BANK_STREAM), (UniformScores(), SCORE_STREAM)]:
        default = distribution.sample(3, 100, FANS)
        np.testing.assert_array_equal(default, distribution.sample(3, 100, FANS, stream=stream))
        other = distribution.sample(3, 100, FANS, stream=1 - stream)
        assert (default != other).any()


def test_different_seeds_give_different_banks():
    banks_of_seeds = [GlorotUniform().sample(seed, 1000, FANS) for seed in range(100)]
    assert len({bank.tobytes() for bank in banks_of_seeds}) == 100


def test_an_explicit_seed_replaces_that_of_the_layer():
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


def test_an_empty_fan_counts_as_one_as_in_keras():
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
def test_golden_checksums_of_the_distributions(name, checksum):
    distribution = banks.get_scores(name)
    values = distribution.sample(20_240_607, 100_000, compute_fans((3, 3, 64, 128)), start=77)
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == checksum


def test_golden_checksum_of_variance_scaling():
    distribution = VarianceScaling(1.0, "fan_out", "truncated_normal", scale=0.7)
    values = distribution.sample(2**63 + 1, 100_000, (11, 13))
    assert (
        hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
        == "a80d6850428616e20ebd529a4c6822fd4af9da1f9a5b34699fae53c2cd663777"
    )


# --- fans


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
def test_fans_of_hand_worked_shapes(shape, fans):
    assert compute_fans(shape) == fans


@pytest.mark.parametrize("shape", [(7,), (7, 8), (2, 7, 8), (2, 3, 7, 8), (2, 3, 4, 7, 8)])
def test_fans_follow_the_rule_of_keras(shape):
    values = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform", seed=1)((*shape,))
    limit_in = math.sqrt(3 / compute_fans(shape)[0])
    assert 0.5 * limit_in < np.abs(keras.ops.convert_to_numpy(values)).max() <= limit_in * 1.000001
    values = keras.initializers.VarianceScaling(1.0, "fan_out", "uniform", seed=1)((*shape,))
    limit_out = math.sqrt(3 / compute_fans(shape)[1])
    assert 0.5 * limit_out < np.abs(keras.ops.convert_to_numpy(values)).max() < limit_out * 1.000001


# --- configuration


@pytest.mark.parametrize("distribution", ALL, ids=repr)
def test_a_distribution_survives_json(distribution):
    for copy in (
        one_round_trip(distribution),
        type(distribution).from_config(in_json(distribution.get_config())),
        banks.get_scores(in_json(banks.serialize(distribution))),
    ):
        assert type(copy) is type(distribution)
        assert copy == distribution
        assert hash(copy) == hash(distribution)
        np.testing.assert_array_equal(copy.sample(3, 50, FANS), distribution.sample(3, 50, FANS))


def test_registered_names_carry_the_package():
    registered = keras.saving.serialize_keras_object(HeNormal())["registered_name"]
    assert registered == "keras_slots>HeNormal"


def test_distributions_are_equal_only_when_class_and_arguments_are():
    distinct = [*ALL, HeNormal(), HeNormal(2.0), GlorotNormal(), HeNormal(seed=1)]
    assert len(set(distinct)) == len(distinct)
    assert HeNormal(2) == HeNormal(2.0)
    assert HeNormal() != "he_normal"
    assert HeUniform() != VarianceScaling(2.0, "fan_in", "uniform")


def test_repr_is_the_call_that_makes_the_object():
    assert repr(HeNormal(2.0, seed=3)) == "HeNormal(scale=2.0, seed=3)"
    assert repr(VarianceScaling(3.0, "fan_out", "uniform", seed=4)) == (
        "VarianceScaling(variance=3.0, mode='fan_out', distribution='uniform', scale=1.0, seed=4)"
    )
    assert repr(ValueBank(8, bound=0.1, seed=3)) == "ValueBank(num_values=8, bound=0.1, seed=3)"
    assert repr(ValueBank(values=[0.5, 1])) == "ValueBank(values=[0.5, 1.0])"


@pytest.mark.parametrize("cls", [*CLASSES, UniformScores, VarianceScaling])
@pytest.mark.parametrize(
    "scale",
    [0, -1.0, math.nan, math.inf, True, np.True_, "1", None, 1j, [1.0], 10**400, np.ones(1)],
)
def test_a_scale_that_is_no_positive_number_is_refused(cls, scale):
    with pytest.raises(ValueError, match=r"`scale` must be a positive finite number. Received: sc"):
        cls(scale=scale)


@pytest.mark.parametrize("scale", [1, np.float32(1.0), np.int64(1), np.float64(1.0)])
def test_a_numpy_scale_is_kept_as_a_python_float(scale):
    assert type(HeNormal(scale).get_config()["scale"]) is float


@pytest.mark.parametrize("scale", [1e-300, 1e-35, 1e40, 1e300])
def test_values_outside_float32_are_refused(scale):
    with pytest.raises(ValueError, match=r"`scale` must give values that float32 can hold.*nearer"):
        GlorotUniform(scale).sample(0, 10, FANS)


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**64, "3"])
def test_a_bad_seed_of_a_distribution_is_refused(seed):
    with pytest.raises(ValueError, match=r"`seed` must be an integer, .*Received: seed="):
        GlorotUniform(seed=seed)


@pytest.mark.parametrize("fans", [(3,), (1, 2, 3), (-1, 3), (3, math.inf), (math.nan, 3)])
def test_bad_fans_are_refused(fans):
    with pytest.raises(ValueError, match=r"`fans` must be a pair .*Received: fans=.*compute_fans"):
        GlorotUniform().sample(0, 10, fans)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variance": 0.0}, "`variance` must be a positive finite number. Received: variance=0.0"),
        ({"mode": "fan"}, "`mode` must be one of 'fan_in', .* Received: mode='fan'"),
        ({"mode": None}, "`mode` must be one of 'fan_in', .* Received: mode=None"),
        ({"distribution": "normal"}, "`distribution` must be one of .*='normal'"),
        ({"distribution": "positive_uniform"}, "`distribution` must be one of 'uniform'"),
        ({"distribution": "untruncated_normal"}, "unbounded.*RandomNormal"),
    ],
)
def test_bad_arguments_of_variance_scaling_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VarianceScaling(**arguments)


# --- lookup


@pytest.mark.parametrize("name", PRESETS)
def test_each_name_gives_its_distribution(name):
    assert banks.get(name) == PRESETS[name][0]()


@pytest.mark.parametrize("distribution", ALL[:-1], ids=repr)
def test_get_returns_our_objects_as_they_are(distribution):
    assert banks.get(distribution) is distribution


def test_get_makes_an_object_of_a_class():
    assert banks.get(HeNormal) == HeNormal()
    assert banks.get(keras.initializers.HeNormal) == HeNormal()


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
    ids=repr,
)
def test_keras_variance_scaling_becomes_the_equal_distribution(initializer, distribution):
    assert banks.get(initializer) == distribution
    assert banks.get_scores(initializer) == distribution
    if isinstance(initializer, keras.initializers.Initializer):
        serialized = in_json(keras.saving.serialize_keras_object(initializer))
        assert banks.get(serialized) == distribution


def test_a_mapped_keras_initializer_has_its_moments_on_a_kernel():
    kernel_shape = (3, 3, 32, 64)
    for name in ["GlorotUniform", "GlorotNormal", "HeUniform", "HeNormal", "LecunUniform"]:
        initializer = getattr(keras.initializers, name)(seed=1)
        theirs = keras.ops.convert_to_numpy(initializer(kernel_shape))
        ours = banks.get(initializer).sample(0, theirs.size, compute_fans(kernel_shape))
        np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.02)
        np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.01)


def test_each_use_of_a_seed_generator_gives_another_seed_and_the_run_repeats():
    def seeds():
        generator = keras.random.SeedGenerator(11)
        initializer = keras.initializers.GlorotUniform(seed=generator)
        return [banks.get(initializer).seed for _ in range(3)]

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
def test_other_keras_initializers_are_returned_as_they_are(initializer):
    assert banks.get(initializer) is initializer
    assert banks.get_scores(initializer) is initializer


def test_names_of_other_keras_initializers_are_found():
    assert isinstance(banks.get("zeros"), keras.initializers.Zeros)
    restored = banks.get(in_json(banks.serialize(keras.initializers.Constant(0.5))))
    assert isinstance(restored, keras.initializers.Constant)
    assert restored.value == 0.5


def test_a_subclass_of_a_keras_initializer_is_not_replaced():
    class Mine(keras.initializers.HeNormal):
        pass

    mine = Mine(seed=0)
    assert banks.get(mine) is mine


@pytest.mark.parametrize(
    "identifier",
    ["glorot", "Glorot_Uniform", "", None, 3, 0.5, {}, {"class_name": "Nothing", "config": {}}],
)
def test_an_unknown_bank_initializer_is_refused_with_the_names(identifier):
    with pytest.raises(ValueError, match=r"`bank_initializer` must be one of") as caught:
        banks.get(identifier)
    for part in [*map(repr, PRESETS), f"Received: bank_initializer={identifier!r}", "for example"]:
        assert part in str(caught.value)


def test_a_bad_configuration_is_refused_with_its_cause():
    config = banks.serialize(HeNormal())
    config["config"]["scale"] = -1.0
    with pytest.raises(ValueError, match=r"`bank_initializer` must be one of") as caught:
        banks.get(config)
    assert "`scale` must be a positive finite number" in str(caught.value)
    config["config"] = {"unknown": 1}
    with pytest.raises(ValueError, match=r"`bank_initializer` must be one of"):
        banks.get(config)


def test_an_unknown_score_initializer_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"`score_initializer` must be one of 'uniform_scores'"):
        banks.get_scores("uniform_score")


def test_scores_start_uniform_when_nothing_is_said():
    assert banks.get_scores(None) == UniformScores(1.0)
    assert banks.get_scores("uniform_scores") == UniformScores(1.0)


def test_score_distributions_and_value_banks_are_refused_as_bank_initializer():
    with pytest.raises(ValueError, match=r"not of scores.*Pass it as `score_initializer`"):
        banks.get(UniformScores())
    with pytest.raises(ValueError, match=r"cannot be a `ValueBank`.*Pass it as `sharing`"):
        banks.get(ValueBank(2, bound=0.1, seed=1))
    with pytest.raises(ValueError, match=r"cannot be a `ValueBank`.*Pass it as `sharing`"):
        banks.get_scores(banks.serialize(ValueBank(2, bound=0.1, seed=1)))


def test_untruncated_normal_is_refused_with_the_way_out():
    initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")
    with pytest.raises(ValueError, match=r"unbounded.*RandomNormal\(stddev="):
        banks.get(initializer)


def test_own_fan_axes_are_refused():
    axes = {"input_axes": [0], "output_axes": [1]}
    try:
        initializer = keras.initializers.VarianceScaling(**axes)
    except TypeError:  # Keras before these arguments
        initializer = keras.initializers.VarianceScaling()
        initializer.input_axes, initializer.output_axes = [0], [1]
    with pytest.raises(ValueError, match=r"`bank_initializer` cannot have `input_axes`.*\[0\]"):
        banks.get(initializer)


def test_serialize_of_nothing_is_nothing():
    assert banks.serialize(None) is None


# --- value banks


def test_a_drawn_value_bank_is_uniform_between_its_bounds():
    bank = ValueBank(50_000, bound=0.1, seed=3)
    assert bank.num_values == 50_000
    assert bank.values.dtype == np.float32
    assert np.abs(bank.values).max() <= np.float32(0.1)
    standard_error = 0.1 / math.sqrt(3 * 50_000)
    assert abs(bank.values.mean(dtype=np.float64)) < 5 * standard_error
    assert bank.values.var(dtype=np.float64) == pytest.approx(0.01 / 3, rel=0.03)


def test_a_given_value_bank_holds_the_float32_of_its_values():
    bank = ValueBank(values=[-0.1, 0.25, 3])
    assert bank.num_values == 3
    np.testing.assert_array_equal(bank.values, np.array([-0.1, 0.25, 3], dtype=np.float32))
    assert ValueBank(3, values=np.array([-0.1, 0.25, 3])) == bank


@pytest.mark.parametrize(
    "bank",
    [
        ValueBank(8, bound=0.1, seed=3),
        ValueBank(8, bound=0.1),
        ValueBank(values=[0.1, -0.2, 1e-30]),
        ValueBank(values=np.linspace(-1, 1, 7, dtype=np.float64)),
    ],
    ids=repr,
)
def test_a_value_bank_survives_json_with_its_values(bank):
    for copy in (one_round_trip(bank), ValueBank.from_config(in_json(bank.get_config()))):
        assert copy == bank
        assert hash(copy) == hash(bank)
        assert copy.get_config() == bank.get_config()
        np.testing.assert_array_equal(copy.values, bank.values)


def test_an_unseeded_value_bank_is_governed_by_the_global_seed():
    keras.utils.set_random_seed(5)
    first, second = ValueBank(8, bound=0.1), ValueBank(8, bound=0.1)
    assert first != second
    random.seed(5)
    assert ValueBank(8, bound=0.1) == first


def test_value_banks_are_equal_when_their_values_are():
    drawn = ValueBank(8, bound=0.1, seed=3)
    assert ValueBank(values=drawn.values) == drawn
    assert ValueBank(8, bound=0.1, seed=4) != drawn
    assert ValueBank(values=[0.0]) != ValueBank(values=[-0.0])
    assert drawn != "bank"


def test_a_value_bank_shares_no_value_with_the_bank_of_a_layer_of_its_seed():
    shared = ValueBank(1000, bound=1.0, seed=3).values
    own = VarianceScaling(1 / 3, "fan_in", "uniform").sample(3, 1000, (1, 1))
    assert np.isin(shared, own).sum() == 0


def test_the_values_of_a_value_bank_cannot_be_written():
    given = np.array([0.1, 0.2], dtype=np.float32)
    bank = ValueBank(values=given)
    given[0] = 5.0
    assert bank.values[0] == np.float32(0.1)
    for fixed in (bank, ValueBank(2, bound=1.0, seed=1)):
        with pytest.raises(ValueError, match="read-only"):
            fixed.values[0] = 1.0


def test_golden_checksum_of_a_value_bank():
    values = ValueBank(64, bound=0.1, seed=3).values
    assert (
        hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
        == "6bddbab4c49f8fd8e4cc415b361e73091e0b758396ee497bac578a15febcbbf3"
    )


@pytest.mark.parametrize("num_values", [0, -1, 2.0, True, "8", None, 2**16 + 1])
def test_a_bad_number_of_drawn_values_is_refused(num_values):
    with pytest.raises(ValueError, match=r"`num_values` must be an integer from 1 to 65536. Rece"):
        ValueBank(num_values, bound=0.1)


@pytest.mark.parametrize("bound", [0, -0.1, math.nan, math.inf, True, "1", [0.1]])
def test_a_bound_that_is_no_positive_number_is_refused(bound):
    with pytest.raises(ValueError, match=r"`bound` must be a positive finite number. Received: b"):
        ValueBank(8, bound=bound)


def test_a_missing_bound_is_refused_with_an_example():
    with pytest.raises(ValueError, match=r"`bound` must be given .*`bound=0.1`"):
        ValueBank(8)


@pytest.mark.parametrize("bound", [1e-300, 1e39])
def test_a_bound_outside_float32_is_refused(bound):
    with pytest.raises(ValueError, match=r"`bound` must be a number that float32 can hold"):
        ValueBank(8, bound=bound)


def test_a_bad_seed_of_a_value_bank_is_refused():
    with pytest.raises(ValueError, match=r"`seed` must be an integer"):
        ValueBank(8, bound=0.1, seed=-1)


@pytest.mark.parametrize(
    "values",
    [[], [[0.1]], 0.1, [math.nan], [math.inf], [1e39], ["a"], "ab", [True], [1j], [[1], [1, 2]]],
)
def test_bad_values_of_a_value_bank_are_refused(values):
    with pytest.raises(ValueError, match=r"`values` must be 1 to 65536 finite numbers in one dim"):
        ValueBank(values=values)


@pytest.mark.parametrize("arguments", [{"bound": 0.1}, {"seed": 3}])
def test_values_together_with_a_way_to_draw_them_are_refused(arguments):
    with pytest.raises(ValueError, match=r"`values` cannot be combined with `bound` or `seed`"):
        ValueBank(values=[0.1], **arguments)


def test_a_number_that_contradicts_the_values_is_refused():
    with pytest.raises(ValueError, match=r"`num_values` must be the number of `values`, 2. Rec"):
        ValueBank(3, values=[0.1, 0.2])


def test_all_distributions_share_one_base():
    assert all(isinstance(distribution, Distribution) for distribution in ALL)
