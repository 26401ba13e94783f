"""Recurrent slot layers against the Keras layers that are given their kernels, and one selection in a call."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_slots
from backends import BACKEND
from comparisons import arrays, assert_close, assert_same, numpy_of
from keras_slots import load_slots, materialize, save_slots, slotify
from keras_slots.selection import Greedy
from layer_table import SLOT_CLASSES, L, keras_can
from mode_table import SCORE_MODES
from plain_models import give_kernels

BATCH, TIME, WIDTH, UNITS = 3, 5, 4, 6
X = np.random.default_rng(0).normal(size=(BATCH, TIME, WIDTH)).astype("float32")
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], "bool")
KINDS = ("SimpleRNN", "LSTM", "GRU")
FORMS = {
    "plain": {},
    "sequences": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "unrolled": {"unroll": True},
    "no_bias": {"use_bias": False},
    "relu": {"activation": "relu"},
    "one_gate_at_a_time": {"implementation": 1},
    "reset_before": {"reset_after": False},
    "no_cudnn": {"use_cudnn": False},
}
CASES = [
    (kind, form)
    for kind in KINDS
    for form in FORMS
    if (form, kind) not in {("reset_before", "SimpleRNN"), ("reset_before", "LSTM")}
    and (form, kind) not in {("one_gate_at_a_time", "SimpleRNN"), ("no_cudnn", "SimpleRNN")}
]
WAYS = ("eager", *BACKEND.compilations)
every_kind = pytest.mark.parametrize("kind", KINDS)


def slot(kind, **arguments):
    layer = getattr(keras_slots, f"Slot{kind}")(
        UNITS, **{"seed": 3, "bias_initializer": "random_normal", **arguments}
    )
    layer.build(X.shape)
    return layer


def twin(layer):
    """The Keras layer of the same arguments that has the selected values and the biases of a slot layer."""
    config = {k: v for k, v in layer.get_config().items() if k not in keras_slots.layers.base.SLOT_ARGUMENTS}
    for name in ("implementation", "use_cudnn"):  # not in the configuration
        for holder in (layer, layer.cell):
            if hasattr(holder, name):
                config[name] = getattr(holder, name)
    plain = layer.plain_class.from_config(config)
    plain.build(X.shape)
    for name, values in layer.selected_weights().items():
        (weight,) = (v for v in plain.weights if v.path.endswith(name))
        weight.assign(values)
    return plain


def gradients(layer, way, **arguments):
    """Output and gradients, by name of the weight of the Keras layer, of a weighted sum of all outputs."""

    def total(x):
        outputs = keras.tree.flatten(layer(x, **arguments))
        return sum(ops.sum(y * ops.cast(ops.arange(1, 1 + y.shape[-1]), y.dtype)) for y in outputs), outputs

    outputs, found = BACKEND.gradients(total, layer.trainable_variables, (X,), way)
    names = ["/".join(v.path.split("/")[1:]) for v in layer.trainable_variables]
    return arrays(outputs), dict(zip(names, map(numpy_of, found), strict=True))


@pytest.mark.quick
@pytest.mark.parametrize(("kind", "form"), CASES)
@pytest.mark.parametrize("mode", SCORE_MODES)
@pytest.mark.parametrize("way", WAYS)
def test_outputs_and_gradients_are_those_of_the_keras_layer(kind, form, mode, way):
    layer = slot(kind, score_mode=mode, **FORMS[form])
    plain = twin(layer)
    for arguments in ({}, {"mask": MASK}):
        y, ours = gradients(layer, way, training=True, **arguments)
        expected, theirs = gradients(plain, way, training=True, **arguments)
        assert_close(y, expected)
        for name, kernel in layer.slot_kernels.items():
            upstream = theirs[name]
            if mode == "per_value":
                received, upstream = ours[f"{name}/scores"], upstream[..., None] * numpy_of(kernel.bank)
            else:
                received = ours[f"{name}/lever"]
            assert np.any(upstream)
            np.testing.assert_allclose(received, upstream, rtol=1e-4, atol=1e-5 * np.abs(upstream).max())
        for name in set(ours) & set(theirs):  # the bias
            assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.quick
@every_kind
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("around", ["layer", "rnn", "stack", "bidirectional", "time_distributed"])
def test_each_kernel_is_selected_once_in_a_call(kind, selection, around, monkeypatch):
    arguments = {"selection": selection, "seed": 3}
    layer_class, cell_class = (getattr(keras_slots, f"Slot{kind}{part}") for part in ("", "Cell"))
    x, kernels = X, 2
    if around == "layer":
        layer = layer_class(UNITS, **arguments)
    elif around == "rnn":
        layer = L.RNN(cell_class(UNITS, **arguments))
    elif around == "stack":
        layer, kernels = L.RNN([cell_class(UNITS, **arguments), cell_class(2, **arguments)]), 4
    elif around == "bidirectional":
        layer, kernels = L.Bidirectional(layer_class(UNITS, **arguments)), 4
    else:
        layer, x = L.TimeDistributed(layer_class(UNITS, **arguments)), X[:, None]
    layer(x)
    calls = []
    for cls in keras_slots.kernels.SlotKernel.registry.values():
        for method in ("select_greedily", "select_by_rule"):
            honest = getattr(cls, method)
            monkeypatch.setattr(
                cls, method, lambda self, *args, honest=honest: calls.append(self) or honest(self, *args)
            )
    y = layer(x, training=True)
    # `Bidirectional` reads the kernels before it knows whether one program can run both directions.
    assert len(calls) == kernels or (around == "bidirectional" and len(calls) == 2 * kernels)
    assert len({id(kernel) for kernel in calls}) == kernels
    again, greedy = layer(x, training=True), layer(x)
    random = selection != "greedy"
    assert np.array_equal(numpy_of(y), numpy_of(again)) != random
    assert np.array_equal(numpy_of(y), numpy_of(greedy)) != random
    assert_same(greedy, layer(x))


@pytest.mark.parametrize("kind", ["SimpleRNN", *(pytest.param(x, marks=pytest.mark.slow) for x in KINDS[1:])])
@pytest.mark.parametrize("jit_compile", sorted({*BACKEND.jit_compile}))
def test_models_with_random_selection_train(kind, jit_compile):
    arguments = {"selection": "probabilistic", "seed": 1}
    layer_class, cell_class = (getattr(keras_slots, f"Slot{kind}{part}") for part in ("", "Cell"))
    layers = [
        L.Bidirectional(layer_class(3, return_sequences=True, **arguments)),
        L.RNN(cell_class(2, **arguments)),
    ]
    model = keras.Sequential([keras.Input(X.shape[1:]), *layers])
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit_compile)
    before = [numpy_of(v) for v in model.trainable_variables]
    history = model.fit(X, np.ones((BATCH, 2)), epochs=3, verbose=0).history["loss"]
    assert np.isfinite(history).all() and len(set(history)) == 3
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert np.any(old != numpy_of(new)), new.path


def test_both_directions_have_values_of_their_own():
    layer = L.Bidirectional(keras_slots.SlotLSTM(UNITS, seed=3))
    layer(X)
    one, other = (numpy_of(x.cell.kernel_slots.bank) for x in (layer.forward_layer, layer.backward_layer))
    assert one.shape == other.shape and np.mean(one == other) < 0.01


@every_kind
def test_dropout_is_that_of_keras_and_follows_the_seed(kind):
    for rates in ({"dropout": 0.5}, {"recurrent_dropout": 0.5}, {"dropout": 0.3, "recurrent_dropout": 0.3}):
        layer, again = (slot(kind, bias_initializer="zeros", **rates) for _ in range(2))
        plain = like_new(twin(layer), kind, rates)
        assert_close(layer(X), plain(X))
        assert_close(again(X), plain(X))
        y = numpy_of(layer(X, training=True))
        if keras.backend.backend() != "torch":  # whose dropout has no seed
            np.testing.assert_array_equal(y, numpy_of(again(X, training=True)))
            like_new(plain, kind, rates)(X)  # Keras draws masks in inference too
            assert_close(plain(X, training=True), y)
        assert not np.array_equal(y, numpy_of(layer(X)))
        assert not np.array_equal(y, numpy_of(layer(X, training=True)))


def like_new(plain, kind, rates):
    """The Keras layer with the dropout of a slot layer that was never called."""
    plain.cell.seed_generator.state.assign(numpy_of(slot(kind, **rates).cell.seed_generator.state))
    return plain


@every_kind
def test_a_stateful_layer_goes_on_where_it_stopped(kind):
    inputs = keras.Input(batch_shape=X.shape)
    layer = getattr(keras_slots, f"Slot{kind}")(UNITS, stateful=True, return_sequences=True, seed=3)
    model = keras.Model(inputs, layer(inputs))
    whole = numpy_of(slot(kind, return_sequences=True, bias_initializer="zeros")(np.concatenate([X, X], axis=1)))
    layer.reset_state()
    for half in (whole[:, :TIME], whole[:, TIME:]):
        assert_close(model(X), half)
    layer.reset_state()
    assert_close(model(X), whole[:, :TIME])


@pytest.mark.tensorflow
def test_use_cudnn_is_refused_where_keras_refuses_it():
    for cls in (keras_slots.SlotLSTM, L.LSTM, keras_slots.SlotGRU, L.GRU):
        with pytest.raises(ValueError, match="cuDNN is not supported"):  # there is no GPU
            cls(UNITS, use_cudnn=True)(X)


def test_an_error_in_a_call_leaves_no_selection_behind():
    layer = slot("LSTM")
    with pytest.raises(Exception):  # noqa: B017, PT011 (of the backend)
        layer(X, initial_state=[np.ones((BATCH, UNITS + 1), "float32")] * 2)
    assert layer.cell._held is not None
    layer.cell.kernel_slots.scores.assign(-layer.cell.kernel_slots.scores.value)
    assert_close(layer(X), twin(layer)(X))


POLICIES = [
    (kind, policy)
    for kind in KINDS
    for policy in ("mixed_bfloat16", "float64")
    if kind != "SimpleRNN" or keras_can("simple_rnn", policy)
]


@pytest.mark.parametrize(("kind", "policy"), POLICIES)
def test_policies(kind, policy, request):
    if policy == "float64":
        request.getfixturevalue("x64")
    layer = slot(kind, dtype=policy)
    x = X.astype("float64") if policy == "float64" else X
    assert keras.backend.standardize_dtype(layer(x).dtype) == layer.compute_dtype
    y, expected = (numpy_of(ops.cast(each(x), "float32")) for each in (layer, twin(layer)))
    np.testing.assert_allclose(y, expected, rtol=0.05 if policy != "float64" else 1e-6, atol=0.02)


# Models.


def stacked(kind):
    layer, cell = getattr(L, kind), getattr(L, f"{kind}Cell")
    return keras.Sequential(
        [
            keras.Input(X.shape[1:]),
            L.Masking(),
            L.Bidirectional(layer(4, return_sequences=True, name="both"), merge_mode="ave"),
            L.RNN([cell(3, name="lower"), cell(5, name="upper")], return_sequences=True),
            L.RNN(cell(3, name="alone"), return_sequences=True, go_backwards=True),
            L.TimeDistributed(L.Dense(2, name="dense")),
            layer(2, name="last"),
        ]
    )


@pytest.mark.quick("SimpleRNN")
@every_kind
def test_slotify_and_materialize_reach_the_cells(kind, tmp_path):
    plain = stacked(kind)
    model = slotify(plain, seed=2, score_mode="nearest")
    kernels = keras_slots.summary_dict(model)["kernels"]
    assert len(kernels) == 2 * 2 + 2 * 2 + 2 + 1 + 2
    x = X.copy()
    x[1, 3:] = 0
    assert_close(model(x), give_kernels(model, plain)(x))
    back = materialize(model)
    # PyTorch rounds by the order in memory, and Keras keeps orthogonal kernels transposed there.
    same = assert_close if keras.backend.backend() == "torch" else assert_same
    same(back(x), model(x))
    assert not any(isinstance(layer, keras_slots.SlotLayer) for layer in back._flatten_layers())
    same(load_slots(save_slots(model, tmp_path / "m.slots"))(x), back(x))
    model.save(tmp_path / "m.keras")
    assert_same(keras.models.load_model(tmp_path / "m.keras")(x), model(x))
    other = slotify(plain, seed=5, score_mode="nearest")
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    assert_same(other(x), model(x))
    model.compile("sgd", "mse")
    logs = model.fit(x, np.ones((BATCH, 2)), verbose=0, callbacks=[keras_slots.SelectionMonitor()]).history
    assert {f"slots/{kernel['name']}/changed" for kernel in kernels} <= set(logs)


def test_slotify_gives_both_directions_their_weights():
    plain = keras.Sequential([keras.Input(X.shape[1:]), L.Bidirectional(L.GRU(3, use_bias=True))])
    biases = [v for v in plain.weights if v.name == "bias"]
    for i, bias in enumerate(biases):
        bias.assign(np.full(bias.shape, i + 1.0))
    model = slotify(plain, seed=1)
    assert [float(numpy_of(v).mean()) for v in model.weights if v.name == "bias"] == [1.0, 2.0]
    assert all(type(x) in SLOT_CLASSES.values() for x in model.layers[0]._flatten_layers(False, False))


def test_an_unseeded_layer_is_loaded_with_its_values(tmp_path):
    model = keras.Sequential([keras.Input(X.shape[1:]), keras_slots.SlotLSTM(3, score_mode="nearest")])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert_same(loaded(X), model(X))
    for one, other in zip(*(x.layers[0].slot_kernels.values() for x in (model, loaded)), strict=True):
        assert one.seed == other.seed


# The size of recurrent values.


@every_kind
def test_recurrent_values_have_the_size_of_orthogonal_weights(kind):
    layer = getattr(keras_slots, f"Slot{kind}")(40, seed=1)
    layer.build(X.shape)
    bank = numpy_of(layer.cell.recurrent_kernel_slots.bank)
    plain = keras.initializers.Orthogonal(seed=1)(bank.shape[:-1])
    np.testing.assert_allclose(bank.std(), numpy_of(plain).std(), rtol=0.03)
    assert layer.cell.recurrent_kernel_slots.initial.rebuildable


def test_levers_start_at_an_orthogonal_kernel():
    cell = slot("SimpleRNN", score_mode="nearest").cell
    lever = numpy_of(cell.recurrent_kernel_slots.lever)
    np.testing.assert_allclose(lever @ lever.T, np.eye(UNITS), atol=1e-5)
    assert isinstance(cell.kernel_slots.rule, Greedy)
