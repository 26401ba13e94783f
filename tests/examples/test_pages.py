"""The pages of examples/ run offline, with the flag that makes them small, and reach what they say."""

import ast
import math
import os
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from pages import EXAMPLES, run_page

from backends import give_two_replicas
from c_reference import IntegerNetwork
from keras_slots import SlotLayer, load_slots, summary_dict
from slots_reference import SANITIZERS, compile_program, run_program

PAGES = sorted(EXAMPLES.glob("*.py"))
NAMES = {page.stem for page in PAGES}
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_short_stands_alone_and_says_what_it_needs(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    tree = ast.parse(text)
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert not imported & (NAMES - {"export"}), "imports another page"
    first = ast.get_docstring(tree)
    assert f"python examples/{page.stem}.py" in first
    assert "two cores" in first
    assert "TIME" not in first, "the time is still to be measured"
    if page.stem != "several_hosts_jax":
        assert text.index("TF_CPP_MIN_LOG_LEVEL") < text.index("import keras")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_lenet_mnist_page_trains_both_kinds_of_layer(monkeypatch):
    names = run_page(monkeypatch, "lenet_mnist", "--small")
    assert set(names["accuracies"]) == {"selected", "learned"}
    assert min(names["accuracies"].values()) > 0.93


class ReachedFit(Exception):
    pass


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "page", ["lenet_mnist", "conv6_cifar10", "finetune", "vgg19_cifar10", "cifar10_in_an_hour", "tiny_mnist"]
)
def test_page_reads_an_npz_file_and_says_what_to_do_without_data(monkeypatch, tmp_path, page, capsys):
    with pytest.raises(SystemExit) as leave:
        run_page(monkeypatch, page, "--data-dir", tmp_path)
    assert leave.value.code == 2
    assert "pass --small or an .npz file" in capsys.readouterr().err.splitlines()[-1]

    def fit(model, *data, **settings):
        # Keras' own file of CIFAR-10 has labels of shape (n, 1), as here.
        assert model.input_shape == (None, *shape)
        raise ReachedFit

    monkeypatch.setattr(keras.Model, "fit", fit)
    shape = (28, 28, 1) if page in ("lenet_mnist", "tiny_mnist") else (32, 32, 3)
    images = np.zeros((160, *shape), "uint8")
    labels = np.arange(160)[:, None] % 10
    parts = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "images.npz", **parts)
    with pytest.raises(ReachedFit):
        run_page(monkeypatch, page, "--data-dir", tmp_path / "images.npz")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_lenet_mnist_page_reads_tensorflow_datasets(monkeypatch):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    asked = []

    def load(name, split, data_dir, **arguments):
        asked.append((name, split, data_dir))
        images = (
            tf.zeros((256, 28, 28, 1), tf.uint8) + tf.cast(tf.range(256) % 10 * 25, tf.uint8)[:, None, None, None]
        )
        return [(images, tf.range(256) % 10)] * 2

    monkeypatch.setattr(tfds, "load", load)
    names = run_page(monkeypatch, "lenet_mnist", "--data-dir", "here")
    assert asked == [("mnist", ["train", "test"], "here")]
    assert names["model"].input_shape == (None, 28, 28, 1) and names["x"].max() <= 1


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["selected", "learned"])
def test_conv6_page_trains_nine_layers_of_one_kind(monkeypatch, kind):
    flags = ["--small"] + ["--learned"] * (kind == "learned")
    names = run_page(monkeypatch, "conv6_cifar10", *flags)
    slots = [layer for layer in names["model"].layers if isinstance(layer, SlotLayer)]
    assert len(slots) == (9 if kind == "selected" else 0)
    assert names["accuracy"] > 0.2


