"""Tables from results files, beside the paper's numbers, as Markdown.

    python examples/paper/report.py runs/results.csv
    python examples/paper/report.py docs/results/README.md

For a results file (.csv) the table of its cells is printed; a cell is the runs that differ only in the
seed. In a Markdown file every block

    <!-- report: cells FILE.csv -->
    <!-- /report -->

is filled with the table of FILE.csv, a path relative to the Markdown file; text between the two
lines is replaced. --check changes nothing and fails when a table is not what its file gives. The
word before the file chooses the columns:

cells     test accuracy over the seeds of each cell, beside the paper's
seeds     test accuracy of each seed, a row for each cell
runs      long runs one by one: last epoch, mirror images, averaged weights, minutes
finetune  the arms of finetune.py
search    validation accuracy of every run, with the fields that a search for recipes varies
smoke     runs limited by --limit-steps: what was run, and no accuracy
rates     the runs of learning_rates.py: validation accuracy at each rate, the best of a row in bold
sizes     the runs that size.py packed: bytes and test accuracy of each file, means over the seeds

Exit status: 0, 1 when a table cannot be made or --check found another, 2 for a wrong command line.
"""

import re
import sys
import types
from pathlib import Path
from typing import Literal

import pandas as pd

import cli
from paper_numbers import paper_accuracy
from recipes import SettingError
from runs import RunError

# What tells one cell from another; a column for each that differs within a file.
MARKS = (
    *("network", "method", "selection", "scores", "sharing", "score_mode", "epochs", "num_values"),
    "move_penalty",
)
# What tells one file that size.py packed from another, besides K and the penalty of moves.
SIZED = ("network", "scores", "bank_scale", "learning_rate", "weight_decay", "epochs", "state")
TITLES = {
    "num_values": "K",
    "score_mode": "score mode",
    "move_penalty": "penalty of moves",
    "train_images": "images",
}
SCORES = {"uniform": "the paper's scores", "nearest": "nearest scores"}
SHARES = (
    *("test_best", "val_best", "val_last", "test_last", "test_mirror", "test_averaged"),
    *("validation", "test", "kept"),
)
BLOCK = re.compile(r"(<!-- report: (\w+) (\S+) -->\n).*?(<!-- /report -->)", re.DOTALL)
app = cli.make_app("report.py", __doc__)


def read_table(path):
    """The rows of a results file: texts, but accuracies in %.

    Raises:
        RunError: the file is no results file with rows.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        table = pd.DataFrame()
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read the results file {path}: {error}") from error
    if table.empty or "run_id" not in table:
        raise RunError(f"{path} is no results file with rows; train some runs first")
    for name in table.columns.intersection(SHARES):
        table[name] = 100 * pd.to_numeric(table[name])
    return table


def differing(rows, names):
    return [name for name in names if name in rows and rows[name].nunique() > 1]


def grouped(rows, names):
    """The cells, in the order of the values of `names`; slot machines before learned."""

    def order(column):
        if column.name == "learned":
            return column
        numbers = pd.to_numeric(column, errors="coerce")
        return column if numbers.isna().any() else numbers

    learned = rows["method"].eq("learned") if "method" in rows else False
    names = ["learned", *(name for name in names if name != "learned")]
    rows = rows.assign(learned=learned).sort_values(names, key=order, kind="stable")
    return [cell for _, cell in rows.groupby(names, sort=False)]


def titles(names):
    return [TITLES.get(name, name.replace("_", " ")) for name in names]


def marks_of(cell, names):
    """The values that name a cell; the baseline has nothing to select."""
    row = cell.iloc[0]
    if row["method"] != "learned":
        return list(row[names])
    own = {"network": row["network"], "method": "learned", "epochs": row["epochs"]}
    marks = [own.get(name, "–") for name in names]
    return marks if "method" in names else ["learned", *marks[1:]]


def number(value, form=".2f"):
    return "–" if value is None or pd.isna(value) else f"{value:{form}}"


def span(values):
    return f"{values.min():.2f} to {values.max():.2f}" if len(values) > 1 else "–"


def median_seconds(cell):
    return f"{cell['seconds_total'].astype(float).median():.0f}"


def paper_of(row):
    """The paper's test accuracy in % for the experiment of a row, or None."""
    fields = dict(row) | {"num_values": int(row["num_values"])}
    share = paper_accuracy(types.SimpleNamespace(**fields))
    return None if share is None else 100 * share


