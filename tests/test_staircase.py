"""Staircases, read by their rule, against the arg-max over all K lines in float64."""

import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_slots import GlorotUniform, UniformScores
from keras_slots.kernels import staircase as module
from keras_slots.kernels.envelope import NUDGE, envelope
from keras_slots.kernels.staircase import build_staircase, levels_of
from keras_slots.values.initial_values import InitialValues
from lines_cases import any_lines, brute_force, build, paper_like, read, rises


def drawn(shape, num_values, seed=0, **fields):
    fields = {"bank_initializer": GlorotUniform(), "score_initializer": UniformScores(), **fields}
    return InitialValues(shape, num_values, (30, 20), seed, sharing="connection", **fields)


# Reading


@pytest.mark.parametrize("num_values", [1, 2, 3, 8, 64, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_staircase_is_the_arg_max_at_random_levers(num_values, dtype):
    bank, scores = paper_like(num_values, 400, seed=num_values, dtype=dtype)
    thresholds, _ = envelope(bank, scores)
    rng = np.random.default_rng(1)
    levers = [rng.normal(0, scale, 400) for scale in (1e-3, 1e-2, 0.1, 1.0, 10.0, 1e4)]
    staircase = build(bank, scores)
    for lever in levers:
        finite = np.where(thresholds < np.inf, thresholds, 1e9)
        clear = (np.abs(lever - finite) > 1e-9 * np.abs(finite)).all(axis=0)
        assert clear.mean() > 0.99
        expected = brute_force(bank, scores, lever)
        np.testing.assert_array_equal(read(staircase, lever)[clear], expected[clear])


@pytest.mark.parametrize("num_values", [2, 8, 64])
def test_staircase_is_the_arg_max_just_beside_every_threshold(num_values):
    bank, scores = paper_like(num_values, 300)
    thresholds, _ = envelope(bank, scores)
    staircase = build(bank, scores)
    for threshold in thresholds:
        at = threshold < np.inf
        for factor in (1 - 1e-7, 1 + 1e-7):
            lever = np.where(at, threshold, 0.0) * factor
            expected = brute_force(bank, scores, lever)
            np.testing.assert_array_equal(read(staircase, lever)[at], expected[at])


@given(any_lines(), st.sampled_from([1.0, -1.0, 0.01, -0.01, 3.0, -50.0, 1e6, -1e6]))
@settings(max_examples=300, deadline=None)
def test_staircase_selects_the_highest_of_any_lines(lines, lever):
    bank, scores = lines
    height = scores + bank * lever
    slack = 1e-12 * (np.abs(scores) + np.abs(bank * lever)).max(axis=1)
    selected = read(build(bank, scores), lever)
    chosen = np.where(bank == selected[:, None], height, -np.inf).max(axis=1)
    assert np.all(chosen >= height.max(axis=1) - slack)


@given(any_lines())
@settings(max_examples=300, deadline=None)
def test_staircase_at_a_lever_of_zero_is_the_arg_max_of_any_scores(lines):
    bank, scores = lines
    expected = brute_force(bank, scores, 0.0)
    for dtype in ("float32", "float64"):
        staircase = build(bank.astype(dtype), scores, dtype)
        rounded = brute_force(bank.astype(dtype), scores, 0.0)
        np.testing.assert_array_equal(read(staircase, 0.0), rounded)
        np.testing.assert_array_equal(read(build(bank, scores), 0.0), expected)


@given(any_lines(), st.permutations(range(9)))
@settings(max_examples=100, deadline=None)
def test_staircase_depends_on_the_order_of_values_only_in_ties_at_zero(lines, order):
    bank, scores = lines
    num_values = bank.shape[1]
    order = [k for k in order if k < num_values]
    one, other = build(bank, scores), build(bank[:, order], scores[:, order])
    for lever in (-10.0, -0.3, 0.7, 10.0):
        top = np.sort(scores + bank * lever, axis=1)
        clear = (num_values == 1) | (top[:, -1] - top[:, -min(2, num_values)] > 1e-9)
        np.testing.assert_array_equal(read(one, lever)[clear], read(other, lever)[clear])


@pytest.mark.parametrize("first", [-1.0, 0.25, 2.0])
def test_staircase_of_equal_scores_selects_smallest_first_and_largest_value(first):
    bank = np.array([[first, -1.0, 0.5, 2.0, 0.25]])
    scores = np.full((1, 5), 0.7)
    staircase = build(bank, scores)
    for lever, expected in ((-1e-20, -1.0), (0.0, first), (1e-20, 2.0)):
        assert read(staircase, lever).item() == expected
    assert rises(staircase.steps[0], staircase.steps[1:]).sum() == (2 if first == 0.25 else 1)


@pytest.mark.parametrize("num_values", [2, 8, 64])
def test_staircase_of_a_signed_constant_bank_has_at_most_one_step(num_values):
    rng = np.random.default_rng(3)
    bank = rng.choice([-0.05, 0.05], (500, num_values)).astype("float32")
    scores = rng.uniform(0, 0.1, bank.shape).astype("float32")
    staircase = build(bank, scores, levels=1)
    for lever in (-3.0, -0.1, 0.0, 0.2, 3.0):
        np.testing.assert_array_equal(read(staircase, lever), brute_force(bank, scores, lever))


def test_staircase_of_shared_values_is_that_of_the_broadcast_bank():
    bank, scores = paper_like(8, 100)
    shared = build(bank[0], scores)
    whole = build(np.repeat(bank[:1], 100, axis=0), scores)
    for one, other in zip(shared, whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_staircase_of_extreme_entries_is_finite_and_warns_of_nothing():
    extremes = np.array([0.0, 5e-324, 1e-300, 1e-45, 3e38, -3e38, 9e299, -9e299, 1.0])
    rng = np.random.default_rng(4)
    bank, scores = rng.choice(extremes, (2000, 8)), rng.choice(extremes, (2000, 8))
    staircase = build(bank, scores)
    np.testing.assert_array_equal(read(staircase, 0.0), brute_force(bank, scores, 0.0))
    for array in (*staircase, *build(bank * 1e-262, scores, "float32")):
        assert np.isfinite(array).all()
        assert not np.isnan(0.0 * array).any()


def test_staircase_read_by_a_lever_follows_sgd_with_momentum_on_all_scores():
    bank, scores = paper_like(8, 200, dtype="float64")
    staircase = build(bank, scores)
    rng, live = np.random.default_rng(6), scores.copy()
    lever, velocity, speed = np.zeros(200), np.zeros_like(scores), np.zeros(200)
    for _ in range(300):
        expected = bank[np.arange(200), live.argmax(axis=1)]
        np.testing.assert_array_equal(read(staircase, lever), expected)
        gradient = rng.normal(0, 1, 200)
        velocity = 0.9 * velocity - 0.005 * gradient[:, None] * bank
        speed = 0.9 * speed - 0.005 * gradient
        live, lever = live + velocity, lever + speed


# Rounding


def test_staircase_in_float32_decides_as_in_float64_for_every_float32_lever():
    bank, scores = paper_like(16, 500)
    exact, rounded = (build(bank, scores, dtype) for dtype in ("float64", "float32"))
    assert rounded.thresholds.dtype == rounded.steps.dtype == np.float32
    np.testing.assert_array_equal(rounded.steps, exact.steps)
    assert np.all(rounded.thresholds[1:] >= rounded.thresholds[:-1])
    for threshold in envelope(bank, scores)[0]:
        nearest = np.where(threshold < np.inf, threshold, 0).astype("float32")
        for lever in (np.nextafter(nearest, -np.inf), nearest, np.nextafter(nearest, np.inf)):
            np.testing.assert_array_equal(read(rounded, lever), read(exact, lever))


@given(any_lines())
@settings(max_examples=100, deadline=None)
def test_staircase_in_float32_keeps_the_order_of_any_thresholds(lines):
    thresholds = build(*lines, "float32").thresholds
    assert np.all(thresholds[1:] >= thresholds[:-1])
    assert not np.any((thresholds > -NUDGE / 2) & (thresholds < 0))


@pytest.mark.parametrize("held", ["bfloat16", "float16"])
def test_staircase_holds_the_values_as_the_layer_rounds_them(held):
    bank, scores = paper_like(8, 300)
    rounded = bank.astype(np.dtype(held)).astype("float32")
    ours, expected = (build(bank, scores, "float32", bank_dtype=held), build(rounded, scores, "float32"))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (build(bank, scores, "float32").steps != expected.steps).any()


# Shapes and filling


@pytest.mark.parametrize("num_values", [8, 64])
def test_staircase_has_the_same_shapes_whatever_the_seed(num_values):
    for seed in range(3):
        initial = drawn((50, 60), num_values, seed)
        staircase = build_staircase(initial)
        assert staircase.thresholds.shape == (levels_of(initial), 3000)
        assert staircase.steps.shape == (levels_of(initial) + 1, 3000)
        assert all(np.isfinite(array).all() for array in staircase)


def test_staircase_in_its_default_size_is_the_arg_max():
    initial = drawn((50, 60), 32, seed=3)
    bank, scores = initial.bank().reshape(-1, 32), initial.scores().reshape(-1, 32)
    staircase = build_staircase(initial, "float64")
    rng = np.random.default_rng(0)
    for scale in (0.0, 1e-2, 0.3, 3.0, 1e3):
        lever = rng.normal(0, scale, 3000)
        np.testing.assert_array_equal(read(staircase, lever), brute_force(bank, scores, lever))


def test_staircase_repeats_its_last_threshold_and_value_where_it_ends():
    bank, scores = paper_like(16, 400)
    thresholds, steps = build(bank, scores)
    heights = (envelope(bank, scores)[0] < np.inf).sum(axis=0)
    reached = rises(steps[0], steps[1:])
    np.testing.assert_array_equal(reached.sum(axis=0), heights)
    # No entry is larger than those of real steps.
    assert not thresholds[:, heights == 0].any()
    before, at = thresholds[0], heights > 0
    for threshold, rose in zip(thresholds[1:], reached[1:], strict=True):
        np.testing.assert_array_equal(threshold[~rose & at], before[~rose & at])
        before = threshold


def test_staircase_of_no_connections_is_empty():
    staircase = build(np.zeros((0, 4)), np.zeros((0, 4)))
    assert [array.shape for array in staircase] == [(3, 0), (4, 0)]


def test_staircase_refuses_a_draw_that_outgrows_its_levels():
    bank, scores = paper_like(16, 400)
    with pytest.raises(ValueError, match=r"`seed` must give .*Received: a connection with \d+.*another `seed`"):
        build(bank, scores, levels=3)


# The build


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunk_values", [1 << 17, 250, 1])
def test_build_does_not_depend_on_chunks_and_threads(monkeypatch, threads, chunk_values):
    bank, scores = paper_like(16, 333)
    expected = build(bank, scores)
    monkeypatch.setattr(module, "_CHUNK_VALUES", chunk_values)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    for one, other in zip(build(bank, scores), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_build_uses_up_to_eight_cores(monkeypatch):
    counts = []

    class Pool(module.ThreadPoolExecutor):
        def __init__(self, workers):
            counts.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: 512)
    build(*paper_like(4, 10))
    assert counts == [8]


def test_build_draws_each_connection_once_and_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_VALUES", 100)
    windows = []

    class Watched(GlorotUniform):
        def sample(self, seed, count, fans, start=0, stream=None):
            windows.append((start, count))
            return super().sample(seed, count, fans, start, stream)

    build_staircase(drawn((110,), 4, bank_initializer=Watched()))
    assert sorted(windows) == [(0, 100), (100, 100), (200, 100), (300, 100), (400, 40)]


def test_build_shows_a_progress_bar_when_it_is_long_and_on_a_terminal_only(monkeypatch, capsys):
    bank, scores = paper_like(4, 100)
    monkeypatch.setattr(module, "_CHUNK_VALUES", 40)

    def printed(terminal, after):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        monkeypatch.setattr(module, "_BAR_AFTER", after)
        build(bank, scores)
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    assert printed(terminal=True, after=60.0) == ""
    assert printed(terminal=False, after=-1.0) == ""
    assert "10/10" in printed(terminal=True, after=-1.0)


@pytest.mark.parametrize("name", ["bank", "scores"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_build_refuses_entries_that_are_not_finite_by_name(name, wrong):
    arrays = dict(zip(("bank", "scores"), paper_like(4, 10), strict=True))
    arrays[name][3, 2] = wrong
    with pytest.raises(ValueError, match=f"`{name}` must be finite.*Received"):
        build(**arrays)


def test_build_refuses_another_dtype():
    with pytest.raises(ValueError, match='`dtype` must be "float32" or "float64".*=\'float16\''):
        build(*paper_like(4, 10), "float16")


def test_build_passes_on_an_error_of_the_initializer():
    def initializer(shape, dtype):
        raise OSError("no such bank")

    with pytest.raises(OSError, match="no such bank"):
        build_staircase(drawn((10,), 4, bank_initializer=initializer))
