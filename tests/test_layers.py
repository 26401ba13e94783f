"""All slot layers against the plain Keras layer that is given their kernel, and against hand numbers."""

import hashlib
import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_slots
from comparisons import greedy_kernel, numpy_of
from keras_slots import SlotConv2D, SlotDense, ValueBank
from keras_slots.layers.base import SlotLayer
from layer_table import (
    LAYERS,
    ONE_INPUT,
    SLOT_ARGUMENTS,
    SLOT_CLASSES,
    VARIANTS,
    bank_variable,
    built_layer,
    plain_twin,
)
from slots_reference import philox_word

CLASSES = tuple(SLOT_CLASSES[LAYERS[name][0]] for name in ONE_INPUT if name in LAYERS)


def test_slot_layers_are_all_in_the_table():
    classes = {SLOT_CLASSES[cls] for cls, *_ in LAYERS.values()}
    assert classes == set(SlotLayer.registry.values()) and len(classes) == len(LAYERS)
    assert all(getattr(keras_slots, cls.__name__) is cls for cls in SlotLayer.registry.values())


@pytest.mark.quick
@pytest.mark.parametrize("sharing", ["connection", "layer", ValueBank(8, bound=0.3, seed=1)])
@pytest.mark.parametrize("name", ONE_INPUT)
def test_kernel_is_bitwise_the_bank_at_numpys_argmax_of_the_scores(name, sharing):
    layer, x = built_layer(name, sharing=sharing)
    plain = plain_twin(layer, x)
    for kernel_name, kernel in layer.slot_kernels.items():
        bank, scores = numpy_of(kernel.bank), numpy_of(kernel.scores)
        assert bank.shape == ((8,) if sharing != "connection" else scores.shape)
        selected = numpy_of(getattr(layer, kernel_name))
        assert selected.shape == getattr(plain, kernel_name).shape
        np.testing.assert_array_equal(selected, greedy_kernel(bank, scores))
        np.testing.assert_array_equal(numpy_of(kernel.selected_indices), scores.argmax(-1))


@pytest.mark.parametrize(
    ("name", "fans"),
    [
        ("dense", 5 + 4),
        ("conv1d_causal", 3 * 3 + 3 * 4),
        ("conv2d", 9 * 3 + 9 * 4),
        ("conv2d_groups", 9 * 2 + 9 * 4),  # each output sees half of the four channels
        ("conv3d_tanh", 8 * 3 + 8 * 4),
        ("conv2d_transpose", 9 * 3 + 9 * 4),
        ("conv1d_transpose", 3 * 3 + 3 * 4),
        ("depthwise2d", 9 * 3 + 9 * 2),  # as Keras counts them
        ("einsum", 4 + 2 * 3),
    ],
)
def test_bank_and_scores_reach_the_glorot_bound_of_the_kernel_without_k(name, fans):
    layer, _ = built_layer(name, num_values=64)
    bound = np.sqrt(6 / fans)
    bank, scores = numpy_of(layer.bank), numpy_of(layer.scores)
    assert 0.97 * bound < bank.max() <= bound and -bound <= bank.min() < -0.97 * bound
    assert 0.97 * bound < scores.max() <= bound and 0 <= scores.min() < 0.03 * bound


def test_slot_dense_by_hand():
    layer = SlotDense(2, num_values=3, activation="relu", bias_initializer="ones")
    layer.build((None, 2))
    bank_variable(layer).assign([[[1, 2, 3], [4, 5, 6]], [[-1, -2, -3], [-4, -5, -6]]])
    layer.scores.assign([[[0.3, 0.2, 0.1], [0, 0.5, 0.5]], [[0, 0, 1], [9, 0, 0]]])
    np.testing.assert_array_equal(numpy_of(layer.kernel), [[1, 5], [-3, -4]])
    np.testing.assert_array_equal(numpy_of(layer.selected_indices), [[0, 1], [2, 0]])
    y = layer(np.array([[1, 1], [2, -1], [0, 1]], "float32"))
    np.testing.assert_array_equal(numpy_of(y), [[0, 2], [6, 15], [0, 0]])


