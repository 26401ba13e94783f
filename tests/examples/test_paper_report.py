"""report.py: the committed tables are those of the committed runs, and a small one is right by hand."""

import io
from pathlib import Path

import pandas as pd
import pytest
from example_scripts import run

ROOT = Path(__file__).resolve().parents[2]
RUNS = """\
run_id,network,dataset,sharing,selection,method,num_values,test_best,seconds_total
0,lenet300100,mnist,connection,greedy,slot,16,0.98,20
1,lenet300100,mnist,connection,greedy,learned,8,0.989,20
2,lenet300100,mnist,connection,greedy,slot,2,0.97,10
3,lenet300100,mnist,connection,greedy,slot,2,0.972,14
"""
# The paper: 97.15 at K = 2, 98.17 at K = 16, 97.95 learned.
TABLE = """\
| K | seeds | test %, mean | standard error | lowest to highest | paper % | s per run |
| --- | --- | --- | --- | --- | --- | --- |
| 2 | 2 | 97.10 | 0.10 | 97.00 to 97.20 | 97.15 | 12 |
| 16 | 1 | 98.00 | – | – | 98.17 | 20 |
| learned | 1 | 98.90 | – | – | 97.95 | 20 |

Python 3.11, Keras 3.15, TensorFlow 2.21, NumPy 2.4; 1 x CPU.
"""


@pytest.fixture
def results(tmp_path):
    versions = {"python": 3.11, "keras": 3.15, "tensorflow": 2.21, "jax": "", "numpy": 2.4}
    rows = pd.read_csv(io.StringIO(RUNS)).assign(**versions, devices=1, device="CPU")
    rows.to_csv(tmp_path / "r.csv", index=False)
    return tmp_path / "r.csv"


def test_a_cell_shows_mean_error_range_and_the_papers_number(results, capsys):
    run("report", results)
    assert capsys.readouterr().out == TABLE


def test_the_blocks_of_a_page_are_filled_and_checked(results):
    page = results.with_name("page.md")
    page.write_text("a\n<!-- report: cells r.csv -->\nold\n<!-- /report -->\nb\n")
    with pytest.raises(SystemExit, match="is not what its results files give"):
        run("report", page, "--check")
    run("report", page)
    run("report", page, "--check")
    filled = f"<!-- report: cells r.csv -->\n\n{TABLE}\n<!-- /report -->"
    assert page.read_text() == f"a\n{filled}\nb\n"


@pytest.mark.parametrize("page", ["docs/results/README.md", "docs/nearest.md"])
def test_the_tables_of_the_documentation_are_those_of_the_committed_runs(page):
    """All kinds of table, as they were when the runs were made."""
    run("report", ROOT / page, "--check")
