"""Turns a folder of tiled images into the .npz file that `--data-dir` of the other scripts takes.

The folder holds `labels.npy` and pictures `batch_00.webp`, `batch_01.webp`, and so on (lossless WebP or PNG), each
of 25 rows of 40 RGB images of 32x32 pixels, in the order of the labels.

    python examples/paper/tiles_to_npz.py FOLDER --out cifar10.npz
    python examples/paper/tiles_to_npz.py FOLDER --out cifar10.npz --train 40000 --test 10000
    python examples/paper/tiles_to_npz.py FOLDER --out jpeg.npz --jpeg 75

The first takes 50,000 images for training and the others for the test. The second tests on images 40,000 to
49,999, which are training images that no choice of settings looks at. The third damages the images as a JPEG copy
of that quality does, to see what that costs.
"""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter, validators

import cli

ROWS, COLUMNS, SIZE = 25, 40, 32
app = cli.make_app("tiles_to_npz.py", __doc__)
Quality = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=95), help="of JPEG compression")]
Count = Annotated[int, Parameter(help="number of images")]


def images_of(picture):
    """The images of one picture, uint8 of shape `(1000, 32, 32, 3)`."""
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB"))
    if pixels.shape != (ROWS * SIZE, COLUMNS * SIZE, 3):
        raise SystemExit(f"{picture} has the shape {pixels.shape}, not 25 rows of 40 images of 32x32 pixels")
    tiles = pixels.reshape(ROWS, SIZE, COLUMNS, SIZE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, SIZE, SIZE, 3)


def jpeg_copy(image, quality):
    """The image after JPEG compression with halved chroma."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))


@app.default
def main(
    folder: Path, /, *, out: Path, train: Count = 50_000, test: Count | None = None, jpeg: Quality | None = None
):
    """Writes the first `train` images, and the `test` after them (all, unless said otherwise), to one file."""
    pictures = sorted(folder.glob("batch_*.*"))
    labels = np.load(folder / "labels.npy").astype("uint8").ravel()
    end = len(labels) if test is None else train + test
    each = ROWS * COLUMNS
    if len(labels) != each * len(pictures) or not 0 < train < end <= len(labels):
        raise SystemExit(f"{folder} has {len(labels)} labels, {len(pictures)} pictures of {each} images")
    x = np.concatenate([images_of(picture) for picture in pictures[: -(-end // each)]])
    if jpeg is not None:
        x = np.stack([jpeg_copy(image, jpeg) for image in x[:end]])
    parts = slice(train), slice(train, end)
    (x_train, x_test), (y_train, y_test) = ([array[part] for part in parts] for array in (x, labels))
    np.savez(out, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    print(f"{out}: {train:,} images for training, {end - train:,} for the test")


if __name__ == "__main__":
    app()
