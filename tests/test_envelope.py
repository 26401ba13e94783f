"""The upper envelope of K lines against hand numbers and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings

from keras_slots.kernels.envelope import NUDGE, envelope
from lines_cases import any_lines, paper_like

MEANS = {2: 2.00, 4: 2.84, 8: 3.70, 16: 4.60, 32: 5.50, 64: 6.40}


def counts(thresholds):
    return (thresholds < np.inf).sum(axis=0)


@pytest.mark.parametrize("num_values", MEANS)
def test_envelope_holds_the_known_mean_number_of_values(num_values):
    thresholds, _ = envelope(*paper_like(num_values, 20_000))
    assert np.mean(counts(thresholds) + 1) == pytest.approx(MEANS[num_values], abs=0.03)


def test_envelope_of_hand_numbers():
    bank = np.array([[2.0, -1.0, 0.0, 1.0]])
    scores = np.array([[0.0, 0.0, 1.0, 0.25]])  # value 1 is never on top
    thresholds, steps = envelope(bank, scores)
    np.testing.assert_array_equal(thresholds, [[-1.0], [0.5]])
    np.testing.assert_array_equal(steps, [[-1.0], [0.0], [2.0]])


def test_envelope_orders_scores_that_differ_by_less_than_float32_can_hold():
    small = 2.0**-200
    thresholds, steps = envelope(np.array([[0.0, 1.0, 3.0]]), np.array([[0.0, -small, -4 * small]]))
    np.testing.assert_array_equal(thresholds.ravel(), [small, 1.5 * small])
    np.testing.assert_array_equal(steps.ravel(), [0.0, 1.0, 3.0])


def test_envelope_of_one_value_has_no_thresholds():
    thresholds, steps = envelope(np.full((5, 1), 3.0), np.zeros((5, 1)))
    assert thresholds.shape == (0, 5)
    np.testing.assert_array_equal(steps, np.full((1, 5), 3.0))


def test_envelope_of_no_connections_is_empty():
    thresholds, steps = envelope(np.zeros((0, 4)), np.zeros((0, 4)))
    assert (thresholds.shape, steps.shape) == ((0, 0), (1, 0))


@given(any_lines(max_values=12))
@settings(max_examples=300, deadline=None)
def test_envelope_rises_and_is_padded_for_any_lines(lines):
    bank, scores = lines
    thresholds, steps = envelope(bank, scores)
    assert not np.isnan(thresholds).any() and not np.isnan(steps).any()
    assert steps.dtype == bank.dtype and thresholds.dtype == np.float64
    assert len(steps) == len(thresholds) + 1 <= bank.shape[1]
    assert len(thresholds) == counts(thresholds).max()
    for threshold, step, line in zip(thresholds.T, steps.T, bank, strict=True):
        used = np.sum(threshold < np.inf)
        assert np.all(np.diff(threshold[:used]) > 0)
        assert np.all(np.diff(step[: used + 1]) > 0)
        assert np.all(threshold[used:] == np.inf)
        assert np.all(step[used:] == step[used])
        assert np.isin(step, line).all()
        assert not np.any((threshold > -NUDGE) & (threshold < 0))


def test_envelope_of_a_negated_bank_is_the_mirror_image():
    bank, scores = paper_like(16, 200)
    thresholds, steps = envelope(bank, scores)
    mirrored, mirrored_steps = envelope(-bank, scores)
    for connection, count in enumerate(counts(thresholds)):
        np.testing.assert_array_equal(mirrored[:count, connection], -thresholds[:count, connection][::-1])
        np.testing.assert_array_equal(
            mirrored_steps[: count + 1, connection], -steps[: count + 1, connection][::-1]
        )


def test_envelope_keeps_the_rest_when_some_values_tie_at_zero():
    bank = np.array([[-2.0, 1.0, -1.0, 0.5, 3.0]])
    scores = np.array([[0.0, 1.0, 1.0, 1.0, 0.0]])
    thresholds, steps = envelope(bank, scores)
    np.testing.assert_array_equal(thresholds.ravel(), [-1.0, -NUDGE, 0.5])
    np.testing.assert_array_equal(steps.ravel(), [-2.0, -1.0, 1.0, 3.0])


def test_envelope_takes_the_highest_score_of_equal_values():
    bank = np.array([[0.1, -0.1, 0.1, -0.1]])
    scores = np.array([[0.0, 0.3, 0.2, 0.4]])
    thresholds, steps = envelope(bank, scores)
    np.testing.assert_allclose(thresholds, [[1.0]])
    np.testing.assert_array_equal(steps, [[-0.1], [0.1]])


@pytest.mark.parametrize("constant", [0.0, -0.5])
def test_envelope_of_a_constant_bank_has_no_thresholds(constant):
    _, scores = paper_like(8, 20)
    thresholds, steps = envelope(np.full((20, 8), constant, "float32"), scores)
    assert thresholds.shape == (0, 20)
    np.testing.assert_array_equal(steps, np.full((1, 20), constant))


def test_envelope_of_many_lines_through_one_point_jumps_to_the_steepest():
    bank = np.arange(-8.0, 9.0)[None]
    scores = -0.25 * bank  # all K lines meet at a lever of 0.25
    thresholds, steps = envelope(bank, scores)
    np.testing.assert_array_equal(thresholds, [[0.25]])
    np.testing.assert_array_equal(steps, [[-8.0], [8.0]])


def test_envelope_of_a_parabola_holds_every_value():
    bank = np.arange(-20.0, 21.0)[None]
    thresholds, steps = envelope(bank, -0.5 * bank**2)
    np.testing.assert_array_equal(thresholds.ravel(), np.arange(-19.5, 20.0))
    np.testing.assert_array_equal(steps, bank.T)
