"""Figures from results files and run folders.

    python examples/paper/plots.py accuracy runs/results.csv --out accuracy.png
    python examples/paper/plots.py selections gs.csv ps.csv --out gs-ps.png
    python examples/paper/plots.py sizes sizes.csv --out sizes.png
    python examples/paper/plots.py curves vgg19-ns vgg19-learned --out curves.png
    python examples/paper/plots.py weights runs/ours-lenet300100-gs-s0 --out weights.png
    python examples/paper/plots.py first-layer runs/ours-lenet300100-gs-s0 --out first-layer.png
    python examples/paper/plots.py finetune runs/s0-finetuned runs/s1-finetuned --out finetune.png

accuracy    test accuracy against K, greedy selection, with the learned baseline and the paper
selections  greedy against probabilistic selection
sizes       test accuracy against the bytes of a .slots file, a point for each penalty of moves, the mean over
            the seeds, from the rows of size.py
curves      validation accuracy of runs, epoch by epoch, from their folders or history files
weights     selected against available values, for each layer, at each epoch that the run kept
            (train.py --save-epochs 0,1,5,20)
first-layer the first layer of LeNet as images, at each epoch that the run kept
finetune    validation accuracy of the arms of finetune.py, over selection and weight epochs;
            of several folders (seeds) the mean, and a band from the lowest to the highest

Exit status: 0, 1 when a figure cannot be drawn, 2 for a wrong command line.
"""

import statistics
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
from cyclopts import Parameter

import cli
import paper_numbers
import recipes
import report
from runs import RunError, read_json

TITLES = {
    "lenet300100": "LeNet-300-100 on MNIST",
    **{f"conv{n}": f"CONV-{n} on CIFAR-10" for n in (2, 4, 6)},
    "vgg19": "VGG-19 on CIFAR-10",
    "conv6bn": "Six convolutions with batch norm on CIFAR-10 at 16x16",
}
# What tells one curve from another; those that differ are named in the legend.
MARKS = (*("selection", "scores", "sharing", "score_mode", "epochs", "dtype_policy"), "move_penalty")
EARLIER = {"scores": "uniform", "move_penalty": "0.0"}  # in files from before there was a choice
app = cli.make_app("plots.py", __doc__)


def check_suffix(_, path):
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError("It must end in .png, .svg or .pdf")


Out = Annotated[Path, Parameter(validator=check_suffix, help="a .png, .svg or .pdf")]
Sources = Annotated[list[str], Parameter(help="results files")]
Folders = Annotated[list[str], Parameter(help="folders")]
Folder = Annotated[str, Parameter(help="run folder of a slot machine")]


def finish(figure, table, out):
    """Writes the figure, and prints the numbers that it shows."""
    figure.savefig(out, dpi=150)
    cli.print_table(table)
    print(out)


def new_axes():
    """Axes on a figure of their own."""
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 4.5), layout="constrained").subplots()


def library():
    """The figures of the library, which import Keras."""
    cli.import_training()
    from keras_slots.inspect import plots

    return plots


def wanted_rows(sources, network, kind, dataset, selections):
    """The rows of the network, kind and data set that were asked for: slot machines, learned."""
    rows = pd.concat([report.read_table(source) for source in sources], ignore_index=True)
    marks = rows.reindex(columns=MARKS)  # files have more columns than earlier ones
    rows = rows.assign(**marks.fillna(EARLIER).fillna("-"))
    dataset = dataset or paper_numbers.DATASETS.get(network, "cifar10")
    rows = rows[rows["name"].str.startswith(f"{kind}-")]
    rows = rows[(rows["network"] == network) & (rows["dataset"] == dataset)]
    whole = rows[rows["limit_steps"] == "0"]
    slots = whole[(whole["method"] == "slot") & whole["selection"].isin(list(selections))]
    if slots.empty:
        limited = " but those limited by --limit-steps" if len(whole) < len(rows) else ""
        raise RunError(f"{', '.join(sources)} has no slot runs of {network}{limited}; train some first")
    return slots, whole[whole["method"] == "learned"]


