"""SelectionMonitor against counts by brute force, and what it leaves alone."""

import csv
import re
from itertools import pairwise

import keras
import numpy as np
import pytest

import keras_slots
from comparisons import assert_same_weights, numpy_of
from keras_slots import SelectionMonitor, SlotDense
from mode_table import MODE_ARGUMENTS, SCORE_MODES
from small_models import compiled_model, small_data, small_model

NUMBERS = ("changed", "magnitude", "reach", "bits")
MODES = {
    **MODE_ARGUMENTS,
    "per_value_shared": {"score_mode": "per_value", "sharing": "layer"},
    "lever_drawn": {"score_mode": "per_connection", "selection": "probabilistic"},
    "lever_keras": {"score_mode": "per_connection", "bank_initializer": keras.initializers.RandomNormal(0, 0.5)},
}


def tiny_model(built=True, **arguments):
    """Two layers, a seed each, and one odd K."""
    arguments = {"seed": 4, "use_bias": False, **arguments}
    layers = [
        SlotDense(6, num_values=8, activation="tanh", name="hidden", **arguments),
        SlotDense(3, num_values=5, name="logits", **{**arguments, "seed": 5}),
    ]
    return keras.Sequential([keras.Input((7,)), *layers] if built else layers)


def tiny_data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(32, 7)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")


def selectable(bank, scores):
    """The values that win at some lever, by trying a lever between all neighbouring crossings of two lines."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = (scores[:, None] - scores) / (bank - bank[:, None])
    at = np.unique(crossings[np.isfinite(crossings)])
    levers = [at[0] - 1, *(at[:-1] + at[1:]) / 2, at[-1] + 1]
    return np.unique([bank[np.argmax(scores + bank * u)] for u in levers])


def entropy(moved):
    _, counts = np.unique(moved, return_counts=True)
    shares = counts / counts.sum()
    return -(shares * np.log2(shares)).sum()


class Recorder(keras.callbacks.Callback):
    """Bank, scores and kernel of each layer, at the start and after each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = {"hidden": [], "logits": []}

    def on_train_begin(self, logs=None):
        self.record()

    def on_epoch_end(self, epoch, logs=None):
        self.record()

    def record(self):
        for layer in self.model.layers:
            scores = numpy_of(layer.scores).astype("float64")
            bank = np.broadcast_to(numpy_of(layer.bank).astype("float64"), scores.shape)
            self.seen[layer.name].append((bank, scores, numpy_of(layer.kernel)))


def expected(mode, states):
    """The four numbers of every epoch of a kernel, from its banks, scores and kernels."""
    bank, scores, first = states[0]
    num_values = bank.shape[-1]
    rows, lines = bank.reshape(-1, num_values), scores.reshape(-1, num_values)
    reachable = [selectable(b, s) for b, s in zip(rows, lines, strict=True)]
    values = reachable if SCORE_MODES[MODES[mode]["score_mode"]].trained != "scores" else map(np.sort, rows)
    values = [np.float32(v) for v in values]

    def positions(kernel):
        return np.array([np.searchsorted(v, w) for v, w in zip(values, kernel.ravel(), strict=True)])

    found = []
    for (_, _, last), (_, _, now) in pairwise(states):
        found.append(
            {
                "changed": (last != now).mean(),
                "magnitude": np.abs(now).mean(dtype="float64") / np.abs(rows).mean(),
                "reach": np.mean([len(v) for v in reachable]) / num_values,
                "bits": entropy(positions(now) - positions(first)),
            }
        )
    return found


