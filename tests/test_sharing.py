"""Value banks: one set of values for several layers."""

import hashlib
import math
import random

import keras
import numpy as np
import pytest

from keras_slots.values.distributions import VarianceScaling
from keras_slots.values.value_bank import ValueBank, check_sharing
from value_cases import in_json, one_round_trip


def test_value_bank_is_uniform_between_its_bounds():
    bank = ValueBank(50_000, bound=0.1, seed=3)
    assert bank.num_values == 50_000
    assert bank.values.dtype == np.float32
    assert np.abs(bank.values).max() <= np.float32(0.1)
    standard_error = 0.1 / math.sqrt(3 * 50_000)
    assert abs(bank.values.mean(dtype=np.float64)) < 5 * standard_error
    assert bank.values.var(dtype=np.float64) == pytest.approx(0.01 / 3, rel=0.03)


def test_value_bank_holds_the_float32_of_given_values():
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
    ids=["seeded", "unseeded", "listed", "array"],
)
def test_value_bank_survives_json_with_its_values(bank):
    for copy in (one_round_trip(bank), ValueBank.from_config(in_json(bank.get_config()))):
        assert copy == bank
        assert hash(copy) == hash(bank)
        assert copy.get_config() == bank.get_config()
        np.testing.assert_array_equal(copy.values, bank.values)


def test_value_bank_without_a_seed_is_governed_by_the_global_one():
    keras.utils.set_random_seed(5)
    first, second = ValueBank(8, bound=0.1), ValueBank(8, bound=0.1)
    assert first != second
    random.seed(5)
    assert ValueBank(8, bound=0.1) == first


def test_value_bank_equals_one_of_the_same_values():
    drawn = ValueBank(8, bound=0.1, seed=3)
    assert ValueBank(values=drawn.values) == drawn
    assert ValueBank(8, bound=0.1, seed=4) != drawn
    assert ValueBank(values=[0.0]) != ValueBank(values=[-0.0])
    assert drawn != "bank"


def test_value_bank_shares_no_value_with_a_layer_of_its_seed():
    shared = ValueBank(1000, bound=1.0, seed=3).values
    own = VarianceScaling(1 / 3, "fan_in", "uniform").sample(3, 1000, (1, 1))
    assert np.isin(shared, own).sum() == 0


def test_value_bank_values_cannot_be_written():
    given = np.array([0.1, 0.2], dtype=np.float32)
    bank = ValueBank(values=given)
    given[0] = 5.0
    assert bank.values[0] == np.float32(0.1)
    for fixed in (bank, ValueBank(2, bound=1.0, seed=1)):
        with pytest.raises(ValueError, match="read-only"):
            fixed.values[0] = 1.0


def test_value_bank_has_a_golden_checksum():
    values = ValueBank(64, bound=0.1, seed=3).values
    assert (
        hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
        == "6bddbab4c49f8fd8e4cc415b361e73091e0b758396ee497bac578a15febcbbf3"
    )


@pytest.mark.parametrize("num_values", [0, -1, 2.0, True, "8", None, 2**16 + 1])
def test_value_bank_refuses_a_bad_number_of_values(num_values):
    with pytest.raises(ValueError, match=r"`num_values` must be a positive integer, at most 65536.*Rece"):
        ValueBank(num_values, bound=0.1)


@pytest.mark.parametrize("bound", [0, -0.1, math.nan, math.inf, True, "1", [0.1]])
def test_value_bank_refuses_a_bound_that_is_no_positive_number(bound):
    with pytest.raises(ValueError, match=r"`bound` must be a positive finite number. Received: b"):
        ValueBank(8, bound=bound)


def test_value_bank_asks_for_a_bound():
    with pytest.raises(ValueError, match=r"`bound` is required .*`bound=0.1`"):
        ValueBank(8)


@pytest.mark.parametrize("bound", [1e-300, 1e39])
def test_value_bank_refuses_a_bound_outside_float32(bound):
    with pytest.raises(ValueError, match=r"`bound` must be a number that float32 can hold"):
        ValueBank(8, bound=bound)


def test_value_bank_refuses_a_bad_seed():
    with pytest.raises(ValueError, match=r"`seed` must be an integer"):
        ValueBank(8, bound=0.1, seed=-1)


@pytest.mark.parametrize(
    "values", [[], [[0.1]], 0.1, [math.nan], [math.inf], [1e39], ["a"], "ab", [True], [1j], [[1], [1, 2]]]
)
def test_value_bank_refuses_bad_values(values):
    with pytest.raises(ValueError, match=r"`values` must be 1 to 65536 finite numbers in one dim"):
        ValueBank(values=values)


@pytest.mark.parametrize("arguments", [{"bound": 0.1}, {"seed": 3}])
def test_value_bank_refuses_values_with_a_way_to_draw_them(arguments):
    with pytest.raises(ValueError, match=r"`values` cannot be combined with `bound` or `seed`"):
        ValueBank(values=[0.1], **arguments)


def test_value_bank_refuses_a_number_that_contradicts_the_values():
    with pytest.raises(ValueError, match=r"`num_values` must be the number of `values`, 2. Rec"):
        ValueBank(3, values=[0.1, 0.2])


def test_value_bank_repr_is_the_call_that_makes_it():
    assert repr(ValueBank(8, bound=0.1, seed=3)) == "ValueBank(num_values=8, bound=0.1, seed=3)"
    assert repr(ValueBank(values=[0.5, 1])) == "ValueBank(values=[0.5, 1.0])"


def test_value_bank_refuses_values_that_are_all_equal():
    with pytest.raises(ValueError, match=r"`values` must hold two different values.*Received"):
        ValueBank(values=[0.1, 0.1, 0.1])
    assert ValueBank(values=[0.1]).num_values == 1


def test_check_sharing_reads_a_configuration():
    bank = ValueBank(8, bound=0.1, seed=3)
    assert check_sharing(in_json(keras.saving.serialize_keras_object(bank)), 8, None) == bank


@pytest.mark.parametrize("sharing", ["all", None, 3, [], np.ones(3)])
def test_check_sharing_refuses_what_is_unknown(sharing):
    with pytest.raises(ValueError, match='`sharing` must be "connection", "layer" or a .*Received'):
        check_sharing(sharing, 8, None)
