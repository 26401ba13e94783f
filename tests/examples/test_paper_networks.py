"""The networks of the paper have the paper's connections."""

import dataclasses

import keras
import numpy as np
import pytest

import networks
import recipes
from comparisons import numpy_of

CIFAR = (32, 32, 3)


def model_of(network="lenet300100", shape=CIFAR, classes=10, **fields):
    fields = {"network": network, "method": "learned"} | fields
    return networks.build_model(recipes.Recipe("custom", **fields), shape, classes)


def kernels_of(model):
    return {x.name: numpy_of(x.kernel) for x in model.layers if hasattr(x, "kernel")}


# Network, shape; connections, and the inputs of the first dense layer.
CONNECTIONS = [
    ("lenet300100", (28, 28, 1), 266_200, 784),
    ("conv2", CIFAR, 4_300_992, 16384),
    ("conv4", CIFAR, 2_425_024, 8192),
    ("conv6", CIFAR, 2_261_184, 4096),
    ("vgg19", CIFAR, 20_018_880 + 5_120, 512),
    # Filters 3, 32, 32, 64, 64, 128, 128.
    ("conv6bn", (16, 16, 3), 9 * (96 + 1024 + 2048 + 4096 + 8192 + 16384) + 1280, 128),
    # Filters 3, 16, 16, 16, 32, 32, 64, 64, and two of one pixel beside the blocks that halve the image.
    ("resnet8", CIFAR, 9 * (48 + 256 + 256 + 512 + 1024 + 2048 + 4096) + 512 + 2048 + 640, 64),
    ("tinyconv", (28, 28, 1), 25 * 8 + 9 * (8 * 12 + 12 * 12 + 12 * 16) + 640, 64),
]


@pytest.mark.parametrize(("name", "shape", "connections", "inputs"), CONNECTIONS)
def test_connections_are_those_of_the_paper(name, shape, connections, inputs):
    model = model_of(name, shape)
    assert next(x for x in model.layers if x.name.startswith("dense")).kernel.shape[0] == inputs
    assert all(getattr(layer, "bias", None) is None for layer in model.layers)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == {"vgg19": 16, "conv6bn": 6, "resnet8": 9, "tinyconv": 4}.get(name, 0)
    assert networks.count_connections(model) == connections
    # So batch norm has nothing to train, but in the two small networks.
    of_norms = sum(int(np.prod(w.shape)) for x in norms for w in x.trainable_weights)
    assert of_norms == {"resnet8": 2 * 336, "tinyconv": 48}.get(name, 0)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == connections + of_norms