@pytest.mark.slow
@pytest.mark.tensorflow
def test_cifar10_in_an_hour_page_tests_the_file_that_it_writes(monkeypatch, tmp_path):
    file = tmp_path / "small.slots"
    names = run_page(monkeypatch, "cifar10_in_an_hour", "--small", "--out", file)
    assert names["accuracy"] > 0.8
    # What the first layer gives of its patches has variance 1 in every direction that the images have.
    (filters,) = names["whiten"].get_weights()
    outputs = names["patches"].transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12) @ filters.reshape(12, 24)
    shares = names["variances"] / (names["variances"] + 5e-4)
    np.testing.assert_allclose(np.var(outputs, axis=0), np.tile(shares, 2), atol=0.01)
    assert not names["whiten"].trainable_weights
    plain = load_slots(file)
    assert not any(isinstance(layer, SlotLayer) for layer in plain.layers)
    np.testing.assert_array_equal(plain.predict(names["x_test"], verbose=0), names["logits"][0])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_tiny_mnist_page_writes_a_small_file_that_is_as_accurate_as_it_says(monkeypatch, tmp_path, capsys):
    give_two_replicas(monkeypatch)
    file, header = tmp_path / "tiny.slots", tmp_path / "tiny.h"
    flags = ["--layers", "c8 p c16 d20", "--out", file, "--header", header]
    names = run_page(monkeypatch, "tiny_mnist", "--small", *flags)
    plain = load_slots(file)
    assert [type(layer).__name__ for layer in plain.layers[:2]] == ["Conv2D", "EinsumDense"]
    logits = plain.predict(names["x_test"], batch_size=500, verbose=0)
    accuracy = np.mean(logits.argmax(axis=-1) == names["y_test"])
    assert accuracy == names["accuracy"] > 0.9
    # 8x8 images, pooled to 4x4: 3*3*8 + 3*3*8*16 + 4*4*16*20 + 20*10 connections of two bits.
    assert names["connections"] == 72 + 1152 + 5120 + 200
    assert file.stat().st_size < 6544 / 4 + 500
    assert "tiny_predict(const tiny_value input[64]" in header.read_text(encoding="utf-8")
    said = f"test accuracy {accuracy:.2%}, {file.stat().st_size:,} bytes, 6,544 connections"
    assert said in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.tensorflow
def test_tiny_mnist_page_moves_images_about_their_middle_and_keeps_them_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.Model, "fit", lambda model, batches, **settings: next(batches))
    names = run_page(monkeypatch, "tiny_mnist", "--small", "--layers", "d4", "--out", tmp_path / "tiny.slots")
    # A square in the middle: its centre moves by up to 5 % of eight pixels, and it loses or gains up to 24 %.
    images = np.zeros_like(names["x"])
    images[:, 3:5, 3:5] = 1
    monkeypatch.setitem(names["moved"].__globals__, "x", images)
    moved = np.concatenate([np.asarray(next(names["moved"]())[0]) for _ in range(2)])
    middle = (moved * np.arange(8)[:, None, None]).sum((1, 2, 3)) / moved.sum((1, 2, 3))
    assert np.abs(middle - 3.5).max() < 0.65 and np.ptp(middle) > 0.2
    np.testing.assert_allclose(moved.sum((1, 2, 3)), 4, rtol=0.35)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_vgg19_page_trains_seventeen_slot_layers_under_a_strategy(monkeypatch):
    give_two_replicas(monkeypatch)
    names = run_page(monkeypatch, "vgg19_cifar10", "--small", "--epochs", 2)
    slots = [layer for layer in names["model"].layers if isinstance(layer, SlotLayer)]
    assert len(slots) == 17
    losses = names["model"].history.history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    assert slots[0].slot_kernel.lever.shape == (3, 3, 3, 8)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_finetune_page_starts_from_the_selected_values(monkeypatch):
    names = run_page(monkeypatch, "finetune", "--small")
    accuracies = names["accuracies"]
    assert accuracies["selected"] > 0.95
    assert accuracies["selected, then fine-tuned"] > accuracies["trained from scratch"] - 0.02
    assert not any(isinstance(layer, SlotLayer) for layer in names["plain"].layers)
    # Ten epochs of 36 steps in all, in both arms.
    assert (
        int(names["selected"].optimizer.iterations) + int(names["plain"].optimizer.iterations)
        == (names["selection_epochs"] + names["weight_epochs"]) * 41
    )