@pytest.mark.quick("per_value", "lever_drawn", "nearest")
@pytest.mark.parametrize("mode", MODES)
def test_selection_monitor_counts_what_brute_force_counts(mode):
    model, recorder = tiny_model(**MODES[mode]), Recorder()
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
    callbacks = [SelectionMonitor(), recorder]
    history = model.fit(*tiny_data(), epochs=3, verbose=0, callbacks=callbacks).history
    assert sum(history["slots/changed"]) > 0 and history["slots/bits"][-1] > 0
    by_layer = {name: expected(mode, states) for name, states in recorder.seen.items()}
    for name, epochs in by_layer.items():
        for key in ("changed", "reach", "bits", "magnitude"):
            numbers = [x[key] for x in epochs]
            assert history[f"slots/{name}/{key}"] == pytest.approx(numbers, rel=1e-5, abs=1e-7)
    sizes = {"changed": (42, 18), "bits": (42, 18), "magnitude": (42, 18), "reach": (336, 90)}
    for key, weights in sizes.items():
        layers = [history[f"slots/{name}/{key}"] for name in by_layer]
        means = np.average(layers, axis=0, weights=weights)
        assert history[f"slots/{key}"] == pytest.approx(list(means))


def test_selection_monitor_leaves_training_as_it_is():
    trained = []
    for callbacks in ([], [SelectionMonitor()]):
        model = compiled_model(small_model(selection="probabilistic", score_mode="per_connection"))
        keras.utils.set_random_seed(3)
        model.fit(*small_data(), epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        trained.append(model)
    assert_same_weights(*trained)


def test_selection_monitor_feeds_the_callbacks_after_it(tmp_path):
    model = compiled_model(small_model(), keras.optimizers.SGD(0.0))
    callbacks = [
        SelectionMonitor(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("slots/changed", mode="min", patience=2),
    ]
    history = model.fit(*small_data(), epochs=9, verbose=0, callbacks=callbacks).history
    assert history["slots/changed"] == [0.0] * 3 and history["slots/bits"] == [0.0] * 3
    names = {f"slots/{part}{key}" for part in ("", "conv/", "logits/") for key in NUMBERS}
    assert {key for key in history if key.startswith("slots/")} == names
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["slots/magnitude"]) for row in rows] == history["slots/magnitude"]
    assert "slots/conv/bits" not in rows[0]


