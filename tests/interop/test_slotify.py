"""`slotify` on every layer that holds kernels, and what it says of those that stay plain."""

import keras
import numpy as np
import pytest

from comparisons import assert_close, assert_same, numpy_of
from keras_slots import SlotDense, StratifiedUniform, ValueBank, load_slots, materialize, save_slots, slotify
from keras_slots.layers.naming import named_weights
from layer_table import LAYER_AND_MODE, LAYERS, MODES, SLOT_CLASSES, L, layer_input, model_of, plain_layer
from plain_models import give_kernels, random_input, slot_layers, without_seeds

modes = pytest.mark.parametrize("mode", MODES)


# Every layer that holds kernels.


@pytest.mark.quick(
    "conv1d-per_connection", "depthwise2d-per_value", "separable2d-per_value", "grouped_attention-per_connection"
)
@pytest.mark.parametrize(("name", "mode"), LAYER_AND_MODE)
def test_slotify_replaces_every_layer_that_holds_kernels(name, mode):
    plain = model_of(plain_layer(name, name="layer"), LAYERS[name][-1])
    slot = slotify(plain, num_values=3, seed=1, score_mode=mode)
    assert type(slot.get_layer("layer")) is SLOT_CLASSES[type(plain.get_layer("layer"))]
    x = layer_input(name)
    assert_close(slot(x), give_kernels(slot, plain)(x))
    back = materialize(slot)
    assert without_seeds(back.get_config()) == without_seeds(plain.get_config())
    assert not slot_layers(back)
    assert_same(back(x), slot(x))


@pytest.mark.parametrize("name", ["separable2d", "depthwise1d", "conv1d_transpose", "attention"])
def test_slotify_replaces_layers_in_nested_models(name):
    shape = LAYERS[name][-1]
    inner = model_of(plain_layer(name, name="layer"), shape)
    inputs = keras.Input(shape[1:], name="outer")
    plain = keras.Model(inputs, L.Dense(2, name="head")(inner(inputs)))
    slot = slotify(plain, seed=1)
    assert len([x for x in slot_layers(slot) if x.name in ("layer", "head")]) == 2
    x = layer_input(name)
    assert_close(slot(x), give_kernels(slot, plain)(x))
    assert_same(materialize(slot)(x), slot(x))


@pytest.mark.parametrize("name", ["separable2d", "depthwise1d", "conv1d_transpose"])
def test_slotify_replaces_layers_in_time_distributed(name):
    shape = (3, *LAYERS[name][-1][1:])
    inputs = keras.Input(shape, name="x")
    plain = keras.Model(inputs, L.TimeDistributed(plain_layer(name, name="layer"))(inputs))
    slot = slotify(plain, seed=1)
    assert [x.name for x in slot_layers(slot)] == ["layer"]
    x = random_input(plain)
    assert_close(slot(x), give_kernels(slot, plain)(x))
    assert_same(materialize(slot)(x), slot(x))


# What stays plain.


@keras.saving.register_keras_serializable(package="tests")
class OwnLSTM(L.LSTM):
    """A layer that could compute anything else."""


STAY_PLAIN = {
    "OwnLSTM": lambda: OwnLSTM(8, name="memory"),
    "ConvLSTM1D": lambda: keras.Sequential([L.Reshape((5, 4, 1)), L.ConvLSTM1D(8, 2, name="memory"), L.Flatten()]),
    "Bidirectional": lambda: L.Bidirectional(OwnLSTM(8, name="memory")),
}


def model_with(layer):
    inputs = keras.Input((5, 4))
    return keras.Model(inputs, L.Dense(1, name="last")(layer(inputs)))


@pytest.mark.parametrize("kind", STAY_PLAIN)
def test_slotify_warns_of_layers_that_stay_plain(kind):
    with pytest.warns(UserWarning, match="memory") as caught:
        slotify(model_with(STAY_PLAIN[kind]()))
    (text,) = [str(x.message) for x in caught if x.category is UserWarning]
    assert kind.replace("Bidirectional", "OwnLSTM") in text and "filters" in text


def test_slotify_warns_with_the_share_of_the_weights_that_stay_plain():
    # 4 * (4 * 8 + 8 * 8 + 8) = 416 weights in the LSTM, 9 in the last layer: 98 % stay plain.
    with pytest.warns(UserWarning, match=r"9(8|7\.9)\d* ?%"):
        slotify(model_with(OwnLSTM(8, name="memory")))


@pytest.mark.parametrize("kind", STAY_PLAIN)
@pytest.mark.parametrize(
    "filters", [["last"], "last", lambda layer: "memory" not in layer.name], ids=["list", "name", "rule"]
)
def test_slotify_is_silent_about_layers_that_filters_leaves_out(kind, filters):
    # Every warning is an error in these tests.
    slot = slotify(model_with(STAY_PLAIN[kind]()), filters=filters)
    assert [x.name for x in slot_layers(slot)] == ["last"]


