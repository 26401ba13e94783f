"""Stratified values: the hash against Python integers, its quality, and the same bits everywhere."""

import hashlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_slots.values import initializers
from keras_slots.values.distributions import GlorotUniform, UniformScores
from keras_slots.values.initial_values import InitialValues
from keras_slots.values.philox import STRATA_STREAM, raw_words
from keras_slots.values.stratified import (
    SPREAD,
    Grid,
    StratifiedUniform,
    connection_state,
    mix,
    offsets,
    pair_hash,
)
from value_cases import in_json, one_round_trip

FANS = (300, 100)
BOUND = StratifiedUniform().bound(FANS)
MASK = 2**32 - 1


def python_mix(x):
    x ^= x >> 16
    x = x * 0x21F0AAAD & MASK
    x ^= x >> 15
    x = x * 0xD35A2D97 & MASK
    return x ^ x >> 15


def python_position(words, connection, k, bits):
    """Position of a value in its stratum, in Python integers."""
    key0, key1 = (int(word) for word in words)
    state = python_mix(connection + key0 & MASK) ^ key1
    word = python_mix(state ^ (k // 2) * 0x9E3779B9 & MASK)
    return (word >> 16 if k % 2 else word & 0xFFFF) >> 16 - bits


def parts(seed, num_values, count, start=0):
    """Where the values of connections lie in their strata, in [0, 1), of shape `(count, K)`."""
    values = StratifiedUniform().rows(seed, num_values, FANS, start, start + count)
    strata = (values.astype("float64") / BOUND + 1.0) / 2.0 * num_values
    return strata - np.arange(num_values)


# The values


@pytest.mark.parametrize("num_values", [1, 2, 3, 8, 100, 128, 129, 4096, 65536])
def test_rows_are_the_documented_hash(num_values):
    bits, words = Grid(num_values).stratum_bits, StratifiedUniform().words(7)
    np.testing.assert_array_equal(words, raw_words(7, STRATA_STREAM, 2))
    positions = num_values << bits
    rng = np.random.default_rng(0)
    for start in (0, 5, 2**32 - 2):
        row = StratifiedUniform().rows(7, num_values, FANS, start, start + 1)[0]
        for k in {0, num_values - 1, *rng.integers(0, num_values, 20).tolist()}:
            position = (k << bits) + python_position(words, start, k, bits)
            expected = np.float32(position - positions // 2) * np.float32(2 * BOUND / positions)
            assert row[k] == expected


@pytest.mark.parametrize(
    ("num_values", "bits", "shift"),
    [
        *((1, 8, 7), (2, 8, 6), (3, 8, 5), (4, 8, 5), (8, 8, 4), (100, 8, 0), (127, 8, 0), (128, 8, 0)),
        *((1, 4, 3), (3, 4, 1), (8, 4, 0), (1, 16, 15), (7, 16, 12), (32768, 16, 0), (5, 12, 8)),
    ],
)
def test_rows_with_bits_are_the_documented_integers_times_one_float32(num_values, bits, shift):
    assert num_values << shift <= 2 ** (bits - 1) < num_values << shift + 1
    size, words = num_values << shift, StratifiedUniform().words(7)
    unit = np.float32(np.float64(BOUND) / size)
    for start in (0, 5, 2**32 - 2):
        row = StratifiedUniform(bits=bits).rows(7, num_values, FANS, start, start + 1)[0]
        for k in {0, num_values - 1, *np.random.default_rng(1).integers(0, num_values, 20).tolist()}:
            position = (k << shift) + python_position(words, start, k, shift)
            assert 0 <= position < size
            q = 2 * position - size + 1
            assert abs(q) < 2 ** (bits - 1) and (q - size) % 2
            assert row[k] == np.float32(q) * unit


@pytest.mark.parametrize(("num_values", "largest"), [(2, 127), (3, 95), (8, 127), (100, 99), (128, 127)])
def test_rows_with_8_bits_are_int8_times_a_scale_and_reach_both_ends(num_values, largest):
    bank = StratifiedUniform(1.5, bits=8)
    values = bank.rows(3, num_values, FANS, 0, 5000)
    unit = Grid(num_values, 8).unit(bank.bound(FANS))
    weights = np.rint(values / unit).astype("int8")
    np.testing.assert_array_equal(weights * unit, values)
    assert (weights.min(), weights.max()) == (-largest, largest)
    assert (np.diff(weights.astype(int), axis=1) > 0).all()
    assert abs(weights.mean()) < 0.5


@pytest.mark.parametrize("num_values", [1, 2, 3, 7, 8, 64, 1000, 4096, 65536])
def test_rows_hold_one_value_in_each_part(num_values):
    count = 2000 if num_values <= 64 else 20
    part = parts(3, num_values, count)
    # Positions are exact; multiplying them is not.
    slack = 1e-7 * num_values
    assert part.min() >= -slack and part.max() <= 1.0 + slack
    values = StratifiedUniform().rows(3, num_values, FANS, 0, count)
    assert values.dtype == np.float32
    assert (np.diff(values, axis=1) > 0).all()


@pytest.mark.parametrize("num_values", [1, 8, 300])
def test_rows_of_a_window_are_a_slice_of_the_whole(num_values):
    whole = StratifiedUniform().rows(5, num_values, FANS, 0, 10_000)
    for start, stop in ((0, 1), (17, 17), (4095, 4097), (9_000, 10_000)):
        window = StratifiedUniform().rows(5, num_values, FANS, start, stop)
        np.testing.assert_array_equal(window, whole[start:stop])


def test_rows_take_bound_and_seed_from_scale_and_own_seed():
    plain = StratifiedUniform().rows(5, 8, FANS, 0, 100)
    np.testing.assert_array_equal(StratifiedUniform(4.0).rows(5, 8, FANS, 0, 100), 4 * plain)
    np.testing.assert_array_equal(StratifiedUniform(seed=5).rows(9, 8, FANS, 0, 100), plain)
    assert np.float32(BOUND) == np.float32(np.sqrt(6 / 400))
    assert (np.abs(plain) <= np.float32(BOUND)).all()


@pytest.mark.parametrize(
    ("num_values", "bits", "checksum"),
    [
        (8, None, "d1566d8546f4c4e1a34e98aa41c11a60f402ef088fe5d2362770e3e8f91e32cd"),
        (5, None, "14531686c7c8ebb71e206a3c29e4794f483aa503df19043c6fede0f009152c18"),
        (4096, None, "1d8dcc83c078802705c7babcb4689ea6bbc2ee5a36c9df75a468732c33cb1559"),
        (3, 8, "e17c06a8b01d29d1e1bb434d335359287e81bb8f631a09a4656f4de525c58b9a"),
        (128, 8, "5d9951103dc997ae3f43ca15b8d6b8fac7ff7568cafe8ce664cf89118fac5798"),
        (8, 4, "9f474f03980fdc6cef9663a68dce20ab2d86ed8ea80ea401d423bdd7c02e1201"),
    ],
)
def test_rows_have_golden_checksums(num_values, bits, checksum):
    values = StratifiedUniform(0.7, bits=bits).rows(20_240_607, num_values, (11, 13), 77, 177)
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == checksum


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, 2**32 + 1)])
def test_rows_refuse_a_window_that_is_none(start, stop):
    with pytest.raises(ValueError, match=r"`start` and `stop` must be numbers of connections.*Received: st"):
        StratifiedUniform().rows(0, 8, FANS, start, stop)


