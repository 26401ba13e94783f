"""CIFAR-10 without a GPU: half a million connections, each of which selects one of K random values.

The recipe follows fast ones for CIFAR-10: a fixed layer that whitens patches of 2x2 pixels, three blocks of two
convolutions, smoothed labels, and images that are shifted, cut out and mirrored in alternate epochs.

Needs pip install "keras-slots[examples]". Takes about an hour on two cores, or seconds with --small.

    python examples/cifar10_in_an_hour.py --data-dir DIR    # where tensorflow-datasets keeps it
    python examples/cifar10_in_an_hour.py --small           # narrow, scikit-learn's digits: offline
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np

from keras_slots import SlotConv2D, SlotDense, load_slots, save_slots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-dir", help="folder of tensorflow-datasets (default: its own), or an .npz file")
parser.add_argument("--learned", action="store_true", help="ordinary weights")
parser.add_argument("--small", action="store_true", help="a quarter of the filters, digits")
parser.add_argument("--num-values", type=int, default=8, help="K (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
parser.add_argument("--out", help=".slots file to write the selected network to")
args = parser.parse_args()
if args.out and (args.learned or not args.out.endswith(".slots")):
    parser.error(f"--out must end in .slots, and is for a selected network. Received: {args.out}")
keras.utils.set_random_seed(args.seed)
keras.config.set_dtype_policy("mixed_bfloat16")

if args.small:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = np.kron(x.reshape(-1, 8, 8, 1), np.full((1, 4, 4, 3), 15))
    x, x_test, y, y_test = x[360:], x[:360], y[360:], y[:360]
elif args.data_dir and args.data_dir.endswith(".npz"):
    with np.load(args.data_dir) as parts:
        x, y, x_test, y_test = (parts[name] for name in ("x_train", "y_train", "x_test", "y_test"))
else:
    import tensorflow_datasets as tfds

    where = {"batch_size": -1, "as_supervised": True, "data_dir": args.data_dir, "download": False}
    try:
        parts = tfds.load("cifar10", split=["train", "test"], **where)
    except AssertionError:
        parser.error("no CIFAR-10 here: pass --small or an .npz file, or run tfds.load('cifar10') once")
    (x, y), (x_test, y_test) = tfds.as_numpy(parts)
epochs, batch_size, width = (8, 32, 4) if args.small else (60, 128, 1)
x, x_test = x.astype("float32") / 64 - 2, x_test.astype("float32") / 64 - 2
y, y_test = np.eye(10)[y.ravel()], y_test.ravel()


def moved():
    """Endless batches of images shifted by up to four pixels; each image is mirrored in every second epoch."""
    rng, padded = np.random.default_rng(args.seed), np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    mirrored = rng.random(len(x)) < 0.5
    while True:
        order, mirrored = rng.permutation(len(x)), ~mirrored
        for chosen in order[: len(x) // batch_size * batch_size].reshape(-1, batch_size):
            rows, columns = rng.integers(9, size=(2, batch_size, 1)) + np.arange(32)
            columns = np.where(mirrored[chosen, None], columns[:, ::-1], columns)
            images = padded[chosen[:, None, None], rows[:, :, None], columns[:, None]]
            high, wide = abs(np.arange(32) - rng.integers(33, size=(2, batch_size, 1)) + 0.5) < 4
            images[high[:, :, None] & wide[:, None]] = 0  # cut out eight by eight pixels
            yield images, y[chosen]


settings = {"use_bias": False, "kernel_regularizer": keras.regularizers.L2(2.5e-4)}
conv, dense = (keras.layers.Conv2D, keras.layers.Dense) if args.learned else (SlotConv2D, SlotDense)
settings |= {} if args.learned else {"num_values": args.num_values, "score_mode": "nearest"}
whiten = keras.layers.Conv2D(24, 2, use_bias=False, trainable=False, activation="gelu")
z = whiten(inputs := keras.Input((32, 32, 3)))
patches = np.lib.stride_tricks.sliding_window_view(x[:5000], (2, 2), axis=(1, 2))
variances, directions = np.linalg.eigh(np.cov(np.moveaxis(patches, 3, 5).reshape(-1, 12).T))
filters = (directions / np.sqrt(variances + 5e-4)).reshape(2, 2, 3, 12)
whiten.set_weights([np.concatenate([filters, -filters], axis=-1)])
for number, filters in enumerate((64, 64, 128, 128, 128, 128)):
    z = conv(filters // width, 3, padding="same", **settings)(z)
    z = keras.layers.MaxPooling2D()(z) if number % 2 == 0 else z
    z = keras.layers.Activation("gelu")(keras.layers.BatchNormalization(center=False, scale=False)(z))
model = keras.Model(inputs, dense(10, dtype="float32", **settings)(keras.layers.GlobalAveragePooling2D()(z)))

steps = len(x) // batch_size
rise, fall = steps * epochs // 5, steps * epochs * 4 // 5
rate = keras.optimizers.schedules.CosineDecay(0.01, fall, warmup_target=0.2, warmup_steps=rise)
loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
model.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), loss, metrics=["accuracy"])
model.fit(moved(), epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=2)
if args.out:
    model = load_slots(save_slots(model, args.out, overwrite=True, fold_batch_norm=True, float_dtype="float16"))
    print(f"{args.out}: {os.path.getsize(args.out):,} bytes, read back for the test")
logits = [model.predict(images, 1000, verbose=0) for images in (x_test, x_test[:, :, ::-1])]
accuracy, mirrored = ((z.argmax(axis=-1) == y_test).mean() for z in (logits[0], sum(logits)))
print(f"test accuracy {accuracy:.2%}; with the mean of image and mirror image {mirrored:.2%}")
