"""What a kernel starts from: whole and in windows, drawn, given or from a Keras initializer."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_slots.values.distributions import GlorotUniform, HeNormal, UniformScores
from keras_slots.values.initial_values import InitialValues
from keras_slots.values.value_bank import ValueBank

VALUE_BANK = ValueBank(4, bound=0.1, seed=3)
NORMAL = keras.initializers.RandomNormal(stddev=0.2)


def initial_values(**fields):
    defaults = {
        "kernel_shape": (5, 3),
        "num_values": 4,
        "fans": (5, 3),
        "seed": 7,
        "bank_initializer": GlorotUniform(),
        "score_initializer": UniformScores(),
        "sharing": "connection",
    }
    return InitialValues(**{**defaults, **fields})


VARIANTS = {
    "drawn": {},
    "shared": {"sharing": "layer"},
    "value bank": {"sharing": VALUE_BANK, "bank_initializer": None},
    "Keras bank": {"bank_initializer": NORMAL},
    "Keras scores": {"score_initializer": NORMAL},
    "Keras both, shared": {"bank_initializer": NORMAL, "score_initializer": NORMAL, "sharing": "layer"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_are_slices_of_bank_and_scores(variant):
    initial = initial_values(**VARIANTS[variant])
    bank, scores = initial.bank(), initial.scores()
    assert bank.shape == initial.bank_shape == ((4,) if initial.shared else (5, 3, 4))
    assert scores.shape == initial.score_shape == (5, 3, 4)
    for start, stop in ((0, 15), (0, 1), (4, 11), (14, 15), (3, 3)):
        rows, row_scores = initial.rows(start, stop)
        expected = bank if initial.shared else bank.reshape(-1, 4)[start:stop]
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(row_scores, scores.reshape(-1, 4)[start:stop])


def test_bank_and_scores_are_those_of_the_distributions():
    initial = initial_values()
    bank = GlorotUniform().sample(7, 60, (5, 3))
    np.testing.assert_array_equal(initial.bank().ravel(), bank)
    scores = UniformScores().sample(7, 60, (5, 3))
    np.testing.assert_array_equal(initial.scores().ravel(), scores)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bank_and_scores_are_a_function_of_the_seed(variant):
    one, same, other = (initial_values(**{**VARIANTS[variant], "seed": seed}) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.bank(), same.bank())
    np.testing.assert_array_equal(one.scores(), same.scores())
    assert (one.scores() != other.scores()).any()
    assert (one.bank() != other.bank()).any() == (variant != "value bank")


@pytest.mark.parametrize("variant", VARIANTS)
def test_rebuildable_when_the_seed_brings_everything_back(variant):
    assert initial_values(**VARIANTS[variant]).rebuildable is ("Keras" not in variant)


@pytest.mark.parametrize("sharing", ["connection", "layer", VALUE_BANK])
def test_with_arrays_holds_what_it_is_given(sharing):
    initial = initial_values(sharing=sharing)
    rng = np.random.default_rng(0)
    bank, scores = rng.normal(size=initial.bank_shape), rng.normal(size=initial.score_shape)
    given = initial.with_arrays(bank, scores)
    np.testing.assert_array_equal(given.bank(), bank)
    np.testing.assert_array_equal(given.scores(), scores)
    assert given.bank().dtype == given.scores().dtype == np.float64
    rows, row_scores = given.rows(2, 9)
    np.testing.assert_array_equal(rows, bank if initial.shared else bank.reshape(-1, 4)[2:9])
    np.testing.assert_array_equal(row_scores, scores.reshape(-1, 4)[2:9])
    assert (given.shared, given.rebuildable) == (initial.shared, False)


def test_with_arrays_refuses_another_shape():
    initial = initial_values()
    given = initial.with_arrays(np.zeros((15, 4)), initial.scores())
    with pytest.raises(ValueError, match=r"`bank_initializer` must return .*\(5, 3, 4\).*\(15, 4\)"):
        given.bank()


def test_bank_refuses_an_initializer_of_another_shape():
    initial = initial_values(score_initializer=lambda shape, dtype: np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"`score_initializer` must return .*Received: shape \(2"):
        initial.scores()


@pytest.mark.parametrize("sharing", ["connection", "layer"])
def test_bank_refuses_values_that_are_all_equal(sharing):
    dead = initial_values(bank_initializer=keras.initializers.Zeros(), sharing=sharing)
    with pytest.raises(ValueError, match="`bank_initializer` must give .*different.*4 values are"):
        dead.bank()
    alive = initial_values(bank_initializer=keras.initializers.Zeros(), sharing=sharing, num_values=1)
    assert not alive.bank().any()


def test_an_unseeded_keras_initializer_gives_each_seed_its_own_values():
    shared = keras.initializers.RandomNormal(stddev=0.2)
    one, other = (initial_values(bank_initializer=shared, seed=seed) for seed in (1, 2))
    assert (one.bank() != other.bank()).all()


def test_fields_decide_whether_two_are_equal():
    assert initial_values() == initial_values()
    assert initial_values() != initial_values(bank_initializer=HeNormal())
    assert dataclasses.replace(initial_values(), seed=8) != initial_values()
