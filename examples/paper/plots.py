"""Figures from results files and run folders.

    python examples/paper/plots.py accuracy runs/results.csv --out accuracy.png
    python examples/paper/plots.py selections gs.csv ps.csv --out gs-ps.png
    python examples/paper/plots.py sizes sizes.csv --out sizes.png
    python examples/paper/plots.py curves runs/*/history.csv --out curves.png
    python examples/paper/plots.py weights runs/ours-lenet300100-gs-s0 --out weights.png
    python examples/paper/plots.py first-layer runs/ours-lenet300100-gs-s0 --out first-layer.png
    python examples/paper/plots.py finetune runs/s0-finetuned runs/s1-finetuned --out finetune.png

A figure is written as .png, .svg or .pdf.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

import cli
import report
import training
from keras_slots.inspect import plots
from paper_numbers import ACCURACIES, LEARNED, VALUES
from recipes import NAME, make_recipe
from runs import read_json

# Okabe and Ito's colours, which colour-blind people tell apart; the markers do without any.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "o^DsvP"
LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
WEIGHTS = {
    "learned": ("0.2", "s"),
    "nearest scores": (COLORS[0], "o"),
    "the paper's scores, greedy": (COLORS[1], "^"),
    "the paper's scores, probabilistic": (COLORS[2], "D"),
}
DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar10_16x16": "CIFAR-10 at 16x16 pixels"}
app = cli.make_app("plots.py", __doc__)


def new_axes(panels=1):
    """Panels beside each other, three in a row."""
    columns, rows = min(panels, 3), -(-panels // 3)
    figure = Figure(figsize=(max(7, 3.8 * columns), 4.5 if rows == 1 else 3.3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    for ax in axes:
        ax.grid(alpha=0.3)
    return axes[:panels]


def count_epochs(axes):
    axes.xaxis.get_major_locator().set_params(integer=True)


def title_of(network):
    return f"{report.NETWORKS[network]} on {DATASETS[make_recipe(f'ours-{network}-learned').dataset]}"


def add_legend(panels, **options):
    """One legend for all panels, below them."""
    found = (zip(*ax.get_legend_handles_labels(), strict=True) for ax in panels)
    handles = {label: handle for pairs in found for handle, label in pairs}
    labels = sorted(handles)
    place = {"fontsize": "small", "loc": "outside lower center", **options}
    panels[0].figure.legend([handles[label] for label in labels], labels, **place)


def styles_of(weights, line="-"):
    color, marker = WEIGHTS[weights]
    return {"color": color, "marker": marker, "ls": line, "lw": 1.4}


def read(sources):
    rows = pd.concat(map(report.read_table, sources), ignore_index=True)
    return rows.astype({"num_values": int})


@app.command
def accuracy(sources: list[str], /, *, out: Path, network: str = "lenet300100"):
    """Test accuracy against K, lowest to highest seed, with the learned baseline and the paper."""
    rows = read(sources)
    rows = rows[rows["network"] == network]
    slots, learned = (rows[rows["method"] == method] for method in ("slot", "learned"))
    (axes,) = new_axes()
    for weights, every in slots.groupby("weights"):
        for line, (recipe, curve) in zip(LINES, every.groupby("recipe"), strict=False):
            tests = curve.groupby("num_values")["test_best"].agg(["mean", "min", "max"])
            bars = tests["mean"] - tests["min"], tests["max"] - tests["mean"]
            style = styles_of(weights, line) | {"capsize": 3, "label": f"{weights} ({recipe})"}
            axes.errorbar(tests.index, tests["mean"], bars, **style)
    for rule in sorted(set(slots["selection"])):
        if network in ACCURACIES[rule]:
            weights = f"the paper's scores, {rule}"
            style = styles_of(weights, ":") | {"mfc": "white", "label": f"{weights} (in the paper)"}
            published = pd.Series(ACCURACIES[rule][network], VALUES, dtype=float).dropna()
            axes.plot(published, **style)
    # Without a marker: a learned network has no K.
    style = {"color": WEIGHTS["learned"][0], "lw": 1.4}
    for line, (recipe, runs) in zip(LINES, learned.groupby("recipe"), strict=False):
        axes.axhline(runs["test_best"].mean(), **style, ls=line, label=f"learned ({recipe})")
    if network in LEARNED:
        axes.axhline(LEARNED[network], **style, ls=":", label="learned (in the paper)")
    axes.set_xscale("log", base=2)
    ticks = sorted({*VALUES, *slots["num_values"]})
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xticks([], minor=True)
    axes.set(title=title_of(network), xlabel="K, values per connection", ylabel="test accuracy, %")
    add_legend([axes], title="weights (recipe)", ncols=2)
    axes.figure.savefig(out, dpi=150)


app.command(accuracy, name="selections")


@app.command
def sizes(sources: list[str], /, *, out: Path):
    """Test accuracy against the bytes of a .slots file, from rows of size.py."""
    rows = read(sources)
    cells = rows.groupby(["network", "weights", "num_values", "move_penalty"], as_index=False)
    files = cells[["bytes", "test"]].mean().sort_values("bytes", ignore_index=True)
    files = files.assign(kB=files["bytes"] / 1000, best=report.front(files))
    ks = sorted(set(files["num_values"]))
    panels = new_axes(files["weights"].nunique())
    for ax, (kind, own) in zip(panels, files.groupby("weights"), strict=True):
        for k, curve in own.groupby("num_values"):
            number = ks.index(k) % 6
            look = {"color": COLORS[number], "marker": MARKERS[number], "lw": 1.4}
            ax.plot(curve["kB"], curve["test"], label=f"K = {k}", **look)
        if own["best"].any():
            look = {"color": "0.6", "lw": 5, "alpha": 0.5, "zorder": 1, "label": "no file beats these"}
            ax.plot(own["kB"][own["best"]], own["test"][own["best"]], **look)
        ax.set(xscale="log", xlabel="size of the .slots file, kB", title=kind)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.legend(fontsize="small", loc="lower right")
    for ax in panels[1:]:  # the same sizes stand above each other
        ax.sharex(panels[0])
    panels[0].set_ylabel("test accuracy, %")
    panels[0].figure.suptitle(" and ".join(title_of(network) for network in sorted(set(rows["network"]))))
    panels[0].figure.savefig(out, dpi=150)


def drawn_run(path):
    """What a history file shows: by run.json beside it, or by its name, such as conv6-gs-k2.csv."""
    beside, named = path.with_name("run.json"), NAME.match(f"ours-{path.stem}")
    if not beside.exists() and not named:
        raise SystemExit(f"{path} has no run.json beside it, nor a name such as conv6-gs-k2.csv")
    run = read_json(beside) if beside.exists() else dataclasses.asdict(make_recipe(named[0]))
    run |= {"weights": report.weights_text(run), "curve": 100 * pd.read_csv(path)["val_accuracy"]}
    return run | {"epochs": len(run["curve"])}


@app.command
def curves(sources: list[Path], /, *, out: Path):
    """Validation accuracy epoch by epoch, from history files: a panel for each network and length."""
    rows = pd.DataFrame(map(drawn_run, sources))
    rows["label"] = rows["weights"] + np.where(
        rows["method"] == "slot", ", K = " + rows["num_values"].astype(str), ""
    )
    if rows["seed"].nunique() > 1:
        rows["label"] += ", seed " + rows["seed"].astype(str)
    lines, groups = {}, list(rows.groupby(["network", "epochs"]))
    for _, labels in rows.groupby("weights")["label"]:
        lines |= {label: LINES[number % 4] for number, label in enumerate(sorted(set(labels)))}
    panels = new_axes(len(groups))
    for ax, ((network, epochs), drawn) in zip(panels, groups, strict=True):
        for _, run in drawn.sort_values("label").iterrows():
            style = styles_of(run["weights"], lines[run["label"]]) | {"ms": 4, "markevery": max(1, epochs // 10)}
            ax.plot(range(1, epochs + 1), run["curve"], label=run["label"], **style)
        ax.set(title=f"{report.NETWORKS[network]}, {epochs} epochs", xlabel="epoch")
        count_epochs(ax)
    for ax in panels[::3]:
        ax.set_ylabel("validation accuracy, %")
    add_legend(panels, ncols=3)
    panels[0].figure.savefig(out, dpi=150)


def kept_models(run):
    """The epochs that a run kept, and the model then."""
    epochs = sorted(int(file.stem[6:]) for file in run.glob("state/epoch-*.npz"))
    return {epoch: training.load_model(run, epoch)[1] for epoch in epochs}


@app.command
def weights(run: Path, /, *, out: Path):
    """Selected against available values at each epoch that a run kept; prints their magnitudes."""
    figure, models = None, kept_models(run)
    for number, (epoch, model) in enumerate(models.items(), 1):
        color = colormaps["viridis_r"](0.15 + 0.85 * number / len(models))
        figure = plots.selected_values(model, f"selected, epoch {epoch}", color, figure)
        for layer in model.layers:
            if hasattr(layer, "bank"):
                selected, available = (np.abs(x).mean() for x in (layer.kernel, layer.bank))
                print(f"epoch {epoch}, {layer.name}: {selected / available:.3f}")
    figure.savefig(out, dpi=150)


@app.command
def first_layer(run: Path, /, *, out: Path):
    """The first layer of LeNet as images, at each epoch that a run kept."""
    models = {f"epoch {epoch}": model for epoch, model in kept_models(run).items()}
    image = next(iter(models.values())).input_shape[1:3]
    plots.first_layer(models, image).savefig(out, dpi=150)


@app.command
def finetune(folders: list[Path], /, *, out: Path):
    """Validation accuracy of the arms of finetune.py; of several folders (seeds) mean and range."""
    arms = {}
    for folder in folders:
        for path in sorted(folder.glob("*/results.json")):
            run = read_json(path)
            shares = [row["val_accuracy"] for row in run["history"]]
            if run["origin"]:  # before any weight epoch it has what the selected network had
                shares.insert(0, run["origin"]["val_accuracy"])
            arms.setdefault(path.parent.name, []).append(shares)
    total = max(len(shares) for runs in arms.values() for shares in runs)
    (axes,) = new_axes()
    order = sorted(arms.items(), key=lambda arm: (arm[0] != "scratch", -len(arm[1][0])))
    for number, (name, runs) in enumerate(order):
        curve = 100 * pd.DataFrame(runs).dropna(axis="columns")
        curve.columns += total - curve.shape[1] + 1
        spent = curve.columns[0]
        label = f"selected for {spent} epoch{'s' * (spent > 1)}, then trained"
        label = "trained from scratch" if name == "scratch" else label
        color, marker = COLORS[number % 6], MARKERS[number % 6]
        axes.plot(curve.mean(), label=label, color=color, marker=marker, ms=4, markevery=max(1, total // 10))
        axes.fill_between(curve.columns, curve.min(), curve.max(), color=color, alpha=0.15, lw=0)
    axes.set(xlabel="epoch, of selection and of weights together", ylabel="validation accuracy, %")
    count_epochs(axes)
    axes.legend(fontsize="small", loc="lower right")
    axes.figure.savefig(out, dpi=150)


if __name__ == "__main__":
    app()
