"""The quick part of tests/soak: our files survive a crash and a full disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent / "soak"
ROOT = SOAK.parent.parent
sys.path.append(str(SOAK))

from run import markdown  # noqa: E402


def rows_of(script, *flags):
    """The rows that a script prints."""
    done = subprocess.run(
        [sys.executable, str(SOAK / script), *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows and done.returncode in (0, 1), done.stderr[-2000:]
    return {row["name"]: row for row in rows}


def test_writers_leave_the_old_or_the_new_file_after_a_crash_at_any_step():
    rows = rows_of("kills.py", "--only", "steps")
    assert len(rows) == 1 and all(row["held"] and row["tried"] > 10 for row in rows.values()), rows


@pytest.mark.slow
def test_runs_that_are_killed_lose_nothing():
    rows = rows_of("kills.py", "--quick", "--only", "runs")
    assert len(rows) == 1 and all(row["held"] and row["tried"] == 3 for row in rows.values()), rows


@pytest.mark.slow
def test_writers_name_a_full_disk_and_a_read_only_folder_and_leave_the_old_file():
    rows = rows_of("hostile.py", "--quick", "--only", "places")
    assert len(rows) == 2 and all(row["held"] and row["tried"] >= 6 for row in rows.values()), rows


def test_docs_scorecard_shows_the_results_as_they_were_written():
    page = (ROOT / "docs" / "results" / "scorecard.md").read_text(encoding="utf-8")
    card = json.loads((ROOT / "docs" / "results" / "scorecard.json").read_text(encoding="utf-8"))
    assert "\n".join(markdown(card["rows"])) in page
    assert card["machine"] in page
    assert all(version in page for version in card["versions"].values())
    short = [row["name"] for row in card["rows"] if not row["held"]]
    assert page.count("**short**") == len(short) + 1  # and where it says what that means
