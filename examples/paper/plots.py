"""Figures from results files and run folders.

    python examples/paper/plots.py accuracy runs/results.csv --out accuracy.png
    python examples/paper/plots.py selections gs.csv ps.csv --out gs-ps.png
    python examples/paper/plots.py curves vgg19-ns vgg19-learned --out curves.png
    python examples/paper/plots.py weights runs/ours-lenet300100-gs-s0 --out weights.png
    python examples/paper/plots.py finetune runs/s0-finetuned runs/s1-finetuned --out finetune.png

accuracy    test accuracy against K, greedy selection, with the learned baseline and the paper
selections  greedy against probabilistic selection
curves      validation accuracy of runs, epoch by epoch, from their folders or history files
weights     selected against available values, for each layer, at each epoch that the run kept
            (train.py --save-epochs 0,1,5,20)
finetune    validation accuracy of the arms of finetune.py, over selection and weight epochs;
            of several folders (seeds) the mean, and a band from the lowest to the highest

Exit status: 0, 1 when a figure cannot be drawn, 2 for a wrong command line.
"""

import csv
import io
import math
import statistics
import sys
from pathlib import Path

import cli
import paper_numbers
from recipes import KINDS, NETWORKS
from runs import RunError, read_json, read_rows, write_atomic

TITLES = {
    "lenet300100": "LeNet-300-100 on MNIST",
    **{f"conv{n}": f"CONV-{n} on CIFAR-10" for n in (2, 4, 6)},
    "vgg19": "VGG-19 on CIFAR-10",
    "conv6bn": "Six convolutions with batch norm on CIFAR-10 at 16x16",
}
# What tells one curve from another; those that differ are named in the legend.
EARLIER = {"scores": "uniform"}  # what files say that were written before there was a choice
MARKS = ("selection", "scores", "sharing", "score_mode", "epochs", "dtype_policy")


def make_parser():
    parser = cli.Parser(description=__doc__, prog="plots.py")
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for name in ("accuracy", "selections"):
        part = figures.add_parser(name, help="from results files")
        part.add_argument("source", nargs="+", metavar="RESULTS")
        part.add_argument("--network", choices=NETWORKS, default="lenet300100")
        part.add_argument("--kind", choices=KINDS, default="ours", help="kind of the recipes")
        part.add_argument("--dataset", help="(default: the paper's for that network)")
    for name in ("curves", "finetune"):
        part = figures.add_parser(name, help="from folders")
        part.add_argument("source", nargs="+", metavar="DIR")
    figures.add_parser("weights", help="from a run folder").add_argument("source", metavar="RUN")
    for part in figures.choices.values():
        part.add_argument("--out", required=True, metavar="FILE", help=".png, .svg or .pdf")
    return parser


def wanted_rows(args, selections):
    """The rows of the network, kind and data set that were asked for: slot machines, learned."""
    rows = []
    for source in args.source:
        found = read_rows(source)
        if not found or "run_id" not in found[0]:
            raise RunError(f"{source} is no results file with rows; train some runs first")
        rows += found
    dataset = args.dataset or paper_numbers.DATASETS.get(args.network, "cifar10")
    named = [row for row in rows if row["name"].startswith(f"{args.kind}-")]
    rows = [r for r in named if (r["network"], r["dataset"]) == (args.network, dataset)]
    whole = [row for row in rows if row["limit_steps"] == "0"]
    slots = [r for r in whole if r["method"] == "slot" and r["selection"] in selections]
    if not slots:
        limited = " but those limited by --limit-steps" if len(whole) < len(rows) else ""
        raise RunError(
            f"{', '.join(args.source)} has no slot runs of {args.network}{limited}; "
            "train some first"
        )
    return slots, [row for row in whole if row["method"] == "learned"]


