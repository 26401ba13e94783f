"""The pipeline gives every image its turn, in an order that only seed and epoch decide."""

import dataclasses

import numpy as np
import pytest

import stateless
from data import CHANGES, Data, gatherer, read_arrays
from recipes import make_recipe

RECIPE = dataclasses.replace(make_recipe("ours-lenet300100-gs"), dataset="digits", batch_size=8)


def numbered(count=40, **fields):
    """A data set whose images carry their own number in every pixel."""
    x = np.zeros((count, 6, 6, 1), "uint8")
    x += np.arange(count, dtype="uint8")[:, None, None, None] + 100
    y = np.arange(count)
    recipe = dataclasses.replace(RECIPE, augmentation="none", **fields)
    return Data(recipe, (x, y, x[:7], y[:7]))


def labels_of(batches):
    return [label for index in range(len(batches)) for label in batches[index][1].tolist()]


def test_an_epoch_gives_every_image_once_and_the_next_another_order():
    batches = numbered(validation_share=0.0)
    first = labels_of(batches)
    batches.start(1)
    second = labels_of(batches)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


@pytest.mark.parametrize("augmentation", [*CHANGES, "affine"])
def test_an_epoch_looks_the_same_to_a_resumed_run(augmentation):
    recipe = dataclasses.replace(RECIPE, augmentation=augmentation)
    whole, late = (Data(recipe, read_arrays("digits")) for _ in range(2))
    for epoch in range(3):
        whole.start(epoch)
    late.start(2)
    for index in (0, 5):
        np.testing.assert_equal(whole[index], late[index])
    whole.start(1)
    assert not np.array_equal(whole[0][0], late[0][0])


def test_images_keep_their_labels():
    data = numbered(validation_share=0.25)
    for index in range(len(data)):
        image, label = data[index]
        pixel = image[:, 0, 0, 0] * data.std[0] + data.mean[0]
        assert np.array_equal(np.round(pixel * 255), label + 100)


def test_the_split_is_fixed_and_disjoint():
    first, other = numbered(seed=1), numbered(seed=2)
    assert len(first.splits["validation"][1]) == 6
    assert sorted([*first.y, *first.splits["validation"][1]]) == list(range(40))
    np.testing.assert_equal(first.y, other.y)


def test_affine_turns_stretches_and_moves_as_scipy_does(monkeypatch):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 1), "uint8")
    middle = np.array([9.5, 11.5])
    draws = np.random.default_rng(1).uniform(size=(6, 3))
    draws[:, 0], draws[5, 1] = 0.5, 1.0  # as it is; moved down by the most
    monkeypatch.setattr("data.stateless.uniform", lambda shape, seed: draws)
    moved = gatherer(x, "affine", 0)(np.arange(3), 0, 0)
    np.testing.assert_allclose(moved[0], x[0], atol=1e-3)
    for image, found, (a, b, d, e, right, down) in zip(x, moved, 2 * draws.T - 1, strict=True):
        matrix = np.eye(2) + 0.12 * np.array([[e, d], [b, a]])  # rows first
        offset = middle - matrix @ middle + 0.05 * np.array([20 * down, 24 * right])
        expected = ndimage.affine_transform(image[..., 0] / 1.0, matrix, offset, order=1, mode="grid-constant")
        np.testing.assert_allclose(found[..., 0], expected, atol=0.01)


@pytest.mark.parametrize(("augmentation", "reach"), [("flip", 0), ("shift1", 1), ("shift", 2)])
def test_changes_are_the_moves_and_flips_that_their_name_says(augmentation, reach):
    x = np.random.default_rng(0).integers(1, 256, (8, 9, 7, 3), "uint8")
    take = gatherer(x, augmentation, seed=0)
    moved, flipped = set(), 0
    for step in range(30):
        for original, image in zip(x, take(np.arange(8), 0, step), strict=True):
            padded = np.pad(original, ((reach, reach), (reach, reach), (0, 0)))
            matches = [
                (dy, dx, mirror)
                for dy in range(2 * reach + 1)
                for dx in range(2 * reach + 1)
                for mirror in (1, -1)
                if np.array_equal(padded[dy : dy + 9, dx : dx + 7][:, ::mirror], image)
            ]
            assert len(matches) == 1
            moved.add(matches[0][:2])
            flipped += matches[0][2] == -1
    assert len(moved) == (2 * reach + 1) ** 2
    assert 80 < flipped < 160 if augmentation == "flip" else flipped == 0


def test_alternating_flips_mirror_each_image_in_every_second_epoch():
    x = np.arange(60, dtype="uint8").reshape(60, 1, 1, 1).repeat(2, axis=2)
    x[:, :, 1] += 100
    padded = np.pad(x, ((0, 0), (7, 7), (6, 6), (0, 0)), "edge")
    take = gatherer(padded, "translate_altflip", 0)
    left = [take(np.arange(60), epoch, epoch)[:, 7, 0, 0] < 100 for epoch in range(4)]
    assert np.array_equal(left[0], left[2]) and np.array_equal(left[1], left[3])
    assert np.array_equal(left[0], ~left[1]) and 15 < left[0].sum() < 45


