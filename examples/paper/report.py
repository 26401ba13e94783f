"""Tables from results files, beside the paper's numbers, as Markdown.

    python examples/paper/report.py runs/results.csv
    python examples/paper/report.py docs/results/README.md

Of a results file (.csv) the table of its cells is printed: the runs that differ in nothing but the
seed. In a Markdown file every block

    <!-- report: cells FILE.csv -->
    <!-- /report -->

is filled with the table of FILE.csv, a path beside the Markdown file; what stands between the two
lines is replaced. --check changes nothing and fails when a table is not what its file gives. The
word before the file chooses the columns:

cells     test accuracy over the seeds of each cell, beside the paper's
seeds     test accuracy of each seed, a row for each cell
runs      long runs one by one: last epoch, mirror images, averaged weights, minutes
finetune  the arms of finetune.py
search    validation accuracy of every run, with the fields that a search for recipes varies
smoke     runs cut short by --limit-steps: what was run, and no accuracy
rates     the runs of learning_rates.py: validation accuracy at each rate, the best of a row in bold
sizes     the runs that size.py packed: bytes and test accuracy of each file, means over the seeds

Exit status: 0, 1 when a table cannot be made or --check found another, 2 for a wrong command line.
"""

import re
import statistics
import sys
import types
from pathlib import Path

import cli
from paper_numbers import paper_accuracy
from runs import RunError, read_rows, write_atomic

# What tells one cell from another; a column for each that differs within a file.
MARKS = (
    *("network", "method", "selection", "scores", "sharing", "score_mode", "epochs", "num_values"),
    "move_penalty",
)
# The same of the files that size.py packed, beside K and penalty.
SIZED = ("network", "scores", "bank_scale", "learning_rate", "weight_decay", "epochs", "state")
TITLES = {
    "num_values": "K",
    "score_mode": "score mode",
    "move_penalty": "penalty of moves",
    "train_images": "images",
}
BLOCK = re.compile(r"(<!-- report: (\w+) (\S+) -->\n).*?(<!-- /report -->)", re.DOTALL)


def make_parser():
    parser = cli.Parser(description=__doc__, prog="report.py")
    parser.add_argument("source", metavar="FILE", help="a results file, or a Markdown file")
    parser.add_argument(
        "--table", choices=TABLES, default="cells", help="columns for a .csv (default: cells)"
    )
    parser.add_argument(
        "--check", action="store_true", help="only say whether the tables of a .md are up to date"
    )
    return parser


def grouped(rows, names):
    """Rows that agree in `names`, in the order of those values; slot machines before learned."""
    cells = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in names), []).append(row)

    def place(key):
        row = cells[key][0]
        sizes = tuple(float(part) if part[:1].isdigit() else part for part in key)
        return row["method"] == "learned", *sizes

    return [cells[key] for key in sorted(cells, key=place)]


def marks_of(row, names):
    """The cells that name a row; the baseline has nothing to select."""
    if row["method"] != "learned":
        return [row[name] for name in names]
    own = {"network": row["network"], "method": "learned", "epochs": row["epochs"]}
    marks = [own.get(name, "–") for name in names]
    return marks if "method" in names else ["learned", *marks[1:]]


def percents(rows, name):
    return [100 * float(row[name]) for row in rows]


def span(values):
    return f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else "–"


def differing(rows, names):
    return [name for name in names if len({row.get(name) for row in rows}) > 1]


def cells_table(rows):
    names = [name for name in differing(rows, MARKS) if name != "method"] or ["method"]
    header = [TITLES.get(name, name) for name in names]
    table = [
        [
            *header,
            "seeds",
            "test %, mean",
            "lowest to highest",
            "paper %",
            "difference",
            "s per run",
        ]
    ]
    for cell in grouped(rows, ("method", *names)):
        tests = percents(cell, "test_best")
        mean, paper = statistics.mean(tests), paper_of(cell[0])
        beside = (
            ["–", "–"] if paper is None else [f"{100 * paper:.2f}", f"{mean - 100 * paper:+.2f}"]
        )
        seconds = statistics.median(float(row["seconds_total"]) for row in cell)
        row = [*marks_of(cell[0], names), str(len(cell)), f"{mean:.2f}", span(tests)]
        table.append([*row, *beside, f"{seconds:.0f}"])
    return table


