"""The smallest networks for MNIST: a few thousand connections that select their weights, in two kilobytes.

Layers are given in letters: c8 is a convolution of eight 3x3 filters, s8 one of 5x5 filters at every second
pixel, p max pooling, d8 a dense layer of eight units. The accuracy is that of the file, read back.

Needs pip install "keras-slots[examples]", TensorFlow. Takes about three minutes on two cores, --small seconds.

    python examples/tiny_mnist.py --data-dir DIR          # where tensorflow-datasets keeps MNIST
    python examples/tiny_mnist.py --data-dir mnist.npz    # x_train, y_train, x_test, y_test
    python examples/tiny_mnist.py --small                 # scikit-learn's digits, offline
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np
import tensorflow as tf

from keras_slots import SlotConv2D, SlotDense, StratifiedUniform, export_selected, load_slots, save_slots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-dir", help="folder of tensorflow-datasets (default: its own), or an .npz file")
parser.add_argument("--small", action="store_true", help="scikit-learn's digits")
parser.add_argument("--layers", default="s8 c12 c12 p c16", help="(default: %(default)s)")
parser.add_argument("--num-values", type=int, default=4, help="K (default: %(default)s)")
parser.add_argument("--penalty", type=float, default=0.0, help="of moves (default: %(default)s)")
parser.add_argument("--rate", type=float, default=0.2, help="first learning rate (default: %(default)s)")
parser.add_argument("--epochs", type=int, default=20, help="(default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
parser.add_argument("--out", default="tiny.slots", help="(default: %(default)s)")
parser.add_argument("--header", metavar="FILE.h", help="where to write it as C code for a microcontroller, too")
args = parser.parse_args()
keras.utils.set_random_seed(args.seed)

if args.small:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = x[360:] / 16, x[:360] / 16, y[360:], y[:360]
elif args.data_dir and args.data_dir.endswith(".npz"):
    with np.load(args.data_dir) as parts:
        x, y, x_test, y_test = (parts[name] for name in ("x_train", "y_train", "x_test", "y_test"))
else:
    import tensorflow_datasets as tfds

    where = {"batch_size": -1, "as_supervised": True, "data_dir": args.data_dir, "download": False}
    try:
        parts = tfds.load("mnist", split=["train", "test"], **where)
    except AssertionError:
        parser.error("no MNIST here: pass --small or an .npz file, or run tfds.load('mnist') once")
    (x, y), (x_test, y_test) = tfds.as_numpy(parts)
size, batch_size, scale, padding = (8, 32, 1, "same") if args.small else (28, 128, 255, "valid")
x, x_test = ((images.reshape(-1, size, size, 1) / scale).astype("float32") for images in (x, x_test))
steps = len(x) // batch_size


def moved():
    """Endless batches of images that are shifted by up to 5 %, and turned and stretched by up to 12 %."""
    rng, middle, none = np.random.default_rng(args.seed), (size - 1) / 2, np.zeros(batch_size)
    while True:
        for chosen in rng.permutation(len(x))[: steps * batch_size].reshape(steps, batch_size):
            a, b, d, e = np.eye(2).reshape(4, 1) + rng.uniform(-0.12, 0.12, (4, batch_size))
            c, f = middle * np.array([1 - a - b, 1 - d - e]) + size * rng.uniform(-0.05, 0.05, (2, batch_size))
            maps = np.stack([a, b, c, d, e, f, none, none], axis=1).astype("float32")
            yield keras.ops.image.affine_transform(x[chosen], maps, data_format="channels_last"), y[chosen].ravel()


with tf.distribute.MirroredStrategy().scope():
    slots = {"num_values": args.num_values, "score_mode": "nearest", "use_bias": False}
    slots |= {"bank_initializer": StratifiedUniform(1.5, bits=8)}
    slots |= {"move_regularizer": keras.regularizers.L1(args.penalty)} if args.penalty else {}
    seeds = iter(range(16 * args.seed + 1, 16 * args.seed + 16))  # a number below 128 takes a byte in the file
    z = inputs = keras.Input(x.shape[1:])
    for kind, *digits in args.layers.split():
        number = int("".join(digits) or 0)
        if kind == "p":
            z = keras.layers.MaxPooling2D()(z)
        elif kind == "d":
            z = SlotDense(number, "relu", seed=next(seeds), **slots)(keras.layers.Flatten()(z))
        else:
            shape = {"strides": 2, "kernel_size": 5} if kind == "s" else {"kernel_size": 3}
            z = SlotConv2D(number, padding=padding, seed=next(seeds), **shape, **slots)(z)
            z = keras.layers.ReLU()(keras.layers.BatchNormalization(scale=False)(z))
    model = keras.Model(inputs, SlotDense(10, seed=next(seeds), **slots)(keras.layers.Flatten()(z)))
    rate = keras.optimizers.schedules.CosineDecay(args.rate, args.epochs * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), loss, metrics=["accuracy"])

model.fit(moved(), epochs=args.epochs, steps_per_epoch=steps, shuffle=False, verbose=2)
chain = keras.Sequential(model.layers)  # says in fewer bytes which layer follows which
file = save_slots(chain, args.out, overwrite=True, fold_batch_norm=True, float_dtype="float16")
if args.header:
    export_selected(chain, args.header, format="c", calibration_data=x[:500], overwrite=True)
accuracy = np.mean(load_slots(file).predict(x_test, batch_size=500, verbose=0).argmax(axis=-1) == y_test.ravel())
connections = sum(layer.kernel.shape.num_elements() for layer in chain.layers if hasattr(layer, "bank"))
print(f"{file}: test accuracy {accuracy:.2%}, {file.stat().st_size:,} bytes, {connections:,} connections")
