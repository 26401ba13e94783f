"""Selection rules against NumPy's arg-max, the softmax and hand numbers, however they are compiled."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from backends import BACKEND
from keras_slots.kernels.per_connection import read_staircase
from keras_slots.kernels.per_value import SelectFromScores
from keras_slots.selection import Greedy, Probabilistic, greedy_index, lookup

NUMBERS_OF_VALUES = (1, 2, 3, 7, 8, 9, 16, 17, 64, 65, 300)


WAYS = ("eager", *BACKEND.compilations)


@pytest.fixture(params=WAYS)
def compiled(request):
    return lambda function: BACKEND.compiled(function, request.param)


def numpy_of(function, *arguments):
    return ops.convert_to_numpy(function(*arguments))


@pytest.mark.quick
@pytest.mark.parametrize("num_values", NUMBERS_OF_VALUES)
def test_greedy_index_is_numpys_argmax(compiled, num_values):
    scores = np.random.default_rng(num_values).normal(size=(5, 7, num_values)).astype("float32")
    index = numpy_of(compiled(greedy_index), scores)
    assert index.dtype == "int32"
    np.testing.assert_array_equal(index, scores.argmax(-1))


@pytest.mark.quick
@pytest.mark.parametrize("num_values", NUMBERS_OF_VALUES)
def test_greedy_index_gives_a_tie_to_the_lowest_index(compiled, num_values):
    # Few distinct numbers, so that nearly every maximum is taken several times.
    rng = np.random.default_rng(num_values)
    scores = rng.integers(-1, 2, size=(400, num_values)).astype("float32")
    scores[0] = 0.25
    index = numpy_of(compiled(greedy_index), scores)
    np.testing.assert_array_equal(index, scores.argmax(-1))
    assert index[0] == 0


@pytest.mark.parametrize("num_values", [2, 9, 64])
def test_greedy_index_takes_minus_zero_and_plus_zero_for_a_tie(compiled, num_values):
    zeros = np.random.default_rng(0).choice([-0.0, 0.0], size=(200, num_values))
    zeros = zeros.astype("float32")
    zeros[0] = 0.0
    zeros[0, 0] = -0.0
    np.testing.assert_array_equal(numpy_of(compiled(greedy_index), zeros), np.zeros(200, "int32"))


@pytest.mark.quick
@pytest.mark.parametrize("num_values", [2, 8, 9, 300])
def test_greedy_index_orders_infinite_scores_and_never_takes_padding(compiled, num_values):
    rng = np.random.default_rng(num_values)
    scores = rng.choice([-np.inf, 0.0, np.inf], size=(300, num_values), p=[0.9, 0.05, 0.05])
    scores = scores.astype("float32")
    scores[0] = -np.inf
    scores[1] = -np.inf
    scores[1, -1] = -3e38
    index = numpy_of(compiled(greedy_index), scores)
    np.testing.assert_array_equal(index, scores.argmax(-1))
    assert index[0] == 0 and index[1] == num_values - 1


def tournament(scores):
    """NumPy reference: blocks of eight, each won by the first score that no later one exceeds."""
    if scores.shape[-1] <= 8:
        best, index = scores[..., 0].copy(), np.zeros(scores.shape[:-1], "int32")
        for k in range(1, scores.shape[-1]):
            higher = scores[..., k] > best
            best[higher], index[higher] = scores[higher, k], k
        return index
    padding = [(0, 0)] * (scores.ndim - 1) + [(0, -scores.shape[-1] % 8)]
    padded = np.pad(scores, padding, constant_values=-np.inf)
    blocks = padded.reshape(*scores.shape[:-1], -1, 8)
    within = tournament(blocks)
    block = tournament(np.take_along_axis(blocks, within[..., None], -1)[..., 0])
    return block * 8 + np.take_along_axis(within, block[..., None], -1)[..., 0]


@pytest.mark.quick
@pytest.mark.parametrize("num_values", [*NUMBERS_OF_VALUES, 63, 100, 513, 520])
def test_greedy_index_of_nan_and_infinity_is_that_of_the_tournament(compiled, num_values):
    rng = np.random.default_rng(num_values)
    numbers = [np.nan, -np.inf, np.inf, -0.0, 0.0, -3e38, 1.0]
    scores = rng.choice(numbers, size=(300, num_values)).astype("float32")
    scores[:100] = rng.choice(numbers[:2], size=(100, num_values))
    scores[0], scores[1:3, -1] = np.nan, np.nan
    np.testing.assert_array_equal(numpy_of(compiled(greedy_index), scores), tournament(scores))


@pytest.fixture
def infinities_are_errors():
    """What users switch on to find an infinity: one that the library makes itself would hide theirs."""
    with BACKEND.infinities_are_errors():
        yield


@pytest.mark.parametrize("num_values", NUMBERS_OF_VALUES)
def test_greedy_index_makes_no_infinity(infinities_are_errors, num_values):
    scores = np.random.default_rng(0).normal(size=(5, num_values)).astype("float32")
    np.testing.assert_array_equal(numpy_of(greedy_index, scores), scores.argmax(-1))


@pytest.mark.parametrize("num_values", [1, 2, 8, 17])
def test_probabilistic_index_is_the_first_whose_cumulative_softmax_exceeds_the_number(compiled, num_values):
    rng = np.random.default_rng(num_values)
    scores = rng.normal(size=(500, num_values)).astype("float32")
    uniform = rng.random(500).astype("float32")
    softmax = np.exp(scores.astype("float64"))
    cumulative = (softmax / softmax.sum(-1, keepdims=True)).cumsum(-1)
    expected = (cumulative <= uniform[:, None]).sum(-1)
    # A number within rounding of a boundary may fall on either side.
    clear = np.abs(cumulative - uniform[:, None])[:, :-1].min(-1, initial=1.0) > 1e-5
    index = numpy_of(compiled(Probabilistic().index), scores, uniform)
    assert index.dtype == "int32" and clear.mean() > 0.95
    np.testing.assert_array_equal(index[clear], expected[clear])


@pytest.mark.parametrize("num_values", [2, 8, 16])
def test_probabilistic_index_follows_the_softmax(num_values):
    rng = np.random.default_rng(num_values)
    scores = rng.uniform(-1.5, 1.5, num_values).astype("float32")
    count = 50_000
    uniform = keras.random.uniform((count,), seed=num_values)
    index = numpy_of(Probabilistic().index, np.tile(scores, (count, 1)), uniform)
    probabilities = np.exp(scores.astype("float64"))
    probabilities /= probabilities.sum()
    observed = np.bincount(index, minlength=num_values)
    assert stats.chisquare(observed, count * probabilities).pvalue > 1e-3


def test_probabilistic_index_at_the_ends_of_the_unit_interval(compiled):
    scores = np.zeros((2, 4), "float32")
    uniform = np.array([0.0, np.nextafter(np.float32(1), np.float32(0))], "float32")
    index = numpy_of(compiled(Probabilistic().index), scores, uniform)
    np.testing.assert_array_equal(index, [0, 3])


def test_probabilistic_index_survives_scores_whose_exponential_overflows(compiled):
    scores = np.array([[3e38, 0.0, -3e38], [-1e4, -1e4, -1e4], [0.0, 200.0, 0.0]], "float32")
    uniform = np.array([0.999, 0.5, 0.001], "float32")
    index = numpy_of(compiled(Probabilistic().index), scores, uniform)
    np.testing.assert_array_equal(index, [0, 1, 1])


def test_probabilistic_index_never_draws_a_value_of_probability_zero(compiled):
    scores = np.tile(np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf], "float32"), (1001, 1))
    uniform = np.linspace(0, 1, 1001, endpoint=False).astype("float32")
    index = numpy_of(compiled(Probabilistic().index), scores, uniform)
    assert set(index.tolist()) == {1, 3}


@pytest.mark.parametrize("num_values", [1, 8, 16, 17, 300])
def test_lookup_takes_each_connections_own_value_bitwise(compiled, num_values):
    rng = np.random.default_rng(num_values)
    values = rng.normal(size=(3, 5, num_values)).astype("float32")
    index = rng.integers(0, num_values, size=(3, 5)).astype("int32")
    taken = numpy_of(compiled(lookup), values, index)
    np.testing.assert_array_equal(taken, np.take_along_axis(values, index[..., None], -1)[..., 0])


@pytest.mark.parametrize("num_values", [1, 8, 300])
def test_lookup_takes_from_shared_values(compiled, num_values):
    rng = np.random.default_rng(num_values)
    values = rng.normal(size=num_values).astype("float32")
    index = rng.integers(0, num_values, size=(3, 5)).astype("int32")
    np.testing.assert_array_equal(numpy_of(compiled(lookup), values, index), values[index])


def test_read_staircase_by_hand(compiled):
    # Three connections with 2, 1 and no thresholds.
    thresholds = np.array([[-1.0, 2.0, np.inf], [1.0, np.inf, np.inf]], "float32")
    steps = np.array([[10.0, 20.0, 30.0], [11.0, 21.0, 0.0], [12.0, 0.0, 0.0]], "float32")
    hand = {
        (-1.2, 0.0, -9.0): (10, 20, 30),
        (-1.0, 2.0, 9.0): (10, 20, 30),
        (1.0, 2.1, 0.0): (11, 21, 30),
        (1.1, 99.0, 3e38): (12, 21, 30),
    }
    for lever, kernel in hand.items():
        lever = np.array(lever, "float32")
        value = numpy_of(compiled(read_staircase), lever, thresholds, steps)
        np.testing.assert_array_equal(value, kernel)


def test_read_staircase_without_thresholds_is_constant(compiled):
    thresholds, steps = np.zeros((0, 2), "float32"), np.array([[1.5, 2.5]], "float32")
    value = numpy_of(compiled(read_staircase), np.array([-1e30, 1e30], "float32"), thresholds, steps)
    np.testing.assert_array_equal(value, [1.5, 2.5])


def test_select_from_scores_looks_up_what_the_rule_selects(compiled):
    scores = np.log(np.array([[0.25, 0.75], [0.75, 0.25]], "float32"))
    values = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    uniform = np.array([0.2, 0.8], "float32")
    np.testing.assert_array_equal(numpy_of(compiled(SelectFromScores(Greedy())), scores, values), [2, 3])
    np.testing.assert_array_equal(
        numpy_of(compiled(SelectFromScores(Probabilistic())), scores, values, uniform), [1, 4]
    )