def test_cutout_paints_one_square_in_the_mean_colour_and_changes_nothing_else():
    x = np.random.default_rng(0).integers(0, 256, (40, 32, 20, 3), "uint8")
    names = "translate_altflip", "translate_altflip_cutout"
    whole, cut = (gatherer(x, name, 0)(np.arange(40), 3, 7) for name in names)
    places = set()
    for before, after in zip(whole, cut, strict=True):
        changed = (before != after).any(axis=-1)
        rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
        square = np.ix_(range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1))
        assert (after[square] == np.round(x.mean(axis=(0, 1, 2)))).all()
        for side, found in ((32, rows), (20, columns)):
            cut_short = 4 <= len(found) < 8 and {found[0], found[-1]} & {0, side - 1}
            assert len(found) == 8 or cut_short
        places.add((rows[0], columns[0]))
    assert len(places) > 30


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_evaluation_spreads_over_devices_and_weighs_every_image_once(devices):
    data = numbered()
    x, y, weights = data.evaluation("test", devices)
    assert len(x) == len(y) == len(weights) == -(-7 // devices) * devices
    assert y[weights == 1].tolist() == list(range(7)) and weights.sum() == 7


def test_philox_gives_its_published_known_answers():
    """Known answers of the Random123 distribution (kat_vectors, philox4x32-10)."""
    ones = 0xFFFFFFFF
    for word, known in (
        (0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (ones, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ):
        counters = np.full((4, 1), word, np.uint64)
        assert tuple(stateless.philox(counters, (word, word))[:, 0]) == known


@pytest.mark.tensorflow
def test_stateless_numbers_are_those_of_tensorflow():
    import tensorflow as tf

    with tf.device("CPU"):
        uniform = tf.random.stateless_uniform((3, 5), (7, 2**40))
        shuffled = tf.random.experimental.stateless_shuffle(tf.range(100), (7, 3))
    np.testing.assert_array_equal(stateless.uniform((3, 5), (7, 2**40)), uniform)
    np.testing.assert_array_equal(stateless.permutation(100, (7, 3)), shuffled)


def test_digits_are_split_into_1438_and_359():
    x, y, x_test, y_test = read_arrays("digits")
    assert x.shape == (1438, 8, 8, 1) and x_test.shape == (359, 8, 8, 1)
    assert len(y) == 1438 and set(y_test) == set(range(10))


@pytest.mark.parametrize("as_folder", [False, True])
def test_read_arrays_reads_a_named_data_set_from_a_local_file(tmp_path, as_folder):
    path = tmp_path / "mnist.npz"
    x, y = np.arange(2 * 784, dtype="uint8").reshape(2, 28, 28), np.array([[3], [1]])
    np.savez(path, x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
    arrays = read_arrays("mnist", str(tmp_path if as_folder else path))
    np.testing.assert_array_equal(arrays[0], x[..., None])
    assert arrays[1].tolist() == [3, 1] and len(arrays[2]) == len(arrays[3]) == 1


def test_cifar10_16x16_holds_the_means_of_four_pixels(tmp_path):
    image = np.zeros((1, 32, 32, 3), "uint8")
    image[0, :2, 2:4, 1] = [[10, 20], [30, 43]]  # mean 25.75
    arrays = {"x_train": image, "y_train": [1], "x_test": image[:, ::-1], "y_test": [2]}
    np.savez(tmp_path / "cifar10.npz", **{name: np.asarray(x) for name, x in arrays.items()})
    x, y, x_test, y_test = read_arrays("cifar10_16x16", str(tmp_path))
    assert x.shape == x_test.shape == (1, 16, 16, 3) and x.dtype == np.uint8
    assert (x.sum(), x[0, 0, 1, 1], x_test[0, 15, 1, 1]) == (26, 26, 26)
    assert (y.tolist(), y_test.tolist()) == ([1], [2])


def test_what_cannot_be_trained_on_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match=r"No mnist in .*--data-dir.*--download"):
        read_arrays("mnist", str(tmp_path))
    with pytest.raises(SystemExit, match="34 training images are fewer than --batch-size 64"):
        numbered(batch_size=64)


def test_tiles_become_the_images_of_an_npz_file_in_their_order(tmp_path):
    from PIL import Image

    import tiles_to_npz

    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), "uint8")
    labels = np.arange(2000) % 10
    np.save(tmp_path / "labels.npy", labels)
    for number in range(2):
        tiles = images[1000 * number : 1000 * (number + 1)].reshape(25, 40, 32, 32, 3)
        picture = Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3))
        picture.save(tmp_path / f"batch_{number:02d}.webp", lossless=True)
    flags = [str(tmp_path), "--out", str(tmp_path / "cifar10.npz")]
    for more, train, test in (([], 1500, 500), (["--test", "100"], 1500, 100)):
        tiles_to_npz.app([*flags, "--train", "1500", *more])
        x, y, x_test, y_test = read_arrays.__wrapped__("cifar10", str(tmp_path))
        np.testing.assert_array_equal(x, images[:train])
        np.testing.assert_array_equal(x_test, images[train : train + test])
        np.testing.assert_array_equal(np.concatenate([y, y_test]), labels[: train + test])
    tiles_to_npz.app([*flags, "--train", "15", "--test", "5", "--jpeg", "75"])
    *_, copies, _ = read_arrays.__wrapped__("cifar10", str(tmp_path))
    Image.fromarray(images[17]).save(tmp_path / "copy.jpg", quality=75, subsampling=2)
    np.testing.assert_array_equal(copies[2], Image.open(tmp_path / "copy.jpg"))
    with pytest.raises(SystemExit, match="2000 labels, 2 pictures of 1000"):
        tiles_to_npz.app([*flags, "--train", "2000"])
