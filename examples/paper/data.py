"""Data sets as in-memory arrays, and batches that always come in the same order.

The order of the training images, their moves and their flips are a pure function of seed and epoch:
a run that resumes at epoch e sees what the uninterrupted one would have seen. Images stay uint8 in
memory; threads gather, change and normalise the next batches while a step computes.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import math
import os

import keras
import numpy as np

import stateless
from sources import DataError, read_arrays

# Mean and standard deviation of the training pixels, in [0, 1].
NORMALISATION = {"mnist": ((0.1307,), (0.3081,)), "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))}
# Name -> largest move in pixels, flips, border, side of the hole in pixels.
CHANGES = {
    "none": (0, None, None, 0),
    "flip": (0, "random", None, 0),
    "crop_flip": (4, "random", "constant", 0),
    "shift1": (1, None, "constant", 0),
    "shift": (2, None, "constant", 0),
    "translate_altflip": (4, "alternating", "reflect", 0),
    "translate_altflip_cutout": (4, "alternating", "reflect", 8),
}
_EVALUATION_BATCH = 1000
_THREADS = max(2, (os.cpu_count() or 2) // 2)
_AHEAD = 8  # batches
_FIRST_FLIPS = 2**40  # a step that no run reaches


def load(dataset, data_dir=None, download=False, **settings):
    """Reads and splits a data set: `sources.read_arrays`, then `split` with those settings."""
    return split(dataset, read_arrays(dataset, data_dir, download), **settings)


def split(dataset, arrays, validation_share=0.15, seed=0, batch_size=128, augment="none", split_seed=0):
    """Splits the arrays of a data set.

    Args:
        dataset: its name.
        arrays: x_train, y_train, x_test, y_test.
        validation_share: share of the training images kept for validation, in [0, 1).
        seed: seed of the data order and of the random changes.
        batch_size: images in a training batch; the last incomplete batch is dropped.
        augment: a name out of `CHANGES`. "flip" mirrors at random, and so does "crop_flip"; the two with
            "altflip" mirror each image in every second epoch. The square that "cutout" paints in the mean
            colour may lie partly outside.
        split_seed: seed of the train/validation split.

    Returns:
        A `Data`.
    """
    if augment not in CHANGES:
        raise ValueError(f"`augment` must be one of {(*CHANGES,)}. Received: augment={augment}")
    x, y, x_test, y_test = arrays
    held = round(len(x) * validation_share)
    order = np.random.Generator(np.random.Philox(split_seed)).permutation(len(x))
    train, validation = np.sort(order[held:]), np.sort(order[:held])
    if len(train) < batch_size:
        raise DataError(
            f"{dataset} leaves {len(train)} training images, fewer than one batch of "
            f"{batch_size}: lower --batch-size or --validation-share"
        )
    mean, std = NORMALISATION.get(dataset) or _measure(x[train])
    splits = {
        "train": (x[train], y[train]),
        "validation": (x[validation], y[validation]),
        "test": (x_test, y_test),
    }
    classes = int(y.max()) + 1
    return Data(splits, np.float32(mean), np.float32(std), classes, batch_size, augment, seed)


@dataclasses.dataclass(frozen=True)
class Data:
    """A loaded data set with its split."""

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
        """The batches of the epochs `start_epoch` to `epochs`, `steps` of each (None: all).

        For `fit(steps_per_epoch=...)`, which keeps one iterator over all epochs.
        """
        batches = functools.partial(self._batches, start_epoch, epochs, steps)
        if keras.backend.backend() != "tensorflow":
            return batches()
        import tensorflow as tf

        # A strategy starts its iterator twice, and divides batches whose size it knows.
        shape, size = self.input_shape, self.batch_size
        like = tf.TensorSpec((size, *shape)), tf.TensorSpec((size,), tf.int32)
        return tf.data.Dataset.from_generator(batches, output_signature=like)

    def _batches(self, start_epoch, epochs, steps):
        x, y = self.splits["train"]
        take, steps = gatherer(x, self.augment, self.seed), steps or self.steps_per_epoch

        def batch(rows, epoch, step):
            return self.normalise(take(rows, epoch, step)), y[rows]

        def work():
            for epoch in range(start_epoch, epochs):
                order = stateless.permutation(len(y), (self.seed, epoch))
                for step in range(steps):
                    rows = order[step * self.batch_size :][: self.batch_size]
                    yield rows, epoch, epoch * steps + step

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            pending = collections.deque()
            for one in work():
                pending.append(pool.submit(batch, *one))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def evaluation(self, split, limit=None, replicas=1, mirror=False):
        """The "validation" or "test" images, normalised, in order, as a `keras.utils.PyDataset`.

        `limit` caps the batches; their images are then spread evenly over the split. All batches have
        one size, a multiple of `replicas`: black images of weight 0 fill the last ones, so weighted means
        over the batches are those over the images. `mirror` flips the images.
        """
        x, y = self.splits[split]
        if limit and limit * _EVALUATION_BATCH < len(x):
            rows = np.linspace(0, len(x) - 1, limit * _EVALUATION_BATCH).astype(int)
            x, y = x[rows], y[rows]
        x = x[:, :, ::-1] if mirror else x
        batches = math.ceil(len(x) / _EVALUATION_BATCH)
        size = math.ceil(len(x) / batches / replicas) * replicas
        batches = math.ceil(len(x) / size)
        weights = np.full(len(x), batches * size / len(x), "float32")
        filling = batches * size - len(x)
        x, y, weights = (
            np.concatenate([array, np.zeros((filling, *array.shape[1:]), array.dtype)])
            for array in (x, y, weights)
        )
        cuts = [slice(start, start + size) for start in range(0, len(x), size)]
        return _Kept([(self.normalise(x[cut]), y[cut], weights[cut]) for cut in cuts])

    def normalise(self, images):
        """`pixels * scale - shift`, in float32."""
        scale, shift = (1.0 / (255.0 * self.std)).astype("float32"), self.mean / self.std
        flat = images.reshape(len(images), -1).astype("float32")
        # Over whole images: a fourth of the time that an inner loop over three channels takes.
        flat *= np.resize(scale, flat.shape[1:])
        flat -= np.resize(shift, flat.shape[1:])
        return flat.reshape(images.shape)


class _Kept(keras.utils.PyDataset):
    """Batches in memory."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def gatherer(x, augment, seed):
    """A function from (rows, epoch, step) to the images of those rows, changed at random."""
    if augment == "none":
        return lambda rows, epoch, step: x[rows]
    reach, flips, border, hole = CHANGES[augment]
    count, height, width, channels = x.shape
    paint = np.round(x.mean(axis=(0, 1, 2))).astype(x.dtype) if hole else None
    tall, wide = height + 2 * reach, width + 2 * reach
    if reach:
        x = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), border)
    # The row of pixels that starts at each pixel, as a view: a moved image is `height` of them.
    pixels = x.reshape(-1)
    starts = np.lib.stride_tricks.sliding_window_view(pixels, width * channels)[::channels]
    if flips == "alternating":
        mirrored_first = stateless.uniform((count,), (seed, _FIRST_FLIPS)) < 0.5

    def take(rows, epoch, step):
        draws = stateless.uniform((5 if hole else 3, len(rows)), (seed, step))
        move_y, move_x = np.floor(draws[1:3] * np.float32(2 * reach + 1)).astype(int)
        corner = (rows * tall + move_y) * wide + move_x
        picked = starts[corner[:, None] + wide * np.arange(height)]
        picked = picked.reshape(-1, height, width, channels)
        if flips:
            odd = epoch % 2 == 1
            flipped = draws[0] < 0.5 if flips == "random" else mirrored_first[rows] ^ odd
            picked[flipped] = picked[flipped, :, ::-1]
        if hole:
            sizes = zip(draws[3:], (height, width), strict=True)
            in_y, in_x = (_near(np.floor(u * np.float32(n + 1)), n, hole) for u, n in sizes)
            picked[in_y[:, :, None] & in_x[:, None, :]] = paint
        return picked

    return take


def _near(edges, size, hole):
    """Which of `size` pixels lie within `hole` around each edge, one of the `size + 1` between them."""
    return np.abs(np.arange(size) + 0.5 - edges[:, None]) < hole / 2


def _measure(images):
    """Mean and standard deviation per channel, in [0, 1]."""
    pixels = images.astype("float64") / 255.0
    axes = tuple(range(pixels.ndim - 1))
    return pixels.mean(axes), np.maximum(pixels.std(axes), 1e-6)
