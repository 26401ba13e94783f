"""The random numbers of probabilistic selection: a documented hash, the same bits on every backend."""

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import SlotDense
from keras_slots._backend import compiled
from keras_slots.kernels.sampler import Sampler, UniformNumbers
from test_strata import MASK, python_mix


def python_number(seed, draw, number):
    """The random number of a connection, in Python integers."""
    key0, key1 = python_mix(seed), python_mix(seed + 0x9E3779B9 & MASK)
    state = python_mix(number + key0 & MASK) ^ key1
    return (python_mix(state ^ draw * 0x9E3779B9 & MASK) >> 8) / 2**24


def drawn(shape, seed=5, calls=1, dtype="float32"):
    """The numbers of the first calls, and the state after them."""
    sampler = Sampler(seed)
    return [numpy_of(compiled(UniformNumbers(shape, dtype))(sampler.next())) for _ in range(calls)], sampler


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 2, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_numbers_are_the_documented_hash_counted_in_c_order(shape, seed):
    numbers, _ = drawn(shape, seed, calls=3)
    for draw, array in enumerate(numbers):
        assert array.shape == shape and array.dtype == np.float32
        expected = [python_number(seed, draw, i) for i in range(array.size)]
        np.testing.assert_array_equal(array.ravel(), expected)


def test_numbers_are_the_same_in_float64(x64):
    (single,), (double,) = drawn((50, 60))[0], drawn((50, 60), dtype="float64")[0]
    assert double.dtype == np.float64
    np.testing.assert_array_equal(single.astype("float64"), double)


def test_numbers_are_uniform_and_independent():
    numbers, _ = drawn((300, 400), calls=8)
    x = np.array([array.ravel() for array in numbers], "float64")
    assert x.min() >= 0 and x.max() < 1
    counts = np.array([np.bincount((row * 256).astype(int), minlength=256) for row in x])
    expected = x.shape[1] / 256
    chi_square = ((counts - expected) ** 2 / expected).sum(axis=1)
    assert np.abs(chi_square - 255).max() < 5 * np.sqrt(2 * 255)
    standard_error = 1 / np.sqrt(x.shape[1])
    between_draws = np.corrcoef(x) - np.eye(8)
    assert np.abs(between_draws).max() < 4.5 * standard_error
    for lag in (1, 2, 3, 400):
        assert abs(np.corrcoef(x[0, :-lag], x[0, lag:])[0, 1]) < 4.5 * standard_error
    (other,), _ = drawn((300, 400), seed=6)
    assert abs(np.corrcoef(x[0], other.ravel())[0, 1]) < 4.5 * standard_error


def test_each_training_pass_takes_the_next_numbers():
    layer = SlotDense(20, selection="probabilistic", seed=3)
    layer(np.ones((1, 30)), training=True)
    kernel = layer.slot_kernels["kernel"]
    np.testing.assert_array_equal(numpy_of(kernel.sampler.state)[1], 1)
    seed = int(numpy_of(kernel.sampler.state)[0])
    (numbers,) = kernel.draw()
    np.testing.assert_array_equal(numpy_of(numbers), drawn((30, 20), seed, calls=2)[0][1])
    assert keras.backend.standardize_dtype(numbers.dtype) == "float32"