def test_slotify_is_silent_about_layers_without_kernels():
    layers = [L.BatchNormalization(), L.LayerNormalization(), L.PReLU(), L.Dropout(0.5)]
    slotify(keras.Sequential([keras.Input((4,)), L.Dense(3), *layers, L.Dense(2)]))


# What is there already.


@pytest.mark.filterwarnings("ignore:The kernels of model")
@pytest.mark.quick
@modes
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_slotify_keeps_a_slot_layer_with_its_training(mode, selection):
    arguments = {"num_values": 5, "score_mode": mode, "selection": selection, "seed": 3}
    old = SlotDense(4, name="old", **arguments)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Dense(2, name="new")(old(inputs)))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(random_input(model, 8), np.ones((8, 2)), verbose=0)
    slot = slotify(model, num_values=9, score_mode="per_value", seed=7)
    kept, new = slot.get_layer("old"), slot.get_layer("new")
    assert kept is not old and kept.get_config() == old.get_config()
    assert type(new) is SlotDense and new.num_values == 9
    for part in ("kernel", "bank", "scores", "bias"):
        np.testing.assert_array_equal(numpy_of(getattr(kept, part)), numpy_of(getattr(old, part)))
    # The same draws come next, too.
    x = random_input(model)
    assert_same(kept(x, training=True), old(x, training=True))


def test_slotify_and_materialize_keep_the_name_of_the_input():
    plain = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    functional = model_with(L.Flatten())
    for model in (plain, functional):
        slot = slotify(model)
        names = [[x.name for x in m._flatten_layers()] for m in (model, materialize(slot))]
        assert names[0] == names[1]
        assert [x.name for x in slot.layers] == [x.name for x in model.layers]


def _nested_and_compiled(cls):
    inner = keras.Sequential([keras.Input((4,)), cls(3), L.BatchNormalization()])
    inner.compile("sgd", "mse")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, cls(2)(inner(inputs)))
    # A loss that Keras cannot serialize.
    model.compile("sgd", loss=lambda y, p: keras.ops.mean(p))
    return model


@pytest.mark.parametrize(("transform", "cls"), [(slotify, L.Dense), (materialize, SlotDense)])
def test_transforms_never_touch_the_given_model(transform, cls, monkeypatch):
    model = _nested_and_compiled(cls)
    own = {id(x) for x in model._flatten_layers()}
    touched = []
    original = L.Layer.__setattr__

    def recorded(self, name, value):
        # TensorFlow switches its own bookkeeping off and on whenever a layer is put into a list.
        if id(self) in own and name != "_self_setattr_tracking":
            touched.append((self.name, name))
        original(self, name, value)

    monkeypatch.setattr(L.Layer, "__setattr__", recorded)
    new = transform(model)
    assert touched == []
    assert model.compiled and not new.compiled


# Start from the weights of the model.


