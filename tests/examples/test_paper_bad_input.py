"""Data and flags of the experiments that cannot be used: one line that says why, and status 1 or 2."""

import io
import zipfile

import numpy as np
import pytest
from example_scripts import DIGITS, error_of

import data
from sources import DataError, read_arrays

FLAGS = [
    (["--recipe", "ours-lenet"], "`recipe` must name a recipe"),
    (["--network", "resnet"], 'Invalid value "resnet" for --network'),
    (["--dataset", "svhn"], 'Invalid value "svhn" for --dataset'),
    (["--method", "guess"], 'Invalid value "guess" for --method'),
    (["--num-values", "0"], "`num_values` must be a positive integer. Received: num_values=0"),
    (["--num-values", "two"], 'for --num-values: unable to convert "two" into int'),
    (["--learning-rate", "nan"], "`learning_rate` must be positive and finite"),
    (["--learning-rate", "-1"], "`learning_rate` must be positive and finite"),
    (["--momentum", "1"], "`momentum` must be in [0, 1). Received: momentum=1.0"),
    (["--weight-decay", "inf"], "`weight_decay` must be 0 or positive and finite"),
    (["--dropout", "1.5"], "`dropout` must be in [0, 1). Received: dropout=1.5"),
    (["--batch-size", "0"], "`batch_size` must be at least 1. Received: batch_size=0"),
    (["--epochs", "0"], "`epochs` must be at least 1. Received: epochs=0"),
    (["--seed", "-1"], "`seed` must be 0 or positive, below 2**31. Received: seed=-1"),
    (["--seed", "2147483648"], "`seed` must be 0 or positive, below 2**31"),
    (["--nesterov", "maybe"], "'maybe'"),
    (["--validation-share", "1"], "`validation_share` must be in [0, 1)"),
    (["--limit-steps", "-1"], "`limit_steps` must be 0 or more. Received: limit_steps=-1"),
    (["--save-epochs", "1,x"], "--save-epochs"),
    (["--schedule", "step"], "`schedule_epoch` must be at least 1 for schedule=step"),
    (["--no-such-flag"], "Unknown option: --no-such-flag"),
]


@pytest.mark.parametrize(("more", "text"), FLAGS, ids=[" ".join(more) for more, _ in FLAGS])
def test_train_answers_a_wrong_flag_in_one_line_with_status_2(tmp_path, capsys, more, text):
    places = ["--run-dir", tmp_path / "run", "--results", tmp_path / "results.csv"]
    assert text in error_of(capsys, "train", *DIGITS, "--epochs", 2, *places, *more, status=2)
    assert not (tmp_path / "run").exists()


IMAGES, LABELS = np.zeros((6, 4, 4, 1), "uint8"), np.arange(6) % 3
ARRAYS = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:2], "y_test": LABELS[:2]}


def archive(path, **changes):
    np.savez(path, **{k: v for k, v in (ARRAYS | changes).items() if v is not None})


def objects(path):
    """An array of Python objects, which only a pickle can hold: it is not to be unpickled."""
    archive(path, y_train=np.array([{}] * 6, dtype=object))


def cut(path):
    archive(path)
    path.write_bytes(path.read_bytes()[:700])


def no_array(path):
    with zipfile.ZipFile(path, "w") as file:
        for name in ARRAYS:
            file.writestr(f"{name}.npy", "no array")


def no_jpeg(path):
    content = io.BytesIO(b"no image").getvalue()
    stream = {f"jpeg_{s}": np.frombuffer(content, "uint8") for s in ("train", "test")}
    offsets = {f"offset_{s}": np.array([0, len(content)]) for s in ("train", "test")}
    archive(path, **stream, **offsets, y_train=np.array([1]), y_test=np.array([1]))


MUST = r"must be a .npz file with x_train, y_train, x_test, y_test"
WHOLE = "must be whole numbers from 0 on, one for each image. Received: "
DATA = [
    (lambda p: p.write_bytes(b""), "must be a folder or a .npz file with x_train, y_train"),
    (lambda p: p.write_bytes(b"no zip file"), "must be a folder or a .npz file with x_train"),
    (cut, "must be a folder or a .npz file with x_train|must be a .npz file"),
    (no_array, "x_train .* must be uint8 images.*S8 of shape"),
    (objects, f"{MUST}.*allow_pickle=False"),
    (no_jpeg, f"{MUST}.*cannot identify image"),
    (lambda p: archive(p, y_train=None), f"{MUST}.*y_train"),
    (lambda p: archive(p, x_test=None), f"{MUST}.*x_test"),
    (lambda p: archive(p, x_train=IMAGES / 255), "x_train .* must be uint8 images.*float64"),
    (lambda p: archive(p, x_test=IMAGES[:2, :, 0, 0]), r"x_test .* uint8 images.*\(2, 4\)"),
    (lambda p: archive(p, y_train=LABELS[:5]), "one label for each image. Received: 5 labels for 6"),
    (lambda p: archive(p, y_test=LABELS), "6 for 2 to test"),
    (lambda p: archive(p, y_train=np.eye(3)[LABELS]), rf"y_train .* {WHOLE}float64 of shape \(6, 3"),
    (lambda p: archive(p, y_train=LABELS * 0.5), f"y_train .* {WHOLE}float64"),
    (lambda p: archive(p, y_train=LABELS - 1), f"y_train .* {WHOLE}int64"),
    (lambda p: archive(p, y_test=np.array(["a", "b"])), f"y_test .* {WHOLE}<U1"),
    (lambda p: archive(p, x_test=IMAGES[:2, :3]), r"images of one shape. Received: shapes \(6, 4, 4"),
    (lambda p: archive(p, x_train=IMAGES[:0], y_train=LABELS[:0]), "images of one shape"),
]


@pytest.mark.parametrize(("write", "text"), DATA, ids=map(str, range(len(DATA))))
def test_read_arrays_names_what_is_wrong_with_a_file(tmp_path, write, text):
    path = tmp_path / "x.npz"
    write(path)
    with pytest.raises(DataError, match=text):
        read_arrays("npz", path)


def test_read_arrays_takes_labels_in_a_column(tmp_path):
    archive(tmp_path / "x.npz", y_train=LABELS[:, None].astype("uint8"))
    assert read_arrays("npz", tmp_path / "x.npz")[1].tolist() == LABELS.tolist()


def test_split_refuses_fewer_images_than_a_batch_and_an_unknown_augmentation():
    arrays = tuple(ARRAYS.values())
    with pytest.raises(DataError, match="fewer than one batch of 64: lower --batch-size"):
        data.split("npz", arrays, batch_size=64)
    with pytest.raises(ValueError, match="`augment` must be one of .*Received: augment=rotate"):
        data.split("npz", arrays, batch_size=2, augment="rotate")


def test_missing_data_are_named_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"no prepared mnist in .*--data-dir.*--download"):
        read_arrays("mnist", tmp_path)
    with pytest.raises(DataError, match=r"needs --data-dir FILE.npz"):
        read_arrays("npz", tmp_path / "none.npz")
