"""The straight-through gradient, through whole layers, equals upstream times bank exactly.

Inputs and output gradients are small integers, so that the kernel gradient of the plain Keras layer
is exact in whatever order it is summed, and one rounding remains: that of the product.
"""

import keras
import numpy as np
import pytest
from keras import ops

from slot_cases import NAMES, ON_TENSORFLOW, bank_variable, case, gradients, numpy_of, plain_twin

MODES = ("eager", "tf.function", "xla") if ON_TENSORFLOW else ("eager", "jit")


def integers(shape, seed):
    return np.random.default_rng(seed).integers(-3, 4, size=shape).astype("float32")


def integer_problem(name, **slot_arguments):
    layer, x = case(name, activation=None, **slot_arguments)
    x = integers(x.shape, seed=1)
    return layer, x, integers(layer(x).shape, seed=2)


@pytest.mark.parametrize("name", NAMES)
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
    layer, x = case("dense", units=1, use_bias=False, num_values=2, activation=None)
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


def test_bank_has_no_gradient_even_when_watched():
    if not ON_TENSORFLOW:
        import jax

        layer, x, upstream = integer_problem("dense")
        trainable = [v.value for v in layer.trainable_variables]

        def total(fixed):
            y, _ = layer.stateless_call(trainable, fixed, x, training=True)
            return (y * upstream).sum()

        values = jax.grad(total)([v.value for v in layer.non_trainable_variables])
        assert all(not np.any(g) for g in values)
        return
    import tensorflow as tf

    # A K that no other test has, for a program of its own: once it was called under two tapes,
    # TensorFlow answers with zeros in place of None.
    layer, x, upstream = integer_problem("dense", num_values=11)
    with tf.GradientTape() as tape:
        tape.watch(bank_variable(layer).value)
        total = tf.reduce_sum(layer(x, training=True) * upstream)
    assert tape.gradient(total, bank_variable(layer).value) is None


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_score_gradient_of_a_mixed_policy_is_the_half_precision_upstream_times_the_full_bank(
    policy,
):
    layer, x, upstream = integer_problem("dense", dtype=policy)
    _, ours = gradients(layer, x, upstream, "eager")
    _, plain = gradients(plain_twin(layer, x), x, upstream, "eager")
    assert ours["scores"].dtype == "float32"
    np.testing.assert_array_equal(
        ours["scores"], plain["kernel"].astype("float32")[..., None] * numpy_of(layer.bank)
    )


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_gradient_of_a_half_precision_policy_is_single_for_scores_and_levers(policy, mode):
    layer, x, upstream = integer_problem("dense", dtype=policy, score_mode=mode)
    _, ours = gradients(layer, x, upstream, "eager")
    _, plain = gradients(plain_twin(layer, x), x, upstream, "eager")
    name = "scores" if mode == "per_value" else "lever"
    assert ours[name].dtype == "float32"
    expected = plain["kernel"].astype("float32")
    if mode == "per_value":
        expected = expected[..., None] * numpy_of(ops.cast(layer.bank, "float32"))
    np.testing.assert_array_equal(ours[name], expected)


@pytest.mark.parametrize("mode", MODES)
def test_kernel_regularizer_reaches_the_scores_through_the_selected_values(mode):
    layer, _ = case("dense", kernel_regularizer=keras.regularizers.L2(0.5), num_values=3)
    kernel, bank = numpy_of(layer.kernel), numpy_of(layer.bank)
    if ON_TENSORFLOW:
        import tensorflow as tf

        def function():
            with tf.GradientTape() as tape:
                layer(tf.zeros((2, 5)), training=True)
                total = layer.losses[0]
            return tape.gradient(total, layer.scores.value)

        if mode != "eager":
            function = tf.function(function, jit_compile=mode == "xla")
        ours = numpy_of(function())
    else:
        import jax

        fixed = [v.value for v in layer.non_trainable_variables]

        def total(trainable):
            x = np.zeros((2, 5), "float32")
            *_, losses = layer.stateless_call(
                trainable, fixed, x, training=True, return_losses=True
            )
            return losses[0]

        function = jax.grad(total) if mode == "eager" else jax.jit(jax.grad(total))
        values = function([v.value for v in layer.trainable_variables])
        names = [v.name for v in layer.trainable_variables]
        ours = numpy_of(dict(zip(names, values, strict=True))["scores"])
    np.testing.assert_array_equal(ours, kernel[..., None] * bank)


def test_probabilistic_selection_uses_one_draw_for_output_and_gradient_of_the_input():
    layer, _, _ = integer_problem("dense", selection="probabilistic", use_bias=False, num_values=8)
    eye = np.eye(5, dtype="float32")
    if ON_TENSORFLOW:
        import tensorflow as tf

        eye, weights = tf.constant(eye), integers((5, 4), 3)
        with tf.GradientTape() as tape:
            tape.watch(eye)
            y = layer(eye, training=True)
            total = tf.reduce_sum(y * weights)
        ours = tape.gradient(total, eye)
    else:
        import jax

        trainable = [v.value for v in layer.trainable_variables]
        fixed = [v.value for v in layer.non_trainable_variables]
        weights = integers((5, 4), 3)

        def total(inputs):
            y, _ = layer.stateless_call(trainable, fixed, inputs, training=True)
            return (y * weights).sum(), y

        ours, y = jax.grad(total, has_aux=True)(eye)
    drawn = numpy_of(y)
    assert np.any(drawn != numpy_of(layer.kernel))
    np.testing.assert_allclose(numpy_of(ours), weights @ drawn.T, rtol=1e-5, atol=1e-6)


def test_kernel_property_has_the_straight_through_gradient_too():
    layer, _ = case("dense")
    if ON_TENSORFLOW:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer.kernel)
        ours = numpy_of(tape.gradient(total, layer.scores.value))
        np.testing.assert_array_equal(ours, numpy_of(layer.bank))
    else:
        import jax

        from keras_slots._backend import straight_through
        from keras_slots.kernels.per_value import SelectFromScores, scores_gradient
        from keras_slots.selection import Greedy

        rule = straight_through(SelectFromScores(Greedy()), scores_gradient)
        ours = jax.grad(lambda scores: ops.sum(rule(scores, layer.bank)))(layer.scores.value)
        np.testing.assert_array_equal(numpy_of(ours), numpy_of(layer.bank))
