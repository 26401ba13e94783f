"""score_mode="nearest" through the layers: the value nearest to a weight that is trained as usual."""

import keras
import numpy as np
import pytest

from backends import BACKEND
from comparisons import numpy_of
from keras_slots import NearestScores, SlotConv2D, SlotDense, StratifiedUniform, ValueBank, materialize
from keras_slots.kernels.nearest import NearestKernel
from layer_table import ONE_INPUT, built_layer
from test_lever import OPTIMIZERS, data, network, slots, train

#: One algorithm in two forms: K scores that start as nearest ones, and a lever.
SCORES = {"score_mode": "per_value", "score_initializer": "nearest"}
SCORES |= {"bank_initializer": "stratified_uniform"}
STAIRCASE = {"score_mode": "per_connection", "score_initializer": "nearest"}
NEAREST = {"score_mode": "nearest", "bank_initializer": "stratified_uniform"}


def nearest_of(bank, weights):
    """NumPy reference: the value nearest to each weight, ties to the lowest index."""
    index = np.abs(np.asarray(bank, "float64") - weights[..., None]).argmin(-1)
    return np.take_along_axis(np.asarray(bank), index[..., None], -1)[..., 0], index


#: The scores of one form and the lever of the other, by where their values come from.
FORMS = {
    "strata": (SCORES, NEAREST),
    "layer": ({**SCORES, "sharing": "layer"}, {**NEAREST, "sharing": "layer"}),
    "any bank": ({"score_initializer": "nearest"}, STAIRCASE),
}
INTEGERS = {"bank_initializer": StratifiedUniform(1.5, bits=8)}
FORMS["integers"] = {**SCORES, **INTEGERS}, {**NEAREST, **INTEGERS}
VALUE_BANK = ValueBank(8, bound=0.5, seed=2)
FORMS["value bank"] = tuple(
    {**form, "sharing": VALUE_BANK} for form in ({"score_initializer": "nearest"}, {"score_mode": "nearest"})
)


@pytest.mark.quick("strata-momentum-8", "value bank-momentum-8")
@pytest.mark.parametrize(
    ("form", "optimizer", "num_values"),
    [
        *(("strata", name, k) for name in OPTIMIZERS for k in (2, 8, 64)),
        *((form, "momentum", 8) for form in FORMS if form != "strata"),
        *((form, "sgd", 64) for form in ("layer", "any bank")),
    ],
)
def test_nearest_scores_and_levers_select_the_same_value_at_every_connection_in_float64(
    form, optimizer, num_values, x64
):
    models = [network(None, num_values, "float64", **arguments) for arguments in FORMS[form]]
    starts = [numpy_of(layer.kernel) for layer in slots(models[0])]
    for model in models:
        train(model, OPTIMIZERS[optimizer](), 208, "float64")
    changed = 0
    for scores, lever, start in zip(*map(slots, models), starts, strict=True):
        np.testing.assert_array_equal(numpy_of(scores.kernel), numpy_of(lever.kernel))
        np.testing.assert_array_equal(numpy_of(scores.selected_indices), numpy_of(lever.selected_indices))
        np.testing.assert_allclose(numpy_of(scores.scores), numpy_of(lever.scores), rtol=1e-8, atol=1e-12)
        changed += (start != numpy_of(lever.kernel)).sum()
    assert changed > 20


