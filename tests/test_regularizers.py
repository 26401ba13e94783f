"""`move_regularizer`: what it adds to the loss and to the gradient, and that it goes wherever a layer goes."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_slots
from comparisons import numpy_of
from keras_slots import SlotDense, materialize, slotify, summary, summary_dict
from keras_slots.kernels.regularizers import get_move_regularizer, regularizer_text
from layer_table import LAYERS, ONE_INPUT, built_layer, slot_layer
from small_models import compiled_model, small_data, small_model

L1, L2 = keras.regularizers.L1, keras.regularizers.L2
STRATA = {"score_mode": "nearest", "bank_initializer": "stratified_uniform"}
#: Kernels of each kind that has a lever.
LEVERS = {
    "paper": {},
    "kept": {"score_initializer": keras.initializers.RandomUniform(0, 0.1, seed=1)},
    "probabilistic": {"selection": "probabilistic"},
    "one_set": {"sharing": "layer"},
    "nearest_of_a_bank": {"score_initializer": "nearest"},
    "nearest_in_strata": STRATA,
}
every_lever = pytest.mark.parametrize("kind", LEVERS)
some_levers = pytest.mark.parametrize("kind", ["paper", "nearest_of_a_bank", "nearest_in_strata"])


def lever_layer(kind="paper", regularizer=None, **arguments):
    """A layer of 5 inputs whose levers moved, some of them not at all; where they started, and their moves."""
    slots = {"score_mode": "per_connection", "num_values": 4, "seed": 3, "use_bias": False}
    arguments = {**slots, **LEVERS[kind], "move_regularizer": regularizer, **arguments}
    layer = SlotDense(4, **arguments)
    layer.build((None, 5))
    start = numpy_of(layer.lever).copy()
    moves = np.random.default_rng(0).normal(size=(5, 4)).astype(start.dtype)
    moves[:, 0] = 0.0
    layer.lever.assign(start + moves)
    return layer, start, numpy_of(layer.lever) - start


def losses_alone(layer, **arguments):
    """A model whose loss is that of the regularizers, so that a step of SGD shows their gradient."""
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile(keras.optimizers.SGD(1.0, **arguments), lambda y, prediction: 0.0 * ops.sum(prediction))
    return model


def step(model):
    x = np.ones((2, 5), "float32")
    model.fit(x, x[:, :4], verbose=0)


@every_lever
def test_move_regularizer_l1_adds_c_times_the_moves_and_pulls_by_c_times_their_sign(kind):
    layer, start, moves = lever_layer(kind, L1(0.25))
    (loss,) = layer.losses
    assert float(numpy_of(loss)) == pytest.approx(0.25 * np.abs(moves).sum(), rel=1e-6)
    step(losses_alone(layer))
    np.testing.assert_allclose(numpy_of(layer.lever), start + moves - 0.25 * np.sign(moves), rtol=0, atol=1e-6)
    # A connection that has not moved is not pushed.
    np.testing.assert_array_equal(numpy_of(layer.lever)[:, 0], start[:, 0])


@some_levers
def test_move_regularizer_l2_pulls_by_2_c_times_the_move(kind):
    layer, start, moves = lever_layer(kind, L2(0.25))
    assert float(numpy_of(layer.losses[0])) == pytest.approx(0.25 * np.square(moves).sum(), rel=1e-6)
    step(losses_alone(layer))
    np.testing.assert_allclose(numpy_of(layer.lever), start + moves - 0.5 * moves, atol=1e-6)


@some_levers
def test_move_regularizer_leaves_a_fresh_layer_as_it_is(kind):
    layer, start, _ = lever_layer(kind, L1(0.25))
    layer.lever.assign(start)
    kernel = numpy_of(layer.kernel)
    assert float(numpy_of(layer.losses[0])) == 0.0
    step(losses_alone(layer, momentum=0.9))
    np.testing.assert_array_equal(numpy_of(layer.lever), start)
    np.testing.assert_array_equal(numpy_of(layer.kernel), kernel)


@some_levers
def test_move_regularizer_joins_the_regularizer_of_the_selected_values(kind):
    layer, _, moves = lever_layer(kind, L1(0.25), kernel_regularizer=L2(0.5))
    values, lever = numpy_of(layer.kernel), numpy_of(layer.lever)
    (loss,) = layer.losses
    expected = 0.25 * np.abs(moves).sum() + 0.5 * np.square(values).sum()
    assert float(numpy_of(loss)) == pytest.approx(expected, rel=1e-6)
    step(losses_alone(layer))
    expected = lever - 0.25 * np.sign(moves) - values
    np.testing.assert_allclose(numpy_of(layer.lever), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_move_regularizer_loses_nothing_in_half_precision(policy):
    for kind in ("paper", "nearest_of_a_bank", "nearest_in_strata"):
        layer, _, moves = lever_layer(kind, L1(1e-5), dtype=policy)
        lever = numpy_of(layer.lever)
        step(losses_alone(layer))
        moved = lever - numpy_of(layer.lever)
        assert lever.dtype == "float32"
        np.testing.assert_allclose(moved, 1e-5 * np.sign(moves), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["paper", "nearest_in_strata"])
def test_move_regularizer_adds_in_the_precision_of_the_layer(kind, x64):
    layer, _, moves = lever_layer(kind, L2(0.5), dtype="float64")
    (loss,) = layer.losses
    assert keras.backend.standardize_dtype(loss.dtype) == "float64"
    assert float(numpy_of(loss)) == pytest.approx(0.5 * np.square(moves).sum(), rel=1e-13)


def test_move_regularizer_of_none_adds_no_loss_and_no_variable():
    for kind in LEVERS:
        layer, _, _ = lever_layer(kind)
        other, _, _ = lever_layer(kind, L1(0.1))
        assert not layer.losses and len(other.losses) == 1
        names = [v.name for v in layer.variables]
        more = ["start"] if kind == "nearest_in_strata" else []
        assert [v.name for v in other.variables if v.name not in names] == more


def test_move_regularizer_costs_nearest_scores_one_number_a_connection():
    (row,) = summary_dict(built(lever_layer("nearest_in_strata")[0]))["kernels"]
    (more,) = summary_dict(built(lever_layer("nearest_in_strata", "l1")[0]))["kernels"]
    assert more["held_bytes"] - row["held_bytes"] == 4 * 20
    assert (row["move_regularizer"], more["move_regularizer"]) == (None, "L1(l1=0.01)")


def built(layer):
    return keras.Sequential([keras.Input((5,)), layer])


@pytest.mark.parametrize("name", ONE_INPUT)
def test_move_regularizer_acts_on_each_kernel_of_every_layer(name):
    layer, _ = built_layer(name, score_mode="per_connection", move_regularizer=L1(0.5))
    kernels = layer.slot_kernels.values()
    for kernel in kernels:
        kernel.lever.assign(np.full(kernel.lever.shape, 0.125))
    losses = [float(numpy_of(loss)) for loss in layer.losses]
    assert losses == pytest.approx([0.0625 * np.prod(kernel.lever.shape) for kernel in kernels])
    layer.trainable = False
    assert not layer.losses


def test_move_regularizer_acts_on_each_projection_of_attention(tmp_path):
    query = keras.Input((3, 4))
    slots = {"score_mode": "per_connection", "move_regularizer": L1(0.5), "seed": 1, **STRATA}
    layer = keras_slots.SlotMultiHeadAttention(2, 3, **slots)
    model = keras.Model(query, layer(query, query))
    kernels = layer.slot_kernels.values()
    for kernel in kernels:
        kernel.lever.assign(kernel.lever + 0.125)
    expected = [0.0625 * np.prod(kernel.lever.shape) for kernel in kernels]
    assert [float(numpy_of(loss)) for loss in model.losses] == pytest.approx(expected, rel=1e-5)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert [float(numpy_of(loss)) for loss in loaded.losses] == pytest.approx(expected, rel=1e-5)
    assert not materialize(loaded).losses


@pytest.mark.parametrize("name", LAYERS)
def test_move_regularizer_is_refused_for_k_scores_when_the_layer_is_made(name):
    with pytest.raises(
        ValueError,
        match=r'`move_regularizer` must be None for score_mode="per_value".*Received: '
        r'move_regularizer=L1\(l1=0.5\). Pass score_mode="per_connection"',
    ):
        slot_layer(name, move_regularizer=L1(0.5))
    layer = slot_layer(name, score_mode="per_connection", move_regularizer="l2")
    assert layer.get_config()["move_regularizer"]["class_name"] == "L2"


@pytest.mark.parametrize("bad", ["l3", 0.1, {"class_name": "L3", "config": {}}, ["l1"]])
def test_move_regularizer_must_be_a_regularizer(bad):
    with pytest.raises(ValueError, match=r"`move_regularizer` must be a Keras regularizer.*Pass"):
        SlotDense(3, score_mode="per_connection", move_regularizer=bad)


def test_get_move_regularizer_takes_what_keras_takes():
    function = get_move_regularizer(ops.sum, "per_connection", True)
    assert function is ops.sum and regularizer_text(function) == "sum"
    assert regularizer_text(get_move_regularizer(L2, "per_connection", True)) == "L2(l2=0.01)"
    assert get_move_regularizer(None, "per_value", False) is None


@pytest.mark.quick("nearest")
@pytest.mark.parametrize("arguments", [{}, STRATA], ids=["paper", "nearest"])
def test_move_regularizer_is_saved_and_the_training_goes_on_as_before(arguments, tmp_path):
    slots = {"score_mode": "per_connection", "move_regularizer": L1(1e-3), **arguments}
    model = compiled_model(small_model(**slots))
    x, y = small_data()
    model.fit(x, y, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert len(loaded.losses) == 2
    for one in (model, loaded):
        one.fit(x, y, epochs=1, shuffle=False, verbose=0)
    for ours, its in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(numpy_of(its), numpy_of(ours), err_msg=ours.path)
    assert [numpy_of(a) for a in loaded.losses] == [numpy_of(a) for a in model.losses]


@pytest.mark.parametrize("arguments", [{}, STRATA], ids=["paper", "nearest"])
def test_move_regularizer_of_a_clone_counts_from_the_start_of_its_original(arguments):
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    slots = {"score_mode": "per_connection", "move_regularizer": L1(0.5), **arguments}
    model = built(SlotDense(4, num_values=4, **slots))  # without a seed: a clone draws its own
    model.compile(keras.optimizers.SGD(0.3), "mse")
    model.fit(x, x[:, :4], epochs=3, verbose=0)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    kept = slotify(keras.Sequential([keras.Input((5,)), *model.layers, keras.layers.Dense(2)]), **slots)
    expected = float(numpy_of(model.losses[0]))
    assert float(numpy_of(clone.losses[0])) == float(numpy_of(kept.losses[0])) == expected > 0
    assert len(kept.losses) == 2 and float(numpy_of(kept.losses[1])) == 0.0


@pytest.mark.parametrize("penalties", [(None, "l1"), ("l1", None), ("l1", "l1")], ids=str)
@pytest.mark.parametrize("arguments", [{}, STRATA], ids=["paper", "nearest"])
def test_weights_files_hold_no_w0_and_fill_a_layer_with_or_without_a_move_regularizer(
    arguments, penalties, tmp_path
):
    def model(seed, penalty):
        slots = {"score_mode": "per_connection", "move_regularizer": penalty, **arguments}
        return built(SlotDense(4, num_values=4, seed=seed, **slots))

    saved, loaded = model(1, penalties[0]), model(2, penalties[1])
    lever = saved.layers[0].lever
    lever.assign(lever + 0.25)
    saved.save_weights(tmp_path / "w.weights.h5")
    assert "start" not in saved.layers[0].slot_kernel.saved_state()
    loaded.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(numpy_of(loaded.layers[0].kernel), numpy_of(saved.layers[0].kernel))
    if penalties[1]:
        assert float(numpy_of(loaded.losses[0])) == pytest.approx(0.01 * 0.25 * 20, rel=1e-5)


def test_move_regularizer_finds_a_start_of_a_keras_initializer_in_the_weights_file(tmp_path):
    start = keras.initializers.RandomNormal(0, 0.1)

    def model(seed):
        slots = {**STRATA, "kernel_initializer": start, "move_regularizer": L1(0.5), "seed": seed}
        return built(SlotDense(4, num_values=4, **slots))

    saved, loaded = model(1), model(2)
    saved.save_weights(tmp_path / "w.weights.h5")
    assert numpy_of(loaded.layers[0].lever)[0, 0] != numpy_of(saved.layers[0].lever)[0, 0]
    loaded.load_weights(tmp_path / "w.weights.h5")
    assert float(numpy_of(loaded.losses[0])) == 0.0


def test_slotify_gives_and_materialize_takes_the_move_regularizer():
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    slot = slotify(plain, 4, score_mode="per_connection", move_regularizer=L1(0.5), seed=1)
    assert len(slot.losses) == 2
    again = materialize(slot)
    assert not again.losses and "move_regularizer" not in again.layers[0].get_config()
    with pytest.raises(ValueError, match=r"Layer 'dense.*cannot become.*`move_regularizer` must"):
        slotify(plain, 4, move_regularizer=L1(0.5))


def test_summary_names_the_move_regularizer():
    lines = []
    model = small_model(score_mode="per_connection", move_regularizer=L1(1e-5))
    summary(model, lines.append)
    words = " ".join(lines[0].split())
    assert "moves" in words and "L1(l1=1e-05)" in words


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, STRATA], ids=["paper", "nearest"])
def test_move_regularizer_makes_the_slots_file_smaller(arguments, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 40)).astype("float32")
    y = (x @ rng.normal(size=(40, 5))).argmax(1)
    sizes = []
    for c in (0.0, 3e-4, 3e-3):
        keras.utils.set_random_seed(0)
        slots = {"num_values": 4, "score_mode": "per_connection", "move_regularizer": L1(c)}
        layers = [SlotDense(100, "relu", seed=1, **{**slots, **arguments}), keras.layers.Dense(5)]
        model = compiled_model(keras.Sequential([keras.Input((40,)), *layers]))
        model.fit(x, y, epochs=6, verbose=0)
        found = summary_dict(model, slots_file=True)["kernels"][0]
        sizes.append(found["slots_bytes"])
    assert sizes[0] > sizes[1] > 1.3 * sizes[2], sizes
