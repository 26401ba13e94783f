"""report.py: tables of results files."""

import csv
from pathlib import Path

import pytest
from example_scripts import error_of, run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "results" / "README.md", ROOT / "examples" / "paper" / "README.md"]
COMMON = {
    "network": "lenet300100",
    "dataset": "mnist",
    "method": "slot",
    "selection": "greedy",
    "sharing": "connection",
    "score_mode": "per_connection",
    "epochs": "25",
    "num_values": "8",
    "limit_steps": "0",
    "seconds_total": "20.0",
    "val_best": "0.98",
    "batch_size": "128",
    "connections": "266200",
    "epochs_done": "1",
    "devices": "1",
    "device": "CPU",
    "python": "3.11",
    "keras": "3.15",
    "tensorflow": "2.21",
    "numpy": "2.4",
    "name": "ours",
}


def write(path, *rows):
    rows = [COMMON | {"run_id": str(number)} | row for number, row in enumerate(rows)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines_of(capsys, *flags):
    assert run("report", *flags) == 0
    return capsys.readouterr().out.splitlines()


def test_a_cell_shows_mean_range_and_distance_to_the_paper(tmp_path, capsys):
    path = write(
        tmp_path / "r.csv",
        {"num_values": "16", "test_best": "0.9800"},
        {"method": "learned", "test_best": "0.9890"},
        {"num_values": "2", "test_best": "0.9700", "seconds_total": "10"},
        {"num_values": "2", "test_best": "0.9720", "seconds_total": "14"},
    )
    lines = lines_of(capsys, path)
    # The paper: 97.15 at K = 2, 98.17 at K = 16, 97.95 learned.
    assert lines[2] == "| 2 | 2 | 97.10 | 97.00 to 97.20 | 97.15 | -0.05 | 12 |"
    assert lines[3] == "| 16 | 1 | 98.00 | – | 98.17 | -0.17 | 20 |"
    assert lines[4] == "| learned | 1 | 98.90 | – | 97.95 | +0.95 | 20 |"
    assert lines[6] == "Python 3.11, Keras 3.15, TensorFlow 2.21, NumPy 2.4; 1 x CPU."


def test_only_what_differs_gets_a_column(tmp_path, capsys):
    rows = [{"sharing": "layer", "num_values": k, "test_best": "0.97"} for k in ("64", "8")]
    path = write(tmp_path / "r.csv", *rows, {"sharing": "network", "test_best": "0.96"})
    lines = lines_of(capsys, path)
    assert lines[0].startswith("| sharing | K | seeds |")
    assert [line.split(" | ")[:2] for line in lines[2:5]] == [
        ["| layer", "8"],
        ["| layer", "64"],
        ["| network", "8"],
    ]


def test_seeds_stand_side_by_side(tmp_path, capsys):
    modes = [
        ("per_value", "0", "0.97"),
        ("per_connection", "0", "0.98"),
        ("per_value", "2", "0.96"),
    ]
    rows = [{"score_mode": mode, "seed": seed, "test_best": test} for mode, seed, test in modes]
    lines = lines_of(capsys, write(tmp_path / "r.csv", *rows), "--table", "seeds")
    assert lines[0].startswith("| score mode | seed 0, test % | seed 2, test % |")
    assert lines[2:4] == [
        "| per_connection | 98.00 | – | 20 |",
        "| per_value | 97.00 | 96.00 | 20 |",
    ]


def test_a_search_shows_validation_accuracy_alone(tmp_path, capsys):
    tried = [("0.7", "0.3", "0.981"), ("0.7", "0.05", "0.982"), ("1.0", "0.3", "0.983")]
    names = ("bank_scale", "learning_rate", "val_best")
    rows = [{"seed": "0", "test_best": "0.5", **dict(zip(names, t, strict=True))} for t in tried]
    lines = lines_of(capsys, write(tmp_path / "r.csv", *rows), "--table", "search")
    assert lines[2:5] == [
        "| 0.7 | 0.05 | 98.20 |",
        "| 0.7 | 0.3 | 98.10 |",
        "| 1 | 0.3 | 98.30 |",
    ]
    assert "50.00" not in "".join(lines)


def test_runs_cut_short_are_shown_as_such_and_nowhere_else(tmp_path, capsys):
    short = {"limit_steps": "5", "test_best": "0.1", "seconds_total": "7.5"}
    path = write(tmp_path / "r.csv", short, {"test_best": "0.98"})
    assert len([line for line in lines_of(capsys, path) if "98.00" in line or "10.00" in line]) == 1
    lines = lines_of(capsys, path, "--table", "smoke")
    assert lines[2] == "| lenet300100 | slot | 8 | 266,200 | 128 | 5 | 7.5 |"


def test_long_runs_stand_one_by_one_with_mirror_images_and_averages(tmp_path, capsys):
    row = {"network": "vgg19", "dataset": "cifar10", "scores": "nearest", "val_last": "0.92"}
    row |= {"test_last": "0.915", "test_mirror": "0.918", "test_averaged": "0.9166", "seed": "0"}
    row |= {"seconds_total": "7200", "cpu_seconds_total": "9000", "epochs_done": "20"}
    learned = row | {"method": "learned", "test_last": "0.93", "test_mirror": ""}
    lines = lines_of(capsys, write(tmp_path / "r.csv", learned, row), "--table", "runs")
    start = "| vgg19 | selected, nearest scores | 8 | 20 | 0 |"
    assert lines[2] == f"{start} 92.00 | 91.50 | 91.80 | 91.66 | 91.0 | 120 | 150 |"
    assert lines[3].startswith("| vgg19 | learned | – | 20 | 0 | 92.00 | 93.00 | – | 91.66 | – |")
    few, many = (
        row | {"num_values": k, "train_images": n} for k, n in (("2", "45000"), ("16", "49000"))
    )
    lines = lines_of(capsys, write(tmp_path / "r.csv", many, few), "--table", "runs")
    assert lines[0].startswith("| network | weights | K | images | epochs |")
    assert lines[2].startswith("| vgg19 | selected, nearest scores | 2 | 45,000 | 20 |")
    assert lines[3].startswith("| vgg19 | selected, nearest scores | 16 | 49,000 | 20 |")


def test_arms_of_fine_tuning_count_their_selection_epochs(tmp_path, capsys):
    arm = {"method": "learned", "test_best": "0.98"}
    path = write(
        tmp_path / "r.csv",
        arm | {"name": "finetune-from-10", "epochs": "20"},
        arm | {"name": "finetune-scratch", "epochs": "30", "test_best": "0.97"},
    )
    lines = lines_of(capsys, path, "--table", "finetune")
    assert lines[2] == "| scratch | 0 | 30 | 1 | 98.00 | 97.00 | – |"
    assert lines[3] == "| selected weights | 10 | 20 | 1 | 98.00 | 98.00 | – |"


def test_the_blocks_of_a_page_are_filled_and_checked(tmp_path, capsys):
    write(tmp_path / "r.csv", {"test_best": "0.98"})
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- report: cells r.csv -->\nold\n<!-- /report -->\nb\n")
    line = error_of(capsys, "report", page, "--check", status=1)
    assert "is not what its results files give" in line
    assert run("report", page) == 0 and run("report", page, "--check") == 0
    text = page.read_text()
    assert "98.00" in text and "old" not in text
    assert text.startswith("a\n") and text.endswith("\nb\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_tables_of_the_documentation_are_those_of_the_committed_runs(page):
    assert run("report", page, "--check") == 0


def test_what_is_no_results_file_is_refused(tmp_path, capsys):
    for name, text in (("none.csv", "no results file"), ("none.md", "cannot read")):
        assert text in error_of(capsys, "report", tmp_path / name, status=1)
    page = tmp_path / "page.md"
    page.write_text("nothing")
    assert "has no block" in error_of(capsys, "report", page, status=1)
    page.write_text("<!-- report: sums r.csv -->\n<!-- /report -->")
    assert "there is no table sums" in error_of(capsys, "report", page, status=1)
    line = error_of(capsys, "report", tmp_path / "r.csv", "--check", status=2)
    assert "needs a Markdown file" in line


def test_sizes_are_means_over_the_seeds_of_each_penalty(tmp_path, capsys):
    packed = {"scores": "nearest", "kept": "0.9", "validation": "0.98"}

    def row(penalty, seed, size, bits, test):
        names = ("move_penalty", "seed", "bytes", "bits", "test")
        return packed | dict(zip(names, (penalty, seed, size, bits, test), strict=True))

    path = write(
        tmp_path / "r.csv",
        row("1e-05", "0", "20000", "0.5", "0.982"),
        row("0.0", "0", "30000", "0.9", "0.983"),
        row("1e-05", "1", "21000", "0.6", "0.984"),
    )
    lines = lines_of(capsys, path, "--table", "sizes")
    assert lines[0].startswith(
        "| K | penalty of moves | seeds | file, kB | bits a weight | kept % |"
    )
    assert lines[2] == "| 8 | 0 | 1 | 30.0 | 0.900 | 90.0 | 98.00 | 98.30 | – |"
    assert lines[3] == "| 8 | 1e-05 | 2 | 20.5 | 0.550 | 90.0 | 98.00 | 98.30 | 98.20 to 98.40 |"


def test_rates_are_means_over_the_seeds_and_the_best_of_a_row_is_bold(tmp_path, capsys):
    settings = [
        ("plain", "sgd", "0.1", "0.70"),
        ("plain", "sgd", "0.03", "0.80"),
        ("plain", "sgd", "0.03", "0.84"),
        ("plain", "adam", "0.001", "0.75"),
        ("paper", "sgd", "0.1", "0.60"),
    ]
    names = ("weights", "optimizer", "learning_rate", "validation")
    rows = [dict(zip(names, setting, strict=True)) for setting in settings]
    lines = lines_of(capsys, write(tmp_path / "r.csv", *rows), "--table", "rates")
    assert lines[0] == "| network | weights | SGD 0.03 | SGD 0.1 | Adam 0.001 |"
    assert lines[2] == "| lenet300100 | plain | **82.0** | 70.0 | **75.0** |"
    assert lines[3] == "| lenet300100 | paper | – | **60.0** | – |"