def test_selection_monitor_shows_the_numbers_of_layers_to_other_callbacks_if_asked(tmp_path):
    model = compiled_model(small_model())
    callbacks = [SelectionMonitor(per_layer=True), keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    history = model.fit(*small_data(), epochs=2, verbose=0, callbacks=callbacks).history
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("conv", "logits"):
        assert [float(row[f"slots/{name}/bits"]) for row in rows] == history[f"slots/{name}/bits"]


def progress(capsys, callbacks, **arguments):
    """What `fit` prints at the end of each epoch, and its history."""
    model = compiled_model(small_model(score_mode="per_connection"))
    capsys.readouterr()
    history = model.fit(*small_data(), epochs=2, validation_data=small_data(16), callbacks=callbacks, **arguments)
    lines = [line.rpartition("\r")[2] for line in capsys.readouterr().out.splitlines()]
    assert not any("slots/conv" in line for line in lines)
    return [line for line in lines if "val_loss" in line], history.history


@pytest.mark.quick
@pytest.mark.parametrize("verbose", ["auto", 1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_selection_monitor_adds_four_numbers_to_the_one_progress_line_of_an_epoch(capsys, verbose, first):
    # It adds a number to the logs, as schedules do.
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    callbacks = [SelectionMonitor(), rate] if first else [rate, SelectionMonitor()]
    lines, history = progress(capsys, callbacks, verbose=verbose)
    assert len(lines) == 2
    for epoch, line in enumerate(lines):
        shown = dict(re.findall(r" - ([\w/]+): ([\d.e-]+)", line))
        numbers = {f"slots/{key}" for key in NUMBERS}
        assert shown.keys() == {"accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", *numbers}
        for key in numbers:
            assert float(shown[key]) == pytest.approx(history[key][epoch], rel=1e-3, abs=1e-4)
    assert [len(history[f"slots/{name}/bits"]) for name in ("conv", "logits")] == [2, 2]


def test_selection_monitor_prints_nothing_itself(capsys):
    lines, history = progress(capsys, [SelectionMonitor()], verbose=0)
    assert lines == [] and len(history["slots/logits/bits"]) == 2
    lines, _ = progress(capsys, [SelectionMonitor(), keras.callbacks.ProgbarLogger()], verbose=2)
    assert len(lines) == 2
    own = keras.callbacks.History()
    progress(capsys, [own, SelectionMonitor()], verbose=0)
    assert len(own.history["slots/logits/bits"]) == 2


def test_selection_monitor_works_in_a_loop_of_ones_own():
    model, x, logs = tiny_model(), tiny_data()[0], {}
    model.compile("sgd", "mse")
    callbacks = keras.callbacks.CallbackList([SelectionMonitor()], model=model)
    callbacks.on_train_begin()
    model(x)
    callbacks.callbacks[0].on_epoch_end(0, logs)
    assert set(logs) == {f"slots/{key}" for key in NUMBERS}


def test_selection_monitor_goes_on_from_where_the_seed_begins():
    model = compiled_model(small_model(score_mode="per_connection"), keras.optimizers.SGD(0.5))
    first = model.fit(*small_data(), epochs=4, verbose=0, callbacks=[SelectionMonitor()]).history
    model.optimizer.learning_rate.assign(0.0)
    more = model.fit(*small_data(), epochs=1, verbose=0, callbacks=[SelectionMonitor()]).history
    assert more["slots/bits"][0] == first["slots/bits"][-1] > 0


@pytest.mark.parametrize("mode", ["per_value", "nearest"])
def test_selection_monitor_counts_from_the_weights_of_another_seed(mode, tmp_path):
    other = tiny_model(**MODES[mode], seed=11)
    other.save_weights(tmp_path / "w.weights.h5")
    model = tiny_model(**MODES[mode])
    model.load_weights(tmp_path / "w.weights.h5")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit(*tiny_data(), verbose=0, callbacks=[SelectionMonitor()]).history
    assert history["slots/bits"] == [0.0] and history["slots/changed"] == [0.0]


def test_selection_monitor_knows_65536_values_without_drawing_them():
    layer = SlotDense(8, num_values=2**16, score_mode="nearest", seed=0)
    model = keras.Sequential([keras.Input((8,)), layer])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    x = np.random.default_rng(0).normal(size=(32, 8))
    start = numpy_of(layer.lever)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(layer.slot_kernel), "bank", property(lambda self: pytest.fail("drawn")))
        history = model.fit(x, x, verbose=0, callbacks=[SelectionMonitor()]).history
    bank = numpy_of(layer.bank)
    moved = [np.abs(bank - u[..., None]).argmin(-1) for u in (numpy_of(layer.lever), start)]
    assert history["slots/bits"] == pytest.approx([entropy(moved[0] - moved[1])])
    assert history["slots/bits"][0] > 5 and history["slots/reach"] == [1.0]
    ratio = np.abs(numpy_of(layer.kernel)).mean() / np.abs(bank).mean()
    assert history["slots/magnitude"] == pytest.approx([ratio], rel=1e-4)


def test_selection_monitor_outlives_scores_that_are_not_finite():
    model = tiny_model()
    model.compile(keras.optimizers.SGD(float("inf")), "mse")
    history = model.fit(*tiny_data(), verbose=0, callbacks=[SelectionMonitor()]).history
    assert np.isnan(history["slots/reach"]).all() and len(history["slots/changed"]) == 1


def test_selection_monitor_refuses_a_model_without_slot_layers():
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(3, name="plain")])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"needs a model with slot layers.*'plain'"):
        model.fit(*tiny_data(), verbose=0, callbacks=[SelectionMonitor()])


class Unreached(keras.Model):
    """Makes its layers in its constructor, and calls some of them."""

    def __init__(self, called=("hidden", "logits"), **arguments):
        super().__init__(name="unreached")
        self.parts = {layer.name: layer for layer in tiny_model(**arguments, built=False).layers}
        self.never = SlotDense(3, name="never")
        self.called = called

    def build(self, shape):
        pass  # the layers are built when they are called

    def call(self, x):
        for name in self.called:
            x = self.parts[name](x)
        return x