@pytest.mark.slow
@pytest.mark.tensorflow
def test_table_page_predicts_as_well_as_learned_weights(monkeypatch, tmp_path):
    names = run_page(monkeypatch, "table", "--out", tmp_path / "table.slots")
    scores = {name: names["r2_score"](names["y_test"], values) for name, values in names["predictions"].items()}
    assert scores["selected weights"] > max(0.25, scores["learned weights"] - 0.1)
    outputs = load_slots(tmp_path / "table.slots").predict(names["x_test"], verbose=0)[:, 0]
    predictions = outputs * names["scale"] + names["mean"]
    np.testing.assert_allclose(predictions, names["predictions"]["selected weights"], rtol=1e-5)


@pytest.mark.tensorflow
def test_table_page_reads_a_file_and_leaves_out_rows_with_gaps(monkeypatch, tmp_path, capsys):
    file = tmp_path / "table.csv"
    lines = [f"{i},{2 * i},{i % 7}" for i in range(80)]
    file.write_text("\n".join(["size, price,age", *lines, "3,,4"]), encoding="utf-8")
    names = run_page(monkeypatch, "table", "--csv", file, "--target", "price", "--epochs", 1)
    assert len(names["x"]) + len(names["x_test"]) == 80
    np.testing.assert_array_equal(names["y"], 2 * names["x"][:, 0])
    with pytest.raises(SystemExit):
        run_page(monkeypatch, "table", "--csv", file, "--target", "colour")
    assert "must be one of ['size', 'price', 'age']. Received: colour" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.tensorflow
def test_image_folder_page_learns_the_classes_of_the_folders(monkeypatch, tmp_path, capsys):
    names = run_page(monkeypatch, "image_folder", "--epochs", 5, "--out", tmp_path / "digits.slots")
    assert names["classes"] == list("0123456789")
    assert np.mean(names["chosen"] == names["labels"]) > 0.8
    plain = load_slots(tmp_path / "digits.slots")
    np.testing.assert_array_equal(plain.predict(names["held_out"], verbose=0).argmax(axis=-1), names["chosen"])
    with pytest.raises(SystemExit):
        run_page(monkeypatch, "image_folder", "--folder", tmp_path)
    assert "a folder of images for each class" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.tensorflow
def test_char_transformer_page_selects_all_kernels_and_predicts_better_than_frequencies(monkeypatch, tmp_path):
    names = run_page(monkeypatch, "char_transformer", "--small", "--out", tmp_path / "gpt.slots")
    kernels = [v for v in names["learned"].weights if len(v.shape) > 1 and v.path.split("/")[-1] != "bias"]
    chosen = [x["shape"] for x in summary_dict(names["selected"])["kernels"]]
    assert sorted(map(math.prod, chosen)) == sorted(math.prod(v.shape) for v in kernels)
    counts = np.array([names["held_out"].count(character) for character in names["characters"]])
    shares = counts[counts > 0] / counts.sum()
    entropy = -np.sum(shares * np.log2(shares))
    assert names["bits"]["learned"] < names["bits"]["selected"] < entropy - 0.5
    x, _ = names["windows"](names["held_out"], np.arange(8))
    plain = load_slots(tmp_path / "gpt.slots")
    np.testing.assert_array_equal(plain(x), names["selected"](x))


@pytest.mark.slow
@pytest.mark.tensorflow
def test_export_page_writes_files_that_predict_without_keras_slots(monkeypatch, tmp_path, capfd):
    names = run_page(monkeypatch, "export", "--out", tmp_path)
    with np.load(tmp_path / "predictions.npz") as predictions:
        for name in ("selected", "plain"):
            np.testing.assert_allclose(predictions[name], names["expected"], atol=1e-4)
    printed = capfd.readouterr().out
    for name in ("model.keras", "plain.keras"):
        assert f"{(tmp_path / name).stat().st_size:,} bytes" in printed


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # keras-tuner's own
def test_tune_page_shows_its_trials_best_first_and_goes_on(monkeypatch, tmp_path, capsys):
    flags = ["--out", tmp_path, "--epochs", 1, "--trials"]
    run_page(monkeypatch, "tune", *flags, 1)
    names = run_page(monkeypatch, "tune", *flags, 2)
    trials = names["tuner"].oracle.trials
    assert len(trials) == 2
    last = capsys.readouterr().out.splitlines()[-3:-1]
    shown = [float(line.split()[-1].rstrip("%")) for line in last]
    assert shown == sorted(shown, reverse=True)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_slotify_page_keeps_the_architecture(monkeypatch):
    names = run_page(monkeypatch, "slotify_a_model", "--epochs", 1)
    assert len(names["slots"]) == 15  # 1 + 13 pointwise convolutions, and the last one
    assert names["difference"] == 0


