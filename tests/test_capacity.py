"""How many steps a kernel may need: the table against its closed form, and against simulated kernels."""

import math

import keras
import numpy as np
import pytest

from keras_slots import (
    GlorotNormal,
    GlorotUniform,
    HeUniform,
    SignedConstant,
    UniformScores,
    ValueBank,
)
from keras_slots.kernels.capacity import _TABLE, Capacity, capacity
from keras_slots.kernels.envelope import envelope
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


@pytest.mark.parametrize("num_values", [k for k in _TABLE if k <= 1024])
def test_table_is_that_of_the_closed_form(num_values, side):
    levels, overflow_levels, share = _TABLE[num_values]
    more = more_steps_than(num_values, side)
    most = num_values - 1
    assert levels == min(h for h in range(1, MOST) if more[h] <= 0.01 or h == most)
    top = min(h for h in range(levels, MOST) if more[h] < 5e-18 or h == most)
    assert overflow_levels == top - levels
    assert more[levels] <= share <= more[levels] * 1.01 + 1e-15


def test_table_goes_on_beyond_as_it_began():
    for few, many in zip(list(_TABLE)[2:-1], list(_TABLE)[3:], strict=True):
        assert many == 2 * few
        assert 1 <= _TABLE[many][0] - _TABLE[few][0] <= 2
        assert 0.001 < _TABLE[many][2] < 0.01
        assert 1 <= sum(_TABLE[many][:2]) - sum(_TABLE[few][:2]) <= 3 or few < 32


@pytest.mark.quick
@pytest.mark.parametrize(
    ("num_values", "count"),
    [(8, 400_000), (16, 300_000), (64, 100_000), (512, 12_000), (4096, 1_500)],
)
@pytest.mark.parametrize(
    "bank",
    [GlorotUniform(), GlorotNormal(), StratifiedUniform()],
    ids=["uniform", "normal", "strata"],
)
def test_capacity_holds_for_simulated_kernels(num_values, count, bank):
    initial = initial_values(num_values, (count,), bank)
    heights, block = [], 2**17 // num_values
    for start in range(0, count, block):
        thresholds, _ = envelope(*initial.rows(start, min(start + block, count)))
        heights.append((thresholds < np.inf).sum(axis=0))
    heights = np.concatenate(heights)
    levels, overflow_levels, share = _TABLE[num_values]
    tall = np.count_nonzero(heights > levels)
    deviation = math.sqrt(count * share)
    if isinstance(bank, StratifiedUniform):
        share *= 1.25
    assert tall < count * share + 5 * deviation
    if isinstance(bank, GlorotUniform):
        assert tall > count * share - 5 * deviation
    assert heights.max() <= levels + overflow_levels
    room = capacity(initial)
    assert tall <= room.overflow_count or room.levels >= heights.max()


def test_capacity_is_a_function_of_the_arguments_alone():
    for sharing in ("connection", "layer"):
        one = initial_values(64, sharing=sharing)
        other = InitialValues((10**6,), 64, (3, 5), 99, HeUniform(2.0), UniformScores(0.1), sharing)
        assert capacity(one) == capacity(other)


@pytest.mark.parametrize(
    ("num_values", "expected"),
    [
        (1, Capacity(0, 0, 0)),
        (2, Capacity(1, 0, 0)),
        (4, Capacity(3, 0, 0)),
        (5, Capacity(4, 0, 0)),
        (7, Capacity(5, 1, math.ceil(1080 + 8 * math.sqrt(1080) + 16))),
        (8, Capacity(5, 2, math.ceil(1080 + 8 * math.sqrt(1080) + 16))),
        (64, Capacity(9, 12, math.ceil(4080 + 8 * math.sqrt(4080) + 16))),
        (33, Capacity(9, 12, math.ceil(4080 + 8 * math.sqrt(4080) + 16))),
    ],
)
def test_capacity_of_a_million_connections(num_values, expected):
    assert capacity(initial_values(num_values)) == expected


def test_capacity_of_stratified_values_has_a_quarter_more_room():
    room = capacity(initial_values(64, bank=StratifiedUniform()))
    assert room == Capacity(9, 13, math.ceil(5100 + 8 * math.sqrt(5100) + 16))


def test_capacity_of_a_small_kernel_has_no_overflow():
    assert capacity(initial_values(8, (10, 10))) == Capacity(7, 0, 0)
    assert capacity(initial_values(64, (10, 10))) == Capacity(21, 0, 0)
    assert capacity(initial_values(64, ())) == Capacity(21, 0, 0)


@pytest.mark.parametrize("num_values", [1, 2, 8, 64])
def test_capacity_of_a_signed_constant_bank_is_one_step(num_values):
    initial = initial_values(num_values, bank=SignedConstant(), scores=GlorotNormal())
    assert capacity(initial) == Capacity(min(1, num_values - 1), 0, 0)


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
def test_capacity_is_one_step_less_than_values_where_nothing_is_known(arguments):
    assert capacity(initial_values(64, **arguments)) == Capacity(63, 0, 0)
    given = initial_values(64, (3,)).with_arrays(np.zeros((3, 64)), np.zeros((3, 64)))
    assert capacity(given) == Capacity(63, 0, 0)


@pytest.mark.parametrize("sharing", ["layer", ValueBank(64, bound=0.1, seed=1)])
def test_capacity_of_shared_drawn_values_has_room_for_all_connections_to_be_tall(sharing):
    assert capacity(initial_values(64, sharing=sharing)) == Capacity(21, 0, 0)
