"""The staircase against brute force over the K lines, in float64."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_slots import staircase as module
from keras_slots.staircase import NUDGE, build_staircase, evaluate, staircase

ENVELOPE_MEANS = {2: 2.00, 4: 2.84, 8: 3.70, 16: 4.60, 32: 5.50, 64: 6.40}
SPECIAL = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1 / 3, 0.1, 1e-20, -1e-20, 1e20, 1e-38])
ENTRIES = st.one_of(st.floats(-4, 4, width=32), st.integers(-2, 2).map(float), SPECIAL)


def paper_like(num_values, count, seed=0, dtype="float32"):
    """A bank from U(-1, 1) and scores from U(0, 0.1), each of shape (num_values, count)."""
    rng = np.random.default_rng(seed)
    bank = rng.uniform(-1, 1, (num_values, count)).astype(dtype)
    return bank, rng.uniform(0, 0.1, (num_values, count)).astype(dtype)


def brute_force(bank, scores, lever):
    """`bank[argmax_k(scores + bank * lever)]`, lowest index on ties, in float64."""
    bank, scores = np.broadcast_to(bank, scores.shape).astype("float64"), scores.astype("float64")
    return np.take_along_axis(bank, np.argmax(scores + bank * lever, axis=0)[None], axis=0)[0]


def counts(thresholds):
    return (thresholds < np.inf).sum(axis=0)


def lines_strategy(max_values=9, max_connections=4):
    def arrays(shape):
        return st.tuples(
            hnp.arrays("float64", shape, elements=ENTRIES),
            hnp.arrays("float64", shape, elements=ENTRIES),
        )

    sizes = st.tuples(st.integers(1, max_values), st.integers(1, max_connections))
    return sizes.flatmap(arrays)


@pytest.mark.parametrize("num_values", [1, 2, 3, 8, 64, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_agrees_with_brute_force_at_random_levers(num_values, dtype):
    bank, scores = paper_like(num_values, 400, seed=num_values, dtype=dtype)
    thresholds, values = staircase(bank, scores)
    rng = np.random.default_rng(1)
    for scale in (1e-3, 1e-2, 0.1, 1.0, 10.0, 1e4):
        lever = rng.normal(0, scale, 400)
        finite = np.where(thresholds < np.inf, thresholds, 1e9)
        clear = (np.abs(lever - finite) > 1e-9 * np.abs(finite)).all(axis=0)
        assert clear.mean() > 0.99
        expected = brute_force(bank, scores, lever)
        np.testing.assert_array_equal(evaluate(thresholds, values, lever)[clear], expected[clear])


@pytest.mark.parametrize("num_values", [2, 8, 64])
def test_agrees_with_brute_force_just_beside_every_threshold(num_values):
    bank, scores = paper_like(num_values, 300)
    thresholds, values = staircase(bank, scores)
    for threshold in thresholds:
        at = np.flatnonzero(threshold < np.inf)
        for factor in (1 - 1e-7, 1 + 1e-7):
            lever = threshold[at] * factor
            np.testing.assert_array_equal(
                evaluate(thresholds[:, at], values[:, at], lever),
                brute_force(bank[:, at], scores[:, at], lever),
            )


@pytest.mark.parametrize("num_values", ENVELOPE_MEANS)
def test_mean_number_of_values_on_the_envelope(num_values):
    thresholds, _ = staircase(*paper_like(num_values, 20_000))
    assert np.mean(counts(thresholds) + 1) == pytest.approx(ENVELOPE_MEANS[num_values], abs=0.03)


def test_hand_numbers():
    bank = np.array([[2.0], [-1.0], [0.0], [1.0]])
    scores = np.array([[0.0], [0.0], [1.0], [0.25]])  # value 1 is never on top
    thresholds, values = staircase(bank, scores)
    np.testing.assert_array_equal(thresholds, [[-1.0], [0.5]])
    np.testing.assert_array_equal(values, [[-1.0], [0.0], [2.0]])


def test_one_value_has_no_steps():
    thresholds, values = staircase(np.full((1, 5), 3.0), np.zeros((1, 5)))
    assert thresholds.shape == (0, 5)
    np.testing.assert_array_equal(values, np.full((1, 5), 3.0))
    np.testing.assert_array_equal(evaluate(thresholds, values, np.ones(5)), np.full(5, 3.0))


def test_no_connections_give_empty_arrays():
    thresholds, values = staircase(np.zeros((4, 0)), np.zeros((4, 0)))
    assert (thresholds.shape, values.shape) == ((0, 0), (1, 0))
    thresholds, values = build_staircase(0, 4, lambda start, stop: (None, None))
    assert (thresholds.shape, values.shape) == ((0, 0), (1, 0))


@given(lines_strategy(), st.sampled_from([1.0, -1.0, 0.01, -0.01, 3.0, -50.0, 1e6, -1e6]))
@settings(max_examples=300, deadline=None)
def test_selected_line_is_the_highest_for_any_lines(lines, lever):
    bank, scores = lines
    selected = evaluate(*staircase(bank, scores), lever)
    height = scores + bank * lever
    chosen = np.where(bank == selected, height, -np.inf).max(axis=0)
    slack = 1e-12 * (np.abs(scores) + np.abs(bank * lever)).max(axis=0)
    assert np.all(chosen >= height.max(axis=0) - slack)


@given(lines_strategy())
@settings(max_examples=300, deadline=None)
def test_lever_of_zero_selects_the_arg_max_of_the_scores_for_any_lines(lines):
    bank, scores = lines
    thresholds, values = staircase(bank, scores)
    expected = brute_force(bank, scores, 0.0)
    for dtype in ("float32", "float64"):
        built = build_staircase(
            bank.shape[1], len(bank), lambda a, b: (bank.T[a:b], scores.T[a:b]), dtype
        )
        zero = np.zeros(bank.shape[1], dtype)
        np.testing.assert_array_equal(evaluate(*built, zero), expected.astype(dtype))
    for decay in (1.0, 0.5, 1e-6):
        np.testing.assert_array_equal(evaluate(thresholds, values, 0.0, decay), expected)


@given(lines_strategy(max_values=12))
@settings(max_examples=300, deadline=None)
def test_shape_of_any_staircase(lines):
    bank, scores = lines
    thresholds, values = staircase(bank, scores)
    assert not np.isnan(thresholds).any() and not np.isnan(values).any()
    assert values.dtype == bank.dtype and thresholds.dtype == np.float64
    assert len(values) == len(thresholds) + 1 <= len(bank)
    assert len(thresholds) == counts(thresholds).max()
    for threshold, value, line in zip(thresholds.T, values.T, bank.T, strict=True):
        steps = np.sum(threshold < np.inf)
        assert np.all(np.diff(threshold[:steps]) > 0)
        assert np.all(np.diff(value[: steps + 1]) > 0)
        assert np.all(threshold[steps:] == np.inf)
        assert np.all(value[steps:] == value[steps])
        assert np.isin(value, line).all()
        assert not np.any((threshold > -NUDGE) & (threshold < 0))


@given(lines_strategy(), st.permutations(range(9)))
@settings(max_examples=100, deadline=None)
def test_order_of_the_values_matters_only_for_ties_at_zero(lines, order):
    bank, scores = lines
    order = [k for k in order if k < len(bank)]
    one = staircase(bank, scores)
    other = staircase(bank[order], scores[order])
    for lever in (-10.0, -0.3, 0.7, 10.0):
        height = scores + bank * lever
        top = np.sort(height, axis=0)
        clear = (len(bank) == 1) | (top[-1] - top[-min(2, len(bank))] > 1e-9)
        np.testing.assert_array_equal(evaluate(*one, lever)[clear], evaluate(*other, lever)[clear])


def test_negating_the_bank_mirrors_the_staircase():
    bank, scores = paper_like(16, 200)
    lever = np.random.default_rng(2).normal(0, 0.1, 200)
    np.testing.assert_array_equal(
        evaluate(*staircase(bank, scores), lever), -evaluate(*staircase(-bank, scores), -lever)
    )


@pytest.mark.parametrize("first", [-1.0, 0.25, 2.0])
def test_equal_scores_select_smallest_first_and_largest_value(first):
    bank = np.array([[first], [-1.0], [0.5], [2.0], [0.25]])
    thresholds, values = staircase(bank, np.full((5, 1), 0.7))
    for lever, expected in ((-1e-20, -1.0), (0.0, first), (1e-20, 2.0)):
        assert evaluate(thresholds, values, lever).item() == expected
    assert len(thresholds) == (2 if first == 0.25 else 1)


def test_ties_at_zero_among_some_values_keep_the_rest_of_the_staircase():
    bank = np.array([[-2.0], [1.0], [-1.0], [0.5], [3.0]])
    scores = np.array([[0.0], [1.0], [1.0], [1.0], [0.0]])
    thresholds, values = staircase(bank, scores)
    np.testing.assert_array_equal(thresholds.ravel(), [-1.0, -NUDGE, 0.5])
    np.testing.assert_array_equal(values.ravel(), [-2.0, -1.0, 1.0, 3.0])


def test_equal_values_take_the_highest_score():
    bank = np.array([[0.1], [-0.1], [0.1], [-0.1]])
    scores = np.array([[0.0], [0.3], [0.2], [0.4]])
    thresholds, values = staircase(bank, scores)
    np.testing.assert_allclose(thresholds, [[1.0]])
    np.testing.assert_array_equal(values, [[-0.1], [0.1]])


@pytest.mark.parametrize("num_values", [2, 8, 64])
def test_signed_constant_banks_have_at_most_one_step(num_values):
    rng = np.random.default_rng(3)
    bank = rng.choice([-0.05, 0.05], (num_values, 500)).astype("float32")
    scores = rng.uniform(0, 0.1, bank.shape).astype("float32")
    thresholds, values = staircase(bank, scores)
    assert thresholds.shape == (1, 500)
    for lever in (-3.0, -0.1, 0.0, 0.2, 3.0):
        np.testing.assert_array_equal(
            evaluate(thresholds, values, lever), brute_force(bank, scores, lever)
        )


@pytest.mark.parametrize("constant", [0.0, -0.5])
def test_constant_banks_have_no_steps(constant):
    _, scores = paper_like(8, 20)
    thresholds, values = staircase(np.full((8, 20), constant, "float32"), scores)
    assert thresholds.shape == (0, 20)
    np.testing.assert_array_equal(values, np.full((1, 20), constant))


def test_many_lines_through_one_point_jump_to_the_steepest():
    bank = np.arange(-8.0, 9.0)[:, None]
    scores = -0.25 * bank  # all K lines meet at a lever of 0.25
    thresholds, values = staircase(bank, scores)
    np.testing.assert_array_equal(thresholds, [[0.25]])
    np.testing.assert_array_equal(values, [[-8.0], [8.0]])


def test_parabola_selects_every_value():
    bank = np.arange(-20.0, 21.0)[:, None]
    thresholds, values = staircase(bank, -0.5 * bank**2)
    np.testing.assert_array_equal(thresholds.ravel(), np.arange(-19.5, 20.0))
    np.testing.assert_array_equal(values, bank)


def test_extreme_inputs_give_no_nan_and_no_warning():
    extremes = np.array([0.0, 5e-324, 1e-300, 1e-45, 3e38, -3e38, 9e299, -9e299, 1.0])
    rng = np.random.default_rng(4)
    bank, scores = rng.choice(extremes, (8, 2000)), rng.choice(extremes, (8, 2000))
    thresholds, values = staircase(bank, scores)
    assert not np.isnan(thresholds).any()
    np.testing.assert_array_equal(evaluate(thresholds, values, 0.0), brute_force(bank, scores, 0.0))
    built, _ = build_staircase(2000, 8, lambda a, b: (bank.T[a:b] * 1e-262, scores.T[a:b]))
    assert not np.isnan(built).any()
    assert not np.isnan(0.0 * built[np.isfinite(built)]).any() and not np.any(built == -np.inf)


def test_shared_values_equal_the_broadcast_bank():
    bank, scores = paper_like(8, 100)
    shared = staircase(bank[:, :1], scores)
    whole = staircase(np.repeat(bank[:, :1], 100, axis=1), scores)
    built = build_staircase(100, 8, lambda a, b: (bank[:, 0], scores.T[a:b]), "float64")
    for one, two, three in zip(shared, whole, built, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("chunk_values", [1 << 17, 250, 1])
def test_chunks_and_threads_do_not_change_the_result(monkeypatch, workers, chunk_values):
    bank, scores = paper_like(8, 333)
    monkeypatch.setattr(module, "_CHUNK_VALUES", chunk_values)
    built = build_staircase(
        333, 8, lambda a, b: (bank.T[a:b], scores.T[a:b]), "float64", workers=workers
    )
    for one, other in zip(built, staircase(bank, scores), strict=True):
        np.testing.assert_array_equal(one, other)


def test_float32_thresholds_decide_as_the_float64_ones_for_every_float32_lever():
    bank, scores = paper_like(16, 500)
    exact, values = staircase(bank, scores)
    rounded, rounded_values = build_staircase(500, 16, lambda a, b: (bank.T[a:b], scores.T[a:b]))
    assert rounded.dtype == rounded_values.dtype == np.float32
    np.testing.assert_array_equal(rounded_values, values)
    assert np.all(rounded[1:] >= rounded[:-1])
    for h in range(len(exact)):
        nearest = np.where(exact[h] < np.inf, exact[h], 0).astype("float32")
        for lever in (np.nextafter(nearest, -np.inf), nearest, np.nextafter(nearest, np.inf)):
            np.testing.assert_array_equal(
                evaluate(rounded, rounded_values, lever), evaluate(exact, values, lever)
            )


@given(lines_strategy())
@settings(max_examples=100, deadline=None)
def test_float32_rounding_keeps_the_order_of_any_thresholds(lines):
    bank, scores = lines
    thresholds, _ = build_staircase(
        bank.shape[1], len(bank), lambda a, b: (bank.T[a:b], scores.T[a:b])
    )
    assert np.all(thresholds[1:] >= thresholds[:-1])
    assert not np.any((thresholds > -NUDGE / 2) & (thresholds < 0))


def test_decay_scales_the_initial_scores():
    bank, scores = paper_like(8, 300, dtype="float64")
    thresholds, values = staircase(bank, scores)
    lever = np.random.default_rng(5).normal(0, 0.05, 300)
    for decay in (0.9, 0.37):
        np.testing.assert_array_equal(
            evaluate(thresholds, values, lever, decay), brute_force(bank, decay * scores, lever)
        )


def test_lever_follows_sgd_with_momentum_on_all_scores():
    bank, scores = paper_like(8, 200, dtype="float64")
    thresholds, values = staircase(bank, scores)
    rng, live = np.random.default_rng(6), scores.copy()
    lever, velocity, speed = np.zeros(200), np.zeros_like(scores), np.zeros(200)
    index = np.arange(200)
    for _ in range(300):
        np.testing.assert_array_equal(
            evaluate(thresholds, values, lever), bank[live.argmax(axis=0), index]
        )
        gradient = rng.normal(0, 1, 200)
        velocity = 0.9 * velocity - 0.005 * gradient * bank
        speed = 0.9 * speed - 0.005 * gradient
        live, lever = live + velocity, lever + speed


def test_rows_are_asked_for_once_each_and_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_VALUES", 100)
    seen, lock = [], threading.Lock()

    def rows(start, stop):
        with lock:
            seen.append((start, stop))
        rng = np.random.default_rng(start)
        return rng.normal(size=(stop - start, 4)), rng.uniform(size=(stop - start, 4))

    build_staircase(110, 4, rows)
    assert sorted(seen) == [(0, 25), (25, 50), (50, 75), (75, 100), (100, 110)]


def test_progress_reaches_the_total_and_the_bar_is_silent_on_short_builds(monkeypatch, capsys):
    bank, scores = (a.T for a in paper_like(4, 100))
    monkeypatch.setattr(module, "_CHUNK_VALUES", 40)
    seen = []
    build_staircase(
        100, 4, lambda a, b: (bank[a:b], scores[a:b]), progress=lambda *args: seen.append(args)
    )
    assert seen == [(done, 100) for done in range(10, 101, 10)]
    build_staircase(100, 4, lambda a, b: (bank[a:b], scores[a:b]))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "_BAR_AFTER", 0.0)
    build_staircase(100, 4, lambda a, b: (bank[a:b], scores[a:b]), progress=False)
    assert capsys.readouterr().err == ""
    build_staircase(100, 4, lambda a, b: (bank[a:b], scores[a:b]))
    assert "[==============================] 100%" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bank", "scores"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_are_refused_by_name(name, wrong):
    arrays = dict(zip(("bank", "scores"), paper_like(4, 10), strict=True))
    arrays[name][2, 3] = wrong
    with pytest.raises(ValueError, match=f"`{name}` must be finite.*Received"):
        staircase(**arrays)
    with pytest.raises(ValueError, match=f"`{name}` must be finite.*Received"):
        build_staircase(10, 4, lambda a, b: (arrays["bank"].T[a:b], arrays["scores"].T[a:b]))


def test_wrong_shapes_and_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"`scores` must have shape .*Received: .*\(3,\)"):
        staircase(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match=r"`scores` must have shape"):
        staircase(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"`bank` must have the shape of `scores`.*Received"):
        staircase(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"`rows\(0, 5\)` must return .*\(5, 4\).*Received"):
        build_staircase(5, 4, lambda a, b: (np.zeros((4, 5)), np.zeros((4, 5))))
    with pytest.raises(ValueError, match="`dtype` must be 'float32' or 'float64'.*Received"):
        build_staircase(5, 4, lambda a, b: (np.zeros((5, 4)), np.zeros((5, 4))), "float16")


def test_error_in_rows_reaches_the_caller():
    def rows(start, stop):
        raise OSError("no such bank")

    with pytest.raises(OSError, match="no such bank"):
        build_staircase(10, 4, rows)
