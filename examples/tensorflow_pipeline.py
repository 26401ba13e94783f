"""Batches on TensorFlow: tf.data pipelines over arrays in memory."""

import os

import tensorflow as tf

from data import FLIPPED, REACH, bordered, evaluation_arrays

_THREADS = max(2, (os.cpu_count() or 2) // 2)


def training(data, start_epoch, epochs, steps):
    """A `tf.data.Dataset` of `Data.training`."""
    # Placed on the host: the pipeline must not hold GPU memory.
    with tf.device("CPU:0"):
        y = tf.constant(data.splits["train"][1])
        take = gatherer(data.splits["train"][0], data.augment)

    def order(epoch):
        seed = tf.stack([tf.constant(data.seed, tf.int64), epoch])
        shuffled = tf.random.experimental.stateless_shuffle(tf.range(len(y)), seed)
        rows = tf.reshape(shuffled[: steps * data.batch_size], (steps, data.batch_size))
        return tf.data.Dataset.from_tensor_slices(
            (rows, epoch * steps + tf.range(steps, dtype=tf.int64))
        )

    def batch(rows, step):
        images = take(rows, tf.stack([tf.constant(data.seed, tf.int64), step]))
        return _normalise(data, images), tf.gather(y, rows)

    batches = tf.data.Dataset.range(start_epoch, epochs).flat_map(order)
    # Batches keep their order (deterministic by default), however many threads make them.
    return batches.map(batch, num_parallel_calls=_THREADS).prefetch(8)


def evaluation(data, split, limit, replicas):
    """A `tf.data.Dataset` of `Data.evaluation`."""
    arrays, size = evaluation_arrays(data, split, replicas)
    cut = tf.data.Dataset.from_tensor_slices(arrays).batch(size, drop_remainder=True)
    cut = cut.map(lambda image, label, weight: (_normalise(data, image), label, weight))
    return cut.take(limit or -1).cache().prefetch(2)


def _normalise(data, images):
    scale, shift = data.normalisation
    return tf.cast(images, tf.float32) * scale - shift


def gatherer(x, augment):
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
    columns = bordered(x, reach).transpose(0, 2, 1, 3).reshape(count * wide, tall * channels)
    columns = tf.constant(columns)

    def take(rows, seed):
        batch = rows.shape[0]
        draws = tf.random.stateless_uniform((3, batch), seed)
        move_y, move_x = tf.unstack(tf.cast(tf.floor(draws[1:] * (2 * reach + 1)), tf.int32))
        column = tf.range(width)[None]
        if augment in FLIPPED:
            column = tf.where(draws[0][:, None] < 0.5, width - 1 - column, column)
        picked = tf.gather(columns, (rows * wide + move_x)[:, None] + column)
        picked = tf.transpose(tf.reshape(picked, (batch, width, tall, channels)), (0, 2, 1, 3))
        picked = tf.reshape(picked, (batch * tall, width * channels))
        row = (tf.range(batch) * tall + move_y)[:, None] + tf.range(height)[None]
        return tf.reshape(tf.gather(picked, row), (batch, height, width, channels))

    return take
