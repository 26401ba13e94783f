"""The nearest value, found without the bank, against brute force over all K values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_slots._backend import compiled as compile_function
from keras_slots.kernels.nearest import nearest_in_strata
from keras_slots.values.nearest_scores import NearestScores
from keras_slots.values.stratified import Grid, StratifiedUniform

BOUND = 0.0713


def bank_of(seed, num_values, count, bound=BOUND, bits=None):
    """The stratified bank of `count` connections, of shape `(count, K)`."""
    distribution = StratifiedUniform(bound / np.sqrt(3.0), bits=bits)
    assert distribution.bound((1, 1)) == np.float32(bound)
    return distribution.rows(seed, num_values, (1, 1), 0, count)


def search(lever, num_values, seed=7, bound=BOUND, function=None, **arguments):
    """Value and index that the search finds, as NumPy arrays."""
    lever = np.asarray(lever)
    tensors = (lever, StratifiedUniform().words(seed))
    function = function or searching(num_values, bound, **arguments)
    return [ops.convert_to_numpy(x) for x in function(*map(ops.convert_to_tensor, tensors))]


def searching(num_values, bound=BOUND, bits=None, **arguments):
    arguments = {"grid": Grid(num_values, bits), "bound": float(np.float32(bound)), **arguments}
    return lambda lever, words: nearest_in_strata(lever, words, **arguments)


def reference(lever, num_values, seed=7, bound=BOUND, bits=None):
    """The same in NumPy, from the integers of all K values and their midpoints."""
    kind, unit = lever.dtype.type, Grid(num_values, bits).unit(bound)
    with np.errstate(all="ignore"):
        target = lever * kind(2.0 / float(unit))
    bank = bank_of(seed, num_values, lever.size, bound, bits)
    positions = np.rint(bank.astype("float64") / float(unit))
    above = target.reshape(-1, 1) > positions[:, 1:] + positions[:, :-1]
    index = above.sum(axis=1)
    return bank[np.arange(lever.size), index].reshape(lever.shape), index.reshape(lever.shape)


# The choice


@st.composite
def grids(draw):
    """K and the size of integers in bits: whatever fits together."""
    bits = draw(st.none() | st.integers(4, 16))
    return draw(st.integers(1, 4096 if bits is None else min(4096, 2 ** (bits - 1)))), bits


@given(grids(), st.integers(0, 2**64 - 1), st.floats(0.01, 3.0))
@settings(max_examples=90)
def test_nearest_in_strata_is_the_nearest_of_all_values(grid, seed, spread):
    num_values, bits = grid
    rng = np.random.default_rng(seed % 1000)
    lever = rng.uniform(-spread * BOUND, spread * BOUND, 12).astype("float32")
    value, index = search(lever, num_values, seed, bits=bits)
    bank = bank_of(seed, num_values, 12, bits=bits).astype("float64")
    distance = np.abs(bank - lever.astype("float64")[:, None])
    assert (bank[np.arange(12), index] == value).all()
    # The lever is rounded once: only what is as near up to that may win.
    slack = 4e-7 * (np.abs(lever) + BOUND)
    assert (np.abs(value - lever) <= distance.min(axis=1) + slack).all()
    assert (index == distance.argmin(axis=1)).mean() > 0.9


@pytest.mark.parametrize(
    ("num_values", "bits"),
    [
        *((k, None) for k in (1, 2, 3, 4, 5, 6, 7, 8, 9, 64, 255, 4096, 65536)),
        *((k, 8) for k in (1, 2, 3, 4, 5, 8, 63, 64, 65, 127, 128)),
        *((1, 4), (7, 4), (8, 4), (5, 16), (32768, 16)),
    ],
)
def test_nearest_in_strata_finds_every_value_at_itself(num_values, bits):
    bank = bank_of(7, num_values, 1, bits=bits)[0]
    value, index = search(bank, num_values, bits=bits, shared=True)
    np.testing.assert_array_equal(value, bank)
    np.testing.assert_array_equal(index, np.arange(num_values))


@pytest.mark.parametrize(
    ("num_values", "bits"),
    [
        *((k, None) for k in (2, 3, 4, 5, 8, 64, 4096, 65536)),
        *((k, 8) for k in (2, 3, 8, 127, 128)),
        (8, 4),
        (9, 16),
    ],
)
def test_nearest_in_strata_gives_ties_to_the_lowest_index(num_values, bits):
    # A bound that makes values multiples of a power of two, so that midpoints are exact.
    bound = Grid(num_values, bits).size * 2.0**-20
    bank = bank_of(7, num_values, 1, bound, bits)[0]
    middle = (bank[1:] + bank[:-1]) / 2
    np.testing.assert_array_equal(middle.astype("float64") * 2, bank[1:].astype("float64") + bank[:-1])
    below = np.arange(num_values - 1)
    # Beside zero a denormal number would be flushed.
    less, more = (np.where(middle, np.nextafter(middle, sign * np.float32(1e9)), sign * 1e-30) for sign in (-1, 1))
    for lever, expected in ((less, below), (middle, below), (more, below + 1)):
        lever = lever.astype("float32")
        _, index = search(lever, num_values, bound=bound, bits=bits, shared=True)
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
    found = nearest_in_strata(ops.convert_to_tensor(lever), keys, Grid(8), BOUND)[0]
    np.testing.assert_array_equal(ops.convert_to_numpy(found), reference(lever, 8)[0])


def test_nearest_in_strata_follows_sgd_with_momentum_on_all_scores(x64):
    num_values, count = 16, 300
    bank = bank_of(7, num_values, count).astype("float64")
    rng = np.random.default_rng(1)
    start = rng.uniform(-BOUND, BOUND, count)
    scores, velocity = NearestScores().scores(bank, start), np.zeros((count, num_values))
    lever, speed, changes = start.copy(), np.zeros(count), 0
    function = compile_function(searching(num_values))
    before = scores.argmax(axis=1)
    for _ in range(300):
        value, index = search(lever, num_values, function=function)
        best = scores.argmax(axis=1)
        np.testing.assert_array_equal(index, best)
        np.testing.assert_array_equal(value, bank[np.arange(count), best])
        changes += (best != before).sum()
        before = best
        gradient = rng.normal(0, 1, count)
        velocity = 0.9 * velocity - 0.002 * gradient[:, None] * bank
        speed = 0.9 * speed - 0.002 * gradient
        scores, lever = scores + velocity, lever + speed
    assert changes > 10 * count


# The same bits everywhere


@pytest.mark.quick
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("num_values", "bits"),
    [
        *((k, None) for k in (1, 2, 3, 4, 5, 7, 8, 13, 64, 100, 1000, 4096, 65536)),
        *((k, 8) for k in (1, 2, 3, 4, 5, 8, 13, 64, 100, 127, 128)),
        *((3, 4), (8, 4), (5, 16), (1000, 16), (32768, 16)),
    ],
)
def test_nearest_in_strata_has_the_bits_of_numpy(num_values, bits, dtype, compiled, x64):
    shape = (60, 301) if num_values <= 100 else (6, 31) if num_values <= 4096 else (2, 5)
    function = searching(num_values, bits=bits)
    function = compile_function(function) if compiled else function
    rng = np.random.default_rng(num_values)
    for seed in (1, 2**40, 3):
        lever = rng.normal(0, 0.7 * BOUND, shape).astype(dtype)
        lever.flat[:4] = [0.0, -0.0, 1e30, np.nan]
        value, index = search(lever, num_values, seed, function=function)
        expected, expected_index = reference(lever, num_values, seed, bits=bits)
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(index, expected_index)


@pytest.mark.slow
@pytest.mark.parametrize("num_values", [8, 64])
def test_nearest_in_strata_has_the_bits_of_numpy_for_millions_of_levers(num_values):
    function = compile_function(searching(num_values))
    lever = np.random.default_rng(0).normal(0, 0.7 * BOUND, (1500, 1001)).astype("float32")
    value, index = search(lever, num_values, function=function)
    for row in range(0, 1500, 500):
        # The bank of so many connections comes in pieces.
        rows = slice(row * 1001, (row + 500) * 1001)
        bank = StratifiedUniform(BOUND / np.sqrt(3.0)).rows(7, num_values, (1, 1), rows.start, rows.stop)
        positions = np.rint(bank / Grid(num_values).unit(BOUND)).astype("int32")
        target = lever.ravel()[rows] * np.float32(2.0 / float(Grid(num_values).unit(BOUND)))
        expected = (target[:, None] > (positions[:, 1:] + positions[:, :-1]).astype("float32")).sum(axis=1)
        np.testing.assert_array_equal(index.ravel()[rows], expected)
        np.testing.assert_array_equal(value.ravel()[rows], bank[np.arange(len(bank)), expected])


def test_nearest_in_strata_has_a_golden_choice():
    lever = (np.arange(12, dtype="float32") / 6 - 1) * np.float32(BOUND)
    _, index = search(lever, 4096, seed=20_240_607)
    assert index.tolist() == [0, 341, 682, 1023, 1365, 1706, 2047, 2388, 2730, 3072, 3413, 3754]