@pytest.mark.quick
@pytest.mark.parametrize("mode", SCORE_MODES)
@pytest.mark.parametrize("kind", ["sequential", "subclassed", "in_build"])
def test_selection_monitor_counts_a_model_that_fit_builds_as_one_that_was_built(mode, kind):
    class InBuild(keras.Model):
        def build(self, shape):
            self.inner = tiny_model(**MODES[mode])

        def call(self, x):
            return self.inner(x)

    makers = {
        "sequential": lambda: tiny_model(**MODES[mode], built=False),
        "subclassed": lambda: Unreached(**MODES[mode]),
        "in_build": InBuild,
    }
    histories = []
    for make in (lambda: tiny_model(**MODES[mode]), makers[kind]):
        model = make()
        model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
        arguments = {"epochs": 2, "verbose": 0, "shuffle": False, "batch_size": 8}
        history = model.fit(*tiny_data(), callbacks=[SelectionMonitor()], **arguments).history
        histories.append({key: x for key, x in history.items() if key.startswith("slots/")})
    built, by_fit = histories
    assert built.keys() == by_fit.keys() and sum(built["slots/changed"]) > 0
    for key, numbers in built.items():
        assert by_fit[key] == pytest.approx(numbers, rel=1e-6), key


def test_selection_monitor_and_summary_leave_out_layers_that_no_call_reaches():
    model = Unreached()
    model.compile("sgd", "mse")
    history = model.fit(*tiny_data(), verbose=0, callbacks=[SelectionMonitor()]).history
    again = model.fit(*tiny_data(), verbose=0, callbacks=[SelectionMonitor()]).history
    for logs in (history, again):
        assert {key.split("/")[1] for key in logs if key.count("/") == 2} == {"hidden", "logits"}
    found, text = keras_slots.summary_dict(model), []
    assert [row["name"] for row in found["kernels"]] == ["hidden", "logits"]
    assert found["unbuilt"] == ["never"] and found["total"]["connections"] == 60
    keras_slots.summary(model, print_fn=text.append)
    assert "never" in text[0]


def test_selection_monitor_refuses_a_model_without_slot_layers_that_fit_builds():
    model = keras.Sequential([keras.layers.Dense(3, name="plain")])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"needs a model with slot layers.*'plain'"):
        model.fit(*tiny_data(), verbose=0, callbacks=[SelectionMonitor()])


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_selection_monitor_counts_under_a_strategy_and_xla(mode):
    from backends import two_replicas

    logs = []
    for replicas, xla in ((False, False), (True, False), (False, True)):
        scope = two_replicas().scope() if replicas else keras.name_scope("alone")
        with scope:
            model = tiny_model(**MODES[mode])
            model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=xla)
        arguments = {"epochs": 2, "shuffle": False, "batch_size": 16, "verbose": 0}
        monitor = SelectionMonitor()
        logs.append(model.fit(*tiny_data(), **arguments, callbacks=[monitor]).history)
    assert sum(logs[0]["slots/changed"]) > 0
    for other in logs[1:]:
        for key in (key for key in logs[0] if key.startswith("slots/")):
            # A choice near a tie may fall either way.
            assert other[key] == pytest.approx(logs[0][key], abs=0.12), key


def test_named_kernels_of_nested_wrapped_and_attention_layers_differ():
    from keras_slots.inspect.choices import named_kernels

    inputs = keras.Input((4, 5))
    wrapped = keras.layers.TimeDistributed(SlotDense(3, name="b"))
    shared = keras.Sequential([SlotDense(3, name="a"), wrapped], name="inner")
    x = keras_slots.SlotMultiHeadAttention(2, 3, name="attention")(shared(inputs), shared(inputs))
    model = keras.Model(inputs, SlotDense(2, name="a")(x))
    kernels = named_kernels(model)
    assert set(kernels) == {
        "inner/a",
        "b",
        *(f"attention/{part}/kernel" for part in ("query", "key", "value", "attention_output")),
        "a",
    }
    assert kernels["a"][1] is model.layers[-1].slot_kernel