def cells_table(rows):
    names = [name for name in differing(rows, MARKS) if name != "method"] or ["method"]
    measured = ["seeds", "test %, mean", "lowest to highest", "paper %", "difference", "s per run"]
    yield [*titles(names), *measured]
    for cell in grouped(rows, names):
        tests, paper = cell["test_best"], paper_of(cell.iloc[0])
        mean = tests.mean()
        beside = number(paper), number(None if paper is None else mean - paper, "+.2f")
        measured = str(len(cell)), f"{mean:.2f}", span(tests), *beside, median_seconds(cell)
        yield [*marks_of(cell, names), *measured]


def by_seed(rows, names, measured):
    """The seeds, and for each cell its rows and its accuracy with each seed, of its last run."""
    seeds = sorted(set(rows["seed"]), key=int)
    found = [(c, dict(zip(c["seed"], c[measured], strict=True))) for c in grouped(rows, names)]
    return seeds, [(cell, [number(each.get(seed)) for seed in seeds]) for cell, each in found]


def seeds_table(rows):
    names = differing(rows, MARKS) or ["method"]
    seeds, cells = by_seed(rows, names, "test_best")
    yield [*titles(names), *(f"seed {seed}, test %" for seed in seeds), "s per run"]
    for cell, each in cells:
        yield [*marks_of(cell, names), *each, median_seconds(cell)]


def search_table(rows):
    scales = ["bank_scale", "learning_rate"]
    names = [*differing(rows, MARKS), *scales]
    seeds, cells = by_seed(rows, names, "val_best")
    yield [*titles(names), *(f"seed {seed}, validation %" for seed in seeds)]
    for cell, each in cells:
        numbers = [f"{float(cell.iloc[0][name]):.4g}" for name in scales]
        yield [*cell.iloc[0][names[:-2]], *numbers, *each]


def runs_table(rows):
    names = differing(rows, ["train_images"])
    first = ["network", "weights", "K", *titles(names), "epochs", "seed"]
    measured = ["validation %", "test %", "with mirror images", "averaged weights", "paper %"]
    yield [*first, *measured, "minutes", "processor minutes"]
    rows = rows.assign(k=rows["num_values"].astype(int), learned=rows["method"].eq("learned"))
    for _, row in rows.sort_values(["network", "learned", "k"], kind="stable").iterrows():
        kind = "learned" if row["learned"] else f"selected, {SCORES[row['scores']]}"
        yield [
            *(row["network"], kind, "–" if row["learned"] else row["num_values"]),
            *(f"{int(row[name]):,}" for name in names),
            *(row["epochs_done"], row["seed"]),
            *map(number, row[["val_last", "test_last", "test_mirror", "test_averaged"]]),
            number(paper_of(row), ".1f"),
            *(f"{float(row[name]) / 60:.0f}" for name in ("seconds_total", "cpu_seconds_total")),
        ]


def finetune_table(rows):
    networks = differing(rows, ["network"])
    measured = ["validation %, mean", "test %, mean", "lowest to highest"]
    yield [*networks, "start", "selection epochs", "weight epochs", "runs", *measured]
    epochs = rows["epochs"].astype(int)
    rows = rows.assign(spent=epochs.max() - epochs)
    for cell in grouped(rows, [*networks, "spent", "name"]):
        row, tests = cell.iloc[0], cell["test_best"]
        start = "scratch" if row["name"] == "finetune-scratch" else "selected weights"
        counts = str(row["spent"]), row["epochs"], str(len(cell))
        means = f"{cell['val_best'].mean():.2f}", f"{tests.mean():.2f}"
        yield [*row[networks], start, *counts, *means, span(tests)]


def smoke_table(rows):
    yield ["network", "method", "K", "connections", "batch", "steps", "seconds"]
    for _, row in rows.iterrows():
        k = "–" if row["method"] == "learned" else row["num_values"]
        steps = str(int(row["limit_steps"]) * int(row["epochs_done"]))
        size = f"{int(row['connections']):,}"
        what = row["network"], row["method"], k, size, row["batch_size"]
        yield [*what, steps, row["seconds_total"]]


