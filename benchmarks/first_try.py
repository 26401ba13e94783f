"""How far a first try with slot layers ends below plain layers: no setting but K, on small tasks, offline.

Every network is trained plain and with slot layers: same architecture, optimizer, constant rate, epochs, data
order and splits. All optimizers and seeds of a network share one compiled JAX step. A row of `--out` holds the
scores of all seeds: accuracy in percent, or 100 R^2 for a number. Rows that are there are not measured again.

    python benchmarks/first_try.py --out benchmarks/results/first_try.csv
    python benchmarks/first_try.py --out benchmarks/results/first_try.csv --table    # print only
"""

import argparse
import ast
import collections
import csv
import functools
import os
import re
import sysconfig
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import sklearn
from sklearn import datasets
from sklearn.model_selection import train_test_split

import record
from keras_slots import SlotConv2D, SlotDense, StratifiedUniform

BATCH = 32
KINDS = (keras.optimizers.Adam, keras.optimizers.SGD, functools.partial(keras.optimizers.SGD, momentum=0.9))
# The number of the kind, and the rate.
OPTIMIZERS = {"Adam 0.001": (0, 1e-3), "Adam 0.01": (0, 1e-2), "SGD 0.1": (1, 0.1), "momentum 0.1": (2, 0.1)}
COLUMNS = ("task", "mode", "K", "width", "optimizer", "scores")
# In the order in which they are measured: the default width first.
LAYERS = [("plain", 0, 0.0)]
LAYERS += [("nearest", k, 1.5) for k in (8, 64, 4, 16, 2, 3)]
LAYERS += [("nearest, 8 bits", k, 1.5) for k in (8, 4, 16, 2, 3)]
LAYERS += [(mode, 8, 0.0) for mode in ("per_value", "per_value, nearest scores", "per_connection")]
LAYERS += [("nearest", k, width) for width in (2.0, 1.0, 1.25, 2.5) for k in (2, 64, 8, 16, 4)]


@functools.cache
def patches():
    """8x8 patches of scikit-learn's two photographs, in grey; the class is the photograph."""
    grey = [image.mean(axis=-1) for image in datasets.load_sample_images().images]
    cut = [image[:424].reshape(53, 8, 80, 8).swapaxes(1, 2).reshape(-1, 8, 8, 1) for image in grey]
    x, y = np.concatenate(cut), np.repeat([0, 1], [len(part) for part in cut])
    chosen = np.random.default_rng(0).permutation(len(x))[:3000]
    x = x[chosen]
    return x - x.mean(axis=(1, 2, 3), keepdims=True), y[chosen]