@pytest.mark.parametrize("scale", [1e-300, 1e40])
def test_bound_refuses_what_float32_cannot_hold(scale):
    with pytest.raises(ValueError, match="`scale` must give values that float32 can hold"):
        StratifiedUniform(scale).bound(FANS)


@pytest.mark.parametrize("num_values", [0, 65537, 2.0])
def test_grid_refuses_a_bad_number_of_values(num_values):
    with pytest.raises(ValueError, match="`num_values` must be a positive integer, at most 65536"):
        Grid(num_values)


def test_sample_is_refused_since_the_values_depend_on_their_number():
    with pytest.raises(ValueError, match="can only be used as `bank_initializer`"):
        StratifiedUniform().sample(0, 10, FANS)


# The quality of the hash


def unsigned_mix(x):
    return mix(x.view("int32"), np).view("uint32")


def test_mix_is_a_permutation_whose_every_bit_depends_on_every_bit():
    x = np.arange(2**17, dtype="uint32") * np.uint32(2**15)
    y = unsigned_mix(x)
    assert len(np.unique(y)) == len(x)
    for bit in range(32):
        flipped = unsigned_mix(x ^ np.uint32(1 << bit)) ^ y
        ones = np.array([(flipped >> np.uint32(b) & np.uint32(1)).mean() for b in range(32)])
        assert np.abs(ones - 0.5).max() < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
