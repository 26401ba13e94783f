"""LeNet-300-100 on MNIST: a network that only selects its weights, and one that learns them.

Needs pip install "keras-slots[examples]". Takes about two minutes on two cores.

    python examples/lenet_mnist.py --data-dir DIR          # where tensorflow-datasets keeps MNIST
    python examples/lenet_mnist.py --data-dir mnist.npz    # x_train, y_train, x_test, y_test
    python examples/lenet_mnist.py --small                 # scikit-learn's digits: offline, seconds

With --small the selected network reaches 97.2 % and the learned one 97.5 %.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np

from keras_slots import SlotDense

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-dir", help="folder of tensorflow-datasets (default: its own), or an .npz file")
parser.add_argument("--small", action="store_true", help="scikit-learn's digits")
args = parser.parse_args()

keras.utils.set_random_seed(0)

if args.small:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x.reshape(-1, 8, 8, 1) / 16, y, test_size=0.2, random_state=0)
elif args.data_dir and args.data_dir.endswith(".npz"):
    with np.load(args.data_dir) as parts:
        x, y, x_test, y_test = (parts[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = x.reshape(-1, 28, 28, 1) / 255, x_test.reshape(-1, 28, 28, 1) / 255
else:
    import tensorflow_datasets as tfds

    where = {"batch_size": -1, "as_supervised": True, "data_dir": args.data_dir, "download": False}
    try:
        parts = tfds.load("mnist", split=["train", "test"], **where)
    except AssertionError:
        parser.error("no MNIST here: pass --small or an .npz file, or run tfds.load('mnist') once")
    (x, y), (x_test, y_test) = tfds.as_numpy(parts)
    x, x_test = x / 255, x_test / 255
epochs = 30 if args.small else 20


def slot_dense(units, **arguments):
    """A dense layer with eight fixed random values per connection, of which training selects one."""
    return SlotDense(units, num_values=8, score_mode="nearest", **arguments)


def lenet(dense):
    """LeNet-300-100 with either kind of layer."""
    inputs = keras.Input(x.shape[1:])
    hidden = keras.layers.Flatten()(inputs)
    hidden = dense(300, activation="relu", use_bias=False)(hidden)
    hidden = dense(100, activation="relu", use_bias=False)(hidden)
    return keras.Model(inputs, dense(10, use_bias=False)(hidden))


accuracies = {}
for name, dense in (("selected", slot_dense), ("learned", keras.layers.Dense)):
    model = lenet(dense)
    steps = len(x) * 9 // 10 // 128
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, epochs * steps), momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    print(
        f"\n{name}: {model.count_params():,} numbers kept, of which training changes "
        f"{sum(w.shape.num_elements() for w in model.trainable_weights):,}"
    )
    model.fit(x, y, batch_size=128, epochs=epochs, validation_split=0.1, verbose=2)
    accuracies[name] = model.evaluate(x_test, y_test, batch_size=1000, verbose=0)[1]

print("\ntest accuracy")
for name, accuracy in accuracies.items():
    print(f"{name:10}{accuracy:.2%}")
