"""Tables from results files, beside the paper's numbers, as Markdown.

    python examples/paper/report.py runs/results.csv --table runs
    python examples/paper/report.py docs/results/README.md

The table of a results file (.csv) is printed. In a Markdown file every block from

    <!-- report: cells FILE.csv -->

to <!-- /report --> is filled with the table of that file; --check only says whether it is. README.md
says which tables there are.
"""

import re
from pathlib import Path
from typing import Literal

import pandas as pd

import cli
from paper_numbers import paper_accuracy

# What tells one cell from another; a column for each that differs within a file.
MARKS = (
    *("network", "method", "selection", "scores", "sharing", "score_mode", "epochs", "num_values"),
    "move_penalty",
)
# The same of files that size.py packed, besides K and the penalty of moves.
SIZED = ("network", "scores", "bank_scale", "learning_rate", "weight_decay", "epochs", "state")
TITLES = {"num_values": "K", "move_penalty": "penalty of moves", "train_images": "images"}
SCORES = {"uniform": "the paper's scores", "nearest": "nearest scores"}
SHARES = re.compile(r"val_|test|validation$|kept")
COUNTS = ("bytes", "bits", "seconds_total", "cpu_seconds_total")
BLOCK = re.compile(r"(<!-- report: (\w+) (\S+) -->\n).*?(<!-- /report -->)", re.DOTALL)
app = cli.make_app("report.py", __doc__)


