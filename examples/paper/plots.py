"""Figures from results files and run folders.

    python examples/paper/plots.py accuracy runs/results.csv --out accuracy.png
    python examples/paper/plots.py selections gs.csv ps.csv --out gs-ps.png
    python examples/paper/plots.py weights runs/ours-lenet300100-gs-s0 --out weights.png
    python examples/paper/plots.py finetune runs/s0-finetuned runs/s1-finetuned --out finetune.png

accuracy    test accuracy against K, greedy selection, with the learned baseline and the paper
selections  greedy against probabilistic selection, from one results file or several
weights     selected against available values, for each layer, at each epoch that the run kept
            (train.py --save-epochs 0,1,5,20)
finetune    validation accuracy of the arms of finetune.py, over selection and weight epochs;
            of several folders (seeds) the mean, and a band from the lowest to the highest

Exit status: 0, 1 when a figure cannot be drawn, 2 for a wrong command line.
"""

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
    "conv2": "CONV-2 on CIFAR-10",
    "conv4": "CONV-4 on CIFAR-10",
    "conv6": "CONV-6 on CIFAR-10",
    "vgg19": "VGG-19 on CIFAR-10",
}


def make_parser():
    parser = cli.Parser(description=__doc__, prog="plots.py")
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for name in ("accuracy", "selections"):
        part = figures.add_parser(name, help="from a results file")
        part.add_argument("source", nargs="+", metavar="RESULTS")
        part.add_argument("--network", choices=NETWORKS, default="lenet300100")
        part.add_argument("--kind", choices=KINDS, default="ours", help="kind of the recipes")
        part.add_argument("--dataset", help="(default: the paper's for that network)")
    figures.add_parser("weights", help="from a run folder").add_argument("source", metavar="RUN")
    figures.add_parser("finetune", help="from folders of finetune.py").add_argument(
        "source", nargs="+", metavar="DIR"
    )
    for part in figures.choices.values():
        part.add_argument("--out", required=True, metavar="FILE", help=".png, .svg or .pdf")
    return parser


def all_rows(sources):
    """The rows of all results files."""
    rows = []
    for source in sources:
        found = read_rows(source)
        if not found or "run_id" not in found[0]:
            raise RunError(f"{source} is no results file with rows; train some runs first")
        rows += found
    return rows


def accuracies(rows, args, **wanted):
    """K -> test accuracies in %, of the rows that agree with `wanted`."""
    dataset = args.dataset or paper_numbers.DATASETS.get(args.network, "cifar10")
    wanted |= {"network": args.network, "dataset": dataset, "limit_steps": "0"}
    found = {}
    for row in rows:
        named = row["name"].startswith(f"{args.kind}-")
        if named and all(row[name] == value for name, value in wanted.items()):
            found.setdefault(int(row["num_values"]), []).append(100 * float(row["test_best"]))
    return dict(sorted(found.items()))


def draw_means(axes, found, label, **style):
    """Means over seeds against K, with bars from the lowest to the highest."""
    means = [statistics.mean(values) for values in found.values()]
    below = [mean - min(values) for mean, values in zip(means, found.values(), strict=True)]
    above = [max(values) - mean for mean, values in zip(means, found.values(), strict=True)]
    axes.errorbar(list(found), means, (below, above), marker="o", capsize=3, label=label, **style)


def draw_baseline(axes, rows, args):
    """The learned network, here and in the paper."""
    for values in accuracies(rows, args, method="learned").values():
        axes.axhline(statistics.mean(values), color="0.2", lw=1.2, label="learned, here")
    if not args.dataset and args.network in paper_numbers.LEARNED:
        paper = paper_numbers.LEARNED[args.network]
        axes.axhline(paper, color="0.2", lw=1.2, ls=(0, (1, 2)), label="learned, paper")


