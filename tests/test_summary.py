"""`summary` against what NumPy, Keras and the materialized model say of the same network."""

import re

import keras
import numpy as np
import pytest
from rich.cells import cell_len

from comparisons import numpy_of
from keras_slots import SlotConv2D, SlotDense, ValueBank, materialize, save_slots, summary, summary_dict
from keras_slots.slots_file.container import split
from mode_table import MODE_ARGUMENTS
from small_models import compiled_model, small_data, small_model

MODES = {
    **MODE_ARGUMENTS,
    "lever_drawn": {"score_mode": "per_connection", "selection": "probabilistic"},
    "bfloat16": {"score_mode": "per_value", "dtype": "bfloat16"},
}


def nbytes(variables):
    return sum(numpy_of(v).nbytes for v in variables)


@pytest.mark.parametrize("mode", MODES)
def test_summary_counts_the_bytes_that_the_arrays_have(mode):
    model = compiled_model(small_model(num_values=8, **MODES[mode]))
    model.fit(*small_data(), verbose=0)
    found = summary_dict(model)
    total = found["total"]
    for row, layer in zip(found["kernels"], (model.layers[1], model.layers[-1]), strict=True):
        kernel = layer.slot_kernel
        assert (row["name"], row["layer"]) == (layer.name, type(layer).__name__)
        assert row["shape"] == tuple(layer.kernel.shape)
        assert row["connections"] == numpy_of(layer.kernel).size
        assert row["bank_bytes"] == numpy_of(layer.bank).nbytes
        assert row["trained_bytes"] == nbytes(layer.slot_kernel.trainable_variables)
        assert row["held_bytes"] == nbytes(kernel.non_trainable_variables)
        assert row["materialized_bytes"] == numpy_of(layer.kernel).nbytes
    assert total["connections"] == 72 + 192
    assert total["trained_bytes"] == nbytes(model.trainable_variables)
    assert total["optimizer_bytes"] == nbytes(model.optimizer.variables)
    assert total["materialized_bytes"] == nbytes(materialize(model).weights)
    assert (found["plain"]["weights"], found["plain"]["trained"]) == (4 + 16 + 3, 4 + 8 + 3)


def test_summary_tells_settings_reach_and_choices():
    shared = ValueBank(4, bound=0.1, seed=0)
    layers = [
        SlotConv2D(8, 3, seed=0, name="conv", score_mode="per_connection", use_bias=False),
        keras.layers.Flatten(),
        SlotDense(40, num_values=4, seed=0, selection="probabilistic", sharing=shared, name="a"),
        SlotDense(3, num_values=64, score_mode="nearest", name="b"),
    ]
    model = keras.Sequential([keras.Input((8, 8, 4)), *layers])
    rows = {row["name"]: row for row in summary_dict(model)["kernels"]}
    keys = ("num_values", "selection", "score_mode", "scores", "sharing")
    assert {name: tuple(row[key] for key in keys) for name, row in rows.items()} == {
        "conv": (8, "greedy", "per_connection", "UniformScores", "connection"),
        "a": (4, "probabilistic", "per_value", "UniformScores", "ValueBank"),
        "b": (64, "greedy", "nearest", "NearestScores", "connection"),
    }
    # 3.70 of 8 and 2.84 of 4 uniform values, 2 percent of which are chance; all nearest ones.
    assert rows["conv"]["values_within_reach"] == pytest.approx(3.70, abs=0.2)
    assert rows["b"]["values_within_reach"] == 64
    assert {row["choice_bits"] for row in rows.values()} == {0.0}
    # One choice of all connections moved by one step: the entropy of one in n.
    lever, n = model.get_layer("b").lever, 120
    start = numpy_of(model.get_layer("b").selected_indices)
    moved = np.array(numpy_of(lever))
    moved[0, 0] += 0.6 if start[0, 0] < 32 else -0.6
    lever.assign(moved)
    row = summary_dict(model)["kernels"][-1]
    share = 1 / n
    bits = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert row["choice_bits"] == pytest.approx(bits)
    assert row["choice_bytes"] == int(np.ceil(bits * n / 8))


def test_summary_knows_no_choices_where_no_seed_tells_the_start():
    layer = SlotDense(3, bank_initializer="random_normal")
    row = summary_dict(keras.Sequential([keras.Input((4,)), layer]))["kernels"][0]
    assert row["choice_bits"] is None and row["choice_bytes"] is None


def test_summary_prints_each_kernel_and_the_totals(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    model = small_model(score_mode="per_connection")
    text = []
    assert summary(model, print_fn=text.append) is None
    (text,) = text
    assert "Model 'small'\n" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    found = summary_dict(model)
    row = found["kernels"][1]
    reach = f"{row['values_within_reach']:.1f}"
    assert f"logits 64×3 192 4 {reach} 0.00 per_connection greedy UniformScores" in lines
    # 264 values and 8 + 4 + 3 + 8 plain weights; no optimizer yet.
    assert "total 4.2 kB 7.5 kB 1.1 kB – 1.1 kB 0 B" in lines
    assert found["total"]["bank_bytes"] == 4 * 4 * 264
    assert "plain weights 60 B 92 B" in lines
    assert "plain weights: 23 others, such as biases, 15 trained." in lines
    summary(model)
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()[:4]] == [line.split() for line in text.splitlines()[:4]]


