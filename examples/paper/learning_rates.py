"""Which learning rate: three networks that are not in the paper, plain and with slot layers.

    python examples/paper/learning_rates.py --data-dir DIR

Each network has biases, normalization and layers that stay plain, and is trained on 6,000 images for 8
epochs with a cosine to zero: with plain layers, nearest scores and the paper's scores (K = 8, one lever a
connection), by SGD with momentum and by Adam, at five learning rates each. Printed is the accuracy on
2,000 other training images. 90 runs take about half an hour on two cores.
"""

import itertools

import keras
import numpy as np
from keras import layers, ops

import cli
import report
import training
from data import read_arrays
from keras_slots import StratifiedUniform, slotify
from runs import append_row

RATES = {"sgd": (0.003, 0.01, 0.03, 0.1, 0.3), "adam": (0.0003, 0.001, 0.003, 0.01, 0.03)}
WEIGHTS = ("plain", "nearest", "paper")
SLOTTED = ("Dense", "Conv2D", "MultiHeadAttention")
TRAIN, VALIDATION, EPOCHS, BATCH = 6000, 2000, 8, 64
app = cli.make_app("learning_rates.py", __doc__)


def mlp(x):
    """Batch norm and dropout."""
    x = layers.Flatten()(x)
    for _ in range(3):
        x = layers.Dropout(0.1)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(256)(x))))
    return x


def attention(x):
    """A transformer over the rows of an image; the embedding of their positions stays plain."""
    rows = x.shape[1]
    x = layers.Dense(64)(ops.squeeze(x, -1))
    x = x + layers.Embedding(rows, 64)(ops.arange(rows))
    for _ in range(2):
        seen = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 16)(seen, seen)
        seen = layers.LayerNormalization()(x)
        x = x + layers.Dense(64)(layers.Dense(128, activation="gelu")(seen))
    return layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))


def cnn(x):
    """Three convolutions with bias and batch norm."""
    for filters in (32, 64, 128):
        x = layers.Conv2D(filters, 3, padding="same")(x)
        x = layers.MaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return layers.Flatten()(x)


# Name -> what comes before the logits, and the data set.
NETWORKS = {"mlp": (mlp, "mnist"), "attention": (attention, "mnist"), "cnn": (cnn, "cifar10_16x16")}


def make_model(network, shape, weights, seed):
    """The network with that kind of weights; its last layer stays plain."""
    image = keras.Input(shape)
    model = keras.Model(image, layers.Dense(10, name="logits")(NETWORKS[network][0](image)))
    if weights == "plain":
        return model
    scores = {}
    if weights == "nearest":
        scores = {"score_initializer": "nearest", "bank_initializer": StratifiedUniform(2.0)}
    inner = [x.name for x in model.layers if type(x).__name__ in SLOTTED and x.name != "logits"]
    return slotify(model, 8, filters=inner, score_mode="per_connection", seed=seed, **scores)


def train(network, weights, optimizer, learning_rate, seed, data_dir):
    """Trains one setting; returns its validation accuracy."""
    x, y, _, _ = read_arrays(NETWORKS[network][1], data_dir)
    chosen = np.random.default_rng(seed).permutation(len(x))[: TRAIN + VALIDATION]
    x, y = x[chosen].astype("float32") / 127.5 - 1.0, y[chosen]
    x_val, y_val, x, y = x[TRAIN:], y[TRAIN:], x[:TRAIN], y[:TRAIN]
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = make_model(network, x.shape[1:], weights, seed)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, EPOCHS * (len(x) // BATCH))
    optimizers = keras.optimizers.SGD(rate, momentum=0.9), keras.optimizers.Adam(rate)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizers[optimizer == "adam"], loss, metrics=["accuracy"])
    order = np.random.default_rng(seed)
    # fit would repeat one order in every epoch on TensorFlow.
    for _ in range(EPOCHS):
        chosen = order.permutation(len(x))[: len(x) // BATCH * BATCH]
        model.fit(x[chosen], y[chosen], batch_size=BATCH, shuffle=False, verbose=0)
    return model.evaluate(x_val, y_val, batch_size=500, verbose=0)[1]


@app.default
def main(*, data_dir: str | None = None, results: str = "runs/learning_rates.csv"):
    """Trains all settings."""
    rates = [(optimizer, rate) for optimizer in RATES for rate in RATES[optimizer]]
    for network, weights, (optimizer, rate) in itertools.product(NETWORKS, WEIGHTS, rates):
        setting = {"network": network, "weights": weights, "optimizer": optimizer}
        setting |= {"learning_rate": rate, "seed": 0}
        accuracy = round(train(**setting, data_dir=data_dir), 4)
        run_id = "-".join(map(str, setting.values()))
        print(f"{run_id}: {accuracy:.2%}", flush=True)
        row = {"run_id": run_id, **setting, "validation": accuracy, "devices": 1}
        append_row(results, row | training.environment())
    print(report.markdown(report.read_table(results), "rates"))


if __name__ == "__main__":
    app()