def test_resnet8_adds_the_input_of_each_block_to_its_output():
    model = model_of("resnet8", (8, 8, 3))
    images = x = np.random.default_rng(0).normal(size=(1, 8, 8, 3))
    for layer in model.layers:  # norms do nothing: mean 0, variance 1 - epsilon
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(np.full_like(layer.moving_variance, 1 - layer.epsilon))

    def convolve(x, name, strides=1):
        kernel = kernels_of(model)[name]
        return numpy_of(keras.ops.conv(x.astype("float32"), kernel, strides, "same"))

    def relu(x):
        return np.maximum(x, 0)

    x = relu(convolve(x, "conv1"))
    x = relu(x + convolve(relu(convolve(x, "conv2")), "conv3"))
    for beside, first, second in (("conv4", "conv5", "conv6"), ("conv7", "conv8", "conv9")):
        x = relu(convolve(x, beside, 2) + convolve(relu(convolve(x, first, 2)), second))
    expected = x.mean(axis=(1, 2)) @ kernels_of(model)["dense"]
    found = model.predict(images, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_dropout_stands_before_the_first_two_dense_layers_only():
    names = [layer.name for layer in model_of("conv4", dropout=0.5).layers]
    assert names[names.index("dense1") - 1] == "dropout1"
    assert names[names.index("dense2") - 1] == "dropout2"
    assert sum("dropout" in name for name in names) == 2
    assert not any("dropout" in x.name for x in model_of("vgg19", dropout=0.5).layers)
    assert not any("dropout" in x.name for x in model_of("conv4").layers)


@pytest.mark.parametrize("method", ["slot", "learned"])
def test_layers_of_equal_shape_start_differently_and_seeds_repeat(method):
    first, again, other = (
        kernels_of(model_of("conv2", (8, 8, 64), method=method, seed=seed)) for seed in (3, 3, 4)
    )
    for name, kernel in first.items():
        assert np.array_equal(kernel, again[name]) and not np.array_equal(kernel, other[name])
    a, b = first["conv1"], first["conv2"]
    assert a.shape == b.shape and np.abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def recipe_of(name, **fields):
    return dataclasses.replace(recipes.make_recipe(name), **fields)


@pytest.mark.parametrize("name", ["ours-lenet300100-ns", "ours-lenet300100-gs", "ours-lenet300100-learned"])
def test_build_model_adds_the_l2_of_the_selected_weights_to_the_loss(name):
    recipe = recipe_of(name, weight_decay=0.3, weight_decay_kind="weights")
    model = networks.build_model(recipe, (4, 4, 1), 3)
    # d/dw of half the decay times w^2 is what the l2 of an optimizer adds: the decay times w.
    expected = 0.15 * sum(np.square(kernel).sum() for kernel in kernels_of(model).values())
    assert len(model.losses) == 3
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    recipe = dataclasses.replace(recipe, weight_decay_kind="l2")
    assert not networks.build_model(recipe, (4, 4, 1), 3).losses


@pytest.mark.parametrize("name", ["ours-lenet300100-ns-k4", "ours-lenet300100-gs"])
def test_build_model_adds_the_penalty_of_moves(name):
    recipe = recipe_of(name, move_penalty=0.25, weight_decay=0.0)
    model = networks.build_model(recipe, (4, 4, 1), 3)
    assert [float(loss) for loss in model.losses] == [0.0, 0.0, 0.0]
    for layer in model.layers[2:]:
        layer.lever.assign(layer.lever + 0.5)
    expected = [0.25 * 0.5 * size for size in (16 * 300, 300 * 100, 100 * 3)]
    assert [float(loss) for loss in model.losses] == pytest.approx(expected, rel=1e-5)


def test_dense_layers_of_the_paper_start_with_a_tenth_of_the_scores():
    model = networks.build_model(recipes.make_recipe("paper-conv2-gs"), (8, 8, 3), 10)
    for layer in model.layers:
        if hasattr(layer, "scores"):
            *window, fan_in, fan_out = layer.kernel.shape
            sigma = (2 / (np.prod(window) * (fan_in + fan_out))) ** 0.5
            scale = 0.1 if layer.name.startswith("dense") else 1.0
            scores, bank = numpy_of(layer.scores), numpy_of(layer.bank)
            assert scores.min() >= 0 and 0.99 < scores.max() / (scale * sigma) <= 1.0001, layer.name
            assert 0.99 < np.abs(bank).max() / sigma <= 1.0001


@pytest.mark.tensorflow
@pytest.mark.parametrize("affine", [False, True])
def test_fused_batch_norm_computes_what_keras_computes_and_has_its_gradient(affine):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, (8, 4, 4, 5)).astype("float32")
    fused = networks.FusedBatchNormalization(center=affine, scale=affine)
    plain = keras.layers.BatchNormalization(center=affine, scale=affine)
    for layer in (fused, plain):
        layer.build(x.shape)
    for one, other in zip(fused.trainable_variables, plain.trainable_variables, strict=True):
        one.assign(rng.normal(size=5))
        other.assign(one)
    for _ in range(3):
        np.testing.assert_allclose(fused(x, training=True), plain(x, training=True), atol=1e-5)
    for one, other in zip(fused.weights, plain.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_allclose(fused(x, training=False), plain(x, training=False), atol=1e-5)
    gradients = []
    for layer in (fused, plain):
        inputs = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layer(inputs, training=True) ** 3)
        gradients.append(tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_variables)]))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3)


def test_logits_are_computed_in_full_precision_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = model_of(shape=(4, 4, 1), classes=3)
    assert model.get_layer("dense2").compute_dtype == "bfloat16"
    assert model.output.dtype == model.get_layer("dense3").compute_dtype == "float32"
