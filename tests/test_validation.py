"""Checks of arguments: what they let pass, and what their errors name."""

import numpy as np
import pytest

from keras_slots._checks import check_choice, check_finite, check_integer, check_num_values, check_positive


@pytest.mark.parametrize("value", [1, 8, 2**16, np.int32(8), np.uint8(255)])
def test_check_num_values_returns_a_python_integer(value):
    checked = check_num_values(value)
    assert type(checked) is int and checked == int(value)


@pytest.mark.parametrize("value", [0, -1, 2**16 + 1, 2.0, True, np.True_, "8", None, [8]])
def test_check_num_values_refuses_all_else(value):
    with pytest.raises(ValueError, match=r"`num_values` must be a positive integer, at most 65536"):
        check_num_values(value)


def test_check_integer_names_the_range():
    assert check_integer(7, "count", 8) == 7
    with pytest.raises(ValueError, match=r"`count` must be .* below 2\*\*3. Received: count=8"):
        check_integer(8, "count", 8)


def test_check_choice_lists_what_it_takes():
    assert check_choice("b", "mode", ("a", "b", "c")) == "b"
    with pytest.raises(ValueError, match='`mode` must be "a", "b" or "c". Received: mode=\'d\'.'):
        check_choice("d", "mode", ("a", "b", "c"))
    with pytest.raises(ValueError, match='`mode` must be "a". Received: mode=None.'):
        check_choice(None, "mode", ("a",))


@pytest.mark.parametrize("value", [["a"], np.array(["a", "b"]), {}])
def test_check_choice_refuses_what_is_no_text(value):
    with pytest.raises(ValueError, match="`mode` must be"):
        check_choice(value, "mode", ("a", "b"))


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, True, "1", None, 1j, 10**400])
def test_check_positive_refuses_all_but_positive_finite_numbers(value):
    with pytest.raises(ValueError, match="`scale` must be a positive finite number. Received: sc"):
        check_positive(value, "scale")


def test_check_finite_makes_floats_of_integers():
    checked = check_finite([1, 2], "bank")
    assert checked.dtype == np.float64 and checked.tolist() == [1.0, 2.0]
    assert check_finite(np.ones(2, "float32"), "bank").dtype == np.float32
    assert check_finite([], "bank").size == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e301])
def test_check_finite_refuses_all_else_by_name(wrong):
    with pytest.raises(ValueError, match="`bank` must be finite .*Received: bank from"):
        check_finite([0.5, wrong], "bank")
