"""The paper's VGG-19 on CIFAR-10, with every batch split over all GPUs of the machine.

Twenty million connections select among eight random values each. MirroredStrategy trains a copy of the network on
every device. Without a GPU the strategy has one device, and the run takes hours.

Needs pip install "keras-slots[examples]", TensorFlow; CIFAR-10 comes from tensorflow-datasets.
Takes five to eight minutes an epoch on two cores, or seconds with --small.

    python examples/vgg19_cifar10.py --data-dir DIR    # where tensorflow-datasets keeps CIFAR-10
    python examples/vgg19_cifar10.py --small           # an eighth of the filters, digits, offline
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import numpy as np
import tensorflow as tf

from keras_slots import SlotConv2D, SlotDense, StratifiedUniform

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-dir", help="folder of tensorflow-datasets (default: its own), or an .npz file")
parser.add_argument("--epochs", type=int, help="(default: 20, with --small 8)")
parser.add_argument("--small", action="store_true", help="a narrow network on digits")
args = parser.parse_args()

keras.utils.set_random_seed(0)
keras.config.set_dtype_policy("mixed_bfloat16")

if args.small:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3) * 15
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=0)
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
epochs = args.epochs or (8 if args.small else 20)
batch_size = 32 if args.small else 128


def batches(x, y, training):
    """Batches that split evenly over the devices, even the last one: hence `drop_remainder`."""
    data = tf.data.Dataset.from_tensor_slices((x.astype("uint8"), y))
    if training:
        data = data.shuffle(len(x), seed=0)
    data = data.batch(batch_size, drop_remainder=True)
    return data.map(lambda images, labels: (tf.cast(images, tf.float32) / 64 - 2, labels)).prefetch(2)


strategy = tf.distribute.MirroredStrategy()
print(f"{strategy.num_replicas_in_sync} device(s), {batch_size} images in a batch for all of them")

with strategy.scope():
    penalty, values = keras.regularizers.L2(2.5e-4), StratifiedUniform(1.0)
    slots = {"num_values": 8, "score_mode": "nearest"}
    slots |= {"bank_initializer": values, "kernel_regularizer": penalty, "use_bias": False}
    image = inputs = keras.Input(x.shape[1:])
    image = keras.layers.RandomFlip("horizontal")(image)
    for block, (filters, depth) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
        if block:
            image = keras.layers.MaxPooling2D()(image)
        for _ in range(depth):
            filters_here = filters // 8 if args.small else filters
            image = SlotConv2D(filters_here, 3, padding="same", **slots)(image)
            image = keras.layers.BatchNormalization(center=False, scale=False)(image)
            image = keras.layers.ReLU()(image)
    features = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(inputs, SlotDense(10, dtype="float32", **slots)(features))
    steps = epochs * (len(x) // batch_size)
    rise, fall = steps // 5, steps * 4 // 5
    rate = keras.optimizers.schedules.CosineDecay(1e-3, fall, warmup_target=0.05, warmup_steps=rise)
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

model.fit(batches(x, y, training=True), epochs=epochs, shuffle=False, verbose=2)
accuracy = model.evaluate(batches(x_test, y_test, training=False), verbose=0)[1]
print(f"test accuracy of the selected network: {accuracy:.2%}")