def trained_weights(model, seed=0):
    """The model with other weights in each layer, biases included."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape, scale=0.2).astype(w.dtype) for w in model.get_weights()])
    return model


@pytest.mark.quick("conv1d", "separable2d", "attention", "einsum")
@pytest.mark.parametrize("name", LAYERS)
def test_slotify_start_weights_selects_the_values_nearest_to_the_weights(name):
    plain = trained_weights(model_of(plain_layer(name, name="layer"), LAYERS[name][-1]))
    slot = slotify(plain, num_values=5, start="weights", seed=1)
    layer = slot.get_layer("layer")
    assert layer.score_mode == "nearest"
    selected = named_weights(materialize(slot).get_layer("layer"))
    for weight_name, weight in named_weights(plain.get_layer("layer")).items():
        weight, got = numpy_of(weight), numpy_of(selected[weight_name])
        kernel = layer.weight_sources()[weight_name]
        if isinstance(kernel, keras.Variable):
            assert_same(got, weight)
            continue
        bank = numpy_of(kernel.bank).astype("float64")
        distances = np.abs(bank - weight[..., None].astype("float64"))
        nearest = np.take_along_axis(bank, distances.argmin(-1)[..., None], -1)[..., 0]
        assert np.abs(got - nearest).max() < 1e-6


def test_slotify_start_weights_predicts_what_the_model_predicts():
    layers = [L.Conv2D(4, 3, activation="relu"), L.BatchNormalization(), L.Flatten(), L.Dense(7), L.Dense(2)]
    plain = trained_weights(keras.Sequential([keras.Input((6, 6, 2)), *layers]))
    plain.layers[1].moving_variance.assign(np.ones(4))
    x = random_input(plain)
    errors = {}
    for k in (4, 64, 4096):
        slot = slotify(plain, num_values=k, start="weights", seed=1)
        errors[k] = np.abs(numpy_of(slot(x)) - numpy_of(plain(x))).max()
    assert errors[4096] < errors[64] / 16
    assert errors[64] < errors[4]
    assert errors[4096] < 2e-3


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "float64"])
def test_slotify_start_weights_in_other_dtypes(dtype, x64):
    plain = trained_weights(keras.Sequential([keras.Input((9,)), L.Dense(5, dtype=dtype, use_bias=False)]))
    slot = slotify(plain, num_values=1024, start="weights", seed=1)
    got, weight = (numpy_of(x.layers[0].kernel).astype("float64") for x in (slot, plain))
    assert np.abs(got - weight).max() < 5e-3


@pytest.mark.parametrize(
    "arguments",
    [{"sharing": "layer"}, {"sharing": ValueBank(4, bound=0.5)}, {"bank_initializer": StratifiedUniform(3)}],
    ids=["layer", "value_bank", "bank_initializer"],
)
def test_slotify_start_weights_takes_other_banks(arguments):
    plain = trained_weights(keras.Sequential([keras.Input((20,)), L.Dense(30)]))
    slot = slotify(plain, num_values=4, start="weights", seed=1, **arguments)
    bank, weight = numpy_of(slot.layers[0].bank), numpy_of(plain.layers[0].kernel)
    nearest = np.take_along_axis(
        np.broadcast_to(bank, (20, 30, 4)), np.abs(bank - weight[..., None]).argmin(-1)[..., None], -1
    )
    assert np.abs(numpy_of(slot.layers[0].kernel) - nearest[..., 0]).max() < 1e-6


def test_slotify_start_weights_makes_the_bank_as_wide_as_suits_the_weights():
    plain = keras.Sequential([keras.Input((100,)), L.Dense(100, use_bias=False)])
    for spread in (0.01, 10.0):
        weights = np.random.default_rng(0).uniform(-spread, spread, (100, 100))
        plain.layers[0].set_weights([weights])
        slot = slotify(plain, num_values=256, start="weights", seed=1)
        assert 0.85 * spread < np.abs(numpy_of(slot.layers[0].bank)).max() < 1.02 * spread


def test_slotify_start_weights_survives_files(tmp_path):
    slot = slotify(trained_weights(keras.Sequential([keras.Input((9,)), L.Dense(5)])), start="weights", seed=1)
    slot.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert_same(again.layers[0].kernel, slot.layers[0].kernel)
    assert_same(again.layers[0].lever, slot.layers[0].lever)
    x = random_input(slot)
    assert_same(load_slots(save_slots(slot, tmp_path / "m.slots"))(x), slot(x))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"start": "trained"}, '`start` must be "initializer" or "weights"'),
        ({"start": "weights", "score_mode": "per_value"}, '`score_mode` must be "nearest"'),
        ({"start": "weights", "move_regularizer": "l2"}, "`move_regularizer` must be None"),
    ],
)
def test_slotify_refuses_arguments_that_do_not_go_with_its_start(arguments, error):
    with pytest.raises(ValueError, match=error):
        slotify(keras.Sequential([keras.Input((4,)), L.Dense(2)]), **arguments)


def test_slotify_start_weights_refuses_a_model_without_weights():
    with pytest.raises(ValueError, match="must be built"):
        slotify(keras.Sequential([L.Dense(2)]), start="weights")


def test_slotify_warns_of_trained_kernels_that_it_leaves_behind():
    plain = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    slotify(plain)
    trained = trained_weights(keras.models.clone_model(plain))
    with pytest.warns(UserWarning, match=r"the biases of \['dense.*\] are not zero"):
        slotify(trained)
    slotify(trained, start="weights")
    plain.compile("sgd", "mse")
    plain.fit(np.zeros((2, 4)), np.zeros((2, 2)), verbose=0)
    with pytest.warns(UserWarning, match="its optimizer has made 1 steps"):
        slotify(plain)


def test_slotify_start_weights_refuses_weights_that_are_not_finite():
    plain = keras.Sequential([keras.Input((4,)), L.Dense(3, name="sick")])
    weights = plain.get_weights()
    weights[0][1, 2] = np.nan
    plain.set_weights(weights)
    for arguments in ({}, {"bank_initializer": StratifiedUniform(2.0)}):
        with pytest.raises(ValueError, match="weights of layer 'sick' must be finite"):
            slotify(plain, start="weights", seed=1, **arguments)


def test_slotify_start_weights_warns_of_a_kernel_of_zeros():
    plain = keras.Sequential([keras.Input((4,)), L.Dense(3, kernel_initializer="zeros", name="idle")])
    with pytest.warns(UserWarning, match="All weights of layer 'idle' are zero"):
        slot = slotify(plain, start="weights", seed=1)
    assert np.any(numpy_of(slot.get_layer("idle").kernel))
