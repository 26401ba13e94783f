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

import csv
import importlib.util
import io
import statistics
import sys
from pathlib import Path

import cli
import paper_numbers
import report
from recipes import KINDS, NETWORKS
from runs import RunError, read_json, read_rows, write_atomic

TITLES = {
    "lenet300100": "LeNet-300-100 on MNIST",
    **{f"conv{n}": f"CONV-{n} on CIFAR-10" for n in (2, 4, 6)},
    "vgg19": "VGG-19 on CIFAR-10",
    "conv6bn": "Six convolutions with batch norm on CIFAR-10 at 16x16",
}
# What tells one curve from another; those that differ are named in the legend.
EARLIER = {
    "scores": "uniform",
    "move_penalty": "0.0",
}  # what files say that were written before there was a choice
MARKS = (
    *("selection", "scores", "sharing", "score_mode", "epochs", "dtype_policy"),
    "move_penalty",
)


def make_parser():
    parser = cli.Parser(description=__doc__, prog="plots.py")
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for name in ("accuracy", "selections"):
        part = figures.add_parser(name, help="from results files")
        part.add_argument("source", nargs="+", metavar="RESULTS")
        part.add_argument("--network", choices=NETWORKS, default="lenet300100")
        part.add_argument("--kind", choices=KINDS, default="ours", help="kind of the recipes")
        part.add_argument("--dataset", help="(default: the paper's for that network)")
    part = figures.add_parser("sizes", help="from the rows of size.py")
    part.add_argument("source", nargs="+", metavar="SIZES")
    for name in ("curves", "finetune"):
        part = figures.add_parser(name, help="from folders")
        part.add_argument("source", nargs="+", metavar="DIR")
    for name in ("weights", "first-layer"):
        figures.add_parser(name, help="from a run folder").add_argument("source", metavar="RUN")
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


def draw_against_values(args, tables):
    """A curve for each kind of run, with bars from the lowest to the highest, and the paper's."""
    slots, learned = wanted_rows(args, tables)
    axes = new_axes()
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
    curves = dict(sorted(curves.items()))
    library().accuracy_against_k(
        {f"{label}, here": found for (label, _), found in curves.items()}, axes
    )
    # Of several curves of a rule the last: uniform scores, which the paper's are.
    colors = {rule: f"C{index}" for index, (_, rule) in enumerate(curves)}
    for (label, rule), found in curves.items():
        for k in sorted(found):
            paper = published.get(rule, {}).get(k)
            mean = statistics.fmean(found[k]) / 100
            row = (label, str(k), str(len(found[k])), mean, None if paper is None else paper / 100)
            lines.append(row)
    for index, (rule, table) in enumerate(sorted(published.items())):
        style = {"marker": "x", "ls": ":", "c": colors.get(rule, f"C{index}")}
        axes.plot(*zip(*table.items(), strict=True), label=f"{rule}, paper", **style)
    baselines = {}
    for row in learned:
        baselines.setdefault(float(row["weight_decay"]), []).append(100 * float(row["test_best"]))
    for index, (decay, accuracies) in enumerate(sorted(baselines.items(), reverse=True)):
        label = f"learned, decay {decay:g}" if len(baselines) > 1 else "learned"
        style = {"color": "0.2", "lw": 1.2, "ls": ("-", "--", "-.")[index % 3]}
        axes.axhline(statistics.fmean(accuracies), label=f"{label}, here", **style)
    if published and args.network in paper_numbers.LEARNED:
        mean = paper_numbers.LEARNED[args.network]
        axes.axhline(mean, color="0.2", lw=1.2, ls=(0, (1, 2)), label="learned, paper")
    ticks = sorted({*paper_numbers.VALUES, *(k for found in curves.values() for k in found)})
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_title(TITLES[args.network])
    axes.legend(fontsize="small", ncols=2, loc="lower center")
    return axes.figure, lines


def draw_accuracy(args):
    return draw_against_values(args, {"greedy": paper_numbers.GREEDY})


def draw_selections(args):
    tables = {"greedy": paper_numbers.GREEDY, "probabilistic": paper_numbers.PROBABILISTIC}
    return draw_against_values(args, tables)


