"""The pipelines give every image its turn, in an order that only seed and epoch decide."""

import io

import numpy as np
import pytest
from PIL import Image

import data
import stateless
from sources import DataError, read_arrays


def numbered(tmp_path, count=40, **settings):
    """A data set whose images carry their own number in every pixel."""
    x = np.zeros((count, 6, 6, 1), "uint8")
    x += np.arange(count, dtype="uint8")[:, None, None, None] + 100
    y = np.arange(count)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:7], y_test=y[:7])
    return data.load("npz", str(tmp_path / "x.npz"), **{"batch_size": 8} | settings)


def test_an_epoch_gives_every_image_once_and_the_next_another_order(tmp_path):
    loaded = numbered(tmp_path, validation_share=0.0)
    seen = [np.asarray(label).tolist() for _, label in loaded.training(0, 2)]
    assert len(seen) == 10
    first, second = sum(seen[:5], []), sum(seen[5:], [])
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


@pytest.mark.parametrize("augment", data.CHANGES)
def test_an_epoch_looks_the_same_to_a_resumed_run(tmp_path, augment):
    whole = list(numbered(tmp_path, augment=augment).training(0, 3))
    late = list(numbered(tmp_path, augment=augment).training(2, 3))
    for batch, late_batch in zip(whole[-len(late) :], late, strict=True):
        for array, late_array in zip(batch, late_batch, strict=True):
            assert np.array_equal(array, late_array)


def test_images_keep_their_labels(tmp_path):
    loaded = numbered(tmp_path, validation_share=0.25)
    for image, label in loaded.training():
        pixel = np.asarray(image)[:, 0, 0, 0] * loaded.std[0] + loaded.mean[0]
        assert np.array_equal(np.round(pixel * 255), np.asarray(label) + 100)


def test_the_split_is_fixed_by_its_seed_and_disjoint(tmp_path):
    first, same, other = (
        numbered(tmp_path, seed=seed, split_seed=split_seed).splits
        for seed, split_seed in ((1, 0), (2, 0), (1, 1))
    )
    for split in ("train", "validation"):
        assert np.array_equal(first[split][1], same[split][1])
    both = [*first["train"][1], *first["validation"][1]]
    assert sorted(both) == list(range(40)) and len(first["validation"][1]) == 6
    assert not np.array_equal(other["validation"][1], first["validation"][1])


@pytest.mark.parametrize(("augment", "reach"), [("flip", 0), ("crop_flip", 4), ("shift1", 1), ("shift", 2)])
def test_changes_are_the_moves_and_flips_that_their_name_says(augment, reach):
    x = np.random.default_rng(0).integers(1, 256, (8, 9, 7, 3), "uint8")
    take = data.gatherer(x, augment, seed=0)
    moved, flipped = set(), 0
    for step in range(30):
        for original, image in zip(x, np.asarray(take(np.arange(8), 0, step)), strict=True):
            matches = []
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    padded = np.pad(original, ((reach, reach), (reach, reach), (0, 0)))
                    crop = padded[reach + dy : reach + dy + 9, reach + dx : reach + dx + 7]
                    matches += [(dy, dx, 0)] * np.array_equal(crop, image)
                    matches += [(dy, dx, 1)] * np.array_equal(crop[:, ::-1], image)
            assert len(matches) == 1
            moved.add(matches[0][:2])
            flipped += matches[0][2]
    assert {dy for dy, _ in moved} == {dx for _, dx in moved} == set(range(-reach, reach + 1))
    assert flipped == 0 if "shift" in augment else 80 < flipped < 160