def draw_against_values(figure, args, tables):
    """A curve for each kind of run, with bars from the lowest to the highest, and the paper's."""
    slots, learned = wanted_rows(args, tables)
    axes = figure.subplots()
    lines = [("runs", "K", "seeds", "test mean %", "paper %")]
    slots = [EARLIER | row for row in slots]
    marks = [name for name in MARKS if len({row.get(name) for row in slots}) > 1]
    curves = {}
    for row in slots:
        label = ", ".join(row.get(name) or "-" for name in marks) or row["selection"]
        cell = curves.setdefault((label, row["selection"]), {})
        cell.setdefault(int(row["num_values"]), []).append(100 * float(row["test_best"]))
    published = {
        rule: dict(zip(paper_numbers.VALUES, table[args.network], strict=True))
        for rule, table in tables.items()
        if not args.dataset and args.network in table
    }
    colors = {}
    for index, ((label, rule), found) in enumerate(sorted(curves.items())):
        # A line joins neighbours alone: where a K is missing, it breaks.
        doubled = (2**i for i in range(int(math.log2(max(found)))))
        ks = sorted({*found, *(k for k in doubled if k > min(found))})
        cells = [found.get(k, [math.nan]) for k in ks]
        means = [statistics.fmean(cell) for cell in cells]
        bars = (
            [mean - min(cell) for mean, cell in zip(means, cells, strict=True)],
            [max(cell) - mean for mean, cell in zip(means, cells, strict=True)],
        )
        colors[rule] = f"C{index}"  # of several, the last: uniform scores, which the paper's are
        style = {"marker": "o", "capsize": 3, "color": colors[rule]}
        axes.errorbar(ks, means, bars, label=f"{label}, here", **style)
        for k in sorted(found):
            paper = published.get(rule, {}).get(k)
            lines.append(
                (
                    label,
                    str(k),
                    str(len(found[k])),
                    statistics.fmean(found[k]) / 100,
                    None if paper is None else paper / 100,
                )
            )
    for index, (rule, table) in enumerate(sorted(published.items())):
        style = {"marker": "x", "ls": ":", "c": colors.get(rule, f"C{index}")}
        axes.plot(*zip(*table.items(), strict=True), label=f"{rule}, paper", **style)
    if learned:
        mean = statistics.fmean(100 * float(row["test_best"]) for row in learned)
        axes.axhline(mean, color="0.2", lw=1.2, label="learned, here")
    if published and args.network in paper_numbers.LEARNED:
        mean = paper_numbers.LEARNED[args.network]
        axes.axhline(mean, color="0.2", lw=1.2, ls=(0, (1, 2)), label="learned, paper")
    axes.set_xscale("log", base=2)
    ticks = sorted({*paper_numbers.VALUES, *(int(row["num_values"]) for row in slots)})
    axes.set_xticks(ticks, map(str, ticks))
    title = TITLES[args.network]
    axes.set(xlabel="K, values per connection", ylabel="test accuracy, %", title=title)
    axes.legend(fontsize="small", ncols=2, loc="lower center")
    return lines


def draw_accuracy(figure, args):
    return draw_against_values(figure, args, {"greedy": paper_numbers.GREEDY})


def draw_selections(figure, args):
    tables = {"greedy": paper_numbers.GREEDY, "probabilistic": paper_numbers.PROBABILISTIC}
    return draw_against_values(figure, args, tables)


