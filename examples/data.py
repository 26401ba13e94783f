"""Data sets as in-memory arrays, and tf.data pipelines that always give the same batches.

The order of the training images is a pure function of (seed, epoch): every epoch has its own
permutation, and a run that resumes at epoch e sees what the uninterrupted one would have seen.
Images stay uint8 in memory; a batch is gathered, changed at random and normalised as one tensor, so
the pipeline costs far less than a training step (README, "The pipeline").
"""

import dataclasses
import math
import os

import numpy as np
import tensorflow as tf

from sources import DataError, read_arrays

# Mean and standard deviation of the training pixels, in [0, 1].
NORMALISATION = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
}
REACH = {
    "flip": 0,
    "crop_flip": 4,
    "shift1": 1,
    "shift": 2,
}  # largest move in pixels; the border is black
AUGMENTATIONS = ("none", *REACH)
_EVALUATION_BATCH = 1000
_THREADS = max(2, (os.cpu_count() or 2) // 2)


def load(
    dataset,
    data_dir=None,
    *,
    validation_share=0.15,
    seed=0,
    batch_size=128,
    augment="none",
    split_seed=0,
    download=False,
):
    """Loads a data set and splits it.

    Args:
        dataset: "mnist" or "cifar10" (tensorflow-datasets), "digits" (inside scikit-learn) or
            "npz" (a file with uint8 arrays x_train, y_train, x_test, y_test).
        data_dir: the tensorflow-datasets folder (None: its default), or the path of the .npz file.
        validation_share: share of the training images kept for validation, in [0, 1).
        seed: seed of the data order and of the random changes.
        batch_size: images in a training batch; the last incomplete batch is dropped.
        augment: "none", "flip", "crop_flip" (moves of up to 4 pixels and flips),
            "shift1" or "shift" (moves of up to 1 or 2).
        split_seed: seed of the train/validation split.
        download: lets tensorflow-datasets fetch what is not prepared yet.

    Returns:
        A `Data`.

    Raises:
        DataError: the data are missing or unusable.
    """
    if augment not in AUGMENTATIONS:
        raise ValueError(f"`augment` must be one of {AUGMENTATIONS}. Received: augment={augment}")
    x, y, x_test, y_test = read_arrays(dataset, data_dir, download)
    held = round(len(x) * validation_share)
    order = np.random.Generator(np.random.Philox(split_seed)).permutation(len(x))
    train, validation = np.sort(order[held:]), np.sort(order[:held])
    if len(train) < batch_size:
        raise DataError(
            f"{dataset} leaves {len(train)} training images, fewer than one batch of "
            f"{batch_size}: lower --batch-size or --validation-share"
        )
    mean, std = NORMALISATION.get(dataset) or _measure(x[train])
    return Data(
        dataset,
        {
            "train": (x[train], y[train]),
            "validation": (x[validation], y[validation]),
            "test": (x_test, y_test),
        },
        np.float32(mean),
        np.float32(std),
        int(y.max()) + 1,
        batch_size,
        augment,
        seed,
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """A loaded data set with its split."""

    name: str
    splits: dict
    mean: np.ndarray
    std: np.ndarray
    num_classes: int
    batch_size: int
    augment: str
    seed: int

    @property
    def input_shape(self):
        return self.splits["train"][0].shape[1:]

    @property
    def steps_per_epoch(self):
        return len(self.splits["train"][0]) // self.batch_size

    def count(self, split):
        return len(self.splits[split][0])

    def training(self, start_epoch=0, epochs=1, steps=None):
        """Batches of the epochs `start_epoch` to `epochs`, `steps` of each (None: all).

        For `fit(steps_per_epoch=...)`, which keeps one iterator over all epochs.
        """
        steps = steps or self.steps_per_epoch
        # Placed on the host: the pipeline must not hold GPU memory.
        with tf.device("CPU:0"):
            y = tf.constant(self.splits["train"][1])
            take = _gatherer(self.splits["train"][0], self.augment)

        def order(epoch):
            seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
            shuffled = tf.random.experimental.stateless_shuffle(tf.range(len(y)), seed)
            rows = tf.reshape(shuffled[: steps * self.batch_size], (steps, self.batch_size))
            return tf.data.Dataset.from_tensor_slices(
                (rows, epoch * steps + tf.range(steps, dtype=tf.int64))
            )

        def batch(rows, step):
            images = take(rows, tf.stack([tf.constant(self.seed, tf.int64), step]))
            return self._normalise(images), tf.gather(y, rows)

        batches = tf.data.Dataset.range(start_epoch, epochs).flat_map(order)
        # Batches keep their order (deterministic by default), however many threads make them.
        return batches.map(batch, num_parallel_calls=_THREADS).prefetch(8)

    def evaluation(self, split, limit=None, replicas=1):
        """The "validation" or "test" images, normalised, in order; `limit` caps the batches.

        All batches have one size, a multiple of `replicas`: black images of weight 0 fill the last
        ones. Weighted means over the batches, loss and accuracy alike, are those over the images.
        """
        x, y = self.splits[split]
        count = len(x)
        batches = math.ceil(count / _EVALUATION_BATCH)
        size = math.ceil(count / batches / replicas) * replicas
        batches = math.ceil(count / size)
        filling = batches * size - count
        weights = np.full(count, batches * size / count, "float32")
        x, y, weights = (
            np.concatenate([array, np.zeros((filling, *array.shape[1:]), array.dtype)])
            for array in (x, y, weights)
        )
        cut = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(size, drop_remainder=True)
        cut = cut.map(lambda image, label, weight: (self._normalise(image), label, weight))
        return cut.take(limit or -1).cache().prefetch(2)

    def test_images(self):
        """All test images, normalised, and their labels, as arrays."""
        x, y = self.splits["test"]
        return self._normalise(x).numpy(), y

    def _normalise(self, images):
        scale = (1.0 / (255.0 * self.std)).astype("float32")
        return tf.cast(images, tf.float32) * scale - self.mean / self.std


def _gatherer(x, augment):
    """A function from (rows, seed) to those images, each moved and flipped by its own draw.

    Images lie column by column with a black border, so that a move is two gathers of whole columns
    and rows: a third of the time of a resampling.
    """
    if augment == "none":
        images = tf.constant(x)
        return lambda rows, seed: tf.gather(images, rows)
    reach = REACH[augment]
    count, height, width, channels = x.shape
    tall, wide = height + 2 * reach, width + 2 * reach
    border = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    columns = np.pad(x, border).transpose(0, 2, 1, 3).reshape(count * wide, tall * channels)
    columns = tf.constant(columns)

    def take(rows, seed):
        batch = rows.shape[0]
        draws = tf.random.stateless_uniform((3, batch), seed)
        move_y, move_x = tf.unstack(tf.cast(tf.floor(draws[1:] * (2 * reach + 1)), tf.int32))
        column = tf.range(width)[None]
        if augment in ("flip", "crop_flip"):
            column = tf.where(draws[0][:, None] < 0.5, width - 1 - column, column)
        picked = tf.gather(columns, (rows * wide + move_x)[:, None] + column)
        picked = tf.transpose(tf.reshape(picked, (batch, width, tall, channels)), (0, 2, 1, 3))
        picked = tf.reshape(picked, (batch * tall, width * channels))
        row = (tf.range(batch) * tall + move_y)[:, None] + tf.range(height)[None]
        return tf.reshape(tf.gather(picked, row), (batch, height, width, channels))

    return take


def _measure(images):
    """Mean and standard deviation per channel, in [0, 1]."""
    pixels = images.astype("float64") / 255.0
    axes = tuple(range(pixels.ndim - 1))
    return pixels.mean(axes), np.maximum(pixels.std(axes), 1e-6)