def draw_against_values(tables, sources, network, kind, dataset, out):
    """A curve for each kind of run, with bars from the lowest to the highest, and the paper's."""
    slots, learned = wanted_rows(sources, network, kind, dataset, tables)
    published = {
        rule: dict(zip(paper_numbers.VALUES, table[network], strict=True))
        for rule, table in tables.items()
        if not dataset and network in table
    }
    marks = report.differing(slots, MARKS)
    labels = slots[marks].agg(", ".join, axis=1) if marks else slots["selection"]
    slots = slots.assign(label=labels, k=slots["num_values"].astype(int))
    curves, colors, axes = {}, {}, new_axes()
    lines = [("runs", "K", "seeds", "test mean %", "paper %")]
    for index, ((label, rule), curve) in enumerate(slots.groupby(["label", "selection"])):
        cells = curves[f"{label}, here"] = {}
        # Of several curves of a rule the last: uniform scores, which are the paper's.
        colors[rule] = f"C{index}"
        for k, cell in curve.groupby("k"):
            cells[k] = list(cell["test_best"])
            paper = published.get(rule, {}).get(k)
            means = cell["test_best"].mean() / 100, None if paper is None else paper / 100
            lines.append((label, str(k), str(len(cell)), *means))
    library().accuracy_against_k(curves, axes)
    for index, (rule, table) in enumerate(sorted(published.items())):
        style = {"marker": "x", "ls": ":", "c": colors.get(rule, f"C{index}")}
        axes.plot(*zip(*table.items(), strict=True), label=f"{rule}, paper", **style)
    decays = learned["weight_decay"].astype(float)
    baselines = learned.groupby(decays)["test_best"].mean().sort_index(ascending=False)
    for index, (decay, mean) in enumerate(baselines.items()):
        label = f"learned, decay {decay:g}" if len(baselines) > 1 else "learned"
        style = {"color": "0.2", "lw": 1.2, "ls": ("-", "--", "-.")[index % 3]}
        axes.axhline(mean, label=f"{label}, here", **style)
    if published and network in paper_numbers.LEARNED:
        mean = paper_numbers.LEARNED[network]
        axes.axhline(mean, color="0.2", lw=1.2, ls=(0, (1, 2)), label="learned, paper")
    ticks = sorted({*paper_numbers.VALUES, *slots["k"]})
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_title(TITLES[network])
    axes.legend(fontsize="small", ncols=2, loc="lower center")
    finish(axes.figure, lines, out)


def against_values(name, tables):
    """Adds the command that draws accuracy against K for the selection rules in `tables`."""

    @app.command(name=name)
    def draw(
        sources: Sources,
        /,
        *,
        out: Out,
        network: recipes.Network = "lenet300100",
        kind: recipes.Kind = "ours",
        dataset: str = "",
    ):
        """From results files."""
        draw_against_values(tables, sources, network, kind, dataset, out)


against_values("accuracy", {"greedy": paper_numbers.GREEDY})
both = {"greedy": paper_numbers.GREEDY, "probabilistic": paper_numbers.PROBABILISTIC}
against_values("selections", both)


@app.command
def sizes(sources: Sources, /, *, out: Out):
    """From the rows of size.py."""
    rows = pd.concat(report.read_table(source) for source in sources)
    if "bytes" not in rows:
        raise RunError(f"{', '.join(sources)} has no rows of size.py; pack some runs first")
    rows = rows.assign(k=rows["num_values"].astype(int), penalty=rows["move_penalty"].astype(float))
    rows["bytes"] = rows["bytes"].astype(float)
    curves, lines = {}, [("files", "penalty", "seeds", "bytes, mean", "test mean %")]
    for (network, scores, k), files in rows.groupby(["network", "scores", "k"]):
        # What differs in more than penalty and seed is another curve.
        marks = report.differing(files, report.SIZED)
        parts = [network] * (rows["network"].nunique() > 1) + [scores, f"K = {k}"]
        for values, curve in files.groupby(marks or ["network"], sort=False):
            named = [f"{n.replace('_', ' ')} {v}" for n, v in zip(marks, values, strict=False)]
            label = ", ".join([*parts, *named])
            for penalty, cell in curve.groupby("penalty"):
                size, test = cell["bytes"].mean(), cell["test"].mean()
                curves.setdefault(label, []).append((size, test))
                row = (label, f"{penalty:g}", str(len(cell)), f"{size:.0f}", test / 100)
                lines.append(row)
    finish(library().accuracy_against_size(curves, new_axes()), lines, out)


