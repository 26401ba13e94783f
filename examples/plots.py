"""Figures from results files and run folders.

    python examples/plots.py accuracy runs/results.csv --out accuracy.png
    python examples/plots.py selections runs/results.csv --out gs-ps.png
    python examples/plots.py weights runs/ours-lenet300100-gs-s0 --out weights.png
    python examples/plots.py finetune runs/selected-finetuned --out finetune.png

accuracy    test accuracy against K, greedy selection, with the learned baseline and the paper
selections  greedy against probabilistic selection
weights     selected against available values, for each layer, at each epoch that the run kept
            (train.py --save-epochs 0,1,5,20)
finetune    validation accuracy of the arms of finetune.py, over selection and weight epochs

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
from results import read_rows
from runfolder import RunError, read_json, write_atomic


def make_parser():
    parser = cli.Parser(description=__doc__, prog="plots.py")
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for name in ("accuracy", "selections"):
        part = figures.add_parser(name, help="from a results file")
        part.add_argument("source", metavar="RESULTS")
        part.add_argument("--network", choices=NETWORKS, default="lenet300100")
        part.add_argument("--kind", choices=KINDS, default="ours", help="kind of the recipes")
        part.add_argument("--dataset", help="(default: the paper's for that network)")
    figures.add_parser("weights", help="from a run folder").add_argument("source", metavar="RUN")
    figures.add_parser("finetune", help="from a folder of finetune.py").add_argument(
        "source", metavar="DIR"
    )
    for part in figures.choices.values():
        part.add_argument("--out", required=True, metavar="FILE", help=".png, .svg or .pdf")
    return parser


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
    """Means over seeds against K, with bars of one standard deviation."""
    means = [statistics.mean(values) for values in found.values()]
    spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in found.values()]
    axes.errorbar(list(found), means, spread, marker="o", capsize=3, label=label, **style)


def draw_against_values(figure, args, selections):
    """One curve for each selection rule, ours and the paper's, and the learned baseline."""
    rows = read_rows(args.source)
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
            label = f"{selection}, paper"
            axes.plot(*zip(*published.items(), strict=True), "x--", c=f"C{index}", label=label)
        for k, values in found.items():
            paper = f"{published[k]:.2f}" if k in published else "-"
            mean = f"{statistics.mean(values):.2f}"
            lines.append((selection, str(k), str(len(values)), mean, paper))
    if len(lines) == 1:
        raise RunError(f"{args.source} has no slot runs of {args.network}; train some first")
    for values in accuracies(rows, args, method="learned").values():
        axes.axhline(statistics.mean(values), color="k", lw=1, label="learned, here")
    axes.set_xscale("log", base=2)
    axes.set_xticks(paper_numbers.VALUES, [str(k) for k in paper_numbers.VALUES])
    axes.set(xlabel="K, values per connection", ylabel="test accuracy %", title=args.network)
    axes.legend()
    return lines


def draw_accuracy(figure, args):
    return draw_against_values(figure, args, {"greedy": paper_numbers.GREEDY})


def draw_selections(figure, args):
    tables = {"greedy": paper_numbers.GREEDY, "probabilistic": paper_numbers.PROBABILISTIC}
    return draw_against_values(figure, args, tables)


def draw_weights(figure, args):
    """Densities of the values on offer and of those selected, a row a layer, a curve an epoch."""
    import numpy as np

    import engine

    folder = Path(args.source)
    recipe, _ = engine.recipe_of(folder)
    if recipe.method != "slot":
        raise RunError(f"{folder} holds a learned network, which selects nothing")
    epochs = sorted(int(file.stem[6:]) for file in folder.glob("epoch-*.npz"))
    if not epochs:
        raise RunError(f"{folder} kept no epochs; train with --save-epochs 0,1,5,{recipe.epochs}")
    axes = None
    lines = [("layer", "epoch", "mean |selected| / mean |available|")]
    for number, epoch in enumerate(epochs):
        _, model = engine.load_model(folder, epoch)
        layers = [layer for layer in model.layers if hasattr(layer, "bank")]
        if axes is None:
            columns = min(4, len(layers))
            figure.set_size_inches(4 * columns, 3 * math.ceil(len(layers) / columns))
            axes = figure.subplots(math.ceil(len(layers) / columns), columns, squeeze=False)
        for axis, layer in zip(axes.flat, layers, strict=False):
            bank, kernel = np.asarray(layer.bank).ravel(), np.asarray(layer.kernel)
            ratio = np.abs(kernel).mean() / np.abs(bank).mean()
            lines.append((layer.name, str(epoch), f"{ratio:.3f}"))
            edges = np.linspace(-np.abs(bank).max(), np.abs(bank).max(), 41)
            if number == 0:
                axis.hist(bank, edges, density=True, color="0.85", label="available")
                axis.set(title=layer.name, xlabel="value", yticks=[])
            density, _ = np.histogram(kernel, edges, density=True)
            shade = 0.2 + 0.7 * (number + 1) / len(epochs)
            axis.stairs(density, edges, color=(0, 0.3, 0.7, shade), label=f"epoch {epoch}")
    axes.flat[0].legend(fontsize="small")
    return [lines[0], *sorted(lines[1:], key=lambda line: line[0])]


def draw_finetune(figure, args):
    """Validation accuracy of every arm; fine-tuning starts where its selection epochs end."""
    arms = sorted(Path(args.source).glob("*/results.json"))
    if not arms:
        raise RunError(f"{args.source} holds no finished arm of finetune.py")
    contents = {path.parent.name: read_json(path) for path in arms}
    total = max(len(content["history"]) for content in contents.values())
    axes = figure.subplots()
    lines = [("start", "selection epochs", "best validation %", "test %")]
    for name, content in contents.items():
        history = content["history"]
        offset, row = total - len(history), content["row"]
        lines.append((name, str(offset), row["val_best"], row["test_best"]))
        axes.plot(
            [offset + line["epoch"] for line in history],
            [100 * line.get("val_accuracy", line["accuracy"]) for line in history],
            label=f"{name}: {offset} selection epochs" if offset else name,
        )
    axes.set(xlabel="selection and weight epochs", ylabel="validation accuracy %")
    axes.legend()
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
