"""The nearest value, found without the bank, against brute force over all K values."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_slots import GlorotUniform, HeNormal
from keras_slots.backend import compiled as compile_function
from keras_slots.values.initial_values import InitialValues
from keras_slots.kernels.nearest_search import (
    nearest_in_strata,
    nearest_index_in_strata,
    nearest_staircase,
)
from keras_slots.values.nearest_scores import NearestScores
from keras_slots.kernels.staircase import build_staircase
from keras_slots.values.stratified import StratifiedUniform, strata_bits, strata_unit
from lines_cases import brute_force, read

BOUND = 0.0713


@pytest.fixture
def x64():
    """float64 on JAX too, where it is off unless asked for."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def bank_of(seed, num_values, count, bound=BOUND):
    """The stratified bank of `count` connections, of shape `(count, K)`."""
    distribution = StratifiedUniform(bound / np.sqrt(3.0))
    assert distribution.bound((1, 1)) == np.float32(bound)
    return distribution.rows(seed, num_values, (1, 1), 0, count)


def search(lever, num_values, seed=7, decay=1.0, bound=BOUND, function=None, **arguments):
    """Value and index that the search finds, as NumPy arrays."""
    lever = np.asarray(lever)
    tensors = (lever, lever.dtype.type(decay), StratifiedUniform().words(seed))
    function = function or searching(num_values, bound, **arguments)
    return [ops.convert_to_numpy(x) for x in function(*map(ops.convert_to_tensor, tensors))]


def searching(num_values, bound=BOUND, **arguments):
    arguments = {"num_values": num_values, "bound": float(np.float32(bound)), **arguments}

    def both(lever, decay, words):
        return (
            nearest_in_strata(lever, decay, words, **arguments),
            nearest_index_in_strata(lever, decay, words, **arguments),
        )

    return both


def reference(lever, num_values, seed=7, decay=1.0, bound=BOUND):
    """The same in NumPy, from the positions of all K values and their midpoints."""
    kind, unit = lever.dtype.type, strata_unit(num_values, bound)
    with np.errstate(all="ignore"):
        target = lever * (kind(2.0 / float(unit)) / kind(decay))
    bank = bank_of(seed, num_values, lever.size, bound)
    positions = np.rint(bank.astype("float64") / float(unit))
    above = target.reshape(-1, 1) > positions[:, 1:] + positions[:, :-1]
    index = above.sum(axis=1)
    return bank[np.arange(lever.size), index].reshape(lever.shape), index.reshape(lever.shape)


# The choice


@given(
    st.integers(1, 4096),
    st.integers(0, 2**64 - 1),
    st.floats(0.01, 3.0),
    st.floats(0.05, 1.0),
)
@settings(max_examples=60)
def test_nearest_in_strata_is_the_nearest_of_all_values(num_values, seed, spread, decay):
    rng = np.random.default_rng(seed % 1000)
    lever = rng.uniform(-spread * BOUND, spread * BOUND, 12).astype("float32")
    value, index = search(lever, num_values, seed, decay)
    bank = bank_of(seed, num_values, 12).astype("float64")
    distance = np.abs(bank - lever.astype("float64")[:, None] / decay)
    assert (bank[np.arange(12), index] == value).all()
    # The target is rounded twice: only what is as near up to that may win.
    slack = 4e-7 * (np.abs(lever) / decay + BOUND)
    assert (np.abs(value - lever / decay) <= distance.min(axis=1) + slack).all()
    assert (index == distance.argmin(axis=1)).mean() > 0.9


@pytest.mark.parametrize("num_values", [1, 2, 3, 4, 5, 6, 7, 8, 9, 64, 255, 4096, 65536])
def test_nearest_in_strata_finds_every_value_at_itself(num_values):
    bank = bank_of(7, num_values, 1)[0]
    value, index = search(bank, num_values, shared=True)
    np.testing.assert_array_equal(value, bank)
    np.testing.assert_array_equal(index, np.arange(num_values))


@pytest.mark.parametrize("num_values", [2, 3, 4, 5, 8, 64, 4096, 65536])
def test_nearest_in_strata_gives_ties_to_the_lowest_index(num_values):
    # A bound that makes positions multiples of a power of two, so that midpoints are exact.
    bound = num_values * 2.0 ** (strata_bits(num_values) - 20)
    bank = bank_of(7, num_values, 1, bound)[0]
    middle = (bank[1:] + bank[:-1]) / 2
    np.testing.assert_array_equal(
        middle.astype("float64") * 2, bank[1:].astype("float64") + bank[:-1]
    )
    below = np.arange(num_values - 1)
    for lever, expected in (
        (np.nextafter(middle, np.float32(-1e9)), below),
        (middle, below),
        (np.nextafter(middle, np.float32(1e9)), below + 1),
    ):
        _, index = search(lever, num_values, bound=bound, shared=True)
        np.testing.assert_array_equal(index, expected)