@app.command
def curves(sources: Folders, /, *, out: Out):
    """From folders or history files: validation accuracy after every epoch; a dot at the end."""
    axes = new_axes()
    lines = [("run", "epochs", "last validation %")]
    for source in sources:
        path = Path(source)
        path = path / "history.csv" if path.is_dir() else path
        try:
            curve = list(100 * pd.read_csv(path)["val_accuracy"].astype(float))
        except (OSError, KeyError, ValueError) as error:
            raise RunError(f"{path} is no history of a run: {error}") from error
        name = path.parent.name if path.name == "history.csv" else path.stem
        (drawn,) = axes.plot(range(1, len(curve) + 1), curve, label=name, lw=1.4)
        axes.plot(len(curve), curve[-1], "o", color=drawn.get_color())
        lines.append((name, str(len(curve)), curve[-1] / 100))
    axes.set(xlabel="epoch", ylabel="validation accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    finish(axes.figure, lines, out)


def kept_epochs(folder):
    """Share of the kept epochs so far, number of the epoch, and the model then."""
    training = cli.import_training()
    recipe, _ = training.slot_recipe_of(folder)
    epochs = sorted(int(file.stem[6:]) for file in Path(folder).glob("state/epoch-*.npz"))
    if not epochs:
        raise RunError(f"{folder} kept no epochs; train with --save-epochs 0,1,5,{recipe.epochs}")
    for number, epoch in enumerate(epochs, 1):
        yield number / len(epochs), epoch, training.load_model(folder, epoch)[1]


def magnitudes(model):
    """Name of each kernel, and the mean magnitude of its selected values over that of all."""
    from keras_slots.inspect.choices import named_kernels, observer

    for name, (_, kernel) in named_kernels(model).items():
        seen = observer(kernel)
        yield name, f"{seen.snapshot().magnitude / seen.available:.3f}"


@app.command
def weights(run: Folder, /, *, out: Out):
    """From a run folder: densities of all values and of those selected, by layer and epoch."""
    import matplotlib

    lines, figure = [], None
    for share, epoch, model in kept_epochs(run):
        color = matplotlib.colormaps["viridis_r"](0.15 + 0.85 * share)
        figure = library().selected_values(model, f"selected, epoch {epoch}", color, figure)
        lines += [(name, str(epoch), ratio) for name, ratio in magnitudes(model)]
    titles = ("layer", "epoch", "mean |selected| / mean |available|")
    finish(figure, [titles, *sorted(lines, key=lambda line: line[0])], out)


@app.command
def first_layer(run: Folder, /, *, out: Out):
    """From a run folder: mean magnitude of each pixel and single units of the first layer, by epoch."""
    models, lines = {}, [("epoch", "layer", "mean |selected| / mean |available|")]
    for _, epoch, model in kept_epochs(run):
        models[f"epoch {epoch}"] = model
        lines.append((str(epoch), *next(magnitudes(model))))
    height, width, *_ = model.input_shape[1:]
    finish(library().first_layer(models, (height, width)), lines, out)


@app.command
def finetune(folders: Folders, /, *, out: Out):
    """From folders of finetune.py: validation accuracy of every arm.

    Fine-tuning starts at the accuracy of the selected network.
    """
    arms = {}
    for folder in folders:
        found = sorted(Path(folder).glob("*/results.json"))
        if not found:
            raise RunError(f"{folder} holds no finished arm of finetune.py")
        for path in found:
            arms.setdefault(path.parent.name, []).append(read_json(path))
    longest = {name: max(len(run["history"]) for run in runs) for name, runs in arms.items()}
    axes = new_axes()
    lines = [("start", "selection epochs", "runs", "best validation %", "test %")]
    for name in sorted(arms, key=lambda arm: -longest[arm]):
        runs, offset = arms[name], max(longest.values()) - longest[name]
        shown = []
        for run in runs:
            start = [] if run.get("start") is None else [run["start"]]  # before any weight epoch
            shares = [line.get("val_accuracy", line["accuracy"]) for line in run["history"]]
            shown.append([100 * share for share in start + shares])
        spread = list(zip(*shown, strict=False))  # a band needs the epochs that all have
        first = offset + (runs[0].get("start") is None)
        epochs = range(first, first + len(spread))
        label = "trained from scratch"
        if offset:
            label = f"selected for {offset} epoch{'s' * (offset > 1)}, then trained"
        (curve,) = axes.plot(epochs, [statistics.fmean(cell) for cell in spread], label=label)
        low, high = [min(cell) for cell in spread], [max(cell) for cell in spread]
        axes.fill_between(epochs, low, high, color=curve.get_color(), alpha=0.15, lw=0)
        means = [statistics.fmean(r["row"][key] for r in runs) for key in ("val_best", "test_best")]
        lines.append((name, str(offset), str(len(runs)), *means))
    axes.set(xlabel="selection and weight epochs together", ylabel="validation accuracy, %")
    axes.legend(fontsize="small", loc="lower right")
    finish(axes.figure, lines, out)


if __name__ == "__main__":
    sys.exit(cli.run(app))
