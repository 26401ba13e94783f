"""The networks of the paper have the paper's connections."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest

import networks
import recipes
from keras_slots import materialize

CIFAR = (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "shape", "padding", "connections"),
    [
        ("lenet300100", (28, 28, 1), "same", 266_200),
        ("conv2", CIFAR, "same", 4_300_992),
        ("conv2", CIFAR, "author", 3_317_952),
        ("conv4", CIFAR, "same", 2_425_024),
        ("conv6", CIFAR, "same", 2_261_184),
        ("vgg19", CIFAR, "same", 20_018_880 + 5_120),
    ],
)
def test_connections_are_those_of_the_paper(name, shape, padding, connections):
    model = networks.build(name, shape, 10, padding=padding)
    assert networks.count_connections(model) == connections
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == connections


def test_vgg19_classifier_has_5120_connections_and_batch_norm_nothing_to_train():
    model = networks.build("vgg19", CIFAR, 10)
    assert tuple(model.get_layer("dense").kernel.shape) == (512, 10)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 16
    assert all(not norm.trainable_weights for norm in norms)


@pytest.mark.parametrize(
    ("name", "same", "author"),
    [("conv2", 16384, 12544), ("conv4", 8192, 3200), ("conv6", 4096, 1024)],
)
def test_first_dense_layer_reads_what_the_padding_leaves(name, same, author):
    for padding, inputs in (("same", same), ("author", author)):
        model = networks.build(name, CIFAR, 10, padding=padding)
        assert tuple(model.get_layer("dense1").kernel.shape) == (inputs, 256)


def test_dropout_stands_in_front_of_the_first_two_dense_layers_only():
    names = [layer.name for layer in networks.build("conv4", CIFAR, 10).layers]
    assert names[names.index("dense1") - 1] == "dropout1"
    assert names[names.index("dense2") - 1] == "dropout2"
    assert sum("dropout" in name for name in names) == 2
    assert not any("dropout" in x.name for x in networks.build("vgg19", CIFAR, 10).layers)


def test_slot_machine_and_baseline_differ_in_their_layers_alone():
    slots = networks.slot_layers(seed=1, num_values=2)
    slot = networks.build("conv2", (12, 12, 1), 10, layers=slots)
    learned = networks.build("conv2", (12, 12, 1), 10)
    assert [x.name for x in slot.layers] == [x.name for x in learned.layers]
    assert slot.output_shape == learned.output_shape
    assert networks.count_connections(slot) == networks.count_connections(learned)
    swapped = {type(x).__name__ for x in slot.layers} - {type(x).__name__ for x in learned.layers}
    assert swapped == {"SlotDense", "SlotConv2D"}


def test_no_layer_has_a_bias():
    for name in networks.NETWORKS:
        for layer in networks.build(name, CIFAR, 10).layers:
            assert getattr(layer, "bias", None) is None


def test_conv6bn_normalizes_after_each_of_six_convolutions():
    model = networks.build("conv6bn", (16, 16, 3), 10)
    for kind in (keras.layers.Conv2D, keras.layers.BatchNormalization):
        assert sum(isinstance(layer, kind) for layer in model.layers) == 6
    filters = (3, 32, 32, 64, 64, 128, 128)
    connections = sum(9 * a * b for a, b in itertools.pairwise(filters)) + 128 * 10
    assert networks.count_connections(model) == connections == 287_840


def test_layers_of_equal_shape_start_differently_and_seeds_repeat():
    first = networks.build("vgg19", CIFAR, 10, seed=3)
    again = networks.build("vgg19", CIFAR, 10, seed=3)
    a, b = (first.get_layer(name).kernel.numpy() for name in ("conv14", "conv15"))
    assert a.shape == b.shape and np.abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01
    assert np.array_equal(a, again.get_layer("conv14").kernel.numpy())


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"`name` must be one of lenet300100, .* name=lenet5"):
        networks.build("lenet5", CIFAR, 10)
    with pytest.raises(ValueError, match=r'`padding` must be "same" or "author".*padding=valid'):
        networks.build("conv2", CIFAR, 10, padding="valid")


def test_build_model_adds_the_l2_of_the_selected_weights_to_the_loss():
    fields = {"weight_decay": 0.3, "weight_decay_kind": "weights"}
    for name in ("ours-lenet300100-ns", "ours-lenet300100-gs", "ours-lenet300100-learned"):
        recipe = dataclasses.replace(recipes.get_recipe(name), **fields)
        model = networks.build_model(recipe, (4, 4, 1), 3)
        # d/dw of half the decay times w^2 is what the l2 of an optimizer adds: the decay times w.
        kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers[2:]]
        expected = 0.15 * sum(np.square(kernel).sum() for kernel in kernels)
        assert len(model.losses) == 3
        assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
        recipe = dataclasses.replace(recipe, weight_decay_kind="l2")
        assert not networks.build_model(recipe, (4, 4, 1), 3).losses


def test_without_penalty_leaves_a_selected_network_to_the_decay_of_another_recipe():
    slot = networks.build_model(recipes.get_recipe("ours-lenet300100-ns"), (4, 4, 1), 3)
    plain = materialize(slot, trainable=True)
    assert len(plain.losses) == 3
    assert not networks.without_penalty(plain).losses
    for one, other in zip(slot.layers[2:], plain.layers[2:], strict=True):
        np.testing.assert_array_equal(one.kernel, other.kernel)


def test_build_model_adds_the_penalty_of_moves_and_a_selected_network_has_none():
    for name in ("ours-lenet300100-ns-k4", "ours-lenet300100-gs"):
        recipe = dataclasses.replace(recipes.get_recipe(name), move_penalty=0.25, weight_decay=0.0)
        model = networks.build_model(recipe, (4, 4, 1), 3)
        assert [float(loss) for loss in model.losses] == [0.0, 0.0, 0.0]
        for layer in model.layers[2:]:
            layer.lever.assign(layer.lever + 0.5)
        sizes = [16 * 300, 300 * 100, 100 * 3]
        expected = [0.25 * 0.5 * size for size in sizes]
        assert [float(loss) for loss in model.losses] == pytest.approx(expected, rel=1e-5)
        assert not networks.without_penalty(materialize(model, trainable=True)).losses


@pytest.mark.tensorflow
def test_fused_batch_norm_computes_what_keras_computes():
    x = np.random.default_rng(0).normal(2.0, 3.0, (8, 4, 4, 5)).astype("float32")
    fused = networks.FusedBatchNormalization(center=False, scale=False)
    plain = keras.layers.BatchNormalization(center=False, scale=False)
    for _ in range(3):
        np.testing.assert_allclose(fused(x, training=True), plain(x, training=True), atol=1e-5)
    for one, other in zip(fused.weights, plain.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_allclose(fused(x, training=False), plain(x, training=False), atol=1e-5)


@pytest.mark.tensorflow
def test_fused_batch_norm_has_the_gradient_of_keras():
    import tensorflow as tf

    x = tf.constant(np.random.default_rng(0).normal(size=(8, 4, 4, 5)).astype("float32"))
    gradients = []
    for layer in (networks.FusedBatchNormalization, keras.layers.BatchNormalization):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(center=False, scale=False)(x, training=True)
            loss = tf.reduce_sum(y**3)
        gradients.append(tape.gradient(loss, x))
    np.testing.assert_allclose(*gradients, atol=1e-3)


def test_logits_are_computed_in_full_precision_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = networks.build("lenet300100", (4, 4, 1), 3)
    assert model.get_layer("dense2").compute_dtype == "bfloat16"
    assert model.output.dtype == model.get_layer("dense3").compute_dtype == "float32"
