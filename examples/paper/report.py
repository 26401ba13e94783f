"""Tables from results files, beside the paper's numbers, as Markdown.

    python examples/paper/report.py runs/results.csv --table runs
    python examples/paper/report.py docs/results/README.md

The table of a results file (.csv) is printed. In a Markdown file every block from

    <!-- report: cells FILE.csv -->

to <!-- /report --> is filled with the table of that file; --check only says whether it is. README.md
says which tables there are. Runs of fewer images, epochs or steps than their recipe are marked as limited.
"""

import dataclasses
import re
from pathlib import Path
from typing import Literal

import pandas as pd

import cli
from paper_numbers import paper_accuracy
from recipes import NAME, Recipe, make_recipe

NETWORKS = {
    "lenet300100": "LeNet-300-100",
    "conv2": "CONV-2",
    "conv4": "CONV-4",
    "conv6": "CONV-6",
    "vgg19": "VGG-19",
    "conv6bn": "CONV-6 with batch norm",
    "resnet8": "ResNet-8",
    "tinyconv": "tiny convnet",
}
# What trains the weights of a row of learning_rates.py.
WEIGHTS = {"plain": "learned", "nearest": "nearest scores", "paper": "the paper's scores, greedy"}
# What tells one file of size.py from another, besides K and the penalty of moves.
SIZED = ("network", "weights", "bank_scale", "learning_rate", "weight_decay", "epochs", "state")
TITLES = {"num_values": "K", "move_penalty": "penalty of moves", "train_images": "images"}
IMAGES = {"mnist": 60_000, "cifar10": 50_000, "cifar10_16x16": 50_000}  # for training and validation
LIMITED = "Limited runs trained less than their recipe says, so they do not show what it reaches."
SHARES = re.compile(r"val_|test|validation$|kept")
COUNTS = ("bytes", "bits", "seconds_total", "cpu_seconds_total")
BLOCK = re.compile(r"(<!-- report: (\w+) (\S+) -->\n).*?(<!-- /report -->)", re.DOTALL)
app = cli.make_app("report.py", __doc__)


def recipe_of(row):
    """The recipe whose name a results row has; None for fine-tuned runs, which have none."""
    name = row.get("name", "").removeprefix("tune-")
    return make_recipe(name) if NAME.fullmatch(name) else None