@pytest.mark.parametrize(
    "mode", [{"run_eagerly": True}, *({"jit_compile": x} for x in BACKEND.jit_compile)], ids=str
)
@pytest.mark.parametrize("arguments", [SCORES, STAIRCASE, NEAREST], ids=["per_value", "per_connection", "nearest"])
def test_kernel_of_values_in_8_bits_stays_int8_times_one_number_in_training(arguments, mode):
    model = network(None, 3, **(arguments | INTEGERS))
    starts = [numpy_of(layer.kernel) for layer in slots(model)]
    x, y = data()
    model.compile(OPTIMIZERS["momentum"](), keras.losses.SparseCategoricalCrossentropy(from_logits=True), **mode)
    model.fit(x, y, epochs=6, batch_size=8, verbose=0)
    predicted, plain = numpy_of(model(x)), materialize(model)
    for layer, start in zip(slots(model), starts, strict=True):
        kernel, fans = numpy_of(layer.kernel), layer.slot_kernel.initial.fans
        assert (kernel != start).any()
        unit = np.float32(1.5 * np.sqrt(6 / sum(fans))) / np.float32(96)
        q = np.rint(kernel / unit)
        assert np.abs(q).max() <= 95 and (q % 2 == 1).all()
        np.testing.assert_array_equal(q.astype("int8") * np.float32(unit), kernel)
    np.testing.assert_array_equal(numpy_of(plain(x)), predicted)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_nearest_kernel_is_the_value_nearest_to_the_weight_of_the_plain_layer(optimizer):
    # One step: gradients of slot and plain network agree only while their kernels do.
    layer = SlotDense(6, num_values=32, use_bias=False, seed=1, **NEAREST)
    model = keras.Sequential([keras.Input((9,)), layer])
    start, plain = numpy_of(layer.lever).copy(), materialize(model)
    x = np.random.default_rng(0).normal(size=(16, 9)).astype("float32")
    y = np.random.default_rng(1).normal(size=(16, 6)).astype("float32")
    before = numpy_of(plain.layers[0].kernel).copy()
    for net in (model, plain):
        net.compile(OPTIMIZERS[optimizer](), "mse")
        net.train_on_batch(x, y)
    weights = start + numpy_of(plain.layers[0].kernel) - before
    np.testing.assert_allclose(numpy_of(layer.lever), weights, rtol=1e-5, atol=1e-6)
    kernel, index = nearest_of(numpy_of(layer.bank), numpy_of(layer.lever))
    np.testing.assert_array_equal(numpy_of(layer.kernel), kernel)
    np.testing.assert_array_equal(numpy_of(layer.selected_indices), index)


@pytest.mark.quick("dense", "conv2d_groups", "separable2d_tanh")
@pytest.mark.parametrize("name", ONE_INPUT)
def test_nearest_scores_serve_every_layer_in_both_score_modes_alike(name):
    layers = [built_layer(name, num_values=5, **form)[0] for form in (SCORES, NEAREST)]
    for scores, lever in zip(*(layer.slot_kernels.values() for layer in layers), strict=True):
        assert isinstance(lever, NearestKernel)
        bank = numpy_of(scores.bank)
        np.testing.assert_array_equal(numpy_of(lever.bank), bank)
        assert (np.diff(bank) > 0).all()
        kernel, index = nearest_of(bank, numpy_of(lever.lever))
        for one in (scores, lever):
            np.testing.assert_array_equal(numpy_of(one.select()), kernel)
            np.testing.assert_array_equal(numpy_of(one.selected_indices), index)


def test_nearest_levers_start_where_the_kernel_initializer_says():
    wide, narrow = (
        SlotDense(
            40,
            num_values=4096,
            score_mode="nearest",
            seed=1,
            kernel_initializer=start,
            bank_initializer="stratified_uniform",
        )
        for start in ("glorot_uniform", keras.initializers.RandomNormal(stddev=1e-4))
    )
    for layer in (wide, narrow):
        layer.build((None, 50))
    bound = np.sqrt(6 / 90)
    assert 0.97 * bound < np.abs(numpy_of(wide.kernel)).max() <= bound
    assert np.abs(numpy_of(narrow.lever)).max() < 1e-3


def test_nearest_scores_refuse_a_start_of_another_shape_naming_the_layer():
    def start(shape, dtype=None):
        return np.zeros((2, 2), "float32")

    layer = SlotDense(3, name="hidden", score_initializer=NearestScores(start))
    with pytest.raises(ValueError, match=r"(?s)'hidden'.*start.*shape \(4, 3\)"):
        layer.build((None, 4))


@pytest.mark.parametrize("num_values", [1, 2, 7, 64])
def test_nearest_lever_reaches_all_values_and_beyond_them_the_ends(num_values):
    layer = SlotDense(3, num_values=num_values, seed=2, **NEAREST)
    layer.build((None, 4))
    bank = numpy_of(layer.bank)
    for k in range(num_values):
        layer.lever.assign(bank[..., k])
        np.testing.assert_array_equal(numpy_of(layer.kernel), bank[..., k])
    for lever, end in ((1e30, -1), (-1e30, 0), (np.inf, -1), (-np.inf, 0), (np.nan, 0)):
        layer.lever.assign(np.full((4, 3), lever))
        np.testing.assert_array_equal(numpy_of(layer.kernel), bank[..., end])


