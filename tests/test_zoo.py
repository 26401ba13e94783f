"""The networks that come with the package are what their cards and docs/zoo.md say."""

import importlib
import json
import re
from importlib import resources
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_slots import zoo
from keras_slots.slots_file import container, records

ROOT = Path(__file__).resolve().parents[1]
FOLDER = resources.files("keras_slots.zoo")
NAMES = zoo.names()
SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def test_zoo_names_are_the_files_and_each_has_a_card():
    assert len(NAMES) >= 6
    assert {f"{name}{suffix}" for name in NAMES for suffix in (".slots", ".json")} == {
        entry.name for entry in FOLDER.iterdir() if not entry.name.startswith("__")
    }
    assert sum(len(entry.read_bytes()) for entry in FOLDER.iterdir() if entry.is_file()) < 1e6


@pytest.mark.parametrize("name", NAMES)
def test_zoo_card_says_what_the_file_is(name):
    card, content = zoo.card(name), FOLDER.joinpath(f"{name}.slots").read_bytes()
    kernels = [record for record in container.split(content).records if record.form != "stored"]
    assert card["name"] == name
    assert card["bytes"] == len(content)
    assert card["connections"] == sum(record.size for record in kernels)
    (values,) = {records.summary(record) for record in kernels}
    assert values.startswith(f"K = {card['K']}, stratified")
    assert card["bits"] == round(8 * len(content) / card["connections"], 2)
    assert re.match(r"python examples/(tiny_mnist|cifar10_in_an_hour|paper/train)\.py ", card["command"])
    assert f" --seed {card['seed']} " in card["command"] and f" {name}" in card["command"]
    assert {"keras", "keras_slots", "numpy", "python", "tensorflow"} <= card["versions"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_zoo_load_gives_a_plain_model_of_ten_classes(name):
    model = zoo.load(name)
    assert all(type(layer).__module__.startswith("keras.src.") for layer in model.layers)
    kernels = [v for v in model.trainable_variables if v.path.endswith("/kernel") and len(v.shape) > 1]
    assert sum(int(np.prod(v.shape)) for v in kernels) == zoo.card(name)["connections"]
    logits = model.predict(np.zeros((2, *SHAPES[name.partition("_")[0]]), "float32"), verbose=0)
    assert logits.shape == (2, 10) and np.isfinite(logits).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("digits")])
def test_zoo_networks_of_digits_are_as_accurate_as_their_cards_say(name):
    x, y = load_digits(return_X_y=True)  # the first 360 are for testing
    logits = zoo.load(name).predict((x[:360] / 16).reshape(-1, 8, 8, 1).astype("float32"), verbose=0)
    assert round(100 * np.mean(logits.argmax(axis=-1) == y[:360]), 2) == zoo.card(name)["accuracy"]


@pytest.mark.parametrize("call", [zoo.load, zoo.card])
@pytest.mark.parametrize("name", ["resnet", "", "../__init__", None])
def test_zoo_lists_its_names_if_it_does_not_know_one(call, name):
    with pytest.raises(ValueError, match=r"`name` must be \"") as error:
        call(name)
    assert all(f'"{known}"' in str(error.value) for known in NAMES)
    assert f"Received: name={name!r}" in str(error.value)


def test_zoo_needs_no_network(monkeypatch):
    monkeypatch.setattr(keras.utils, "get_file", None)
    monkeypatch.setattr("socket.socket", None)
    assert zoo.load(NAMES[0]).count_params() > 0


@pytest.fixture
def benchmark(monkeypatch):
    """benchmarks/zoo.py as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("benchmarks.zoo")


def test_docs_zoo_python_runs(benchmark):
    (block,) = re.findall(r"^```python\n(.*?)^```$", benchmark.PAGE.read_text(encoding="utf-8"), re.S | re.M)
    names = {}
    exec(block, names)  # noqa: S102
    assert names["card"]["connections"] == 4728 and names["model"].input_shape == (None, 28, 28, 1)


def test_docs_zoo_tables_are_those_of_the_cards_and_results(benchmark):
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.filled(page) == page
    assert page.count("<!-- zoo: ") == page.count("\n<!-- /zoo -->") == 2


def test_docs_zoo_results_hold_every_seed_and_the_cards(benchmark):
    cards = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))["rows"]
    wanted = [(name, seed) for name, (count, _) in benchmark.NETWORKS.items() for seed in range(count)]
    assert [(card["name"], card["seed"]) for card in cards] == wanted
    assert [card for card in cards if card["seed"] == 0] == [zoo.card(name) for name in NAMES]
