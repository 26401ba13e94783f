"""The random streams against the published Philox vectors, the standard library and themselves."""

import hashlib
import random
import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import keras
import numpy as np
import pytest

from keras_slots._checks import check_seed
from keras_slots.values import philox as random_streams
from keras_slots.values.philox import (
    BANK_STREAM,
    KINDS,
    SCORE_STREAM,
    VALUE_BANK_STREAM,
    derive_seed,
    draw,
    draw_seed,
    raw_words,
)

MASK = 2**64 - 1


def philox4x64_10(counter, key):
    """Philox as in Salmon et al. 2011, in Python integers."""
    x, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(high >> 64) ^ x[1] ^ k[0], high & MASK, (low >> 64) ^ x[3] ^ k[1], low & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return x


def reference_words(seed, stream, start, count):
    words = []
    for index in range(start, start + count):
        block = philox4x64_10((index // 8, 0, 0, 0), (seed, stream))
        words.append(block[index % 8 // 2] >> (32 * (index % 2)) & 0xFFFFFFFF)
    return words


def test_reference_philox_gives_the_random123_known_answers():
    # kat_vectors of Random123, philox4x64 with 10 rounds
    assert philox4x64_10((0,) * 4, (0,) * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    assert philox4x64_10((MASK,) * 4, (MASK,) * 2) == [
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    ]
    pi = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)
    assert philox4x64_10(pi, (0x452821E638D01377, 0xBE5466CF34E90C6C)) == [
        0xA528F45403E61D95,
        0x38C72DBD566E9788,
        0xA5A1610E72FD18B5,
        0x57BD43B5E52B7FE6,
    ]


def test_raw_words_start_with_the_random123_known_answer_for_zero():
    expected = [0xCA36314C, 0x16554D9E, 0x672D0FDC, 0xDB20FE9D, 0xE186176B, 0xD7E772CE]
    assert raw_words(0, 0, 6).tolist() == expected


@pytest.mark.parametrize(
    ("seed", "stream", "start"),
    [(0, 0, 0), (7, 1, 3), (2**64 - 1, 2**64 - 1, 8), (2**63, 2, 2**40 + 5), (1, 0, 2**64 - 1)],
)
def test_raw_words_are_philox_at_any_start(seed, stream, start):
    assert raw_words(seed, stream, 21, start).tolist() == reference_words(seed, stream, start, 21)


def test_raw_words_are_unsigned_32_bit():
    assert raw_words(1, 0, 3).dtype == np.uint32


@pytest.mark.parametrize("kind", KINDS)
def test_draw_of_a_window_is_a_slice_of_the_whole(kind):
    whole = draw(kind, 11, BANK_STREAM, 100_000)
    for start, count in [(0, 1), (1, 7), (7, 9), (8, 8), (32_767, 3), (99_999, 1), (123, 70_001)]:
        window = draw(kind, 11, BANK_STREAM, count, start)
        np.testing.assert_array_equal(window, whole[start : start + count])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [8, 1000, 4099, 2**20])
def test_draw_does_not_depend_on_the_chunk(monkeypatch, kind, chunk):
    expected = draw(kind, 3, 1, 20_003, 5, 0.3)
    monkeypatch.setattr(random_streams, "_CHUNK", chunk)
    np.testing.assert_array_equal(draw(kind, 3, 1, 20_003, 5, 0.3), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_draw_does_not_depend_on_the_threads(monkeypatch, kind, threads):
    monkeypatch.setattr(random_streams, "_MAX_THREADS", 1)
    expected = draw(kind, 3, 1, 200_003, 5, 0.3)
    monkeypatch.setattr(random_streams, "_THREADED_FROM", 0)
    monkeypatch.setattr(random_streams, "_MAX_THREADS", threads)
    monkeypatch.setattr(random_streams.os, "cpu_count", lambda: threads)
    np.testing.assert_array_equal(draw(kind, 3, 1, 200_003, 5, 0.3), expected)


def test_draw_does_not_depend_on_calls_in_parallel():
    expected = draw("positive_uniform", 5, 0, 50_000)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: draw("positive_uniform", 5, 0, 50_000), range(8)):
            np.testing.assert_array_equal(result, expected)


def test_draw_does_not_depend_on_global_seeds():
    keras.utils.set_random_seed(1)
    first = draw("positive_uniform", 5, 0, 100)
    keras.utils.set_random_seed(2)
    np.testing.assert_array_equal(draw("positive_uniform", 5, 0, 100), first)


@pytest.mark.parametrize("kind", KINDS)
def test_draw_of_no_values_is_an_empty_array(kind):
    result = draw(kind, 0, 0, 0)
    assert result.shape == (0,)
    assert result.dtype == np.float32


def test_draw_positive_uniform_is_the_word_shifted_by_8_times_2_to_the_minus_24():
    expected = [(word >> 8) / 2**24 for word in reference_words(9, 1, 40, 50)]
    assert draw("positive_uniform", 9, 1, 50, start=40).tolist() == expected


def test_draw_uniform_is_2u_minus_1_exactly():
    expected = [2 * (word >> 8) / 2**24 - 1 for word in reference_words(9, 1, 40, 50)]
    assert draw("uniform", 9, 1, 50, start=40).tolist() == expected


def test_draw_signed_constant_is_the_highest_bit():
    expected = [1.0 if word >> 31 else -1.0 for word in reference_words(9, 1, 40, 50)]
    assert draw("signed_constant", 9, 1, 50, start=40).tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_draw_scales_by_one_rounded_float32_multiplication(kind):
    expected = draw(kind, 2, 0, 5000) * np.float32(0.1)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(draw(kind, 2, 0, 5000, scale=0.1), expected)


def test_draw_truncated_normal_is_the_inverse_of_the_cut_normal_distribution():
    normal = statistics.NormalDist()
    mass = normal.cdf(2.0) - 0.5
    middles = [((w >> 8) + 0.5) / 2**24 for w in raw_words(4, 0, 20_000).tolist()]
    expected = np.array([normal.inv_cdf(0.5 + (2 * u - 1) * mass) for u in middles])
    values = draw("truncated_normal", 4, 0, 20_000).astype(np.float64)
    # half a unit in the last place of float32, and the 2e-9 of the fit
    tolerance = np.abs(expected) * 2.0**-24 + 2e-9
    assert (np.abs(values - expected) <= tolerance).all()


def test_draw_truncated_normal_over_all_its_words_is_odd_increasing_and_below_2():
    step, values = 2**20, []
    for low in range(0, 2**24, step):
        words = np.arange(low, low + step, dtype=np.uint32) << np.uint32(8)
        out = np.empty(step, dtype=np.float32)
        random_streams._fill_truncated_normal(words, out)
        values.append(out)
    table = np.concatenate(values)
    np.testing.assert_array_equal(table, -table[::-1])
    assert (np.diff(table) >= 0).all()
    assert 1.99999 < table[-1] < 2.0


def test_draw_gives_uncorrelated_streams_and_seeds():
    count = 200_000
    keys = [(1, BANK_STREAM), (1, SCORE_STREAM), (1, VALUE_BANK_STREAM)]
    drawn = [draw("uniform", *key, count) for key in [*keys, (0, BANK_STREAM), (0, SCORE_STREAM)]]
    correlation = np.corrcoef(np.array(drawn, dtype=np.float64))
    assert np.abs(correlation - np.eye(len(drawn))).max() < 5 / np.sqrt(count)


def test_streams_have_fixed_numbers():
    streams = (BANK_STREAM, SCORE_STREAM, VALUE_BANK_STREAM)
    assert streams == (0, 1, 3)


def checksum(values):
    return hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()


GOLDEN = {
    "positive_uniform": "967bdf424711f3ded000a79c9e71257909a799e34b9338503f12d42cc5de2294",
    "uniform": "32637f29cee9bf7b0aafd0899109e16884431fe6448c0596202aad34e8c5719c",
    "truncated_normal": "524acee577d502e535a1ce032b1dbe4994d6dba6804c5b02c0a85986c0c9182b",
    "signed_constant": "428821d7cce8573b0175302f1099fc0f3997087983411045258327835ad00509",
}


@pytest.mark.parametrize("kind", KINDS)
def test_draw_has_golden_checksums(kind):
    assert checksum(draw(kind, 20_240_607, 1, 100_000, 12_345)) == GOLDEN.get(kind)


def test_raw_words_have_a_golden_checksum():
    expected = "01999d004687dfcb85d5603f8b02aacb836e68a790f90bc43823169d6ad64631"
    assert checksum(raw_words(20_240_607, 1, 100_000, 12_345)) == expected


def test_derive_seed_is_the_documented_hash():
    digest = hashlib.sha256(b"42/block_1/dense").digest()
    assert derive_seed(42, "block_1/dense") == int.from_bytes(digest[:8], "big") // 2
    assert derive_seed(42, "block_1/dense") == 6_743_557_482_465_599_107


def test_derive_seed_separates_names_and_seeds():
    seeds = {derive_seed(seed, f"dense_{i}") for seed in range(20) for i in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_draw_seed_is_governed_by_the_keras_seed_and_never_repeats():
    keras.utils.set_random_seed(3)
    first = [draw_seed() for _ in range(5)]
    keras.utils.set_random_seed(3)
    assert [draw_seed() for _ in range(5)] == first
    assert len(set(first)) == 5
    random.seed(3)
    assert draw_seed() == first[0]


@pytest.mark.parametrize("seed", [0, 5, 2**64 - 1, np.int32(5), np.uint64(2**64 - 1)])
def test_check_seed_takes_python_and_numpy_integers(seed):
    checked = check_seed(seed)
    assert type(checked) is int
    assert checked == int(seed)
    np.testing.assert_array_equal(draw("positive_uniform", seed, 0, 4), draw("positive_uniform", int(seed), 0, 4))


@pytest.mark.parametrize(
    "seed", [True, np.True_, -1, np.int64(-1), 2**64, 1.0, np.float32(1), "1", None, [1], (1, 2)]
)
def test_check_seed_refuses_all_else(seed):
    expected = r"`seed` must be an integer, at least 0 and below 2\*\*64. Received: seed=.*`seed=0`"
    with pytest.raises(ValueError, match=expected):
        check_seed(seed)
    with pytest.raises(ValueError, match=expected):
        draw("positive_uniform", seed, 0, 4)
    with pytest.raises(ValueError, match=expected):
        derive_seed(seed, "dense")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"stream": -1}, "stream"),
        ({"stream": 2**64}, "stream"),
        ({"count": -1}, "count"),
        ({"count": 2.0}, "count"),
        ({"count": True}, "count"),
        ({"start": -8}, "start"),
        ({"start": 2**64}, "start"),
    ],
)
def test_draw_refuses_bad_windows(arguments, name):
    arguments = {"seed": 0, "stream": 0, "count": 1, **arguments}
    for generate in (raw_words, *(partial(draw, kind) for kind in KINDS)):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer, .*Received: {name}="):
            generate(**arguments)


def test_draw_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="`kind` must be \"uniform\", .*Received: kind='normal'"):
        draw("normal", 0, 0, 1)
