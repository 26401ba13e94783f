"""keras_slots in one file: a network of untouched random values learns to read digits.

    python examples/quickstart.py --out quickstart-output

Runs offline in about a minute on two cores. Compares four networks of one architecture on the 1,797 images of
8 × 8 pixels that come with scikit-learn, a fifth held out, and exports the selected one as a SavedModel:

    untrained   every connection has K = 8 random values and uses the initially selected one
    selected    training has selected among the same values, and changed none of them
    learned     an ordinary Keras network with trained weights
    fine-tuned  the selected values, trained further as ordinary weights
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"  # a SavedModel needs it
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(nowhere, 2)  # TensorFlow logs while it starts, whatever its log level
try:
    import keras
    import numpy as np
    import tensorflow as tf
    from matplotlib.figure import Figure
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    import keras_slots
except ImportError as error:
    sys.exit(f'{error}. Install what is missing: pip install "keras-slots[examples]"')
finally:
    os.dup2(saved, 2)

NUM_VALUES, BATCH_SIZE = 8, 32
# Width of the bank, in units of the Glorot-uniform bound b. Scores start in U(0, b), and only changes relative to
# b matter, so selection needs a larger rate than weights do. All was chosen on a fifth of the training images, by
# means over seeds 0 to 4. (With earlier settings, five rates had been tried on the held-out images.)
BANK_SCALE = 2.0
RATES = {"selected": 0.3, "learned": 0.1, "fine-tuned": 0.05}


def load_images(seed):
    """Returns (images, labels) to train on and (images, labels) held out, with pixels in [0, 1]."""
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    return (x, y), (x_test, y_test)


def network(name, conv, dense, **values):
    """Two convolutions and a dense layer, with either kind of layer."""
    image = {"padding": "same", "activation": "relu", "use_bias": False, **values}
    layers = [keras.Input((8, 8, 1)), conv(32, 3, **image), conv(32, 3, **image)]
    layers += [keras.layers.MaxPooling2D(), keras.layers.Flatten()]
    return keras.Sequential([*layers, dense(10, use_bias=False, **values)], name=name)


def train(model, epochs, train_set, test_set, seed):
    """Trains a network. The held-out images only serve for the curves; nothing is chosen by them."""
    data = tf.data.Dataset.from_tensor_slices(train_set).shuffle(len(train_set[1]), seed=seed)
    data = data.batch(BATCH_SIZE, drop_remainder=True)
    rate = keras.optimizers.schedules.CosineDecay(RATES[model.name], epochs * len(data))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
    print(f"\n{model.name}: {epochs} epochs")
    return model.fit(data, epochs=epochs, validation_data=test_set, shuffle=False).history


def accuracy(model, x, y):
    """Percent of the images whose highest output is the right digit."""
    return round(100 * float(np.mean(np.argmax(model(x, training=False), -1) == y)), 2)


def run_networks(epochs, seed, out):
    """Runs the experiment. Returns the accuracies, the histories, and whether the SavedModel predicts the same."""
    keras.utils.set_random_seed(seed)
    train_set, (x, y) = load_images(seed)
    # Each connection has K random values; the layers choose among them.
    values = {"num_values": NUM_VALUES, "bank_initializer": keras_slots.GlorotUniform(BANK_SCALE)}
    selected = network("selected", keras_slots.SlotConv2D, keras_slots.SlotDense, **values)
    learned = network("learned", keras.layers.Conv2D, keras.layers.Dense)
    data = (train_set, (x, y), seed)
    accuracies = {"untrained": accuracy(selected, x, y)}
    history = {"selected": train(selected, epochs, *data)}
    history["learned"] = train(learned, epochs, *data)
    fine_tuned = keras_slots.materialize(selected, trainable=True)  # a plain Keras network
    fine_tuned.name = "fine-tuned"
    history["fine-tuned"] = train(fine_tuned, max(1, epochs // 2), *data)
    accuracies |= {model.name: accuracy(model, x, y) for model in (selected, learned, fine_tuned)}

    keras_slots.export_selected(selected, out / "selected", overwrite=True)
    serving = tf.saved_model.load(str(out / "selected")).signatures["serving_default"]
    (name,) = serving.structured_input_signature[1]
    (served,) = serving(**{name: tf.constant(x)}).values()
    return accuracies, history, bool(np.allclose(served, selected(x, training=False), atol=1e-4))


def draw(path, accuracies, history):
    """Draws the held-out accuracy, epoch by epoch."""
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    for name, curves in history.items():
        first = 1 + len(history["selected"]["loss"]) * (name == "fine-tuned")
        curve = 100 * np.array(curves["val_accuracy"])
        label = f"{name}, {accuracies[name]:.1f} %"
        axes.plot(first + np.arange(len(curve)), curve, ".-", label=label)
    axes.set(xlabel="epoch", ylabel="held-out accuracy, %", ylim=(90, 100.3))
    axes.legend(title=f"untrained: {accuracies['untrained']:.1f} %", loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("quickstart-output"), metavar="DIR")
    parser.add_argument("--epochs", type=int, default=40, help="half of them for fine-tuning")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if args.epochs < 1 or not 0 <= args.seed < 2**32 or args.out.is_file():
        parser.error(f"--epochs from 1, --seed in [0, 2**32), --out a folder. Received: {args}")
    started = time.perf_counter()
    accuracies, history, same = run_networks(args.epochs, args.seed, args.out)
    seconds = round(time.perf_counter() - started, 1)
    versions = {package.__name__: package.__version__ for package in (keras_slots, keras, tf)}
    settings = {"num_values": NUM_VALUES, "epochs": args.epochs, "seed": args.seed}
    results = {"accuracy_percent": accuracies, "saved_model_agrees": same, "seconds": seconds}
    results |= {"settings": settings, "versions": versions, "history": history}
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(args.out / "figure.png", accuracies, history)
    for name, value in {"network": "held-out accuracy, %", **accuracies}.items():
        print(f"{name:<12}{value:>20}")
    print(f"\n{args.out}: results.json, figure.png, the SavedModel selected/; {seconds:.0f} s")
    print(f"The SavedModel, loaded back, predicts {'the same' if same else 'something else'}.")
    return 0 if same else 1


def stop(*_):
    os.write(2, b"\nquickstart.py: stopped\n")  # one line, wherever in TensorFlow Ctrl-C arrives
    os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    sys.exit(main())
