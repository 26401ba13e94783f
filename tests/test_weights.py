"""What people do with the weights of a model: average, soft-update, cast, clip, noise, save and load them."""

import itertools
import warnings

import keras
import numpy as np
import pytest

from backends import BACKEND
from comparisons import numpy_of
from keras_slots import SlotConv2D, SlotDense, ValueBank, load_slots, materialize, save_slots, slotify
from keras_slots.kernels.seed import decode_integer, decode_seed, encode_seed
from keras_slots.values.source import sources_with_role
from mode_table import SCORE_MODES, SEEDED_MODES

MODES = tuple(SCORE_MODES)


def network(mode, seed=1, **arguments):
    slot = {"score_mode": mode, **arguments}
    layers = [
        SlotConv2D(4, 3, activation="relu", seed=seed, name="conv", **slot),
        keras.layers.Flatten(),
        SlotDense(60, seed=seed and seed + 1, name="logits", num_values=16, **slot),
    ]
    return keras.Sequential([keras.Input((6, 6, 2)), *layers])


def moved(model, seed=0):
    """Moves what training moves."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(numpy_of(variable) + rng.normal(0, 0.1, variable.shape))
    return model


def images():
    return np.random.default_rng(5).normal(size=(7, 6, 6, 2)).astype("float32")


def kernels(model):
    return [numpy_of(x.kernel).copy() for x in model.layers if hasattr(x, "slot_kernels")]


def average(*weights):
    """As federated training has it."""
    return [sum(v / len(weights) for v in each) for each in zip(*weights, strict=True)]


def weighted(weights):
    counts = (3, 20_000, 7)
    return [sum(n * v for n in counts) / sum(counts) for v in weights]


def soft_updates(weights):
    target = [np.zeros_like(v) + v for v in weights]
    for _ in range(50):
        target = [0.005 * v + (1 - 0.005) * t for v, t in zip(weights, target, strict=True)]
    return target


SAME = {
    "thirds": lambda w: [sum(1 / 3 * v for _ in range(3)) for v in w],
    "np.mean": lambda w: [np.mean([v, v], axis=0) for v in w],
    "weighted mean": weighted,
    "soft updates": soft_updates,
    "flat vector": lambda w: _unflattened(np.concatenate([v.ravel() for v in w]), w),
}


def _unflattened(flat, like):
    parts = np.split(flat, np.cumsum([v.size for v in like])[:-1])
    return [part.reshape(v.shape) for part, v in zip(parts, like, strict=True)]


@pytest.mark.quick
@pytest.mark.parametrize("how", SAME)
@pytest.mark.parametrize("mode", MODES)
def test_set_weights_of_means_of_equal_weights_is_the_same_network_live_and_saved(tmp_path, mode, how):
    model = moved(network(mode))
    expected, y = kernels(model), model.predict(images(), verbose=0)
    model.set_weights(SAME[how](model.get_weights()))
    # A sum of thirds may round a lever or a value by an ulp: no choice depends on it here.
    for one, two in zip(expected, kernels(model), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(model.predict(images(), verbose=0), y, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for one, two in zip(expected, kernels(loaded), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
def test_set_weights_of_a_half_precision_copy_moves_few_choices(tmp_path, mode, dtype):
    model = moved(network(mode))
    expected = kernels(model)
    half = [v.astype(np.dtype(dtype)).astype("float32") for v in model.get_weights()]
    model.set_weights(half)
    precision = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for one, two in zip(expected, kernels(model), strict=True):
        # A lever near a threshold may end on the other side: about as many as a rounding is wide.
        other = np.abs(one - two) > 1.01 * precision * np.abs(one)
        assert other.mean() < 40 * precision
    model.save(tmp_path / "m.keras")
    for one, two in zip(kernels(model), kernels(keras.models.load_model(tmp_path / "m.keras")), strict=True):
        other = np.abs(one - two) > 1.01 * precision * np.abs(one)
        assert other.mean() < 40 * precision


@pytest.mark.parametrize("mode", MODES)
def test_get_weights_are_finite_and_of_an_ordinary_size(mode):
    for weights in network(mode).get_weights():
        assert weights.dtype == np.float32
        assert np.isfinite(weights).all() and np.abs(weights).max(initial=0) < 1e4
        assert np.isfinite(np.linalg.norm(weights.ravel()))


def clipped(weights):
    return [np.clip(v, -0.01, 0.01) for v in weights]


def noised(weights):
    rng = np.random.default_rng(0)
    return [v + rng.normal(0, 3.0, v.shape) for v in weights]


LOST = {
    "clipped": clipped,
    "noised": noised,
    "mean of two seeds": lambda w, other=None: average(w, network_weights(len(w))),
    "zero": lambda w: [0 * v for v in w],
}


def network_weights(count):
    return next(w for w in (network(m, seed=9).get_weights() for m in MODES) if len(w) == count)


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("mode", SEEDED_MODES)
def test_a_lost_seed_of_levers_is_refused_by_name_when_saved_or_materialized(tmp_path, mode, how):
    model = network(mode)
    if how == "mean of two seeds":
        model.set_weights(average(model.get_weights(), network(mode, seed=9).get_weights()))
    else:
        model.set_weights(LOST[how](model.get_weights()))
    for action in (
        lambda: model.save(tmp_path / "m.keras"),
        lambda: model.save_weights(tmp_path / "m.weights.h5"),
        lambda: materialize(model),
        lambda: save_slots(model, tmp_path / "m.slots"),
    ):
        with pytest.raises(ValueError, match="The seed in the weights of the kernel '.*conv.*is lost"):
            action()
    assert not (tmp_path / "m.slots").exists()


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("per_connection", {}),
        ("per_connection", {"bank_initializer": keras.initializers.RandomNormal(seed=3)}),
        ("nearest", {}),
        ("nearest", {"move_regularizer": "l2"}),
    ],
)
def test_load_weights_of_an_earlier_state_brings_a_lost_seed_back(tmp_path, mode, arguments):
    model = moved(network(mode, **arguments))
    expected, weights = kernels(model), model.get_weights()
    model.save_weights(tmp_path / "w.weights.h5")
    model.set_weights(clipped(weights))
    model.load_weights(tmp_path / "w.weights.h5")
    for one, two in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(expected, kernels(model), strict=True):
        np.testing.assert_array_equal(one, two)
    model.save_weights(tmp_path / "w.weights.h5")


@pytest.mark.parametrize("how", ["clipped", "zero"])
def test_a_lost_seed_of_scores_costs_the_size_of_a_slots_file_and_the_warning_says_why(tmp_path, how):
    model = network("per_value")
    seeds = [v for v in model.variables if v.name == "seed"]
    for variable in seeds:
        variable.assign(LOST[how]([numpy_of(variable)])[0])
    model.save(tmp_path / "m.keras")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = save_slots(model, tmp_path / "m.slots")
    said = [str(x.message) for x in caught if str(x.message).startswith("The file stores")]
    assert len(said) == 2
    assert all("stores the selected values of kernel" in x and "its seed is lost" in x for x in said)
    for one, two in zip(kernels(model), load_slots(path).get_weights()[::2], strict=True):
        np.testing.assert_array_equal(one, two)


# The seed travels with the weights


def loaded_weights(model, folder):
    other = network(model.mode, seed=None)
    model.save_weights(folder / "w.weights.h5")
    other.load_weights(folder / "w.weights.h5")
    return other


def set_weights(model, folder):
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    return other


def slotified(model, folder):
    mixed = keras.Sequential([keras.Input((6, 6, 2)), *model.layers, keras.layers.Dense(3, name="plain")])
    new = slotify(mixed, seed=4, score_mode=model.mode)
    return keras.Sequential([keras.Input((6, 6, 2)), *new.layers[:-1]])


@pytest.mark.quick
@pytest.mark.parametrize("way", [loaded_weights, set_weights, slotified])
@pytest.mark.parametrize("mode", MODES)
def test_a_default_seed_travels_with_the_weights_so_that_slots_files_stay_small(tmp_path, mode, way):
    model = network(mode, seed=None)
    model.mode = mode
    other = way(moved(model), tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The file stores")
        sizes = [save_slots(x, tmp_path / f"{i}.slots").stat().st_size for i, x in enumerate((model, other))]
    assert abs(sizes[1] - sizes[0]) < 60  # names of layers
    for one, two in zip(kernels(model), kernels(other), strict=True):
        np.testing.assert_array_equal(one, two)


# What was saved loads

NORMAL = keras.initializers.RandomNormal(stddev=0.2)
BANKS = (*sources_with_role("bank"), NORMAL)
SCORES = (None, "nearest", "glorot_normal", keras.initializers.RandomUniform(0, 0.1))
SHARINGS = ("connection", "layer", "value bank")


def variants():
    for num_values, mode in itertools.product((1, 2, 3, 8), MODES):
        for sharing in SHARINGS:
            banks = (None,) if sharing == "value bank" else BANKS
            scores = (None,) if mode == "nearest" else SCORES
            if mode == "nearest" and sharing != "value bank":
                banks = (None, "stratified_uniform")
            for bank, score in itertools.product(banks, scores):
                yield num_values, mode, sharing, bank, score


def layer_of(num_values, mode, sharing, bank, score, seed):
    if sharing == "value bank":
        given = {"bound": 0.3, "seed": 1} if num_values > 1 else {"values": [0.2]}
        sharing = ValueBank(num_values, **given) if num_values > 1 else ValueBank(**given)
    layer = SlotDense(
        3,
        num_values=num_values,
        score_mode=mode,
        sharing=sharing,
        bank_initializer=bank,
        score_initializer=score,
        seed=seed,
    )
    layer.build((None, 5))
    return layer


@pytest.mark.quick
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_values", [1, 2, 3, 8])
def test_what_a_kernel_saves_loads_for_every_bank_scores_and_sharing(num_values, mode):
    count = 0
    for variant in variants():
        if variant[:2] != (num_values, mode):
            continue
        one, other = (layer_of(*variant, seed).slot_kernel for seed in (1, 2))
        for variable in one.trained_variables():
            rng = np.random.default_rng(0)
            variable.assign(numpy_of(variable) + rng.normal(0, 0.2, variable.shape))
        store = {}
        one.save_own_variables(store)
        other.load_own_variables({k: numpy_of(v) for k, v in store.items()})
        for a, b in zip(one.variables, other.variables, strict=True):
            np.testing.assert_array_equal(numpy_of(a), numpy_of(b), err_msg=f"{variant} {a.name}")
        count += 1
    assert count >= 3


def test_load_model_of_two_values_with_scores_of_a_keras_initializer(tmp_path):
    layer = SlotDense(
        3,
        num_values=4,
        score_mode="per_connection",
        bank_initializer="signed_constant",
        score_initializer=keras.initializers.RandomNormal(),
    )
    model = keras.Sequential([keras.Input((5,)), layer])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras").layers[0]
    for part in ("bank", "scores", "kernel"):
        np.testing.assert_array_equal(numpy_of(getattr(loaded, part)), numpy_of(getattr(layer, part)))


@pytest.mark.parametrize("mode", MODES)
def test_zero_input_features_give_an_empty_kernel(mode):
    layer = SlotDense(3, score_mode=mode, use_bias=True)
    y = layer(np.zeros((2, 0), "float32"))
    np.testing.assert_array_equal(numpy_of(y), np.zeros((2, 3)))
    assert numpy_of(layer.selected_indices).shape == (0, 3)


# What training may do to them


@pytest.mark.parametrize("mode", MODES)
def test_every_trained_variable_of_a_slot_layer_moves_the_loss(mode):
    model = network(mode)
    names = {v.path.rsplit("/", 1)[1] for v in model.trainable_variables}
    assert names == {"bias", SCORE_MODES[mode].trained}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode, row in SCORE_MODES.items() if row.trained == "lever"])
def test_a_penalty_on_all_trainable_variables_under_adam_does_not_stop_training(mode):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 6, 2)).astype("float32")
    y = np.digitize(x.mean((1, 2, 3)), [-0.1, 0.0, 0.1]).astype("int32")
    model = network(mode)

    class Penalty(keras.losses.Loss):
        def call(self, y_true, y_pred):
            loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
            squares = (keras.ops.sum(v**2) for v in model.trainable_variables)
            return loss + 1e-3 / 2 * sum(squares)

    model.compile(keras.optimizers.Adam(1e-2), Penalty(), metrics=["accuracy"])
    model.fit(x, y, batch_size=16, epochs=100, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.9


# The bank


@pytest.mark.parametrize("mode", MODES)
def test_bank_is_a_tensor_that_nobody_assigns(mode):
    layer = SlotDense(3, score_mode=mode, seed=1)
    layer.build((None, 5))
    assert not isinstance(layer.bank, keras.Variable)
    with pytest.raises(AttributeError):
        layer.bank.assign(np.zeros((5, 3, 8)))


@pytest.mark.parametrize("mode", [mode for mode, row in SCORE_MODES.items() if row.takes_initializers])
def test_build_keeps_nothing_of_what_a_keras_initializer_drew(mode):
    layer = SlotDense(3, score_mode=mode, bank_initializer=NORMAL, score_initializer=NORMAL, seed=1)
    layer.build((None, 5))
    held = vars(layer.slot_kernel.initial).values()
    assert not any(isinstance(x, np.ndarray) for x in held)


@pytest.mark.parametrize("mode", MODES)
def test_fit_builds_layers_whose_numbers_come_from_keras_initializers(mode):
    given = {"kernel_initializer": NORMAL}
    if SCORE_MODES[mode].takes_initializers:
        given = {"bank_initializer": NORMAL, "score_initializer": NORMAL}
    model = keras.Sequential([SlotDense(3, score_mode=mode, seed=1, **given)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 5)), np.ones((4, 3)), verbose=0)
    twin = SlotDense(3, score_mode=mode, seed=1, **given)
    twin.build((None, 5))
    np.testing.assert_array_equal(numpy_of(model.layers[0].bank), numpy_of(twin.bank))


@pytest.mark.parametrize("mode", SEEDED_MODES)
@pytest.mark.parametrize("part", ["bank", "scores"])
def test_bank_and_scores_in_compiled_code_are_right_or_an_error_after_another_seed_is_loaded(mode, part):
    layer, other = (SlotDense(3, score_mode=mode, seed=seed) for seed in (1, 2))
    for one in (layer, other):
        one.build((None, 5))
    read = compiled_reader(layer, part)
    # Scores are a product and a sum, which a compiler may fuse.
    rounding = 0 if part == "bank" else 1e-5
    np.testing.assert_allclose(read(), numpy_of(getattr(layer, part)), rtol=rounding, atol=rounding)
    layer.set_weights(other.get_weights())
    if not BACKEND.graphs_follow_a_loaded_seed:
        with pytest.raises(Exception, match="traced while the layer had another"):
            read()
        read = compiled_reader(layer, part)
    np.testing.assert_allclose(read(), numpy_of(getattr(other, part)), rtol=rounding, atol=rounding)


def compiled_reader(layer, part):
    def read():
        return keras.ops.convert_to_tensor(getattr(layer, part))

    function = BACKEND.compiled(read, BACKEND.compilations[0], layer.variables)
    return lambda: numpy_of(function())


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_values", [3, 8, 20])
def test_selection_passes_the_numerics_check_of_tensorflow(mode, num_values):
    import tensorflow as tf

    layer = SlotDense(3, score_mode=mode, num_values=num_values, seed=1)
    layer.build((None, 5))
    _ = layer.selected_indices  # what XLA compiles is compiled before: it cannot hold the checks
    tf.debugging.enable_check_numerics()
    try:
        chosen = numpy_of(layer.selected_indices)
    finally:
        tf.debugging.disable_check_numerics()
    assert chosen.min() >= 0 and chosen.max() < num_values


# Words


@pytest.mark.parametrize("numbers", [(0,), (2**64 - 1,), (1, 2**63 + 12345), (258, 0)])
def test_seed_words_bring_numbers_back_and_are_bytes(numbers):
    words = encode_seed(*numbers)
    assert words.dtype == np.float32 and words.shape == (8 * len(numbers) + 4,)
    assert words.min() >= 0 and words.max() <= 255
    assert decode_seed(words) == numbers
    for error in (0.4, -0.4):
        assert decode_seed(words + np.float32(error)) == numbers
    for position in range(len(words)):
        changed = words.copy()
        changed[position] = (changed[position] + 1) % 256
        assert decode_seed(changed) is None
    assert decode_seed(np.full_like(words, np.nan)) is None


def test_words_bring_32_bit_integers_back_in_traced_code():
    for number in (0, 1, 255, 256, 70_000, 2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1):
        back = numpy_of(decode_integer(encode_seed(number)[4:8]))
        assert back.dtype == np.int32
        assert int(back) % 2**32 == number