@pytest.mark.parametrize("num_values", [1, 2, 3, 5, 8, 4096])
def test_nearest_in_strata_clamps_a_target_beyond_the_bank(num_values):
    far = np.array([-np.inf, -1e30, -10.0, np.nan, 10.0, 1e30, np.inf], "float32")
    value, index = search(far, num_values)
    last = num_values - 1
    np.testing.assert_array_equal(index, [0, 0, 0, 0, last, last, last])
    bank = bank_of(7, num_values, 7)
    np.testing.assert_array_equal(value, np.where(index == 0, bank[:, 0], bank[:, -1]))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0, 3), (4, 0), (3, 5), (2, 3, 4, 5)])
def test_nearest_in_strata_counts_connections_in_c_order(shape):
    lever = np.random.default_rng(0).uniform(-BOUND, BOUND, shape).astype("float32")
    value, index = search(lever, 8)
    expected, expected_index = reference(lever, 8)
    assert value.shape == index.shape == shape
    assert (value.dtype, index.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(index, expected_index)


@pytest.mark.parametrize("words", ["uint32", "int32", "int64"])
def test_nearest_in_strata_takes_the_keys_in_any_integer_dtype(words, x64):
    lever = np.random.default_rng(0).uniform(-BOUND, BOUND, 100).astype("float32")
    keys = StratifiedUniform().words(7)
    assert (keys > 2**31).any()
    keys = ops.convert_to_tensor(keys.astype(words))
    found = nearest_in_strata(ops.convert_to_tensor(lever), 1.0, keys, num_values=8, bound=BOUND)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), reference(lever, 8)[0])


def test_nearest_in_strata_follows_sgd_with_momentum_and_decay_on_all_scores(x64):
    num_values, count = 16, 300
    bank = bank_of(7, num_values, count).astype("float64")
    rng = np.random.default_rng(1)
    start = rng.uniform(-BOUND, BOUND, count)
    scores, velocity = NearestScores().scores(bank, start), np.zeros((count, num_values))
    lever, speed, decay, changes = start.copy(), np.zeros(count), 1.0, 0
    function = compile_function(searching(num_values))
    before = scores.argmax(axis=1)
    for _ in range(300):
        value, index = search(lever, num_values, decay=decay, function=function)
        best = scores.argmax(axis=1)
        np.testing.assert_array_equal(index, best)
        np.testing.assert_array_equal(value, bank[np.arange(count), best])
        changes += (best != before).sum()
        before = best
        gradient = rng.normal(0, 1, count)
        velocity = 0.9 * velocity - 0.002 * gradient[:, None] * bank
        speed = 0.9 * speed - 0.002 * gradient
        scores, lever = 0.999 * scores + velocity, 0.999 * lever + speed
        decay *= 0.999
    assert changes > 10 * count


# The same bits everywhere


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_values", [1, 2, 3, 4, 5, 7, 8, 13, 64, 100, 1000, 4096, 65536])
def test_nearest_in_strata_has_the_bits_of_numpy(num_values, dtype, compiled, x64):
    shape = (60, 301) if num_values <= 100 else (6, 31) if num_values <= 4096 else (2, 5)
    function = searching(num_values)
    function = compile_function(function) if compiled else function
    rng = np.random.default_rng(num_values)
    for seed, decay in ((1, 1.0), (2**40, 0.83), (3, 0.217)):
        lever = rng.normal(0, 0.7 * BOUND, shape).astype(dtype)
        lever.flat[:4] = [0.0, -0.0, 1e30, np.nan]
        value, index = search(lever, num_values, seed, decay, function=function)
        expected, expected_index = reference(lever, num_values, seed, decay)
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(index, expected_index)


@pytest.mark.parametrize("num_values", [8, 64])
def test_nearest_in_strata_has_the_bits_of_numpy_for_millions_of_levers(num_values):
    function = compile_function(searching(num_values))
    lever = np.random.default_rng(0).normal(0, 0.7 * BOUND, (1500, 1001)).astype("float32")
    value, index = search(lever, num_values, decay=0.77, function=function)
    for row in range(0, 1500, 500):
        # The bank of so many connections comes in pieces.
        rows = slice(row * 1001, (row + 500) * 1001)
        bank = StratifiedUniform(BOUND / np.sqrt(3.0)).rows(
            7, num_values, (1, 1), rows.start, rows.stop
        )
        positions = np.rint(bank / strata_unit(num_values, BOUND)).astype("int32")
        target = lever.ravel()[rows] * (
            np.float32(2.0 / float(strata_unit(num_values, BOUND))) / np.float32(0.77)
        )
        expected = (target[:, None] > (positions[:, 1:] + positions[:, :-1]).astype("float32")).sum(
            axis=1
        )
        np.testing.assert_array_equal(index.ravel()[rows], expected)
        np.testing.assert_array_equal(value.ravel()[rows], bank[np.arange(len(bank)), expected])


