"""The straight-through gradient, through whole layers, equals upstream times bank exactly.

Inputs and output gradients are small integers, so that the kernel gradient of the plain Keras layer
is exact in whatever order it is summed, and one rounding remains: that of the product.
"""

import keras
import numpy as np
import pytest
from keras import ops

from backends import BACKEND
from comparisons import numpy_of
from layer_table import ONE_INPUT, bank_variable, built_layer, gradients, plain_twin
from mode_table import SCORE_MODES

MODES = ("eager", *BACKEND.compilations)


def integers(shape, seed):
    return np.random.default_rng(seed).integers(-3, 4, size=shape).astype("float32")


def integer_problem(name, **slot_arguments):
    layer, x = built_layer(name, activation=None, **slot_arguments)
    x = integers(x.shape, seed=1)
    return layer, x, integers(layer(x).shape, seed=2)


@pytest.mark.quick(
    "dense_3d", "conv1d_dilated", "conv2d_groups", "conv2d_transpose", "depthwise1d", "separable2d_tanh", "einsum"
)
@pytest.mark.parametrize("name", ONE_INPUT)
def test_score_gradient_is_the_plain_kernel_gradient_times_the_bank(name):
    layer, x, upstream = integer_problem(name)
    _, ours = gradients(layer, x, upstream, "eager")
    _, plain = gradients(plain_twin(layer, x), x, upstream, "eager")
    for key, kernel in layer.slot_kernels.items():
        scores = "scores" if key == "kernel" else f"{key}/scores"
        assert np.any(plain[key])
        if len(layer.slot_kernels) == 1:
            expected = plain[key][..., None] * numpy_of(kernel.bank)
            np.testing.assert_array_equal(ours[scores], expected)
        else:  # the other kernel's values are no integers, so sums round by their order
            expected = plain[key][..., None] * numpy_of(kernel.bank)
            np.testing.assert_allclose(ours[scores], expected, rtol=1e-5, atol=1e-6)
    if layer.bias is not None:
        np.testing.assert_array_equal(ours["bias"], plain["bias"])


@pytest.mark.quick
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("sharing", ["connection", "layer"])
@pytest.mark.parametrize("name", ["dense", "conv2d"])
def test_score_gradient_is_exact_however_it_is_compiled(name, mode, selection, sharing):
    layer, x, upstream = integer_problem(name, selection=selection, sharing=sharing)
    _, ours = gradients(layer, x, upstream, mode)
    _, plain = gradients(plain_twin(layer, x), x, upstream, "eager")
    np.testing.assert_array_equal(ours["scores"], plain["kernel"][..., None] * numpy_of(layer.bank))


def test_score_gradient_by_hand():
    layer, x = built_layer("dense", units=1, use_bias=False, num_values=2, activation=None)
    bank_variable(layer).assign(np.arange(10).reshape(5, 1, 2) / 8)
    x, upstream = np.array([[1, 2, 0, -1, 4], [1, 0, 0, 1, 1]], "float32"), np.ones((2, 1))
    # The kernel gradient is the sum of the inputs over the batch: 2, 2, 0, 0, 5.
    _, ours = gradients(layer, x, upstream.astype("float32"), "eager")
    hand = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]) / 8
    hand = hand * np.array([[2], [2], [0], [0], [5]])
    np.testing.assert_array_equal(ours["scores"][:, 0, :], hand)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_exists_for_scores_and_bias_only(mode):
    layer, x, upstream = integer_problem("dense")
    _, ours = gradients(layer, x, upstream, mode)
    assert set(ours) == {"scores", "bias"}


@pytest.mark.tensorflow
@pytest.mark.jax
def test_bank_has_no_gradient_even_when_watched():
    layer, x, upstream = integer_problem("dense")

    def total():
        return ops.sum(layer(x, training=True) * upstream), ()

    _, (of_bank,) = BACKEND.gradients(total, [bank_variable(layer)])
    assert of_bank is None or not np.any(of_bank)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_score_gradient_of_a_mixed_policy_is_the_half_precision_upstream_times_the_full_bank(policy):
    layer, x, upstream = integer_problem("dense", dtype=policy)
    _, ours = gradients(layer, x, upstream, "eager")
    _, plain = gradients(plain_twin(layer, x), x, upstream, "eager")
    assert ours["scores"].dtype == "float32"
    np.testing.assert_array_equal(
        ours["scores"], plain["kernel"].astype("float32")[..., None] * numpy_of(layer.bank)
    )


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
@pytest.mark.parametrize("mode", SCORE_MODES)
def test_gradient_of_a_half_precision_policy_is_single_for_scores_and_levers(policy, mode):
    layer, x, upstream = integer_problem("dense", dtype=policy, score_mode=mode)
    _, ours = gradients(layer, x, upstream, "eager")
    _, plain = gradients(plain_twin(layer, x), x, upstream, "eager")
    name = SCORE_MODES[mode].trained
    assert ours[name].dtype == "float32"
    expected = plain["kernel"].astype("float32")
    if mode == "per_value":
        expected = expected[..., None] * numpy_of(ops.cast(layer.bank, "float32"))
    np.testing.assert_array_equal(ours[name], expected)


@pytest.mark.parametrize("mode", MODES)
def test_kernel_regularizer_reaches_the_scores_through_the_selected_values(mode):
    layer, _ = built_layer("dense", kernel_regularizer=keras.regularizers.L2(0.5), num_values=3)
    kernel, bank = numpy_of(layer.kernel), numpy_of(layer.bank)

    def total():
        layer(np.zeros((2, 5), "float32"), training=True)
        return layer.losses[0], ()

    _, (ours,) = BACKEND.gradients(total, [layer.scores], way=mode)
    np.testing.assert_array_equal(numpy_of(ours), kernel[..., None] * bank)


@pytest.mark.tensorflow
@pytest.mark.jax
def test_probabilistic_selection_uses_one_draw_for_output_and_gradient_of_the_input():
    layer, _, _ = integer_problem("dense", selection="probabilistic", use_bias=False, num_values=8)
    eye, weights = keras.Variable(np.eye(5)), integers((5, 4), 3)

    def total():
        y = layer(ops.convert_to_tensor(eye), training=True)
        return ops.sum(y * weights), y

    y, (ours,) = BACKEND.gradients(total, [eye])
    drawn = numpy_of(y)
    assert np.any(drawn != numpy_of(layer.kernel))
    np.testing.assert_allclose(numpy_of(ours), weights @ drawn.T, rtol=1e-5, atol=1e-6)


def test_kernel_property_has_the_straight_through_gradient_too():
    layer, _ = built_layer("dense")
    _, (ours,) = BACKEND.gradients(lambda: (ops.sum(layer.kernel), ()), [layer.scores])
    np.testing.assert_array_equal(numpy_of(ours), numpy_of(layer.bank))