@functools.cache
def docstrings():
    """Sentences from docstrings of the standard library as bags of 500 words; the class is the module."""
    names = ("argparse", "asyncio", "decimal", "datetime", "email", "logging", "statistics", "tarfile", "unittest")
    texts, labels = [], []
    for label, name in enumerate(names):
        found = {}
        for path in sorted(Path(sysconfig.get_path("stdlib")).glob(f"*{name}*")):
            files = [path] if path.suffix == ".py" else sorted(path.rglob("*.py")) if path.name == name else []
            for node in (node for file in files for node in ast.walk(ast.parse(file.read_bytes()))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    for sentence in re.split(r"\.\s|\n\s*\n", ast.get_docstring(node) or ""):
                        words = tuple(re.findall("[a-z]+", sentence.lower()))
                        if len(words) > 5:
                            found[words] = None
        texts += found
        labels += [label] * len(found)
    count = collections.Counter(word for text in texts for word in set(text))
    place = {word: i for i, word in enumerate(sorted(count, key=lambda word: (-count[word], word))[:500])}
    x = np.zeros((len(texts), 500))
    for row, text in zip(x, texts, strict=True):
        row[[place[word] for word in text if word in place]] = 1
    return x, np.array(labels)


def digits():
    x, y = datasets.load_digits(return_X_y=True)
    return x.reshape(-1, 8, 8, 1), y


# Data, classes (1: a number), epochs, seeds. More seeds where the test set is small.
TASKS = {
    "wine": (functools.partial(datasets.load_wine, return_X_y=True), 3, 60, 10),
    "breast cancer": (functools.partial(datasets.load_breast_cancer, return_X_y=True), 2, 30, 10),
    "classification": (
        functools.partial(
            datasets.make_classification, 3000, n_features=20, n_informative=10, n_classes=4, random_state=0
        ),
        *(4, 20, 5),
    ),
    "diabetes": (functools.partial(datasets.load_diabetes, return_X_y=True), 1, 15, 10),
    "friedman": (functools.partial(datasets.make_friedman1, 2000, noise=1.0, random_state=0), 1, 20, 5),
    "digits": (digits, 10, 8, 3),
    "photographs": (patches, 2, 6, 3),
    "docstrings": (docstrings, 9, 6, 3),
}


def split(task, seed):
    """Inputs and targets to train on, inputs and targets to test on; standardized by the first."""
    make, classes, _, _ = TASKS[task]
    x, y = make()
    x, x_test, y, y_test = train_test_split(
        x, y, test_size=1 / 3, random_state=seed, stratify=y if classes > 1 else None
    )
    axis = None if x.ndim == 4 or task == "docstrings" else 0
    mean, scale = (0, 1) if task == "docstrings" else (x.mean(axis), x.std(axis))
    x, x_test = ((part - mean) / scale for part in (x, x_test))
    if classes == 1:
        y, y_test = (((part - y.mean()) / y.std())[:, None] for part in (y, y_test))
    kind = "int32" if classes > 1 else "float32"
    return x.astype("float32"), y.astype(kind), x_test.astype("float32"), y_test.astype(kind)


def network(shape, outputs, mode, k, width):
    dense, conv = keras.layers.Dense, keras.layers.Conv2D
    if mode != "plain":
        slots = {"num_values": k, "score_mode": mode.partition(",")[0]}
        if width:
            slots["bank_initializer"] = StratifiedUniform(width, bits=8 if mode.endswith("8 bits") else None)
        if mode.endswith("nearest scores"):
            slots["score_initializer"] = "nearest"
        dense, conv = functools.partial(SlotDense, **slots), functools.partial(SlotConv2D, **slots)
    layers = [keras.Input(shape)]
    if len(shape) == 3:
        layers += [
            conv(16, 3, activation="relu"),
            conv(32, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
        ]
    else:
        layers.append(dense(64, activation="relu"))
    return keras.Sequential([*layers, dense(32, activation="relu"), dense(outputs)])


def measure(task, layers):
    """The test scores of one network for each optimizer: a list, one of every seed."""
    _, classes, epochs, seeds = TASKS[task]
    states, data, orders = [], [], []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        data.append(split(task, seed))
        n, rng = len(data[0][0]), np.random.default_rng(seed)
        order = [rng.permutation(n)[: n // BATCH * BATCH].reshape(-1, BATCH) for _ in range(epochs)]
        orders.append(np.concatenate(order))
        model = network(data[0][0].shape[1:], classes, *layers)
        states.append([[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)])
    optimizers = [kind(1.0) for kind in KINDS]
    for optimizer in optimizers:
        optimizer.build(model.trainable_variables)
    if classes == 1:
        loss = keras.losses.MeanSquaredError()
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def start(trained, fixed, rate):
        values = [
            [rate if v is optimizer.learning_rate else v.value for v in optimizer.variables]
            for optimizer in optimizers
        ]
        return trained, fixed, values

    def step(kind, trained, fixed, values, x, y, index):
        def loss_of(trained):
            return loss(y[index], model.stateless_call(trained, fixed, x[index], training=True)[0])

        gradient = jax.grad(loss_of)(trained)

        def apply(i):
            weights, own = optimizers[i].stateless_apply(values[i], gradient, trained)
            return weights, [*values[:i], list(own), *values[i + 1 :]]

        return jax.lax.switch(kind, [functools.partial(apply, i) for i in range(len(optimizers))])

    def score(trained, fixed, x, y):
        outputs = model.stateless_call(trained, fixed, x, training=False)[0]
        if classes == 1:
            return 100 * (1 - jnp.mean((y - outputs) ** 2) / jnp.var(y))
        return 100 * jnp.mean(jnp.argmax(outputs, -1) == y)

    step, score = jax.jit(jax.vmap(step)), jax.jit(jax.vmap(score))
    lanes = [(name, seed) for name in OPTIMIZERS for seed in range(seeds)]
    # All at once; one at a time where there are convolutions, of which XLA would make slow grouped ones.
    together = 1 if data[0][0].ndim == 4 else len(lanes)
    scores = {name: [] for name in OPTIMIZERS}
    for first in range(0, len(lanes), together):
        part = lanes[first : first + together]
        each = [start(*states[seed], jnp.float32(OPTIMIZERS[name][1])) for name, seed in part]
        trained, fixed, values = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        x, y, x_test, y_test = (np.stack([data[seed][i] for _, seed in part]) for i in range(4))
        x, y, kind = jnp.array(x), jnp.array(y), np.array([OPTIMIZERS[name][0] for name, _ in part])
        order = np.stack([orders[seed] for _, seed in part], axis=1)
        for index in order:
            trained, values = step(kind, trained, fixed, values, x, y, index)
        for (name, _), value in zip(part, np.asarray(score(trained, fixed, x_test, y_test)), strict=True):
            scores[name].append(float(value))
    jax.clear_caches()
    return scores


def layers_of(row):
    return row["mode"], int(row["K"]), float(row["width"])


def rows_of(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def print_tables(rows):
    """How many points slot layers end below plain ones with the same optimizer, seed by seed.

    First the mean and its standard error by task. Then, by layers, the median over the tasks and the largest.
    """
    scores = {}
    for row in rows:
        runs = scores.setdefault((row["task"], row["optimizer"]), {})
        runs[layers_of(row)] = np.array(row["scores"].split(), float)
    columns = [layers for layers in sorted(LAYERS[1:]) if all(layers in runs for runs in scores.values())]
    names = [f"{mode} {k}" + f" x{width}" * (width > 0) for mode, k, width in columns]
    print(" | ".join(["task", "optimizer", "plain", *names]))
    below = {}
    for (task, optimizer), runs in scores.items():
        cells = [task, optimizer, f"{runs[LAYERS[0]].mean():.1f}"]
        for layers in columns:
            points = runs[LAYERS[0]] - runs[layers]
            below[task, optimizer, layers] = points.mean()
            cells.append(f"{points.mean():.1f} ± {points.std(ddof=1) / len(points) ** 0.5:.1f}")
        print(" | ".join(cells))
    print("\n" + " | ".join(["layers", *OPTIMIZERS]))
    for label, layers in zip(names, columns, strict=True):
        cells = [label]
        for optimizer in OPTIMIZERS:
            points = {task: below[task, optimizer, layers] for task, other in scores if other == optimizer}
            worst = max(points, key=points.get)
            cells.append(f"{np.median([*points.values()]):.1f}; {points[worst]:.1f} {worst}")
        print(" | ".join(cells))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("first_try.csv"), help="(default: %(default)s)")
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of them (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="only print what all tasks have in the file")
    args = parser.parse_args(argv)
    if not args.out.exists():
        origin = record.origin()
        about = [f"{name} {version}" for name, version in origin["versions"].items()]
        about += [f"scikit-learn {sklearn.__version__}", origin["machine"]]
        args.out.write_text(f"# {'; '.join(about)}\n{','.join(COLUMNS)}\n", encoding="utf-8")
    for layers in [] if args.table else LAYERS:
        for task in args.tasks.split(","):
            if (task, layers) in {(row["task"], layers_of(row)) for row in rows_of(args.out)}:
                continue
            rows = [
                [task, *layers, optimizer, " ".join(f"{score:.2f}" for score in scores)]
                for optimizer, scores in measure(task, layers).items()
            ]
            with args.out.open("a", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
    print_tables(rows_of(args.out))


if __name__ == "__main__":
    main()
