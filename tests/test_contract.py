"""Every slot layer keeps the contract of tests/contract.py."""

import pytest

from backends import BACKEND
from broken_layers import BROKEN, stored_tracer
from contract import CHECKS, Maker, quick_rows, rows_of_all_pairs

QUICK = quick_rows()
#: Each check on every twelfth of these rows, and each row with every twelfth check; the rest is exhaustive.
TURNS = [
    pytest.param(row, check, id=f"{row}-{check}", marks=[pytest.mark.exhaustive] * ((i + j) % 12 > 0))
    for i, row in enumerate(QUICK)
    for j, check in enumerate(CHECKS)
]


@pytest.fixture
def make(row, request):
    if row.policy == "float64":
        request.getfixturevalue("x64")
    return Maker(row)


@pytest.mark.parametrize(("row", "check"), TURNS)
def test_slot_layer_keeps_the_contract(make, check, tmp_path):
    CHECKS[check](make, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("row", [x for x in rows_of_all_pairs() if x not in QUICK], ids=str)
def test_slot_layer_keeps_the_contract_in_all_pairs_of_factors(make, tmp_path):
    for check in CHECKS.values():
        check(make, tmp_path)


#: Where nothing is traced in training, no tracer can be left in a layer.
BUGS = [bug for bug in BROKEN if bug is not stored_tracer or BACKEND.jit_compile[0]]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_contract_rejects_a_layer_with_the_bug_and_for_that_reason(bug, tmp_path, monkeypatch):
    row, check, words = BROKEN[bug]
    CHECKS[check](Maker(row), tmp_path)
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=words):
        CHECKS[check](Maker(row), tmp_path)