def test_nearest_lever_that_is_nan_is_not_materialized():
    layer = SlotDense(3, name="sick", seed=2, **NEAREST)
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.lever.assign(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="The lever of layer 'sick' holds NaN"):
        materialize(model)


@pytest.mark.parametrize("how", ["weights file", "model file", "set_weights"])
def test_nearest_lever_model_takes_the_weights_of_another_seed(tmp_path, how):
    def build(seed):
        layer = SlotConv2D(5, 3, seed=seed, **NEAREST)
        return keras.Sequential([keras.Input((6, 6, 2)), layer])

    model, other = build(1), build(2)
    model.layers[0].lever.assign(np.random.default_rng(0).normal(size=(3, 3, 2, 5)) * 0.3)
    if how == "weights file":
        model.save_weights(tmp_path / "w.weights.h5")
        other.load_weights(tmp_path / "w.weights.h5")
        assert (tmp_path / "w.weights.h5").stat().st_size < 40_000
    elif how == "model file":
        model.save(tmp_path / "m.keras")
        other = keras.models.load_model(tmp_path / "m.keras")
    else:
        other.set_weights(model.get_weights())
    for name in ("bank", "scores", "kernel", "selected_indices"):
        np.testing.assert_array_equal(
            numpy_of(getattr(other.layers[0], name)), numpy_of(getattr(model.layers[0], name))
        )


def test_nearest_kernel_holds_a_lever_and_a_seed_at_any_number_of_values():
    layer = SlotDense(10, num_values=65_536, use_bias=False, **NEAREST)
    layer.build((None, 20))
    assert sorted(tuple(v.shape) for v in layer.weights) == [(20,), (20, 10)]
    # Two neighbours are at most two of the equal parts apart.
    part = 2 * np.sqrt(6 / 30) / 65_536
    assert np.abs(numpy_of(layer.kernel) - numpy_of(layer.lever)).max() <= part


@pytest.mark.parametrize("sharing", ["layer", ValueBank(8, bound=0.3, seed=1)])
@pytest.mark.parametrize("form", [{"score_initializer": "nearest"}, STAIRCASE, {"score_mode": "nearest"}])
def test_nearest_scores_over_shared_values_select_the_nearest_of_them(form, sharing):
    layer = SlotDense(6, num_values=8, sharing=sharing, seed=3, **form)
    layer.build((None, 5))
    twin = SlotDense(6, seed=3, **NEAREST)
    twin.build((None, 5))  # the start is the same: it is a stream of its own
    kernel, _ = nearest_of(np.broadcast_to(numpy_of(layer.bank), (5, 6, 8)), numpy_of(twin.lever))
    np.testing.assert_array_equal(numpy_of(layer.kernel), kernel)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_nearest_scores_under_half_precision_predict_as_the_materialized_network(policy):
    layer = SlotDense(6, num_values=16, dtype=policy, seed=3, **NEAREST)
    model = keras.Sequential([keras.Input((5,)), layer])
    assert layer.lever.dtype == "float32"
    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    np.testing.assert_array_equal(
        numpy_of(keras.ops.cast(model(x), "float32")), numpy_of(keras.ops.cast(materialize(model)(x), "float32"))
    )


@pytest.mark.slow
def test_nearest_scores_train_to_the_accuracy_of_a_plain_network():
    x, y = data(count=256)

    def accuracy(model):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
        model.fit(x, y, epochs=30, batch_size=32, verbose=0)
        return model.evaluate(x, y, verbose=0)[1]

    slot = network(None, 64, **NEAREST)
    plain = materialize(slot)
    assert accuracy(slot) > accuracy(plain) - 0.02


@pytest.mark.quick("shape0", "shape3")
@pytest.mark.parametrize("shape", [(3, 3, 4, 3), (2, 2, 2, 2), (3, 3, 3, 3), (4, 2, 3, 5, 2), (6, 6)])
def test_nearest_kernel_selects_from_its_bank_whatever_sizes_coincide(shape):
    # `keras.ops.add` takes a vector for a channels-first bias where its size is that of axis 1.
    layer = SlotDense(1, num_values=5, seed=1, **NEAREST)
    layer.build((None, 2))
    kernel = layer.add_slot_kernel(shape, name="other")
    expected, index = nearest_of(numpy_of(kernel.bank), numpy_of(kernel.lever))
    np.testing.assert_array_equal(numpy_of(kernel.select()), expected)
    np.testing.assert_array_equal(numpy_of(kernel.selected_indices), index)