def seeds_table(rows):
    names = differing(rows, MARKS) or ["method"]
    seeds = sorted({row["seed"] for row in rows}, key=int)
    titles = [f"seed {seed}, test %" for seed in seeds]
    table = [[*[TITLES.get(name, name) for name in names], *titles, "s per run"]]
    for cell in grouped(rows, names):
        tests = {row["seed"]: 100 * float(row["test_best"]) for row in cell}
        each = [f"{tests[seed]:.2f}" if seed in tests else "–" for seed in seeds]
        seconds = statistics.median(float(row["seconds_total"]) for row in cell)
        table.append([*marks_of(cell[0], names), *each, f"{seconds:.0f}"])
    return table


def runs_table(rows):
    measured = ("validation %", "test %", "with mirror images", "averaged weights", "paper %")
    names = differing(rows, ("train_images",))
    first = ["network", "weights", "K", *(TITLES[name] for name in names), "epochs"]
    table = [[*first, "seed", *measured, "minutes", "processor minutes"]]
    for row in sorted(
        rows, key=lambda row: (row["network"], row["method"] == "learned", int(row["num_values"]))
    ):
        learned = row["method"] == "learned"
        kind = "learned" if learned else f"selected, {SCORES[row['scores']]}"
        paper = paper_of(row)
        shares = [row[name] for name in ("val_last", "test_last", "test_mirror", "test_averaged")]
        minutes = [f"{float(row[n]) / 60:.0f}" for n in ("seconds_total", "cpu_seconds_total")]
        table.append(
            [
                *(row["network"], kind, "–" if learned else row["num_values"]),
                *(f"{int(row[name]):,}" for name in names),
                *(row["epochs_done"], row["seed"]),
                *(f"{100 * float(share):.2f}" if share else "–" for share in shares),
                "–" if paper is None else f"{100 * paper:.1f}",
                *minutes,
            ]
        )
    return table


SCORES = {"uniform": "the paper's scores", "nearest": "nearest scores"}


def paper_of(row):
    """The paper's number for the experiment of a row."""
    return paper_accuracy(types.SimpleNamespace(**row | {"num_values": int(row["num_values"])}))


def search_table(rows):
    names = [*differing(rows, MARKS), "bank_scale", "learning_rate"]
    seeds = sorted({row["seed"] for row in rows}, key=int)
    titles = [f"seed {seed}, validation %" for seed in seeds]
    header = [TITLES.get(name, name.replace("_", " ")) for name in names]
    table = [[*header, *titles]]
    for cell in grouped(rows, names):
        found = {row["seed"]: 100 * float(row["val_best"]) for row in cell}
        each = [f"{found[seed]:.2f}" if seed in found else "–" for seed in seeds]
        fields = [cell[0][name] for name in names]
        fields[-2:] = [f"{float(field):.4g}" for field in fields[-2:]]
        table.append([*fields, *each])
    return table


def rates_table(rows):
    titles = {"sgd": "SGD", "adam": "Adam"}
    rates = {name: [] for name in titles}
    lines = {}
    for row in rows:
        optimizer, rate = row["optimizer"], row["learning_rate"]
        if rate not in rates[optimizer]:
            rates[optimizer].append(rate)
        cells = lines.setdefault((row["network"], row["weights"]), {})
        cells.setdefault((optimizer, rate), []).append(100 * float(row["validation"]))
    columns = [(name, rate) for name in rates for rate in sorted(rates[name], key=float)]
    table = [["network", "weights", *(f"{titles[name]} {rate}" for name, rate in columns)]]
    for key, cells in lines.items():
        means = {column: statistics.mean(cells[column]) for column in columns if column in cells}
        best = {
            name: max((v for c, v in means.items() if c[0] == name), default=0) for name in rates
        }
        texts = [f"{means[c]:.1f}" if c in means else "–" for c in columns]
        bold = [means.get(c) == best[c[0]] for c in columns]
        texts = [f"**{t}**" if strong else t for t, strong in zip(texts, bold, strict=True)]
        table.append([*key, *texts])
    return table


