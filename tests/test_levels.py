"""How many steps a staircase may need: the table against its closed form, and against simulated kernels."""

import math

import keras
import numpy as np
import pytest

from keras_slots import GlorotNormal, GlorotUniform, HeUniform, SignedConstant, UniformScores, ValueBank
from keras_slots.kernels.envelope import envelope
from keras_slots.kernels.staircase import _MOST_STEPS, levels_of
from keras_slots.values.initial_values import InitialValues
from keras_slots.values.nearest_scores import NearestScores
from keras_slots.values.stratified import StratifiedUniform

MOST = 60  # no staircase of 65,536 values or fewer has more steps, but for a chance of 1e-30


def initial_values(num_values, shape=(1000, 1000), bank=None, scores=None, sharing="connection"):
    bank, scores = bank or GlorotUniform(), scores or UniformScores()
    return InitialValues(shape, num_values, (100, 100), 7, bank, scores, sharing)


def in_triangle(most):
    """`p[m, n]`: chance that n uniform points of a triangle have m on their hull towards one of its corners.

    Buchta 2012: the hull is peeled off a point at a time, and i of n points go with a chance of 2 i / (n (n + 1)).
    """
    chance = np.zeros((MOST + 1, most + 1))
    chance[0, 0] = 1.0
    n = np.arange(1, most + 1)
    for m in range(1, MOST + 1):
        chance[m, 1:] = 2.0 / (n * (n + 1.0)) * np.cumsum(np.cumsum(chance[m - 1]))[:-1]
    return chance


def beside_the_highest(most):
    """`p[n, m]`: chance of m edges beside the highest point when n of the others are on that side of it.

    The outermost point of the n is at a uniform height, so the triangle above the line to it holds as many of the
    other n - 1 as there are successes in n - 1 trials of a chance that is uniform on [0, 1/2].
    """
    triangle = in_triangle(most)
    side = np.zeros((most + 1, MOST + 2))
    side[0, 0] = 1.0
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 2)))])
    for n in range(1, most + 1):
        j = np.arange(n + 1)
        log_choose = log_factorials[n] - log_factorials[j] - log_factorials[n - j]
        fair = np.exp(log_choose - n * math.log(2.0))
        above = np.cumsum(fair[::-1])[::-1][1:]  # chance of more than j heads in n tosses
        side[n, 1:] = triangle[:, :n] @ (2.0 / n * above)
    return side


@pytest.fixture(scope="module")
def side():
    return beside_the_highest(1023)


def more_steps_than(num_values, side):
    """`p[h]`: chance of more than h steps, for uniform values and scores."""
    steps = sum(np.convolve(side[left], side[num_values - 1 - left]) for left in range(num_values))
    return np.cumsum(steps[::-1])[::-1][1:] / num_values


def test_closed_form_has_the_means_that_small_numbers_of_values_must_have(side):
    means = {k: more_steps_than(k, side).sum() for k in (2, 3, 4)}
    # Three points: the middle one is above or below the line of the outer ones. Four: by hand, 1 + 61 / 72.
    assert means[2] == pytest.approx(1.0) and means[3] == pytest.approx(1.5)
    assert means[4] == pytest.approx(1 + 61 / 72)


@pytest.mark.parametrize("num_values", [k for k in _MOST_STEPS if k <= 1024])
def test_levels_are_those_of_the_closed_form(num_values, side):
    more = more_steps_than(num_values, side)
    assert _MOST_STEPS[num_values] == min(h for h in range(MOST) if more[h] < 5e-18)


def test_levels_go_on_beyond_as_they_began():
    for few, many in zip(list(_MOST_STEPS)[:-1], list(_MOST_STEPS)[1:], strict=True):
        assert many == 2 * few and 1 <= _MOST_STEPS[many] - _MOST_STEPS[few] <= 3


@pytest.mark.quick
@pytest.mark.parametrize(("num_values", "count"), [(32, 150_000), (64, 100_000), (512, 12_000), (4096, 1_500)])
@pytest.mark.parametrize(
    "bank", [GlorotUniform(), GlorotNormal(), StratifiedUniform()], ids=["uniform", "normal", "strata"]
)
def test_levels_hold_for_simulated_kernels(num_values, count, bank, side):
    initial = initial_values(num_values, (count,), bank)
    heights, block = [], 2**17 // num_values
    for start in range(0, count, block):
        thresholds, _ = envelope(*initial.rows(start, min(start + block, count)))
        heights.append((thresholds < np.inf).sum(axis=0))
    heights = np.concatenate(heights)
    assert heights.max() <= levels_of(initial)
    if num_values > 1024:
        return
    # The whole distribution: no more connections than it says have more than h steps.
    expected = more_steps_than(num_values, side)[: MOST // 2]
    counts = np.array([np.count_nonzero(heights > h) for h in range(MOST // 2)])
    room = 5 * np.sqrt(count * expected) + 5
    assert (counts <= count * expected * (1.2 if isinstance(bank, StratifiedUniform) else 1) + room).all()
    if isinstance(bank, GlorotUniform):
        assert (counts >= count * expected - room).all()


def test_levels_are_a_function_of_the_arguments_alone():
    for sharing in ("connection", "layer"):
        one = initial_values(64, sharing=sharing)
        other = InitialValues((10**6,), 64, (3, 5), 99, HeUniform(2.0), UniformScores(0.1), sharing)
        assert levels_of(one) == levels_of(other)


@pytest.mark.parametrize(
    ("num_values", "expected"), [(1, 0), (2, 1), (8, 7), (16, 15), (17, 16), (33, 21), (64, 21)]
)
def test_levels_are_the_least_that_are_enough(num_values, expected):
    assert levels_of(initial_values(num_values)) == expected


def test_levels_of_stratified_values_are_one_more():
    assert levels_of(initial_values(64, bank=StratifiedUniform())) == 22
    assert levels_of(initial_values(17, bank=StratifiedUniform())) == 16


@pytest.mark.parametrize("num_values", [1, 2, 8, 64])
def test_levels_of_a_signed_constant_bank_are_one(num_values):
    initial = initial_values(num_values, bank=SignedConstant(), scores=GlorotNormal())
    assert levels_of(initial) == min(1, num_values - 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"scores": GlorotNormal()},
        {"scores": NearestScores()},
        {"scores": keras.initializers.RandomNormal()},
        {"bank": keras.initializers.RandomNormal()},
        {"sharing": ValueBank(values=np.linspace(-1, 1, 64))},
    ],
)
def test_levels_are_one_less_than_the_values_where_nothing_is_known(arguments):
    assert levels_of(initial_values(64, **arguments)) == 63
    given = initial_values(64, (3,)).with_arrays(np.zeros((3, 64)), np.zeros((3, 64)))
    assert levels_of(given) == 63


@pytest.mark.parametrize("sharing", ["layer", ValueBank(64, bound=0.1, seed=1)])
def test_levels_of_shared_drawn_values_are_the_same(sharing):
    assert levels_of(initial_values(64, sharing=sharing)) == 21