def test_slot_conv2d_by_hand():
    layer = SlotConv2D(1, 2, num_values=2, use_bias=False)
    layer.build((None, 3, 3, 1))
    bank_variable(layer).assign(np.array([[1, 10], [2, 20], [3, 30], [4, 40]]).reshape(2, 2, 1, 1, 2))
    layer.scores.assign(np.array([[1, 0], [0, 1], [0, 0], [-1, 2]]).reshape(2, 2, 1, 1, 2))
    y = layer(np.arange(9, dtype="float32").reshape(1, 3, 3, 1))
    # The kernel is 1, 20, 3, 40; the first window 0, 1, 3, 4.
    np.testing.assert_array_equal(numpy_of(y)[0, :, :, 0], [[189, 253], [381, 445]])


@pytest.mark.parametrize("name", ONE_INPUT)
def test_num_values_of_one_is_the_fixed_random_network(name):
    layer, x = built_layer(name, num_values=1, selection="probabilistic")
    banks = {key: numpy_of(kernel.bank)[..., 0] for key, kernel in layer.slot_kernels.items()}
    plain = numpy_of(plain_twin(layer, x, banks)(x))
    for training in (False, True):
        y = numpy_of(layer(x, training=training))
        np.testing.assert_allclose(y, plain, rtol=1e-6, atol=1e-6)


# Signature and configuration.


@pytest.mark.parametrize("cls", CLASSES)
def test_signature_has_the_arguments_of_the_keras_layer_first_and_ours_keyword_only(cls):
    ours = list(inspect.signature(cls).parameters.values())
    plain = list(inspect.signature(cls.plain_class).parameters.values())
    named = [p for p in plain if p.kind is not inspect.Parameter.VAR_KEYWORD]
    assert ours[: len(named)] == named
    added = ours[len(named) : len(named) + len(SLOT_ARGUMENTS)]
    assert tuple(p.name for p in added) == SLOT_ARGUMENTS
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in added)
    assert {p.name: p.default for p in added} == {
        "num_values": 8,
        "selection": "greedy",
        "score_mode": "per_value",
        "bank_initializer": None,
        "score_initializer": None,
        "sharing": "connection",
        "move_regularizer": None,
        "seed": None,
    }


@pytest.mark.parametrize("name", ONE_INPUT)
def test_get_config_keeps_that_of_the_keras_layer(name):
    layer, x = built_layer(name)
    plain = plain_twin(layer, x).get_config()
    config = layer.get_config()
    assert {k: v for k, v in config.items() if k not in SLOT_ARGUMENTS} == plain
    assert set(config) - set(plain) == set(SLOT_ARGUMENTS)


@pytest.mark.quick("dense", "separable2d", "einsum")
@pytest.mark.parametrize("name", ONE_INPUT)
def test_get_config_survives_json(name):
    layer, x = built_layer(
        name,
        num_values=3,
        selection="probabilistic",
        bank_initializer=keras_slots.SignedConstant(scale=0.5),
        score_initializer=keras_slots.UniformScores(2.0),
        sharing="layer",
    )
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(copy) is type(layer) and copy.get_config() == layer.get_config()
    if not copy.built:
        copy.build(x.shape)
    for key, kernel in layer.slot_kernels.items():
        again = copy.slot_kernels[key]
        np.testing.assert_array_equal(numpy_of(again.bank), numpy_of(kernel.bank))
        np.testing.assert_array_equal(numpy_of(again.scores), numpy_of(kernel.scores))


def test_bank_follows_the_distribution_of_the_kernel_initializer():
    named = {"he_normal": keras_slots.HeNormal(), "glorot_uniform": keras_slots.GlorotUniform()}
    for name, distribution in named.items():
        follows, _ = built_layer("dense", kernel_initializer=name)
        said, _ = built_layer("dense", bank_initializer=distribution)
        np.testing.assert_array_equal(numpy_of(follows.bank), numpy_of(said.bank))