def finetune_table(rows):
    total = max(int(row["epochs"]) for row in rows)
    measured = ("validation %, mean", "test %, mean", "lowest to highest")
    networks = differing(rows, ("network",))
    table = [[*networks, "start", "selection epochs", "weight epochs", "runs", *measured]]
    cells = grouped(rows, (*networks, "epochs", "name"))
    for cell in sorted(cells, key=lambda c: (c[0]["network"], -int(c[0]["epochs"]))):
        tests, epochs = percents(cell, "test_best"), int(cell[0]["epochs"])
        start = cell[0]["name"].removeprefix("finetune-")
        start = "scratch" if start == "scratch" else "selected weights"
        validation = f"{statistics.mean(percents(cell, 'val_best')):.2f}"
        row = [*(cell[0][name] for name in networks), start]
        row += [str(total - epochs), str(epochs), str(len(cell)), validation]
        table.append([*row, f"{statistics.mean(tests):.2f}", span(tests)])
    return table


def sizes_table(rows):
    names = [*differing(rows, SIZED), "num_values", "move_penalty"]
    measured = (
        "file, kB",
        "bits a weight",
        "kept %",
        "validation %",
        "test %",
        "lowest to highest",
    )
    titles = [TITLES.get(name, name.replace("_", " ")) for name in names]
    table = [[*titles, "seeds", *measured]]
    for cell in grouped([row | {"method": "slot"} for row in rows], names):
        marks = [cell[0][name] for name in names[:-1]] + [f"{float(cell[0]['move_penalty']):g}"]
        kilobytes, bits = (statistics.mean(float(r[n]) for r in cell) for n in ("bytes", "bits"))
        kept, validation, test = (
            statistics.mean(percents(cell, name)) if all(row[name] for row in cell) else None
            for name in ("kept", "validation", "test")
        )
        shares = ["–" if x is None else f"{x:.2f}" for x in (validation, test)]
        sizes = [f"{kilobytes / 1000:.1f}", f"{bits:.3f}", f"{kept:.1f}"]
        table.append([*marks, str(len(cell)), *sizes, *shares, span(percents(cell, "test"))])
    return table


def smoke_table(rows):
    table = [["network", "method", "K", "connections", "batch", "steps", "seconds"]]
    for row in rows:
        learned = row["method"] == "learned"
        size = f"{int(row['connections']):,}"
        what = [row["network"], row["method"], "–" if learned else row["num_values"], size]
        steps = int(row["limit_steps"]) * int(row["epochs_done"])
        table.append([*what, row["batch_size"], str(steps), row["seconds_total"]])
    return table


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
    rows = read_rows(path)
    if kind not in TABLES:
        raise RunError(f"there is no table {kind}; there are: {', '.join(TABLES)}")
    if not rows or "run_id" not in rows[0]:
        raise RunError(f"{path} is no results file with rows; train some runs first")
    # A run cut short is no result, and no other run belongs among those.
    rows = [row for row in rows if (row["limit_steps"] != "0") == (kind == "smoke")]
    if not rows:
        raise RunError(f"{path} has no rows for a table of kind {kind}")
    table = TABLES[kind](rows)
    table.insert(1, ["---"] * len(table[0]))
    lines = "".join(f"| {' | '.join(row)} |\n" for row in table)
    return f"{lines}\n{versions_line(rows)}\n"


def versions_line(rows):
    """What the runs ran with, each once."""
    packages = {"python": "Python", "keras": "Keras", "tensorflow": "TensorFlow", "jax": "JAX"}
    used = []
    for name, title in {**packages, "numpy": "NumPy"}.items():
        found = sorted({row[name] for row in rows if row.get(name)})
        used += [f"{title} {' and '.join(found)}"] if found else []
    devices = sorted({f"{row['devices']} x {row['device']}" for row in rows})
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


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if Path(args.source).suffix != ".md":
        if args.check:
            parser.error("--check needs a Markdown file")
        print(markdown(args.source, args.table), end="")
        return 0
    before, after = refreshed(args.source)
    if args.check and before != after:
        raise RunError(f"{args.source} is not what its results files give; run report.py on it")
    if before != after:
        write_atomic(args.source, after.encode())
    print(f"{args.source}: {len(BLOCK.findall(after))} tables")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "report.py"))
