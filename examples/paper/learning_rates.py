"""Which learning rate: three networks that are not the paper's, plain and with slot layers.

    python examples/paper/learning_rates.py --data-dir DIR

Each network has biases, normalization and layers that stay plain, as networks have, and is trained on
6,000 images for 8 epochs with a cosine decay to zero: with plain layers, with nearest scores and with the
paper's scores (K = 8, one lever a connection), by SGD with momentum and by Adam, at five learning rates
each. Printed is the accuracy on 2,000 other training images. A setting with a row in the results file is
not trained again.

Needs MNIST and CIFAR-10 prepared by tensorflow-datasets in DIR; 90 runs take about half an hour on two
cores.

Exit status: 0, 1 when a run failed, 2 for a wrong command line.
"""

import sys

import numpy as np

import cli
from report import markdown
from runs import append_row, read_rows
from sources import check_source, read_arrays

RATES = {"sgd": (0.003, 0.01, 0.03, 0.1, 0.3), "adam": (0.0003, 0.001, 0.003, 0.01, 0.03)}
WEIGHTS = ("plain", "nearest", "paper")
SLOTTED = ("Dense", "Conv2D", "MultiHeadAttention")
KEY = ("network", "weights", "optimizer", "learning_rate", "seed")
TRAIN, VALIDATION, EPOCHS, BATCH = 6000, 2000, 8, 64


def make_parser():
    parser = cli.Parser(description=__doc__, prog="learning_rates.py")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of tensorflow-datasets")
    parser.add_argument("--networks", type=cli.listed(*NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default="runs/learning_rates.csv", metavar="FILE")
    return parser


def mlp(shape):
    """Batch norm and dropout."""
    from keras import Input, Model, layers

    image = Input(shape)
    x = layers.Flatten()(image)
    for _ in range(3):
        x = layers.Dropout(0.1)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(256)(x))))
    return Model(image, layers.Dense(10, name="logits")(x))


def attention(shape):
    """A transformer over the rows of an image, each told its place by an embedding that stays plain."""
    from keras import Input, Model, layers, ops

    image = Input(shape)
    x = layers.Dense(64)(ops.squeeze(image, -1))
    x = x + layers.Embedding(shape[0], 64)(ops.arange(shape[0]))
    for _ in range(2):
        seen = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 16)(seen, seen)
        seen = layers.LayerNormalization()(x)
        x = x + layers.Dense(64)(layers.Dense(128, activation="gelu")(seen))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return Model(image, layers.Dense(10, name="logits")(x))


def cnn(shape):
    """Three convolutions with bias and batch norm."""
    from keras import Input, Model, layers

    image = x = Input(shape)
    for filters in (32, 64, 128):
        x = layers.Conv2D(filters, 3, padding="same")(x)
        x = layers.MaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return Model(image, layers.Dense(10, name="logits")(layers.Flatten()(x)))


#: Name -> what is trained, and what it is trained on.
NETWORKS = {
    "mlp": (mlp, "mnist"),
    "attention": (attention, "mnist"),
    "cnn": (cnn, "cifar10_16x16"),
}


def images(network, data_dir, seed):
    """Training and validation images, from -1 to 1, and their labels."""
    x, y, _, _ = read_arrays(NETWORKS[network][1], data_dir)
    chosen = np.random.default_rng(seed).permutation(len(x))[: TRAIN + VALIDATION]
    x = x[chosen].astype("float32") / 127.5 - 1.0
    return x[:TRAIN], y[chosen[:TRAIN]], x[TRAIN:], y[chosen[TRAIN:]]


def make_model(network, shape, weights, seed):
    """The network with that kind of weights; its last layer stays plain."""
    from keras_slots import StratifiedUniform, slotify

    model = NETWORKS[network][0](shape)
    if weights == "plain":
        return model
    scores = {}
    if weights == "nearest":
        bank = StratifiedUniform(2.0)
        scores = {"score_initializer": "nearest", "bank_initializer": bank}
    inner = [x.name for x in model.layers if type(x).__name__ in SLOTTED and x.name != "logits"]
    return slotify(model, 8, filters=inner, score_mode="per_connection", seed=seed, **scores)


def train(network, weights, optimizer, learning_rate, seed, data_dir):
    """Trains one setting; returns its validation accuracy."""
    import keras

    x, y, x_val, y_val = images(network, data_dir, seed)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = make_model(network, x.shape[1:], weights, seed)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    if optimizer == "sgd":
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
    else:
        optimizer = keras.optimizers.Adam(schedule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    order = np.random.default_rng(seed)
    # fit would repeat one order in every epoch on TensorFlow.
    for _ in range(EPOCHS):
        chosen = order.permutation(len(x))[: len(x) // BATCH * BATCH]
        model.fit(x[chosen], y[chosen], batch_size=BATCH, shuffle=False, verbose=0)
    return model.evaluate(x_val, y_val, batch_size=500, verbose=0, return_dict=True)["accuracy"]


def main(argv=None):
    args = make_parser().parse_args(argv)
    for network in args.networks:
        check_source(NETWORKS[network][1], args.data_dir)
    settings = [
        (network, weights, optimizer, rate)
        for network in args.networks
        for weights in WEIGHTS
        for optimizer, rates in RATES.items()
        for rate in rates
    ]
    cli.import_training()  # without the lines of TensorFlow
    from keeper import processor, versions

    for setting in settings:
        key = dict(zip(KEY, (*setting, args.seed), strict=True))
        run_id = "-".join(map(str, key.values()))
        if any(row["run_id"] == run_id for row in read_rows(args.results)):
            continue
        accuracy = train(**key, data_dir=args.data_dir)
        row = {"run_id": run_id, "limit_steps": 0, **key, "validation": round(accuracy, 4)}
        append_row(args.results, {**row, **versions(), "devices": 1, "device": processor()})
        print(f"{run_id}: {cli.percent(accuracy)}", flush=True)
    print(f"\n{markdown(args.results, 'rates')}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, "learning_rates.py"))