@pytest.mark.parametrize("num_values", [1, 8, 33])
def test_rows_have_the_moments_of_the_uniform_distribution(seed, num_values):
    count = 200_000 if num_values == 8 else 40_000
    part = parts(seed, num_values, count)
    assert np.abs(part.mean(axis=0) - 0.5).max() < 4.5 / np.sqrt(12 * count)
    assert np.abs(part.var(axis=0) - 1 / 12).max() < 4.5 / np.sqrt(180 * count)
    values = StratifiedUniform().rows(seed, num_values, FANS, 0, count).astype("float64")
    assert np.sqrt((values**2).mean()) == pytest.approx(StratifiedUniform().rms(FANS), rel=0.01)


def largest_correlation(a, b):
    """The largest of the correlations column by column, in standard errors."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    rho = (a * b).mean(axis=0) / (a.std(axis=0) * b.std(axis=0))
    return np.abs(rho).max() * np.sqrt(len(a))


def test_rows_are_uncorrelated_between_values():
    part = parts(1, 64, 50_000)
    rho = np.corrcoef(part.T) - np.eye(64)
    assert np.abs(rho).max() * np.sqrt(50_000) < 4.7  # of 2016 pairs
    long = parts(1, 65536, 4)
    for lag in (1, 2, 3, 4, 7, 64, 1024):
        assert largest_correlation(long[:, :-lag].T, long[:, lag:].T) < 4.5


@pytest.mark.parametrize("lag", [1, 2, 3, 10, 100, 300, 784, 1024])
def test_rows_are_uncorrelated_between_connections(lag):
    part = parts(2, 8, 200_000)
    assert largest_correlation(part[:-lag], part[lag:]) < 4.5
    assert largest_correlation(part[:-lag], np.roll(part[lag:], 1, axis=1)) < 4.5


def test_rows_are_uncorrelated_between_seeds():
    drawn = np.array([parts(seed, 8, 20_000).ravel() for seed in range(20)])
    rho = np.corrcoef(drawn) - np.eye(20)
    assert np.abs(rho).max() * np.sqrt(160_000) < 4.7


@pytest.mark.parametrize("other", [(1, 0), (0, 1), (2**31, 0), (0, 2**31)])
def test_hash_of_neighbouring_keys_is_uncorrelated(other):
    connections = np.arange(100_000, dtype="int32")

    def high_halves(keys):
        state = connection_state(np.array(keys, "uint32").view("int32"), np.int32(0), connections, np)
        return offsets(pair_hash(state, SPREAD, np), 16, np)[1].astype("float64")[:, None]

    assert largest_correlation(high_halves((0, 0)), high_halves(other)) < 4.5


def test_rows_fill_pairs_of_strata_evenly():
    cells = (parts(4, 8, 100_000) * 16).astype(int)
    pairs = [(cells[:, k], cells[:, k + 1]) for k in range(7)]
    pairs += [(cells[:-1, k], cells[1:, k]) for k in range(8)]
    for one, other in pairs:
        seen = np.bincount(16 * one + other, minlength=256)
        expected = len(one) / 256
        chi_square = ((seen - expected) ** 2 / expected).sum()
        assert chi_square < 255 + 5 * np.sqrt(2 * 255)


def test_rows_share_no_more_halves_than_chance_has_it():
    # A counter that ran into another's would repeat whole runs of values.
    words = StratifiedUniform().words(0).view("int32")
    state = connection_state(words, np.int32(0), np.arange(20_000, dtype="int32"), np)
    spread = np.arange(32, dtype="int32") * np.int32(SPREAD)
    hashes = pair_hash(state[:, None], spread, np).ravel()
    repeated = len(hashes) - len(np.unique(hashes))
    expected = len(hashes) ** 2 / 2**33
    assert abs(repeated - expected) < 5 * np.sqrt(expected)


# The same bits everywhere


@pytest.mark.parametrize("compiled", [False, True])
def test_hash_has_the_same_bits_in_numpy_and_on_the_backend(compiled):
    from keras_slots._backend import compiled as compile_function

    rows = np.arange(1000, dtype="int32")[:, None] * np.int32(1000)
    columns = np.arange(1000, dtype="int32")
    spread = np.random.default_rng(0).integers(-(2**31), 2**31, (1000, 1000), dtype="int32")
    words = StratifiedUniform().words(3).view("int32")

    def hash_of(words, rows, columns, spread):
        return offsets(pair_hash(connection_state(words, rows, columns), spread), 11)

    function = compile_function(hash_of) if compiled else hash_of
    ours = function(*(ops.convert_to_tensor(x) for x in (words, rows, columns, spread)))
    state = connection_state(words, rows, columns, np)
    for one, expected in zip(ours, offsets(pair_hash(state, spread, np), 11, np), strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), expected)


# The initializer


def test_stratified_uniform_has_a_name_and_survives_json():
    assert initializers.get("stratified_uniform") == StratifiedUniform()
    assert StratifiedUniform(bits=8) != StratifiedUniform()
    for distribution in (StratifiedUniform(0.5, seed=3), StratifiedUniform(0.5, bits=8)):
        for copy in (
            one_round_trip(distribution),
            initializers.get(in_json(initializers.serialize(distribution))),
        ):
            assert copy == distribution and type(copy) is StratifiedUniform
    assert repr(StratifiedUniform(bits=8)) == "StratifiedUniform(scale=1.0, bits=8)"


@pytest.mark.parametrize("identifier", ["stratified_uniform", StratifiedUniform()])
def test_get_scores_refuses_stratified_values(identifier):
    with pytest.raises(ValueError, match="`score_initializer` must be .*Received: score_initializer="):
        initializers.get_scores(identifier)


@pytest.mark.parametrize("sharing", ["connection", "layer"])
def test_initial_values_draw_stratified_banks(sharing):
    fields = (4, 3), 5, FANS, 7, StratifiedUniform(), UniformScores(), sharing
    initial = InitialValues(*fields)
    assert initial.rebuildable
    expected = StratifiedUniform().rows(7, 5, FANS, 0, 1 if initial.shared else 12)
    np.testing.assert_array_equal(initial.bank(), expected.reshape(initial.bank_shape))
    rows = initial.bank_rows(3, 6)
    np.testing.assert_array_equal(rows, expected[0] if initial.shared else expected[3:6])


def test_stratified_values_share_no_stream_with_others_of_the_seed():
    own = StratifiedUniform().rows(3, 1, FANS, 0, 1000).ravel()
    other = GlorotUniform().sample(3, 1000, FANS)
    assert abs(np.corrcoef(own, other)[0, 1]) < 5 / np.sqrt(1000)


def test_unit_of_a_grid_is_the_distance_of_positions():
    assert Grid(8).unit(0.5) == np.float32(2.0**-19)
    values = StratifiedUniform().rows(3, 8, FANS, 0, 1000).astype("float64")
    steps = values / float(Grid(8).unit(BOUND))
    np.testing.assert_allclose(steps, np.round(steps), atol=0.05)
