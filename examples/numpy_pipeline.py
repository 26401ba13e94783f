"""Batches without TensorFlow: the same images in the same order as tensorflow_pipeline.py, as arrays.

Threads make the next batches while a step computes. Of several processes that train one network,
each gets its own share of every batch.
"""

import collections
import concurrent.futures
import os

import keras
import numpy as np

import processes
import stateless
from data import FLIPPED, REACH, bordered, evaluation_arrays

_THREADS = max(2, (os.cpu_count() or 2) // 2)
_AHEAD = 8  # batches


def training(data, start_epoch, epochs, steps):
    """A generator of `Data.training`: float32 images and int32 labels."""
    x, y = data.splits["train"]
    take = gatherer(x, data.augment)
    own = processes.share(data.batch_size)

    def batch(rows, step):
        images = take(rows, (data.seed, step), own)
        return data.normalise(images), y[rows[own]]

    def work():
        for epoch in range(start_epoch, epochs):
            order = stateless.permutation(len(y), (data.seed, epoch))
            for step in range(steps):
                yield order[step * data.batch_size :][: data.batch_size], epoch * steps + step

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        pending = collections.deque()
        for rows, step in work():
            pending.append(pool.submit(batch, rows, step))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def evaluation(data, split, limit, replicas):
    """A `keras.utils.PyDataset` of `Data.evaluation`."""
    (x, y, weights), size = evaluation_arrays(data, split, replicas)
    own = processes.share(size)
    batches = []
    for start in range(0, len(y), size)[:limit]:
        rows = slice(start + own.start, start + own.stop)
        batches.append((data.normalise(x[rows]), y[rows], weights[rows]))
    return _Kept(batches)


class _Kept(keras.utils.PyDataset):
    """Batches that are there already."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def gatherer(x, augment):
    """A function from (rows, seed, part) to the images of that part of the rows.

    Each is moved and flipped by its own draw, which does not depend on the part.
    """
    if augment == "none":
        return lambda rows, seed, part=slice(None): x[rows[part]]
    reach = REACH[augment]
    _, height, width, channels = x.shape
    tall, wide = height + 2 * reach, width + 2 * reach
    pixels = bordered(x, reach).reshape(-1)
    # The row of pixels that starts at each pixel, as a view: a moved image is `height` of them.
    starts = np.lib.stride_tricks.sliding_window_view(pixels, width * channels)[::channels]

    def take(rows, seed, part=slice(None)):
        draws = stateless.uniform((3, len(rows)), seed)[:, part]
        move_y, move_x = np.floor(draws[1:] * np.float32(2 * reach + 1)).astype(int)
        corner = (rows[part] * tall + move_y) * wide + move_x
        picked = starts[corner[:, None] + wide * np.arange(height)].reshape(-1, *x.shape[1:])
        if augment in FLIPPED:
            flipped = draws[0] < 0.5
            picked[flipped] = picked[flipped, :, ::-1]
        return picked

    return take