def read_table(path):
    """The rows of a results file: texts, but what is measured as numbers, and accuracies in %."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in table:
        if SHARES.match(name) or name in COUNTS:
            table[name] = pd.to_numeric(table[name]) * (1 if name in COUNTS else 100)
    return table


def differing(rows, names):
    return [name for name in names if name in rows and rows[name].nunique() > 1]


def grouped(rows, names):
    """The cells, in the order of the values of `names`; slot machines before learned."""

    def order(column):
        numbers = pd.to_numeric(column, errors="coerce")
        return column if numbers.isna().any() else numbers

    learned = rows["method"].eq("learned") if "method" in rows else False
    names = ["learned", *names]
    rows = rows.assign(learned=learned).sort_values(names, key=order, kind="stable")
    return [cell for _, cell in rows.groupby(names, sort=False)]


def marks_of(cell, names):
    """Title and value of what names a cell; the baseline has nothing to select."""
    row = cell.iloc[0]
    marks = {TITLES.get(name, name.replace("_", " ")): row[name] for name in names}
    if row.get("method") == "learned":
        own = ("network", "method", "epochs")
        marks = {title: value if title in own else "–" for title, value in marks.items()}
        if "method" not in marks:
            marks[next(iter(marks))] = "learned"
    return marks


def number(value, form=".2f"):
    return "–" if value is None or pd.isna(value) else f"{value:{form}}"


def span(values):
    return f"{values.min():.2f} to {values.max():.2f}" if len(values) > 1 else "–"


def cells(rows):
    names = [name for name in differing(rows, MARKS) if name != "method"] or ["method"]
    for cell in grouped(rows, names):
        tests = cell["test_best"]
        yield {
            **marks_of(cell, names),
            "seeds": len(cell),
            "test %, mean": number(tests.mean()),
            "standard error": number(tests.sem()),
            "lowest to highest": span(tests),
            "paper %": number(paper_accuracy(cell.iloc[0])),
            "s per run": number(cell["seconds_total"].median(), ".0f"),
        }


def seeds(rows):
    names = differing(rows, MARKS) or ["method"]
    for cell in grouped(rows, names):
        tests = dict(zip(cell["seed"], cell["test_best"], strict=True))  # of a seed the last run
        every = sorted(set(rows["seed"]), key=int)
        yield {
            **marks_of(cell, names),
            **{f"seed {seed}, test %": number(tests.get(seed)) for seed in every},
            "s per run": number(cell["seconds_total"].median(), ".0f"),
        }


def runs(rows):
    images = differing(rows, ["train_images"])
    rows = rows.assign(k=rows["num_values"].astype(int), learned=rows["method"].eq("learned"))
    for _, row in rows.sort_values(["network", "learned", "k"], kind="stable").iterrows():
        learned = row["learned"]
        yield {
            "network": row["network"],
            "weights": "learned" if learned else f"selected, {SCORES[row['scores']]}",
            "K": "–" if learned else row["num_values"],
            **{TITLES[name]: f"{int(row[name]):,}" for name in images},
            "epochs": row["epochs_done"],
            "seed": row["seed"],
            "validation %": number(row["val_last"]),
            "test %": number(row["test_last"]),
            "with mirror images": number(row["test_mirror"]),
            "averaged weights": number(row["test_averaged"]),
            "paper %": number(paper_accuracy(row), ".1f"),
            "minutes": f"{row['seconds_total'] / 60:.0f}",
            "processor minutes": f"{row['cpu_seconds_total'] / 60:.0f}",
        }


def finetune(rows):
    networks = differing(rows, ["network"])
    epochs = rows["epochs"].astype(int)
    rows = rows.assign(spent=epochs.max() - epochs)
    for cell in grouped(rows, [*networks, "spent", "name"]):
        row, tests = cell.iloc[0], cell["test_best"]
        yield {
            **{name: row[name] for name in networks},
            "start": "scratch" if row["name"] == "finetune-scratch" else "selected weights",
            "selection epochs": row["spent"],
            "weight epochs": row["epochs"],
            "runs": len(cell),
            "validation %, mean": number(cell["val_best"].mean()),
            "test %, mean": number(tests.mean()),
            "lowest to highest": span(tests),
        }


def rates(rows):
    keys = ["network", "weights"], ["optimizer", "learning_rate"]
    means = rows.pivot_table("validation", *keys, sort=False)
    for (network, weights), row in means.iterrows():
        texts = {"network": network, "weights": weights}
        for kind, title in (("sgd", "SGD"), ("adam", "Adam")):
            for rate in sorted(row[kind].index, key=float):
                strong = "**" if row[kind, rate] == row[kind].max() else ""
                texts[f"{title} {rate}"] = f"{strong}{number(row[kind, rate], '.1f')}{strong}"
        yield texts


def sizes(rows):
    names = [*differing(rows, SIZED), "num_values"]
    for cell in grouped(rows, [*names, "move_penalty"]):
        yield {
            **marks_of(cell, names),
            "penalty of moves": f"{float(cell['move_penalty'].iloc[0]):g}",
            "seeds": len(cell),
            "file, kB": number(cell["bytes"].mean() / 1000, ".1f"),
            "bits a weight": number(cell["bits"].mean(), ".3f"),
            "kept %": number(cell["kept"].mean(), ".1f"),
            "validation %": number(cell["validation"].mean()),
            "test %": number(cell["test"].mean()),
            "lowest to highest": span(cell["test"]),
        }


TABLES = {table.__name__: table for table in (cells, seeds, runs, finetune, rates, sizes)}


def markdown(rows, kind):
    """The table of results rows, and the versions and devices of its runs."""
    lines = list(TABLES[kind](rows))
    lines = [list(lines[0]), ["---"] * len(lines[0]), *(line.values() for line in lines)]
    table = "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
    used = []
    for title in ("Python", "Keras", "TensorFlow", "JAX", "NumPy"):
        found = sorted(set(rows[title.lower()]) - {""})
        used += [f"{title} {' and '.join(found)}"] if found else []
    devices = sorted(set(rows["devices"] + " x " + rows["device"]))
    return f"{table}\n{', '.join(used)}; {'; '.join(devices)}.\n"


def of_runs(path, ids, kind):
    """The table of those runs of a results file."""
    rows = read_table(path)
    return markdown(rows[rows["run_id"].isin(ids)], kind)


@app.default
def main(source: Path, /, *, table: Literal[tuple(TABLES)] = "cells", check: bool = False):
    """Prints or fills in tables."""
    if source.suffix != ".md":
        print(markdown(read_table(source), table), end="")
        return

    def fill(block):
        made = markdown(read_table(source.parent / block[3]), block[2])
        return f"{block[1]}\n{made}\n{block[4]}"

    before = source.read_text(encoding="utf-8")
    after = BLOCK.sub(fill, before)
    if check and before != after:
        raise SystemExit(f"{source} is not what its results files give; run report.py on it")
    source.write_text(after, encoding="utf-8")
    print(f"{source}: {len(BLOCK.findall(after))} tables")


if __name__ == "__main__":
    app()
