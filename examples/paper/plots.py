"""Figures from results files and run folders.

    python examples/paper/plots.py accuracy runs/results.csv --out accuracy.png
    python examples/paper/plots.py selections gs.csv ps.csv --out gs-ps.png
    python examples/paper/plots.py sizes sizes.csv --out sizes.png
    python examples/paper/plots.py curves vgg19-ns.csv vgg19-learned.csv --out curves.png
    python examples/paper/plots.py weights runs/ours-lenet300100-gs-s0 --out weights.png
    python examples/paper/plots.py first-layer runs/ours-lenet300100-gs-s0 --out first-layer.png
    python examples/paper/plots.py finetune runs/s0-finetuned runs/s1-finetuned --out finetune.png

A figure is written as .png, .svg or .pdf.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

import cli
import report
import training
from keras_slots.inspect import plots
from paper_numbers import ACCURACIES, LEARNED, VALUES
from runs import read_json

TITLES = {
    "lenet300100": "LeNet-300-100 on MNIST",
    "conv6bn": "Six convolutions with batch norm on CIFAR-10 at 16x16",
}
app = cli.make_app("plots.py", __doc__)


def new_axes():
    return Figure(figsize=(7, 4.5), layout="constrained").subplots()


def read(sources):
    rows = pd.concat(map(report.read_table, sources), ignore_index=True)
    return rows.astype({"num_values": int, "weight_decay": float})


@app.command
def accuracy(sources: list[str], /, *, out: Path, network: str = "lenet300100"):
    """Test accuracy against K, lowest to highest seed, with the learned baseline and the paper."""
    rows = read(sources)
    rows = rows[rows["network"] == network]
    slots, learned = (rows[rows["method"] == method] for method in ("slot", "learned"))
    slots = slots.assign(scores=slots.get("scores", "uniform")).fillna({"scores": "uniform"})
    marks = report.differing(slots, ["selection", "scores"]) or ["selection"]
    curves, colors, axes = {}, {}, new_axes()
    for index, (names, curve) in enumerate(slots.groupby(marks)):
        cells = curve.groupby("num_values")["test_best"]
        curves[f"{', '.join(names)}, here"] = {k: list(tests) for k, tests in cells}
        colors[curve["selection"].iloc[0]] = f"C{index}"
    plots.accuracy_against_k(curves, axes)
    for rule, color in sorted(colors.items()):
        if network in ACCURACIES[rule]:
            published = ACCURACIES[rule][network]
            axes.plot(VALUES, published, "x:", color=color, label=f"{rule}, paper")
    means = learned.groupby("weight_decay")["test_best"].mean().sort_index(ascending=False)
    for style, (decay, mean) in zip(("-", "--", "-."), means.items(), strict=False):
        name = f"learned, decay {decay:g}" if len(means) > 1 else "learned"
        axes.axhline(mean, color="0.2", lw=1.2, ls=style, label=f"{name}, here")
    if network in LEARNED:
        dots = {"color": "0.2", "lw": 1.2, "ls": (0, (1, 2))}
        axes.axhline(LEARNED[network], **dots, label="learned, paper")
    ticks = sorted({*VALUES, *slots["num_values"]})
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_title(TITLES.get(network, network))
    axes.legend(fontsize="small", ncols=2, loc="lower center")
    axes.figure.savefig(out, dpi=150)


app.command(accuracy, name="selections")


@app.command
def sizes(sources: list[str], /, *, out: Path):
    """Test accuracy against the bytes of a .slots file, from rows of size.py."""
    rows = read(sources).astype({"bytes": float})
    curves = {}
    for (scores, k), files in rows.groupby(["scores", "num_values"]):
        means = files.groupby("move_penalty")[["bytes", "test"]].mean()
        curves[f"{scores}, K = {k}"] = list(means.itertuples(index=False, name=None))
    plots.accuracy_against_size(curves, new_axes()).savefig(out, dpi=150)


@app.command
def curves(sources: list[Path], /, *, out: Path):
    """Validation accuracy epoch by epoch, from history files; a dot at the end."""
    axes = new_axes()
    for path in sources:
        curve = 100 * pd.read_csv(path, index_col="epoch")["val_accuracy"]
        (drawn,) = axes.plot(curve, label=path.stem, lw=1.4)
        axes.plot(curve.iloc[-1:], "o", color=drawn.get_color())
    axes.set(xlabel="epoch", ylabel="validation accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    axes.figure.savefig(out, dpi=150)


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
    axes = new_axes()
    for name, runs in sorted(arms.items(), key=lambda arm: (arm[0] != "scratch", -len(arm[1][0]))):
        curve = 100 * pd.DataFrame(runs).dropna(axis="columns")
        curve.columns += total - curve.shape[1] + 1
        spent = curve.columns[0]
        label = f"selected for {spent} epoch{'s' * (spent > 1)}, then trained"
        label = "trained from scratch" if name == "scratch" else label
        (drawn,) = axes.plot(curve.mean(), label=label)
        style = {"color": drawn.get_color(), "alpha": 0.15, "lw": 0}
        axes.fill_between(curve.columns, curve.min(), curve.max(), **style)
    axes.set(xlabel="selection and weight epochs together", ylabel="validation accuracy, %")
    axes.legend(fontsize="small", loc="lower right")
    axes.figure.savefig(out, dpi=150)


if __name__ == "__main__":
    app()
