"""examples/quickstart.py, with few epochs: what it prints and writes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pages import run_page

from keras_slots import load_slots

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The names of a run of four epochs, the second into its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_page(monkeypatch, "quickstart", "--out", folder, "--epochs", 1)
        return run_page(monkeypatch, "quickstart", "--out", folder, "--epochs", 4)


def test_quickstart_selects_a_better_network_in_four_epochs(run):
    selected, learned = (run["accuracy"](run[name]) for name in ("model", "learned"))
    assert run["before"] < 0.3
    assert selected > 0.8 and learned > 0.8


def test_quickstart_changes_choices_but_no_value(run):
    hidden = run["model"].get_layer("hidden")
    layer = type(hidden).from_config(hidden.get_config())
    layer.build((None, 64))
    np.testing.assert_array_equal(hidden.bank, layer.bank)
    assert np.mean(hidden.selected_indices != layer.selected_indices) > 0.1


def test_quickstart_writes_a_small_file_and_a_saved_model_of_the_selected_network(run):
    import tensorflow as tf

    model, x = run["model"], run["x_test"]
    assert run["file"].stat().st_size < run["plain"].count_params()  # a byte a weight
    saved = tf.saved_model.load(str(run["folder"]))
    for loaded in (load_slots(run["file"]), saved.serve):
        np.testing.assert_allclose(loaded(x), model(x, training=False), atol=1e-4)
    assert {path.name for path in run["args"].out.iterdir()} == {"digits.slots", "selected"}


def test_quickstart_holds_out_a_fifth_of_each_digit(run):
    y, y_test = run["y"], run["y_test"]
    assert len(y) == 1437 and len(y_test) == 360
    share = np.bincount(y_test) / (np.bincount(y) + np.bincount(y_test))
    assert np.all(np.abs(share - 0.2) < 0.01)
    train_images = {image.tobytes() for image in run["x"]}
    assert not any(image.tobytes() in train_images for image in run["x_test"])


def test_quickstart_prints_the_accuracies_of_the_networks(monkeypatch, tmp_path, capsys):
    names = run_page(monkeypatch, "quickstart", "--out", tmp_path, "--epochs", 1)
    printed = re.findall(r"(\d+\.\d)%", capsys.readouterr().out)
    expected = [names["before"], names["accuracy"](names["model"]), names["accuracy"](names["learned"])]
    assert printed == [f"{100 * value:.1f}" for value in expected]


@pytest.mark.slow
def test_notebook_prints_what_it_holds(tmp_path, monkeypatch, capsys):
    book = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names, held, printed = {}, [], []
    for cell in (x for x in book["cells"] if x["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), "quickstart.ipynb", "exec"), names)  # noqa: S102
        printed += capsys.readouterr().out.splitlines()
        held += [line.rstrip() for x in cell["outputs"] for line in x.get("text", [])]
    assert len(held) == len(printed) > 10
    for one, other in zip(held, printed, strict=True):
        found = (re.findall(r"-?\d[\d.]*", line.replace(",", "")) for line in (one, other))
        numbers = [list(map(float, x)) for x in found]
        assert re.sub(r"[\d.,%-]+", "", one).split() == re.sub(r"[\d.,%-]+", "", other).split()
        # Accuracies to two points, bytes and shares to a tenth: backends and processors round differently.
        assert numbers[1] == pytest.approx(numbers[0], rel=0.1, abs=0.02), (one, other)