def test_nearest_in_strata_has_a_golden_choice():
    lever = (np.arange(12, dtype="float32") / 6 - 1) * np.float32(BOUND)
    _, index = search(lever, 4096, seed=20_240_607)
    assert index.tolist() == [0, 341, 682, 1023, 1365, 1706, 2047, 2388, 2730, 3072, 3413, 3754]


# Banks that are stored


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_values", [1, 2, 3, 8, 64, 300])
def test_nearest_staircase_is_the_nearest_of_all_values(num_values, dtype):
    initial = InitialValues(
        (10, 12), num_values, (3, 4), 5, HeNormal(), NearestScores(), "connection"
    )
    staircase = nearest_staircase(initial, dtype)
    bank = initial.bank().reshape(120, num_values).astype("float64")
    rng = np.random.default_rng(0)
    for scale, decay in ((0.1, 1.0), (1.0, 1.0), (3.0, 0.5)):
        lever = rng.normal(0, scale, 120).astype(dtype)
        target = lever.astype("float64") / decay
        distance = np.abs(bank - target[:, None])
        found = read(staircase, lever, decay)
        assert np.isin(found, bank).all()
        np.testing.assert_array_equal(np.abs(found - target), distance.min(axis=1))
    assert staircase.thresholds.shape == (num_values - 1, 120)
    assert all(np.isfinite(array).all() for array in staircase)


@pytest.mark.parametrize("num_values", [2, 8, 64])
def test_nearest_staircase_reaches_all_values(num_values):
    initial = InitialValues(
        (20,), num_values, (3, 4), 5, GlorotUniform(), NearestScores(), "connection"
    )
    staircase = nearest_staircase(initial)
    bank = initial.bank()
    for k in range(num_values):
        np.testing.assert_array_equal(read(staircase, bank[:, k]), bank[:, k])


def test_nearest_staircase_is_that_of_the_lines_moved_by_the_start():
    initial = InitialValues((200,), 8, (3, 4), 5, GlorotUniform(), NearestScores(), "connection")
    moved, lines = nearest_staircase(initial, "float64"), build_staircase(initial, "float64")
    bank, scores = initial.rows(0, 200)
    for lever in np.random.default_rng(0).normal(0, 1, (20, 200)):
        expected = brute_force(bank, scores, lever)
        np.testing.assert_array_equal(read(lines, lever), expected)
        np.testing.assert_array_equal(read(moved, initial.start() + lever), expected)


def test_nearest_staircase_of_a_shared_bank_serves_all_connections():
    initial = InitialValues((50,), 8, (3, 4), 5, GlorotUniform(), NearestScores(), "layer")
    staircase = nearest_staircase(initial)
    lever = np.random.default_rng(0).normal(0, 1, 50).astype("float32")
    distance = np.abs(initial.bank().astype("float64") - lever[:, None])
    np.testing.assert_array_equal(read(staircase, lever), initial.bank()[distance.argmin(axis=1)])


@pytest.mark.parametrize("held", ["bfloat16", "float16"])
def test_nearest_staircase_holds_the_values_as_the_layer_rounds_them(held):
    initial = InitialValues((50,), 8, (3, 4), 5, GlorotUniform(), NearestScores(), "connection")
    steps = nearest_staircase(initial, bank_dtype=held).steps
    expected = np.sort(initial.bank().astype(np.dtype(held)).astype("float32"), axis=1).T
    np.testing.assert_array_equal(steps, expected)


def test_nearest_staircase_refuses_another_dtype_and_what_is_not_finite():
    initial = InitialValues((2,), 2, (3, 4), 5, None, NearestScores(), "connection")
    initial = initial.with_arrays([[0.0, np.nan], [0.0, 1.0]])
    with pytest.raises(ValueError, match='`dtype` must be "float32" or "float64".*Received'):
        nearest_staircase(initial, "float16")
    with pytest.raises(ValueError, match="`bank` must be finite.*Received"):
        nearest_staircase(initial)


def test_nearest_staircase_agrees_with_the_search_in_strata():
    fields = StratifiedUniform(BOUND / np.sqrt(3.0)), NearestScores(), "connection"
    initial = InitialValues((40, 30), 64, (1, 1), 7, *fields)
    lever = np.random.default_rng(0).uniform(-1.2 * BOUND, 1.2 * BOUND, (40, 30)).astype("float32")
    stored = read(nearest_staircase(initial), lever.ravel()).reshape(40, 30)
    value, _ = search(lever, 64)
    assert (value == stored).mean() > 0.999  # the midpoints are rounded differently
    np.testing.assert_allclose(np.abs(value - lever), np.abs(stored - lever), atol=1e-7)
