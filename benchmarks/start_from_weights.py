"""Accuracy of trained networks right after `slotify(start="weights")`, and one epoch later; offline.

    python benchmarks/start_from_weights.py --out benchmarks/results/start_from_weights.json

Three networks are trained with Adam at 0.001: LeNet-300-100 and a MobileNet of `keras.applications` (alpha 0.25)
on the digits of scikit-learn, and a transformer of one block on sentences of the standard library's docstrings,
whose class is the module. Each is turned into a slot model, evaluated, trained for one more epoch at that rate and
evaluated again. Beside that stands Keras' own quantization of the same model, which leaves convolutions alone.
"""

import argparse
import ast
import collections
import re
import sysconfig
import warnings
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import record
from keras_slots import slotify

L = keras.layers
NUM_VALUES = (2, 4, 8, 16, 64)
LENGTH, WORDS = 32, 1000
MODULES = ("argparse", "datetime", "decimal", "logging", "statistics", "tarfile", "unittest")
COLUMNS = {"right after, %": "{after:.1f}", "an epoch later": "{later:.1f}"}


def sentences():
    """Sentences as numbers of words, 0 for rare ones and for none, and the numbers of their modules."""
    texts, labels = [], []
    for label, module in enumerate(MODULES):
        found = set()
        for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
            if module not in path.name and module != path.parent.name:
                continue
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    for part in re.split(r"\.\s|\n\s*\n", ast.get_docstring(node) or ""):
                        words = tuple(re.findall("[a-z]+", part.lower()))
                        found |= {words[:LENGTH]} if len(words) > 5 else set()
        texts += sorted(found)
        labels += [label] * len(found)
    count = collections.Counter(word for text in texts for word in set(text))
    common = sorted(count, key=lambda word: (-count[word], word))[: WORDS - 1]
    number = {word: i for i, word in enumerate(common, 1)}
    x = np.zeros((len(texts), LENGTH), "int32")
    for row, text in zip(x, texts, strict=True):
        row[: len(text)] = [number.get(word, 0) for word in text]
    return x, np.array(labels)


def digits(size):
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1) / 16
    return x.repeat(size // 8, 1).repeat(size // 8, 2).astype("float32"), y


def lenet():
    units = (L.Dense(n, activation="relu") for n in (300, 100))
    return keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), *units, L.Dense(10)])


def mobilenet():
    inputs = keras.Input((32, 32, 1))
    x = L.Concatenate()([inputs] * 3)
    return keras.Model(
        inputs,
        keras.applications.MobileNet(
            (32, 32, 3), alpha=0.25, weights=None, classes=10, classifier_activation=None, dropout=0.0
        )(x),
    )


def transformer():
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = L.Embedding(WORDS, 32)(inputs)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(4, 8)(x, x))
    x = L.LayerNormalization()(x + L.Dense(32)(L.Dense(64, activation="relu")(x)))
    return keras.Model(inputs, L.Dense(len(MODULES))(L.GlobalMaxPooling1D()(x)))


#: Network, data, epochs.
NETWORKS = {
    "LeNet-300-100": (lenet, lambda: digits(8), 20),
    "MobileNet": (mobilenet, lambda: digits(32), 40),
    "transformer": (transformer, sentences, 12),
}


def trained(model, x, y, epochs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    if epochs:
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return model


def measure(name, seed):
    """One row for the model, each K and each quantization: accuracy right after, and after one more epoch."""
    make, data, epochs = NETWORKS[name]
    x, y = data()
    keras.utils.set_random_seed(seed)
    x, x_test, y, y_test = train_test_split(x, y, test_size=1 / 3, random_state=seed, stratify=y)
    model = trained(make(), x, y, epochs)

    def accuracy(model):
        return 100 * model.evaluate(x_test, y_test, verbose=0)[1]

    def later(model):
        return accuracy(trained(model, x, y, 1))

    for k in NUM_VALUES:
        slot = trained(slotify(model, k, start="weights", seed=seed), x, y, 0)
        yield f"K = {k}", {"after": accuracy(slot), "later": later(slot)}
    for mode in ("int4", "int8"):
        quantized = keras.models.clone_model(model)
        quantized.set_weights(model.get_weights())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that cannot be quantized
            quantized.quantize(mode)
        yield mode, {"after": accuracy(trained(quantized, x, y, 0)), "later": None}
    before = accuracy(model)
    yield "the model itself", {"after": before, "later": later(model)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--machine", help="what to write for the machine; default: its processor")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for all figures, JSON")
    args = parser.parse_args()
    rows = []
    for name in args.networks.split(","):
        runs = [dict(measure(name, seed)) for seed in range(args.seeds)]
        record.print_head(name, COLUMNS)
        for variant in runs[0]:
            row = {"network": name, "variant": variant}
            for column in ("after", "later"):
                scores = [run[variant][column] for run in runs]
                row[column] = None if None in scores else round(float(np.mean(scores)), 2)
                row[f"{column}_of_seeds"] = scores
            columns = COLUMNS if row["later"] is not None else dict([*COLUMNS.items()][:1])
            record.print_row(row, columns)
            rows.append(row)
            record.write(args, rows)


if __name__ == "__main__":
    main()
