"""The Python of the guides runs, and does what they say."""

import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import (
    SelectionMonitor,
    SelectionRule,
    SlotDense,
    SlotLayer,
    load_slots,
    materialize,
    save_slots,
    slotify,
    summary_dict,
)
from keras_slots.__main__ import main
from keras_slots.kernels import SlotKernel
from keras_slots.slots_file import container
from keras_slots.values.source import ValueSource

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def extending():
    """The names of docs/extending.md; what it registers is forgotten afterwards."""
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    tables = [x.registry for x in (SlotLayer, SelectionRule, SlotKernel, ValueSource)] + [container.READERS]
    names, before = {}, [dict(table) for table in tables]
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M), 1):
        exec(compile(block, f"docs/extending.md, block {number}", "exec"), names)  # noqa: S102
    yield names
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


def round_trip(model, folder, x):
    """Trains, saves, loads and materializes; the loaded and the plain model predict as the trained one."""
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    y = np.zeros((len(x), *model.output_shape[1:]), "float32")
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    expected = numpy_of(model(x, training=False))
    np.testing.assert_array_equal(numpy_of(loaded(x, training=False)), expected)
    plain = materialize(model)
    assert not any(isinstance(layer, SlotLayer) for layer in plain.layers)
    np.testing.assert_array_equal(numpy_of(plain(x, training=False)), expected)
    return loaded


def inputs(count=8):
    return np.random.default_rng(0).normal(size=(count, 5)).astype("float32")


@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_docs_extending_selection_rule_draws_by_its_temperature(extending, tmp_path, mode):
    rule = extending["Gumbel"](temperature=0.5)
    layer = type(extending["layer"])(400, num_values=2, selection=rule, score_mode=mode, seed=1)
    model = keras.Sequential([keras.Input((5,)), layer])
    difference = numpy_of(layer.scores)[..., 1] - numpy_of(layer.scores)[..., 0]
    eye = np.eye(5, dtype="float32")
    draws = np.mean([numpy_of(layer(eye, training=True)) == numpy_of(layer.bank)[..., 1] for _ in range(20)])
    expected = (1 / (1 + np.exp(-difference / 0.5))).mean()
    assert abs(draws - expected) < 4 * 0.5 / np.sqrt(20 * 2000)
    loaded = round_trip(model, tmp_path, inputs())
    assert loaded.layers[0].selection == rule != extending["Gumbel"](temperature=1.0)


def test_docs_extending_distribution_is_drawn_scaled_and_kept_as_a_seed(extending, tmp_path):
    positive = extending["positive"]
    model = keras.Sequential([keras.Input((5,)), positive])
    bank = numpy_of(positive.bank)
    assert bank.min() >= 0 and 0.8 / np.sqrt(5) < bank.max() < 1 / np.sqrt(5)
    round_trip(model, tmp_path, inputs())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = load_slots(save_slots(model, tmp_path / "m.slots"))
    np.testing.assert_array_equal(again.get_weights()[0], numpy_of(positive.kernel))


def test_docs_extending_score_mode_is_monitored_and_summed_up(extending):
    layer = extending["shared_fate"]
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile(keras.optimizers.SGD(3.0), "mse")
    before = numpy_of(layer.kernel)
    y, monitor = np.ones((8, 3), "float32"), SelectionMonitor()
    history = model.fit(inputs(), y, verbose=0, callbacks=[monitor]).history
    changed = (numpy_of(layer.kernel) != before).mean()
    assert history["slots/changed"] == pytest.approx([changed]) and changed > 0
    (row,) = summary_dict(model)["kernels"]
    assert (row["score_mode"], row["trained_bytes"], row["choice_bits"]) == ("per_output", 4 * 3 * 4, None)
    assert row["values_within_reach"] == row["num_values"] == 4


@pytest.mark.quick
@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
@pytest.mark.parametrize("name", ["Scale", "LowRank"])
def test_docs_extending_layer_is_slotified_trained_and_materialized(extending, tmp_path, name, mode):
    plain_class = extending[name]
    plain = plain_class() if name == "Scale" else plain_class(2, 3)
    model = slotify(keras.Sequential([keras.Input((5,)), plain]), 4, score_mode=mode, seed=2)
    assert type(model.layers[0]) is extending[f"Slot{name}"]
    kernels = list(model.layers[0].slot_kernels.values())
    assert len(kernels) == (1 if name == "Scale" else 2)
    banks = {numpy_of(kernel.bank).tobytes() for kernel in kernels}
    assert len(banks) == len(kernels)
    round_trip(model, tmp_path, inputs())


def test_docs_extending_score_mode_moves_the_connections_of_an_output_together(extending, tmp_path):
    layer = extending["shared_fate"]
    model = keras.Sequential([keras.Input((5,)), layer])
    before = numpy_of(layer.slot_kernel.trained_variables()[0]).copy()
    round_trip(model, tmp_path, inputs())
    scores = numpy_of(layer.slot_kernel.trained_variables()[0])
    assert scores.shape == (3, 4) and np.any(scores != before)
    index = np.broadcast_to(scores.argmax(-1), (5, 3))
    expected = np.take_along_axis(numpy_of(layer.bank), index[..., None], -1)[..., 0]
    np.testing.assert_array_equal(numpy_of(layer.kernel), expected)


def test_docs_extending_file_version_is_read_beside_the_first(extending, tmp_path, capsys):
    model = keras.Sequential([keras.Input((5,)), SlotDense(3, seed=0)])
    first, now = save_slots(model, tmp_path / "first.slots"), container.VERSION
    content = container.MAGIC + bytes([extending["NEXT"]]) + extending["lzma"].compress(first.read_bytes())
    (tmp_path / "second.slots").write_bytes(content)
    assert [container.split(path.read_bytes()).version for path in tmp_path.iterdir()] in (
        [now, now + 1],
        [now + 1, now],
    )
    weights = [load_slots(tmp_path / name).get_weights() for name in ("first.slots", "second.slots")]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    main(["info", str(tmp_path / "second.slots")])
    assert f"format version {now + 1}" in capsys.readouterr().out