def draw_against_values(figure, args, selections):
    """One curve for each selection rule, ours and the paper's, and the learned baseline."""
    rows = all_rows(args.source)
    axes = figure.subplots()
    lines = [("selection", "K", "runs", "test mean %", "paper %")]
    for index, (selection, table) in enumerate(selections.items()):
        common = {"method": "slot", "sharing": "connection", "selection": selection}
        found = accuracies(rows, args, **common)
        if found:
            draw_means(axes, found, f"{selection}, here", color=f"C{index}")
        published = {}
        if not args.dataset and args.network in table:
            published = dict(zip(paper_numbers.VALUES, table[args.network], strict=True))
            label, style = f"{selection}, paper", {"marker": "x", "ls": ":", "c": f"C{index}"}
            axes.plot(*zip(*published.items(), strict=True), label=label, **style)
        for k, values in found.items():
            paper = f"{published[k]:.2f}" if k in published else "-"
            mean = f"{statistics.mean(values):.2f}"
            lines.append((selection, str(k), str(len(values)), mean, paper))
    if len(lines) == 1:
        raise RunError(
            f"{', '.join(args.source)} has no slot runs of {args.network}; train some first"
        )
    draw_baseline(axes, rows, args)
    axes.set_xscale("log", base=2)
    axes.set_xticks(paper_numbers.VALUES, [str(k) for k in paper_numbers.VALUES])
    network = TITLES.get(args.network, args.network)
    axes.set(xlabel="K, values per connection", ylabel="test accuracy, %", title=network)
    drawn = zip(*axes.get_legend_handles_labels(), strict=True)
    ours_first = sorted(drawn, key=lambda entry: entry[1].endswith("paper"))
    axes.legend(*zip(*ours_first, strict=True), fontsize="small", ncols=2, loc="lower center")
    return lines


def draw_accuracy(figure, args):
    return draw_against_values(figure, args, {"greedy": paper_numbers.GREEDY})


def draw_selections(figure, args):
    tables = {"greedy": paper_numbers.GREEDY, "probabilistic": paper_numbers.PROBABILISTIC}
    return draw_against_values(figure, args, tables)


def draw_weights(figure, args):
    """Densities of the values on offer and of those selected, a row a layer, a curve an epoch."""
    import matplotlib
    import numpy as np

    import training

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
        shade = (number + 1) / len(epochs)
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
            color = matplotlib.colormaps["viridis_r"](0.15 + 0.85 * shade)
            axis.stairs(density, edges, color=color, lw=1.4, label=f"selected, epoch {epoch}")
    axes.flat[0].set_ylabel("density")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    return [lines[0], *sorted(lines[1:], key=lambda line: line[0])]


def finished_arms(folders):
    """Arm -> results.json of that arm in each folder."""
    arms = {}
    for folder in folders:
        found = sorted(Path(folder).glob("*/results.json"))
        if not found:
            raise RunError(f"{folder} holds no finished arm of finetune.py")
        for path in found:
            arms.setdefault(path.parent.name, []).append(read_json(path))
    return arms


def draw_finetune(figure, args):
    """Validation accuracy of every arm; fine-tuning starts where its selection epochs end."""
    arms = finished_arms(args.source)
    longest = {name: max(len(run["history"]) for run in runs) for name, runs in arms.items()}
    total = max(longest.values())
    axes = figure.subplots()
    lines = [("start", "selection epochs", "runs", "best validation %", "test %")]
    for name in sorted(arms, key=lambda arm: -longest[arm]):
        runs, offset = arms[name], total - longest[name]
        curves = [
            [100 * line.get("val_accuracy", line["accuracy"]) for line in run["history"]]
            for run in runs
        ]
        spread = list(zip(*curves, strict=False))  # a band needs the epochs that all have
        epochs = [offset + 1 + number for number in range(len(spread))]
        means = [statistics.mean(values) for values in spread]
        label = f"selected for {offset} epochs, then trained" if offset else "trained from scratch"
        (curve,) = axes.plot(epochs, means, label=label)
        low, high = [min(v) for v in spread], [max(v) for v in spread]
        axes.fill_between(epochs, low, high, color=curve.get_color(), alpha=0.15, lw=0)
        scores = [
            statistics.mean(run["row"][key] for run in runs) for key in ("val_best", "test_best")
        ]
        lines.append((name, str(offset), str(len(runs)), *scores))
    axes.set(xlabel="selection and weight epochs together", ylabel="validation accuracy, %")
    axes.legend(fontsize="small", loc="lower right")
    return lines


def main(argv=None):
    args = make_parser().parse_args(argv)
    if Path(args.out).suffix not in (".png", ".svg", ".pdf"):
        make_parser().error(f"--out must end in .png, .svg or .pdf. Received: {args.out}")
    try:
        import matplotlib
    except ImportError as error:
        raise RunError('plots.py needs pip install "keras-slots[plots]"') from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    draw = {
        "accuracy": draw_accuracy,
        "selections": draw_selections,
        "weights": draw_weights,
        "finetune": draw_finetune,
    }
    table = draw[args.figure](figure, args)
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(args.out).suffix[1:], dpi=150)
    write_atomic(args.out, picture.getvalue())
    cli.print_table(table)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "plots.py"))