def test_the_first_kernel_has_the_seed_of_the_layer_and_the_others_seeds_from_it():
    digest = hashlib.sha256(b"3/pointwise").digest()
    pointwise = int.from_bytes(digest[:8], "big") // 2
    expected = {"dense": [3], "depthwise2d": [3], "separable2d": [3, pointwise]}
    for name, seeds in expected.items():
        layer, _ = built_layer(name, seed=3)
        for kernel, seed in zip(layer.slot_kernels.values(), seeds, strict=True):
            assert_bank_of(seed, kernel.bank)


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_a_layer_takes_the_smallest_and_the_largest_seed(seed):
    layer, _ = built_layer("dense", seed=seed)
    assert_bank_of(seed, layer.bank)
    assert layer.get_config()["seed"] == seed
    attention = keras_slots.SlotMultiHeadAttention(1, 2, seed=2**31 - 1)
    assert attention.seed == 2**31 - 1  # its dropout takes no larger one


def assert_bank_of(seed, bank):
    """The bank is uniform numbers of the stream of the seed, up to one factor (docs/slots_format.md)."""
    bank = numpy_of(bank).ravel()
    words = [philox_word(seed, 0, i) >> 8 for i in range(len(bank))]
    units = np.array(words) / 2**23 - 1
    np.testing.assert_allclose(bank, units * (bank[0] / units[0]), rtol=1e-5)