@pytest.mark.slow
@pytest.mark.tensorflow
def test_resume_page_ends_after_kills_as_if_there_had_been_none(monkeypatch, tmp_path):
    run_page(monkeypatch, "resume", "--out", tmp_path / "whole")
    command = [sys.executable, "-u", EXAMPLES / "resume.py", "--out", tmp_path / "killed"]
    for epoch in (3, 7):
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        while f"Epoch {epoch}/12" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    names = run_page(monkeypatch, "resume", "--out", tmp_path / "killed")
    assert names["done"] in (6, 7)
    whole, killed = (keras.models.load_model(tmp_path / run / "state.keras") for run in ("whole", "killed"))
    for one, other in zip(whole.variables, killed.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    for one, other in zip(whole.optimizer.variables, killed.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.tensorflow
def test_resume_page_saves_nothing_of_an_epoch_with_nan(monkeypatch, tmp_path):
    import sklearn.datasets

    monkeypatch.setattr(keras.Model, "fit", _stopped_after(2, keras.Model.fit))
    run_page(monkeypatch, "resume", "--out", tmp_path)
    before = (tmp_path / "state.keras").read_bytes()
    monkeypatch.undo()
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x[:, 20] = np.nan
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda return_X_y: (x, y))
    with pytest.raises(SystemExit, match="NaN or infinity in epoch 3.*keeps the last good epoch"):
        run_page(monkeypatch, "resume", "--out", tmp_path)
    assert (tmp_path / "state.keras").read_bytes() == before
    assert [x.name for x in tmp_path.iterdir()] == ["state.keras"]


def _stopped_after(epochs, fit):
    return lambda self, *args, **settings: fit(self, *args, **settings | {"epochs": epochs})


@pytest.mark.jax
def test_several_hosts_page_selects_with_two_processes_what_one_selects(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, EXAMPLES / "several_hosts_jax.py", "--out"]
    together = ["--hosts", address, "--processes", "2", "--process-id"]
    started = [
        subprocess.Popen(
            [*command, tmp_path / name, *flags],
            env=ENVIRONMENT | {"XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, flags in (("two.keras", [*together, "0"]), ("none.keras", [*together, "1"]), ("one.keras", []))
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors
    assert "2 process(es): test accuracy" in outputs[0][0]
    assert not (tmp_path / "none.keras").exists()
    one, two = (keras.models.load_model(tmp_path / f"{name}.keras") for name in ("one", "two"))
    for layer, other in zip(one.layers, two.layers, strict=True):
        same = np.asarray(layer.kernel) == np.asarray(other.kernel)
        assert same.mean() > 0.99  # sums in another order may move a float32 lever over a threshold


@pytest.mark.slow
def test_microcontroller_page_writes_a_network_that_c_code_runs_as_the_reference(monkeypatch, tmp_path):
    names = run_page(monkeypatch, "microcontroller", "--out", tmp_path, "--epochs", 5)
    assert names["accuracy"] > 0.9
    folder = EXAMPLES / "microcontroller"
    sources = [folder / "network.c", folder / "host.c"]
    program = compile_program(tmp_path, folder / "main.c", "-I", tmp_path, *sources, *SANITIZERS)
    said = dict(line.split(": ") for line in run_program(program).stdout.splitlines())
    outputs = IntegerNetwork(names["model"], names["x"][:500]).run(names["images"])
    right = int((outputs.argmax(axis=1) == names["y_test"]).sum())
    checksum = 0
    for output in outputs.reshape(-1).tolist():
        checksum = (checksum * 31 + output) % 2**32
    assert said == {"images": "360", "right": str(right), "checksum": str(checksum)}
    assert abs(right / 360 - names["accuracy"]) < 0.01