def limits(row):
    """How much less than its recipe a run trained, such as "5 of 25 epochs"."""
    recipe = recipe_of(row)
    if not recipe:
        return ""
    images = IMAGES[recipe.dataset]
    images -= round(images * recipe.validation_share)
    whole = {"images": images, "epochs": recipe.epochs, "batch": recipe.batch_size}
    names = {"images": "train_images", "epochs": "epochs", "batch": "batch_size"}
    given = {key: int(row.get(name, whole[key])) for key, name in names.items()}
    for counts in (whole, given):
        counts["steps"] = counts["epochs"] * (counts["images"] // counts.pop("batch"))
    return ", ".join(f"{given[key]:,} of {n:,} {key}" for key, n in whole.items() if given[key] < n)


def recipe_text(row):
    """Whose recipe a run had, ours or the paper's, and what was changed in it."""
    recipe = recipe_of(row)
    if not recipe:
        return "–"
    fields = dataclasses.asdict(recipe).items()
    changed = [
        f"{TITLES.get(name, name.replace('_', ' '))} {row[name]}"
        for name, value in fields
        if name not in ("name", "seed") and name in row and str(row[name]) != str(value)
    ]
    kind = "paper's" if recipe.name.startswith("paper") else "ours"
    return ", ".join([kind, *changed, *["limited"] * bool(limits(row))])


def weights_text(row):
    """How the weights of a run came about."""
    if row.get("method") == "learned":
        return WEIGHTS["plain"]
    if row.get("scores") == "nearest":
        return WEIGHTS["nearest"]
    return f"the paper's scores, {row.get('selection', 'greedy')}"


def read_table(path):
    """The rows of a results file: texts, but what is measured as numbers, and accuracies in %."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in table:
        if SHARES.match(name) or name in COUNTS:
            table[name] = pd.to_numeric(table[name]) * (1 if name in COUNTS else 100)
    if "name" in table:
        texts = {"recipe": recipe_text, "weights": weights_text, "limited to": limits}
        rows = table.to_dict("records")
        table = table.assign(**{title: list(map(text, rows)) for title, text in texts.items()})
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
        own = ("network", "recipe", "weights", "epochs")
        marks = {title: value if title in own else "–" for title, value in marks.items()}
    if "network" in marks:
        marks["network"] = NETWORKS.get(row["network"], row["network"])
    return marks


def names_of(rows):
    """What tells one cell from another."""
    always, seldom = ("recipe", "weights"), ("sharing", "score_mode", "epochs")
    found = [*differing(rows, ["network"]), *always, *differing(rows, seldom), "num_values"]
    return found + differing(rows, ["move_penalty"])


def limited(cell, rows):
    """A column that says how runs were limited, if some of the table's were."""
    texts = sorted(set(cell["limited to"]) - {""})
    return {"limited to": "; ".join(texts) or "–"} if any(rows["limited to"]) else {}


def number(value, form=".2f"):
    return "–" if value is None or pd.isna(value) else f"{value:{form}}"


def span(values):
    return f"{values.min():.2f} to {values.max():.2f}" if len(values) > 1 else "–"


def cells(rows):
    names = names_of(rows)
    for cell in grouped(rows, names):
        tests = cell["test_best"]
        yield {
            **marks_of(cell, names),
            "seeds": cell["seed"].nunique(),
            "test %, mean": number(tests.mean()),
            "standard error": number(tests.sem()),
            "lowest to highest": span(tests),
            "paper %": number(paper_accuracy(cell.iloc[0])),
            "s per run": number(cell["seconds_total"].median(), ".0f"),
            **limited(cell, rows),
        }


def seeds(rows):
    names = names_of(rows)
    for cell in grouped(rows, names):
        tests = dict(zip(cell["seed"], cell["test_best"], strict=True))  # of a seed the last run
        every = sorted(set(rows["seed"]), key=int)
        yield {
            **marks_of(cell, names),
            **{f"seed {seed}, test %": number(tests.get(seed)) for seed in every},
            "s per run": number(cell["seconds_total"].median(), ".0f"),
            **limited(cell, rows),
        }


def runs(rows):
    images = differing(rows, ["train_images"])
    same = rows.groupby([field.name for field in dataclasses.fields(Recipe) if field.name in rows])["run_id"]
    rows = rows.assign(repeat=same.cumcount() + 1, repeats=same.transform("size"))
    rows = rows.assign(k=rows["num_values"].astype(int), learned=rows["method"].eq("learned"))
    repeated = (rows["repeats"] > 1).any()
    for _, row in rows.sort_values(["network", "learned", "k", "weights"], kind="stable").iterrows():
        again = f"{row['repeat']} of {row['repeats']}" if row["repeats"] > 1 else "–"
        yield {
            "network": NETWORKS.get(row["network"], row["network"]),
            "weights": row["weights"],
            "K": "–" if row["learned"] else row["num_values"],
            "recipe": row["recipe"],
            **{TITLES[name]: f"{int(row[name]):,}" for name in images},
            "epochs": row["epochs_done"],
            "seed": row["seed"],
            **({"repeat": again} if repeated else {}),
            "validation %": number(row["val_last"]),
            "test %": number(row["test_last"]),
            "with mirror images": number(row["test_mirror"]),
            "averaged weights": number(row["test_averaged"]),
            "paper %": number(paper_accuracy(row), ".1f"),
            "minutes": f"{row['seconds_total'] / 60:.0f}",
            "processor minutes": f"{row['cpu_seconds_total'] / 60:.0f}",
            **limited(rows.loc[[row.name]], rows),
        }


def finetune(rows):
    networks = differing(rows, ["network"])
    epochs = rows["epochs"].astype(int)
    rows = rows.assign(spent=epochs.max() - epochs)
    for cell in grouped(rows, [*networks, "spent", "name"]):
        row, tests = cell.iloc[0], cell["test_best"]
        yield {
            **{name: NETWORKS.get(row[name], row[name]) for name in networks},
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
        texts = {"network": network, "weights": WEIGHTS[weights]}
        for kind, title in (("sgd", "SGD"), ("adam", "Adam")):
            for rate in sorted(row[kind].index, key=float):
                strong = "**" if row[kind, rate] == row[kind].max() else ""
                texts[f"{title} {rate}"] = f"{strong}{number(row[kind, rate], '.1f')}{strong}"
        yield texts


def front(files):
    """Which rows (network, bytes, test) no other of that network beats: at most as large, at least as accurate."""
    files = files.sort_values(["bytes", "test"], ascending=[True, False], kind="stable")
    smaller = files.groupby("network")["test"].transform(lambda tests: tests.cummax().shift(fill_value=-1.0))
    return (files["test"] > smaller).sort_index()


def sizes(rows):
    names = [*differing(rows, SIZED), "num_values"]
    every = grouped(rows, [*names, "move_penalty"])
    means = [{"network": cell["network"].iloc[0], **cell[["bytes", "test"]].mean()} for cell in every]
    for cell, unbeaten in zip(every, front(pd.DataFrame(means)), strict=True):
        yield {
            **marks_of(cell, names),
            "penalty of moves": f"{float(cell['move_penalty'].iloc[0]):g}",
            "seeds": cell["seed"].nunique(),
            "file, kB": number(cell["bytes"].mean() / 1000, ".1f"),
            "bits a weight": number(cell["bits"].mean(), ".3f"),
            "kept %": number(cell["kept"].mean(), ".1f"),
            "validation %": number(cell["validation"].mean()),
            "test %": number(cell["test"].mean()),
            "lowest to highest": span(cell["test"]),
            **({"front": "yes" if unbeaten else "–"} if len(every) > 1 else {}),
            **limited(cell, rows),
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
    note = f"\n{LIMITED}\n" if "limited to" in rows and any(rows["limited to"]) else ""
    return f"{table}\n{', '.join(used)}; {'; '.join(devices)}.\n{note}"


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
