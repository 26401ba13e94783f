"""Where images come from: a local file, tensorflow-datasets or scikit-learn, as arrays.

Imports nothing heavy, so that missing data are reported at once.
"""

import functools
import io
import itertools
import zipfile
from pathlib import Path

import numpy as np

NAMES = ("x_train", "y_train", "x_test", "y_test")
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
HALVED = {"cifar10_16x16": "cifar10"}  # pixels averaged two by two


class DataError(RuntimeError):
    """The data are not there, or not what they should be. The message says what to do."""


def check_source(dataset, data_dir=None, download=False):
    """Fails at once, before anything heavy is imported, when the data cannot be there.

    Raises:
        DataError: nothing is prepared at `data_dir`, and `download` is false.
    """
    dataset = HALVED.get(dataset, dataset)
    place = Path(data_dir or "~/tensorflow_datasets").expanduser()
    if dataset == "npz" and not place.is_file():
        raise DataError(f"--dataset npz needs --data-dir FILE.npz. Received: --data-dir {data_dir}")
    if place.is_file() and dataset != "digits" and not zipfile.is_zipfile(place):
        raise DataError(
            f"--data-dir must be a folder or a .npz file with {', '.join(NAMES)}; {place} is another file"
        )
    # Asked for it, tensorflow-datasets would try the network for more than a minute.
    if dataset != "digits" and not (download or _file(dataset, place) or _prepared(dataset, place)):
        raise DataError(
            f"no prepared {dataset} in {place}: give the folder of tensorflow-datasets "
            f"or of {dataset}.npz with --data-dir, or fetch it with --download, or try --dataset "
            "digits, which needs no download"
        )


def _file(dataset, place):
    """The .npz file that is `place` or lies in it, or None."""
    names = (f"{dataset}.npz", f"{dataset}_jpeg.npz")
    return next((p for p in (place, *(place / name for name in names)) if p.is_file()), None)


def _prepared(dataset, place):
    """The folder of the newest prepared version, or None."""
    found = place.glob(f"{dataset}/*/dataset_info.json")
    return max((path.parent for path in found), default=None)


@functools.lru_cache(maxsize=2)  # a sweep reads its data once
def read_arrays(dataset, data_dir=None, download=False):
    """Returns x_train, y_train, x_test, y_test: uint8 images with channels, int32 labels.

    Raises:
        DataError: the data are missing or unusable.
    """
    check_source(dataset, data_dir, download)
    if dataset == "digits":
        return _digits()
    if dataset in HALVED:
        x, y, x_test, y_test = read_arrays(HALVED[dataset], data_dir, download)
        return _halved(x), y, _halved(x_test), y_test
    place = Path(data_dir or "~/tensorflow_datasets").expanduser()
    file = _file(dataset, place)
    arrays = _npz(file) if file else _from_tfds(dataset, data_dir)
    shape, expected = arrays[0].shape[1:], SHAPES.get(dataset, arrays[0].shape[1:])
    if shape != expected:
        raise DataError(
            f"{file} holds images of shape {shape}, but {dataset} has {expected}; choose another "
            "--dataset or --data-dir"
        )
    return arrays


def _from_tfds(dataset, data_dir):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{dataset} comes through tensorflow-datasets, which cannot be imported ({error}): "
            'pip install "keras-slots[examples]"'
        ) from error
    _leave_devices_alone()
    place = Path(data_dir or "~/tensorflow_datasets").expanduser()
    prepared = _prepared(dataset, place)
    if prepared is not None:
        builder = tfds.builder_from_directory(str(prepared))
    else:
        builder = tfds.builder(dataset, data_dir=data_dir)
        builder.download_and_prepare()
    arrays = []
    for split in ("train", "test"):
        batches = list(tfds.as_numpy(builder.as_dataset(split=split, batch_size=1000)))
        arrays.append(np.concatenate([batch["image"] for batch in batches]))
        arrays.append(np.concatenate([batch["label"] for batch in batches]).astype("int32"))
    return tuple(arrays)


def _leave_devices_alone():
    """Keeps TensorFlow, where it only reads the data, from taking the memory of the GPUs."""
    import keras

    if keras.backend.backend() != "tensorflow":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")


def _halved(images):
    """The mean of each square of four pixels, rounded to whole numbers."""
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    return np.rint(squares.mean(axis=(2, 4), dtype="float32")).astype("uint8")


def _digits():
    """1,797 real digits of 8x8 pixels; every fifth is for the test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images * (255.0 / 16.0)).astype("uint8")[..., None]
    y = digits.target.astype("int32")
    test = np.arange(len(x)) % 5 == 4
    return x[~test], y[~test], x[test], y[test]


def _npz(path):
    try:
        # Opened here: np.load leaves a damaged file open.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            if "jpeg_train" in file.files:
                arrays = [array for split in ("train", "test") for array in _decoded(file, split)]
            else:
                arrays = [np.asarray(file[name]) for name in NAMES]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} must be a .npz file with {', '.join(NAMES)}: {error}") from error
    for name, array in zip(NAMES, arrays, strict=True):
        is_x, found = name.startswith("x"), f"Received: {array.dtype} of shape {array.shape}"
        if is_x and (array.dtype != np.uint8 or array.ndim not in (3, 4)):
            raise DataError(f"{name} in {path} must be uint8 images (count, height, width[, channels]). {found}")
        # Labels of another form, say ten numbers for each image, must not be read as more labels.
        wrong = array.dtype.kind not in "iu" or array.size != len(array) or array.min(initial=0) < 0
        if not is_x and wrong:
            raise DataError(f"{name} in {path} must be whole numbers from 0 on, one for each image. {found}")
    x, y, x_test, y_test = arrays
    if len(x) != len(y) or len(x_test) != len(y_test):
        raise DataError(
            f"{path} must hold one label for each image. Received: {len(y)} labels for {len(x)} images to "
            f"train on, {len(y_test)} for {len(x_test)} to test"
        )
    if x.shape[1:] != x_test.shape[1:] or not x.size or not x_test.size:
        raise DataError(
            f"x_train and x_test in {path} must hold images of one shape. Received: shapes {x.shape} and "
            f"{x_test.shape}"
        )
    images = [array[..., None] if array.ndim == 3 else array for array in (x, x_test)]
    return images[0], y.astype("int32").ravel(), images[1], y_test.astype("int32").ravel()


def _decoded(file, split):
    """Images and labels of a file that holds JPEG images: image i is jpeg[offset[i]:offset[i+1]]."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("reading JPEG images needs Pillow: pip install pillow") from error
    jpeg, offset = file[f"jpeg_{split}"].tobytes(), file[f"offset_{split}"].tolist()
    streams = (io.BytesIO(jpeg[a:b]) for a, b in itertools.pairwise(offset))
    return np.stack([np.asarray(Image.open(stream)) for stream in streams]), file[f"y_{split}"]