def test_bank_initializer_of_keras_is_called_once_with_the_shape_of_the_bank():
    calls = []

    class Counting(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            calls.append(tuple(shape))
            return ops.reshape(ops.arange(np.prod(shape), dtype=dtype), shape)

    layer, _ = built_layer("dense", bank_initializer=Counting(), num_values=2)
    assert calls == [(5, 4, 2)]
    np.testing.assert_array_equal(numpy_of(layer.bank), np.arange(40).reshape(5, 4, 2))


# Seeds and sharing.


def test_seed_of_none_gives_twenty_equal_layers_unrelated_numbers():
    numbers = []
    for _ in range(20):
        layer, _ = built_layer("dense", units=40, seed=None)
        numbers += [numpy_of(layer.bank).ravel(), numpy_of(layer.scores).ravel()]
    correlation = np.corrcoef(numbers) - np.eye(40)
    # 780 pairs of 1600 numbers each: five standard errors.
    assert np.abs(correlation).max() < 5 / np.sqrt(1600)


def test_sharing_layer_has_one_set_of_values():
    layer, _ = built_layer("conv2d", sharing="layer", num_values=3)
    assert layer.bank.shape == (3,) and layer.scores.shape == (3, 3, 3, 4, 3)
    assert set(numpy_of(layer.kernel).ravel().tolist()) == set(numpy_of(layer.bank).tolist())


def test_sharing_value_bank_is_one_set_for_several_layers():
    shared = ValueBank(values=[-0.5, 0.25, 1.0])
    for name in ("dense", "conv2d"):
        layer, _ = built_layer(name, sharing=shared, num_values=3)
        np.testing.assert_array_equal(numpy_of(layer.bank), [-0.5, 0.25, 1.0])
        copy = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
        assert copy.sharing == shared


# Dtypes.


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_scores_stay_in_single_precision_under_half_precision_policies(policy, selection):
    layer, x = built_layer("dense", dtype=policy, selection=selection)
    half = keras.dtype_policies.get(policy).compute_dtype
    scores = 0.1 + np.random.default_rng(0).permutation(5 * 4 * 8).reshape(5, 4, 8) * 1e-6
    layer.scores.assign(scores)
    assert layer.scores.dtype == "float32"
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == half
    # These scores differ by 1e-6 only; half precision would see them all equal.
    indices = numpy_of(layer.selected_indices)
    np.testing.assert_array_equal(indices, numpy_of(layer.scores).argmax(-1))
    assert keras.backend.standardize_dtype(layer.bank.dtype) == layer.variable_dtype
    chosen = ops.cast(layer.bank, "float32")
    np.testing.assert_array_equal(
        numpy_of(ops.cast(layer.kernel, "float32")), greedy_kernel(numpy_of(chosen), scores.astype("float32"))
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_dtype_float64_is_float64_throughout(selection):
    layer, x = built_layer("dense", dtype="float64", selection=selection)
    assert layer.scores.dtype == layer.bank.dtype == "float64"
    scores = 1.0 + np.random.default_rng(0).permutation(5 * 4 * 8).reshape(5, 4, 8) * 1e-12
    layer.scores.assign(scores)
    np.testing.assert_array_equal(numpy_of(layer.selected_indices), scores.argmax(-1))
    y = layer(x.astype("float64"), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float64"


# Calls.


def test_call_draws_by_the_softmax_of_the_scores_in_training():
    layer, _ = built_layer("dense", units=5000, num_values=2, selection="probabilistic", use_bias=False)
    bank_variable(layer).assign(np.tile([0.0, 1.0], (5, 5000, 1)))
    layer.scores.assign(np.tile([0.0, np.log(3.0)], (5, 5000, 1)))
    drawn = numpy_of(layer(np.eye(5, dtype="float32"), training=True))
    # 25,000 draws of probability 3/4; four standard errors.
    assert abs(drawn.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 25_000)


def test_seed_repeats_the_draws_of_a_layer():
    layers = [built_layer("dense", selection="probabilistic")[0] for _ in range(2)]
    x = np.ones((1, 5), "float32")
    first, second = ([numpy_of(y(x, training=True)) for _ in range(3)] for y in layers)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["conv1d_dilated", "conv2d", "conv2d_transpose", "depthwise2d"])
def test_data_format_channels_first_is_channels_last_transposed(name):
    cls, arguments, _ = {**LAYERS, **VARIANTS}[name]
    last, x = built_layer(name)
    first = SLOT_CLASSES[cls](**arguments, data_format="channels_first", seed=3)
    x = np.moveaxis(x, -1, 1)
    first.build(x.shape)
    np.testing.assert_array_equal(numpy_of(first.kernel), numpy_of(last.kernel))
    first.bias.assign(last.bias)
    y = numpy_of(first(x))
    np.testing.assert_array_equal(y, numpy_of(plain_twin(first, x)(x)))
    np.testing.assert_allclose(y, np.moveaxis(numpy_of(last(np.moveaxis(x, 1, -1))), -1, 1), rtol=1e-5, atol=1e-5)


def test_slot_dense_passes_a_mask_on():
    inputs = keras.Input((4, 3))
    masked = keras.layers.Masking()(inputs)
    pooled = keras.layers.GlobalAveragePooling1D()(SlotDense(2, seed=1)(masked))
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    x[:, 2:] = 0
    cut = keras.Model(inputs, pooled).predict(x, verbose=0)
    layer = SlotDense(2, seed=1)
    expected = numpy_of(layer(x[:, :2])).mean(1)
    np.testing.assert_allclose(cut, expected, rtol=1e-5, atol=1e-6)


def test_slot_dense_used_twice_selects_one_kernel():
    layer, x = built_layer("dense", units=5)
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layer(layer(inputs)))
    plain = plain_twin(layer, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), numpy_of(plain(plain(x))), rtol=1e-5, atol=1e-6)
    assert len(model.trainable_variables) == 2


def test_kernel_regularizer_adds_a_loss_on_the_selected_values():
    layer, x = built_layer("dense", kernel_regularizer=keras.regularizers.L1(0.5))
    layer(x)
    assert len(layer.losses) == 1
    expected = 0.5 * np.abs(numpy_of(layer.kernel)).sum()
    np.testing.assert_allclose(numpy_of(layer.losses[0]), expected, rtol=1e-6)


def test_depthwise_regularizer_adds_a_loss_on_the_selected_values():
    layer, x = built_layer("depthwise2d", depthwise_regularizer=keras.regularizers.L2(0.5))
    layer(x)
    expected = 0.5 * np.square(numpy_of(layer.kernel)).sum()
    np.testing.assert_allclose([numpy_of(loss) for loss in layer.losses], [expected], rtol=1e-6)
