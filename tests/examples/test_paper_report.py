"""report.py: tables of results files."""

import csv
import re
from pathlib import Path

import pytest
from example_scripts import run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["docs/results/README.md", "docs/nearest.md"]
COMMON = dict(
    re.findall(
        r"(\w+)=(\S*)",
        "network=lenet300100 dataset=mnist method=slot selection=greedy sharing=connection scores=nearest "
        "score_mode=per_connection epochs=25 seed=0 num_values=8 seconds_total=20.0 val_best=0.98 "
        "epochs_done=1 name=ours jax= devices=1 device=CPU python=3.11 keras=3.15 "
        "tensorflow=2.21 numpy=2.4 test_best=0.98",
    )
)
# Kind of table and claim; rows, beside COMMON; how the lines of the table start.
# The paper: 97.15 at K = 2, 98.17 at K = 16, 97.95 learned.
TABLES = """\
cells: a cell shows mean, range and distance to the paper
method,num_values,test_best,seconds_total
slot,16,0.9800,20
learned,8,0.9890,20
slot,2,0.9700,10
slot,2,0.9720,14
| K | seeds | test %, mean | lowest to highest | paper % | difference | s per run |
| 2 | 2 | 97.10 | 97.00 to 97.20 | 97.15 | -0.05 | 12 |
| 16 | 1 | 98.00 | – | 98.17 | -0.17 | 20 |
| learned | 1 | 98.90 | – | 97.95 | +0.95 | 20 |

seeds: seeds stand side by side, the last run of each
score_mode,seed,test_best
per_value,0,0.95
per_value,0,0.97
per_connection,0,0.98
per_value,2,0.96
| score mode | seed 0, test % | seed 2, test % | s per run |
| per_connection | 98.00 | – | 20 |
| per_value | 97.00 | 96.00 | 20 |

runs: long runs stand one by one with mirror images and averages
network,dataset,val_last,test_last,test_mirror,test_averaged,epochs_done,seconds_total,cpu_seconds_total,method
vgg19,cifar10,0.92,0.93,,0.9166,20,7200,9000,learned
vgg19,cifar10,0.92,0.915,0.918,0.9166,20,7200,9000,slot
| network | weights | K | epochs | seed | validation % | test % |
| vgg19 | selected, nearest scores | 8 | 20 | 0 | 92.00 | 91.50 | 91.80 | 91.66 | 91.0 | 120 | 150 |
| vgg19 | learned | – | 20 | 0 | 92.00 | 93.00 | – | 91.66 | – |

finetune: arms of fine-tuning count their selection epochs
method,name,epochs,test_best
learned,finetune-from-10,20,0.98
learned,finetune-scratch,30,0.97
| start | selection epochs | weight epochs | runs |
| scratch | 0 | 30 | 1 | 98.00 | 97.00 | – |
| selected weights | 10 | 20 | 1 | 98.00 | 98.00 | – |

sizes: sizes are means over the seeds of each penalty
kept,validation,move_penalty,seed,bytes,bits,test
0.9,0.98,1e-05,0,20000,0.5,0.982
0.9,0.98,0.0,0,30000,0.9,0.983
0.9,0.98,1e-05,1,21000,0.6,0.984
| K | penalty of moves | seeds | file, kB | bits a weight | kept % |
| 8 | 0 | 1 | 30.0 | 0.900 | 90.0 | 98.00 | 98.30 | – |
| 8 | 1e-05 | 2 | 20.5 | 0.550 | 90.0 | 98.00 | 98.30 | 98.20 to 98.40 |

rates: rates are means over the seeds and the best of a row is bold
weights,optimizer,learning_rate,validation
plain,sgd,0.1,0.70
plain,sgd,0.03,0.80
plain,sgd,0.03,0.84
plain,adam,0.001,0.75
paper,sgd,0.1,0.60
| network | weights | SGD 0.03 | SGD 0.1 | Adam 0.001 |
| lenet300100 | plain | **82.0** | 70.0 | **75.0** |
| lenet300100 | paper | – | **60.0** | – |
"""


def write(path, rows):
    rows = [COMMON | {"run_id": str(number)} | row for number, row in enumerate(rows)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("case", TABLES.split("\n\n"), ids=lambda case: case.partition("\n")[0])
def test_table(case, tmp_path, capsys):
    title, *lines = case.splitlines()
    kind = title.partition(":")[0]
    rows = csv.DictReader(line for line in lines if line[0] != "|")
    run("report", write(tmp_path / "r.csv", rows), "--table", kind)
    header, _, *cells, empty, versions = capsys.readouterr().out.splitlines()
    starts = [line for line in lines if line[0] == "|"]
    for line, start in zip([header, *cells], starts, strict=True):
        assert line.startswith(start)
    assert not empty
    assert versions == "Python 3.11, Keras 3.15, TensorFlow 2.21, NumPy 2.4; 1 x CPU."


def test_the_blocks_of_a_page_are_filled_and_checked(tmp_path):
    write(tmp_path / "r.csv", [{"test_best": "0.98"}])
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- report: cells r.csv -->\nold\n<!-- /report -->\nb\n")
    with pytest.raises(SystemExit, match="is not what its results files give"):
        run("report", page, "--check")
    run("report", page)
    run("report", page, "--check")
    text = page.read_text()
    assert "98.00" in text and "old" not in text
    assert text.startswith("a\n") and text.endswith("\nb\n")


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_the_documentation_are_those_of_the_committed_runs(page):
    run("report", ROOT / page, "--check")