def test_summary_names_the_settings_of_each_kernel():
    layers = [SlotDense(3, name="a"), SlotDense(2, name="b", score_mode="per_connection", sharing="layer")]
    text = []
    summary(keras.Sequential([keras.Input((4,)), *layers]), print_fn=text.append)
    words = " ".join(text[0].split())
    assert "score mode selection scores sharing" in words
    assert "0.00 per_value greedy UniformScores b 3×2" in words
    assert "0.00 per_connection greedy UniformScores layer kernel" in words


NAMES = ["hidden", "密集層の名前", "[red]x[bold]:smile:", "name_" * 30, "a\nb"]
NUMBER = r"–|\d+(×\d+)+|\d{1,3}(,\d{3})*(\.\d+)?( ([kMG]B|B))?"


@pytest.mark.quick
@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:3], NAMES])
def test_summary_fits_the_terminal_by_leaving_out_columns(capsys, monkeypatch, names, width):
    monkeypatch.setenv("COLUMNS", str(width))
    slots = {"score_mode": "per_connection", "move_regularizer": keras.regularizers.L1(1e-5)}
    layers = [SlotDense(300, name=name, sharing="layer", **slots) for name in names]
    summary(keras.Sequential([keras.Input((784,)), *layers], name="[bold]model"), slots_file=len(names) == 1)
    text = capsys.readouterr().out
    assert max(map(cell_len, text.splitlines())) <= width
    assert "Model '[bold]model'" in text and "\x1b" not in text
    assert all(name in text for name in names[:3])  # whole, and not interpreted
    choices, sizes, notes = re.fullmatch(r"Model.*\n\n((?:.+\n)+)\n((?:.+\n)+)\n((?:.+\n)+)", text).groups()
    headings = []
    for table in (choices, sizes):
        first, _, *rows = table.splitlines()
        headings += re.split(r"  +", first.strip())
        for row in rows:
            # What follows the name of a kernel is a whole number, a setting or nothing.
            for cell in re.split(r"  +", row.strip())[1:]:
                assert re.fullmatch(f"{NUMBER}|per_connection|greedy|UniformScores|layer|L1\\(.*\\)", cell), cell
    left_out = re.search(r"Left out for lack of room: ([^.]*)\.", " ".join(notes.split()))
    dropped = left_out[1].split(", ") if left_out else []
    columns = ["kernel", "shape", "connections", "K", "in reach", "bits", "score mode", "selection", "scores"]
    columns += ["sharing", "moves", "kernel", "bank", "held", "trained", "optimizer", "materialized", "choices"]
    columns += ["in .slots"] if len(names) == 1 else []
    assert sorted(headings + dropped) == sorted(columns)
    assert {"connections", "K", "choices"} <= set(headings)


def test_summary_gives_print_fn_plain_text_on_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = []
    summary(small_model(), print_fn=text.append)
    assert "\x1b" not in text[0]


def test_summary_of_a_plain_model_says_so():
    text = []
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="plain")
    summary(model, print_fn=text.append)
    assert text == ["Model 'plain' has no slot layer.\n"]
    assert summary_dict(model)["total"]["materialized_bytes"] == 4 * 15


def test_summary_refuses_a_model_that_is_not_built():
    model = keras.Sequential([SlotDense(3, name="hidden")], name="model")
    for function in (summary, summary_dict):
        with pytest.raises(ValueError, match=r"`model` must be built.*'model' with .*'hidden'"):
            function(model)


@pytest.mark.parametrize("mode", ["per_connection", "nearest"])
def test_summary_tells_the_bytes_of_the_slots_file(mode, tmp_path):
    model = small_model(num_values=8, **MODES[mode])
    path = save_slots(model, tmp_path / "model.slots")
    found = summary_dict(model, slots_file=True)
    assert found["total"]["slots_bytes"] == path.stat().st_size
    records = split(path.read_bytes()).records
    sizes = [row["slots_bytes"] for row in found["kernels"]]
    assert sizes == [len(r.payload) for r in records if r.form != "stored"] and len(sizes) == 2
    printed = []
    summary(model, printed.append, slots_file=True)
    assert "in .slots" in printed[0] and f"{path.stat().st_size} B" in printed[0]
    assert summary_dict(model)["total"]["slots_bytes"] is None


def test_summary_refuses_a_subclassed_model_none_of_whose_layers_is_built():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.hidden = SlotDense(3, name="hidden")

    model = Own()
    model.built = True
    for function in (summary, summary_dict):
        with pytest.raises(ValueError, match=r"`model` must be built.*'own' with .*'hidden'"):
            function(model)
