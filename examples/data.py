"""Data sets as in-memory arrays, and pipelines that always give the same batches.

The order of the training images is a pure function of (seed, epoch): every epoch has its own
permutation, and a run that resumes at epoch e sees what the uninterrupted one would have seen.
Images stay uint8 in memory; a batch is gathered, changed at random and normalised as one tensor, so
the pipeline costs far less than a training step (README, "The pipeline").

tensorflow_pipeline.py makes the batches on TensorFlow, numpy_pipeline.py elsewhere: the same ones.
"""

import dataclasses
import math

import keras
import numpy as np

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
FLIPPED = ("flip", "crop_flip")
_EVALUATION_BATCH = 1000


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
        dataset: "mnist" or "cifar10" (a .npz file or tensorflow-datasets), "digits" (inside
            scikit-learn) or "npz" (a file with uint8 arrays x_train, y_train, x_test, y_test).
        data_dir: the .npz file, a folder with one, or the tensorflow-datasets folder (None: its
            default).
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
        return _pipeline().training(self, start_epoch, epochs, steps or self.steps_per_epoch)

    def evaluation(self, split, limit=None, replicas=1):
        """The "validation" or "test" images, normalised, in order; `limit` caps the batches.

        All batches have one size, a multiple of `replicas`: black images of weight 0 fill the last
        ones. Weighted means over the batches, loss and accuracy alike, are those over the images.
        """
        return _pipeline().evaluation(self, split, limit, replicas)

    def test_images(self):
        """All test images, normalised, and their labels, as arrays."""
        x, y = self.splits["test"]
        return self.normalise(x), y

    @property
    def normalisation(self):
        """`scale` and `shift`: an image is `pixels * scale - shift`, in float32."""
        return (1.0 / (255.0 * self.std)).astype("float32"), self.mean / self.std

    def normalise(self, images):
        flat = images.reshape(len(images), -1).astype("float32")
        # Over whole images: a fourth of the time that an inner loop over three channels takes.
        scale, shift = (np.resize(factor, flat.shape[1:]) for factor in self.normalisation)
        flat *= scale
        flat -= shift
        return flat.reshape(images.shape)


def _pipeline():
    if keras.backend.backend() == "tensorflow":
        import tensorflow_pipeline as pipeline
    else:
        import numpy_pipeline as pipeline
    return pipeline


def bordered(x, reach):
    """The images with a black border of `reach` pixels."""
    return np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))


def evaluation_arrays(data, split, replicas):
    """Images, labels and weights of `Data.evaluation`, filled up, and the size of a batch."""
    x, y = data.splits[split]
    count = len(x)
    batches = math.ceil(count / _EVALUATION_BATCH)
    size = math.ceil(count / batches / replicas) * replicas
    batches = math.ceil(count / size)
    filling = batches * size - count
    weights = np.full(count, batches * size / count, "float32")
    filled = tuple(
        np.concatenate([array, np.zeros((filling, *array.shape[1:]), array.dtype)])
        for array in (x, y, weights)
    )
    return filled, size


def _measure(images):
    """Mean and standard deviation per channel, in [0, 1]."""
    pixels = images.astype("float64") / 255.0
    axes = tuple(range(pixels.ndim - 1))
    return pixels.mean(axes), np.maximum(pixels.std(axes), 1e-6)