def rates_table(rows):
    kinds = {"sgd": "SGD", "adam": "Adam"}
    means = rows.pivot_table("validation", ["network", "weights"], ["optimizer", "learning_rate"], sort=False)
    columns = [(kind, rate) for kind in kinds for rate in sorted(set(means.get(kind, ())), key=float)]
    yield ["network", "weights", *(f"{kinds[kind]} {rate}" for kind, rate in columns)]
    for key, row in means.iterrows():
        best = {kind: row[kind].max() for kind, _ in columns}
        texts = [(number(row[c], ".1f"), row[c] == best[c[0]]) for c in columns]
        yield [*key, *(f"**{text}**" if strong else text for text, strong in texts)]


def sizes_table(rows):
    names = [*differing(rows, SIZED), "num_values", "move_penalty"]
    measured = ["seeds", "file, kB", "bits a weight", "kept %", "validation %", "test %"]
    yield [*titles(names), *measured, "lowest to highest"]
    for cell in grouped(rows, names):
        marks = [*cell.iloc[0][names[:-1]], f"{float(cell.iloc[0]['move_penalty']):g}"]
        size, bits = (cell[name].astype(float).mean() for name in ("bytes", "bits"))
        shares = (cell[name].mean(skipna=False) for name in ("validation", "test"))
        sizes = str(len(cell)), f"{size / 1000:.1f}", f"{bits:.3f}", f"{cell['kept'].mean():.1f}"
        yield [*marks, *sizes, *map(number, shares), span(cell["test"])]


TABLES = {
    "cells": cells_table,
    "seeds": seeds_table,
    "runs": runs_table,
    "search": search_table,
    "finetune": finetune_table,
    "smoke": smoke_table,
    "rates": rates_table,
    "sizes": sizes_table,
}


def markdown(path, kind):
    """The table of a results file, and the versions and devices of its runs."""
    if kind not in TABLES:
        raise RunError(f"there is no table {kind}; there are: {', '.join(TABLES)}")
    rows = read_table(path)
    # A limited run is no result, and no other run belongs among those.
    rows = rows[(rows["limit_steps"] != "0") == (kind == "smoke")]
    if rows.empty:
        limited = "limited runs" if kind == "smoke" else "runs but those limited by --limit-steps"
        raise RunError(f"{path} has no {limited}")
    try:
        header, *cells = TABLES[kind](rows)
    except KeyError as error:
        raise RunError(f"{path} has no column {error} for a table of kind {kind}") from error
    table = [header, ["---"] * len(header), *cells]
    lines = "".join(f"| {' | '.join(row)} |\n" for row in table)
    limited = "Limited runs, no results. " if kind == "smoke" else ""
    return f"{lines}\n{limited}{versions_line(rows)}\n"


def versions_line(rows):
    """What the runs ran with, each once."""
    packages = {"python": "Python", "keras": "Keras", "tensorflow": "TensorFlow", "jax": "JAX"}
    used = []
    for name, title in {**packages, "numpy": "NumPy"}.items():
        found = sorted(set(rows.get(name, ())) - {""})
        used += [f"{title} {' and '.join(found)}"] if found else []
    devices = sorted(set(rows["devices"] + " x " + rows["device"]))
    return f"{', '.join(used)}; {'; '.join(devices)}."


def refreshed(path):
    """The text of a Markdown file, and what it is with its tables made anew."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not BLOCK.search(text):
        raise RunError(f"{path} has no block <!-- report: cells FILE.csv -->")

    def fill(block):
        table = markdown(Path(path).parent / block[3], block[2])
        return f"{block[1]}\n{table}\n{block[4]}"

    return text, BLOCK.sub(fill, text)


@app.default
def main(source: str, /, *, table: Literal[tuple(TABLES)] = "cells", check: bool = False):
    """Prints or fills in tables.

    Args:
        source: a results file, or a Markdown file
        table: columns for a .csv
        check: only say whether the tables of a .md are up to date
    """
    if Path(source).suffix != ".md":
        if check:
            raise SettingError("--check needs a Markdown file")
        print(markdown(source, table), end="")
        return
    before, after = refreshed(source)
    if check and before != after:
        raise RunError(f"{source} is not what its results files give; run report.py on it")
    if before != after:
        Path(source).write_text(after, encoding="utf-8")
    print(f"{source}: {len(BLOCK.findall(after))} tables")


if __name__ == "__main__":
    sys.exit(cli.run(app))