def draw_sizes(args):
    """A curve for each kind of scores and K, from the files of the strongest penalty to those of none."""
    rows = [row for source in args.source for row in read_rows(source) if row.get("bytes")]
    if not rows:
        raise RunError(f"{', '.join(args.source)} has no rows of size.py; pack some runs first")
    kinds = {}
    for row in sorted(rows, key=lambda r: (r["network"], r["scores"], int(r["num_values"]))):
        kinds.setdefault((row["network"], row["scores"], row["num_values"]), []).append(row)
    cells = {}
    for (network, scores, k), kind in kinds.items():
        # What differs in more than penalty and seed is another curve.
        marks = report.differing(kind, report.SIZED)
        parts = [network] * (len({key[0] for key in kinds}) > 1) + [scores, f"K = {k}"]
        for row in kind:
            label = ", ".join(
                [*parts, *(f"{name.replace('_', ' ')} {row[name]}" for name in marks)]
            )
            cells.setdefault(label, {}).setdefault(float(row["move_penalty"]), []).append(row)
    curves, lines = {}, [("files", "penalty", "seeds", "bytes, mean", "test mean %")]
    for label, curve in cells.items():
        for penalty, cell in sorted(curve.items()):
            size, test = (statistics.fmean(float(r[n]) for r in cell) for n in ("bytes", "test"))
            curves.setdefault(label, []).append((size, 100 * test))
            lines.append((label, f"{penalty:g}", str(len(cell)), f"{size:.0f}", test))
    return library().accuracy_against_size(curves, new_axes()), lines


def draw_curves(args):
    """Validation accuracy after every epoch; a dot at the end."""
    axes = new_axes()
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
    return axes.figure, lines


def draw_weights(args):
    """Densities of the values on offer and of those selected, a picture a layer, a curve an epoch."""
    import matplotlib

    lines = [("layer", "epoch", "mean |selected| / mean |available|")]
    figure = None
    for share, epoch, model in kept_epochs(args.source):
        color = matplotlib.colormaps["viridis_r"](0.15 + 0.85 * share)
        figure = library().selected_values(model, f"selected, epoch {epoch}", color, figure)
        lines += [(name, str(epoch), f"{ratio:.3f}") for name, ratio in magnitudes(model)]
    return figure, [lines[0], *sorted(lines[1:], key=lambda line: line[0])]


def draw_first_layer(args):
    """Mean magnitude of each pixel and single units of the first layer, a row an epoch."""
    models, lines = {}, [("epoch", "layer", "mean |selected| / mean |available|")]
    for _, epoch, model in kept_epochs(args.source):
        models[f"epoch {epoch}"] = model
        name, ratio = next(magnitudes(model))
        lines.append((str(epoch), name, f"{ratio:.3f}"))
    height, width, *_ = model.input_shape[1:]
    return library().first_layer(models, (height, width)), lines


def magnitudes(model):
    """Name of each kernel, and the mean magnitude of its selected values over that of all."""
    from keras_slots.inspect.choices import named_kernels, observer

    for name, (_, kernel) in named_kernels(model).items():
        seen = observer(kernel)
        yield name, seen.snapshot().magnitude / seen.available


def kept_epochs(source):
    """Share of the kept epochs so far, number of the epoch, and the model then."""
    training = cli.import_training()
    folder = Path(source)
    recipe, _ = training.recipe_of(folder)
    if recipe.method != "slot":
        raise RunError(f"{folder} holds a learned network, which selects nothing")
    epochs = sorted(int(file.stem[6:]) for file in folder.glob("state/epoch-*.npz"))
    if not epochs:
        raise RunError(f"{folder} kept no epochs; train with --save-epochs 0,1,5,{recipe.epochs}")
    for number, epoch in enumerate(epochs, 1):
        yield number / len(epochs), epoch, training.load_model(folder, epoch)[1]


def draw_finetune(args):
    """Validation accuracy of every arm; fine-tuning starts with what the selected network has."""
    arms = {}
    for folder in args.source:
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
    return axes.figure, lines


def new_axes():
    """Axes on a figure of their own."""
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 4.5), layout="constrained").subplots()


def library():
    """The figures of the library; with them comes Keras."""
    cli.import_training()
    from keras_slots.inspect import plots

    return plots


def main(argv=None):
    args = make_parser().parse_args(argv)
    if Path(args.out).suffix not in (".png", ".svg", ".pdf"):
        make_parser().error(f"--out must end in .png, .svg or .pdf. Received: {args.out}")
    if importlib.util.find_spec("matplotlib") is None:
        raise RunError('plots.py needs pip install "keras-slots[plots]"')
    figure, table = globals()[f"draw_{args.figure.replace('-', '_')}"](args)
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(args.out).suffix[1:], dpi=150)
    write_atomic(args.out, picture.getvalue())
    cli.print_table(table)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "plots.py"))