def draw_curves(figure, args):
    """Validation accuracy after every epoch; a dot at the end."""
    axes = figure.subplots()
    lines = [("run", "epochs", "last validation %")]
    for source in args.source:
        path = Path(source)
        path = path / "history.csv" if path.is_dir() else path
        try:
            with open(path, newline="") as file:
                curve = [100 * float(row["val_accuracy"]) for row in csv.DictReader(file)]
        except (OSError, KeyError, ValueError) as error:
            raise RunError(f"{path} is no history of a run: {error}") from error
        name = path.parent.name if path.name == "history.csv" else path.stem
        (drawn,) = axes.plot(range(1, len(curve) + 1), curve, label=name, lw=1.4)
        axes.plot(len(curve), curve[-1], "o", color=drawn.get_color())
        lines.append((name, str(len(curve)), curve[-1] / 100))
    axes.set(xlabel="epoch", ylabel="validation accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    return lines


def draw_weights(figure, args):
    """Densities of the values on offer and of those selected, a row a layer, a curve an epoch."""
    import matplotlib
    import numpy as np

    training = cli.import_training()
    folder = Path(args.source)
    recipe, _ = training.recipe_of(folder)
    if recipe.method != "slot":
        raise RunError(f"{folder} holds a learned network, which selects nothing")
    epochs = sorted(int(file.stem[6:]) for file in folder.glob("state/epoch-*.npz"))
    if not epochs:
        raise RunError(f"{folder} kept no epochs; train with --save-epochs 0,1,5,{recipe.epochs}")
    axes = None
    lines = [("layer", "epoch", "mean |selected| / mean |available|")]
    for number, epoch in enumerate(epochs):
        _, model = training.load_model(folder, epoch)
        layers = [layer for layer in model.layers if hasattr(layer, "bank")]
        if axes is None:
            columns = min(4, len(layers))
            figure.set_size_inches(4 * columns, 3.2 * math.ceil(len(layers) / columns))
            axes = figure.subplots(math.ceil(len(layers) / columns), columns, squeeze=False)
        color = matplotlib.colormaps["viridis_r"](0.15 + 0.85 * (number + 1) / len(epochs))
        for axis, layer in zip(axes.flat, layers, strict=False):
            bank, kernel = np.asarray(layer.bank).ravel(), np.asarray(layer.kernel)
            ratio = np.abs(kernel).mean() / np.abs(bank).mean()
            lines.append((layer.name, str(epoch), f"{ratio:.3f}"))
            edges = np.linspace(-np.abs(bank).max(), np.abs(bank).max(), 41)
            if number == 0:
                axis.hist(bank, edges, density=True, color="0.85", label="available")
                title = f"{layer.name}: {' × '.join(str(size) for size in kernel.shape)}"
                axis.set(title=title, xlabel="value", yticks=[])
                axis.locator_params(axis="x", nbins=6)
            density, _ = np.histogram(kernel, edges, density=True)
            axis.stairs(density, edges, color=color, lw=1.4, label=f"selected, epoch {epoch}")
    axes.flat[0].set_ylabel("density")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    return [lines[0], *sorted(lines[1:], key=lambda line: line[0])]


def draw_finetune(figure, args):
    """Validation accuracy of every arm; fine-tuning starts with what the selected network has."""
    arms = {}
    for folder in args.source:
        found = sorted(Path(folder).glob("*/results.json"))
        if not found:
            raise RunError(f"{folder} holds no finished arm of finetune.py")
        for path in found:
            arms.setdefault(path.parent.name, []).append(read_json(path))
    longest = {name: max(len(run["history"]) for run in runs) for name, runs in arms.items()}
    axes = figure.subplots()
    lines = [("start", "selection epochs", "runs", "best validation %", "test %")]
    for name in sorted(arms, key=lambda arm: -longest[arm]):
        runs, offset = arms[name], max(longest.values()) - longest[name]
        curves = []
        for run in runs:
            start = run.get("start")  # before the first weight epoch
            shares = [line.get("val_accuracy", line["accuracy"]) for line in run["history"]]
            curves.append([100 * s for s in ([start] * (start is not None) + shares)])
        spread = list(zip(*curves, strict=False))  # a band needs the epochs that all have
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
    return lines


def main(argv=None):
    args = make_parser().parse_args(argv)
    if Path(args.out).suffix not in (".png", ".svg", ".pdf"):
        make_parser().error(f"--out must end in .png, .svg or .pdf. Received: {args.out}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RunError('plots.py needs pip install "keras-slots[plots]"') from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    table = globals()[f"draw_{args.figure}"](figure, args)
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(args.out).suffix[1:], dpi=150)
    write_atomic(args.out, picture.getvalue())
    cli.print_table(table)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "plots.py"))