def test_evaluation_limit_spreads_over_a_split_in_class_order(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_EVALUATION_BATCH", 3)
    loaded = numbered(tmp_path, 100, validation_share=0.3)
    (batch,) = loaded.evaluation("validation", limit=1)
    assert batch[1].tolist() == loaded.splits["validation"][1][[0, 14, 29]].tolist()
    assert len(list(loaded.evaluation("validation", limit=99))) == 10


def test_evaluation_mirror_flips_every_image(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (8, 4, 6, 3), "uint8")
    np.savez(tmp_path / "x.npz", x_train=x, y_train=[0] * 8, x_test=x, y_test=[0] * 8)
    loaded = data.load("npz", str(tmp_path / "x.npz"), batch_size=4)
    (plain,), (mirrored,) = (list(loaded.evaluation("test", mirror=m)) for m in (False, True))
    np.testing.assert_array_equal(mirrored[0], plain[0][:, :, ::-1])


def test_alternating_flips_mirror_each_image_in_every_second_epoch():
    x = np.arange(60, dtype="uint8").reshape(60, 1, 1, 1).repeat(2, axis=2)
    x[:, :, 1] += 100
    take = data.gatherer(np.pad(x, ((0, 0), (7, 7), (6, 6), (0, 0)), "edge"), "translate_altflip", 0)
    left = [take(np.arange(60), epoch, epoch)[:, 7, 0, 0] < 100 for epoch in range(4)]
    assert np.array_equal(left[0], left[2]) and np.array_equal(left[1], left[3])
    assert np.array_equal(left[0], ~left[1]) and 15 < left[0].sum() < 45


def test_cutout_paints_one_square_in_the_mean_colour_and_changes_nothing_else():
    x = np.random.default_rng(0).integers(0, 256, (40, 32, 20, 3), "uint8")
    names = "translate_altflip", "translate_altflip_cutout"
    whole, cut = (data.gatherer(x, name, 0)(np.arange(40), 3, 7) for name in names)
    places = set()
    for before, after in zip(whole, cut, strict=True):
        changed = (before != after).any(axis=-1)
        rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
        square = np.ix_(range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1))
        assert (after[square] == np.round(x.mean(axis=(0, 1, 2)))).all()
        for side, found in ((32, rows), (20, columns)):
            assert len(found) == 8 or (4 <= len(found) < 8 and {found[0], found[-1]} & {0, side - 1})
        places.add((rows[0], columns[0]))
    assert len(places) > 30


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_evaluation_batches_are_even_and_weigh_every_image_once(tmp_path, replicas, monkeypatch):
    monkeypatch.setattr(data, "_EVALUATION_BATCH", 3)
    loaded = numbered(tmp_path)
    batches = list(loaded.evaluation("test", replicas=replicas))
    assert len(list(loaded.evaluation("test", limit=1, replicas=replicas))) == 1
    sizes = {len(label) for _, label, _ in batches}
    assert len(sizes) == 1 and sizes.pop() % replicas == 0
    label = np.concatenate([label for _, label, _ in batches])
    weight = np.concatenate([weight for _, _, weight in batches])
    assert label[weight > 0].tolist() == list(range(7))
    assert weight.mean() == pytest.approx(1.0)
    assert len(set(weight[weight > 0])) == 1


def test_philox_gives_its_published_known_answers():
    """Known answers of the Random123 distribution (kat_vectors, philox4x32-10)."""
    ones = 0xFFFFFFFF
    for word, known in (
        (0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (ones, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ):
        counters = np.full((4, 1), word, np.uint64)
        assert tuple(stateless.philox(counters, (word, word))[:, 0]) == known


def test_digits_are_split_into_1438_and_359():
    x, y, x_test, y_test = read_arrays("digits")
    assert x.shape == (1438, 8, 8, 1) and x_test.shape == (359, 8, 8, 1)
    assert len(y) == 1438 and set(y_test) == set(range(10))


@pytest.mark.parametrize("as_folder", [False, True])
def test_read_arrays_reads_a_named_data_set_from_a_local_file(tmp_path, as_folder):
    path = tmp_path / "mnist.npz"
    x, y = np.arange(2 * 784, dtype="uint8").reshape(2, 28, 28), np.array([3, 1])
    np.savez(path, x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
    arrays = read_arrays("mnist", tmp_path if as_folder else path)
    np.testing.assert_array_equal(arrays[0], x[..., None])
    assert arrays[1].tolist() == [3, 1] and len(arrays[2]) == len(arrays[3]) == 1
    if not as_folder:
        with pytest.raises(DataError, match=r"shape \(28, 28, 1\), but cifar10 has \(32, 32, 3\)"):
            read_arrays("cifar10", path)


def test_a_file_of_jpeg_images_is_decoded(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")
    streams = []
    for image in images:
        streams.append(io.BytesIO())
        Image.fromarray(image).save(streams[-1], "jpeg", quality=90)
    jpeg = [stream.getvalue() for stream in streams]
    arrays = {}
    for split, count in (("train", 3), ("test", 1)):
        arrays[f"jpeg_{split}"] = np.frombuffer(b"".join(jpeg[:count]), "uint8")
        arrays[f"offset_{split}"] = np.cumsum([0, *map(len, jpeg[:count])])
        arrays[f"y_{split}"] = np.arange(count)
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    x, y, x_test, y_test = read_arrays("cifar10", tmp_path)
    for stream, image in zip(streams, x, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(stream)))
    assert y.tolist() == [0, 1, 2] and x_test.shape == (1, 32, 32, 3) and y_test.tolist() == [0]


def test_cifar10_16x16_holds_the_means_of_four_pixels(tmp_path):
    image = np.zeros((1, 32, 32, 3), "uint8")
    image[0, :2, 2:4, 1] = [[10, 20], [30, 43]]  # mean 25.75
    arrays = {"x_train": image, "y_train": [1], "x_test": image[:, ::-1], "y_test": [2]}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    x, y, x_test, y_test = read_arrays("cifar10_16x16", tmp_path)
    assert x.shape == x_test.shape == (1, 16, 16, 3) and x.dtype == np.uint8
    assert (x.sum(), x[0, 0, 1, 1], x_test[0, 15, 1, 1]) == (26, 26, 26)
    assert (y.tolist(), y_test.tolist()) == ([1], [2])
