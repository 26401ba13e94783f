"""Data sets as arrays in memory, and training batches that depend on seed and epoch alone.

A run that resumes at epoch e therefore sees what the uninterrupted one would have seen, on both
backends.
"""

import functools
from pathlib import Path

import keras
import numpy as np

import stateless

NAMES = ("x_train", "y_train", "x_test", "y_test")
# Mean and standard deviation of the training pixels, in [0, 1]; of other data sets they are measured.
NORMALISATION = {"mnist": ((0.1307,), (0.3081,)), "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))}
# Name -> largest move in pixels, flips, border, side of the hole in pixels.
CHANGES = {
    "flip": (0, "random", None, 0),
    "crop_flip": (4, "random", "constant", 0),
    "shift1": (1, None, "constant", 0),
    "shift": (2, None, "constant", 0),
    "translate_altflip": (4, "alternating", "reflect", 0),
    "translate_altflip_cutout": (4, "alternating", "reflect", 8),
}
TURN, MOVE = 0.12, 0.05  # how far "affine" turns and stretches an image, and moves it as a share of its side
_FIRST_FLIPS = 2**40  # a step that no run reaches


@functools.lru_cache(maxsize=2)  # a sweep reads its data once
def read_arrays(dataset, data_dir=None, download=False):
    """Returns x_train, y_train, x_test, y_test: uint8 images with channels, int32 labels."""
    if dataset == "digits":
        return _digits()
    if dataset == "cifar10_16x16":
        x, y, x_test, y_test = read_arrays("cifar10", data_dir, download)
        return _halved(x), y, _halved(x_test), y_test
    place = Path(data_dir or "~/tensorflow_datasets").expanduser()
    file = next((path for path in (place, place / f"{dataset}.npz") if path.is_file()), None)
    if file:
        with np.load(file, allow_pickle=False) as found:
            arrays = [found[name] for name in NAMES]
    elif download or (place / dataset).is_dir():
        arrays = _from_tensorflow_datasets(dataset, place, download)
    else:
        raise SystemExit(
            f"No {dataset} in {place}: give the folder of tensorflow-datasets or of {dataset}.npz with "
            "--data-dir, or fetch it with --download, or try --dataset digits, which needs no download"
        )
    images = [x if x.ndim == 4 else x[..., None] for x in arrays[::2]]
    labels = [y.astype("int32").ravel() for y in arrays[1::2]]
    return images[0], labels[0], images[1], labels[1]


def _from_tensorflow_datasets(dataset, place, download):
    import tensorflow_datasets as tfds

    if keras.backend.backend() == "jax":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # it would take their memory from JAX
    settings = {"batch_size": -1, "as_supervised": True, "download": download}
    parts = tfds.load(dataset, split=["train", "test"], data_dir=str(place), **settings)
    return [array for part in tfds.as_numpy(parts) for array in part]


def _halved(images):
    """The mean of each square of four pixels, rounded to whole numbers."""
    squares = images.reshape(-1, 16, 2, 16, 2, 3)
    return np.rint(squares.mean(axis=(2, 4), dtype="float32")).astype("uint8")


def _digits():
    """1,797 real digits of 8x8 pixels; every fifth is for the test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images * (255.0 / 16.0)).astype("uint8")[..., None]
    y = digits.target.astype("int32")
    test = np.arange(len(x)) % 5 == 4
    return x[~test], y[~test], x[test], y[test]


class Data(keras.utils.PyDataset):
    """The images of a recipe: training batches of an epoch, validation and test images as arrays.

    The last incomplete batch is dropped.
    """

    def __init__(self, recipe, arrays):
        super().__init__()
        x, y, *test = arrays
        order = np.random.Generator(np.random.Philox(0)).permutation(len(x))
        held = round(len(x) * recipe.validation_share)
        train, validation = np.sort(order[held:]), np.sort(order[:held])
        self.splits = {"validation": (x[validation], y[validation]), "test": test}
        self.x, self.y, self.input_shape = x[train], y[train], x.shape[1:]
        self.size, self.seed, self.num_classes = recipe.batch_size, recipe.seed, int(y.max()) + 1
        if not len(self):
            raise SystemExit(f"{len(train)} training images are fewer than --batch-size {self.size}")
        mean, std = NORMALISATION.get(recipe.dataset) or _measured(self.x / 255.0)
        self.mean, self.std = np.float32(mean), np.float32(std)
        self.take = gatherer(self.x, recipe.augmentation, recipe.seed)
        self.start(0)

    def start(self, epoch):
        """Goes to that epoch. (`on_epoch_end` is also called when `fit` looks at a first batch.)"""
        self.epoch = epoch
        self.order = stateless.permutation(len(self.y), (self.seed, epoch))

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, index):
        rows = self.order[index * self.size :][: self.size]
        images = self.take(rows, self.epoch, self.epoch * len(self) + index)
        return self.normalise(images), self.y[rows]

    def evaluation(self, split, devices=1):
        """Images, labels and weights; some of weight 0 make their number a multiple of `devices`."""
        x, y = self.splits[split]
        rows = np.arange(len(x) + -len(x) % devices) % len(x)
        weights = np.float32(np.arange(len(rows)) < len(x))
        return self.normalise(x[rows]), y[rows], weights

    def normalise(self, images):
        """`pixels * scale - shift`, in float32."""
        scale, shift = (1.0 / (255.0 * self.std)).astype("float32"), self.mean / self.std
        flat = images.reshape(len(images), -1).astype("float32")
        # Over whole images: a fourth of the time that an inner loop over three channels takes.
        flat *= np.resize(scale, flat.shape[1:])
        flat -= np.resize(shift, flat.shape[1:])
        return flat.reshape(images.shape)


def _measured(pixels):
    return pixels.mean((0, 1, 2)), np.maximum(pixels.std((0, 1, 2)), 1e-6)


def gatherer(x, augmentation, seed):
    """A function from (rows, epoch, step) to the images of those rows, changed at random.

    "alternating" flips mirror each image in every second epoch. The square that "cutout" paints in the
    mean colour may lie partly outside. "affine" turns, stretches and moves, in floats.
    """
    if augmentation == "none":
        return lambda rows, epoch, step: x[rows]
    if augmentation == "affine":
        return lambda rows, epoch, step: _affine(x[rows], stateless.uniform((6, len(rows)), (seed, step)))
    reach, flips, border, hole = CHANGES[augmentation]
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
            in_y, in_x = _in_hole(draws[3], height, hole), _in_hole(draws[4], width, hole)
            picked[in_y[:, :, None] & in_x[:, None, :]] = paint
        return picked

    return take


def _affine(images, draws):
    """Images that are turned, stretched and moved about their middle, by six draws for each."""
    sides = np.array(images.shape[2:0:-1])[:, None]  # width, height
    draws = 2 * draws - 1
    linear = (np.eye(2).reshape(4, 1) + TURN * draws[:4]).reshape(2, 2, -1)
    middle = (sides - 1) / 2
    offset = middle - (linear * middle).sum(axis=1) + sides * (MOVE * draws[4:])
    (a, b), (d, e), (c, f) = *linear, offset
    maps = np.stack([a, b, c, d, e, f, 0 * a, 0 * a], axis=1).astype("float32")
    moved = keras.ops.image.affine_transform(images.astype("float32"), maps, data_format="channels_last")
    return keras.ops.convert_to_numpy(moved)


def _in_hole(draws, size, hole):
    """Which of `size` pixels lie in a hole around one of the `size + 1` edges between them."""
    edges = np.floor(draws * np.float32(size + 1))
    return np.abs(np.arange(size) + 0.5 - edges[:, None]) < hole / 2
