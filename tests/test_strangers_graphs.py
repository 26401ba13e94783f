"""Slot layers in traced code, under wrappers and scopes, with sparse inputs and sparse gradients."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_slots import SlotConv2D, SlotDense
from strangers import MODES, ON_TENSORFLOW, L, assert_close, numpy_of

modes = pytest.mark.parametrize("mode", MODES)
PARTS = ("scores", "bank", "selected_indices", "kernel")


def readings(layer):
    """One number of each part that a user can read, in a fixed order."""
    return ops.stack([ops.mean(ops.cast(getattr(layer, part), "float32")) for part in PARTS])


def small_layer(mode, **arguments):
    return SlotDense(3, seed=1, name="layer", score_mode=mode, **arguments)


def data(shape=(8, 6)):
    rng = np.random.default_rng(0)
    return rng.normal(size=shape).astype("float32"), rng.normal(size=(8, 3)).astype("float32")


# Read access.


class Reading(keras.Model):
    """A model whose loss is the sum of what its layer lets a user read."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.sum(readings(self.get_layer("layer"))) + 0 * ops.mean(y_pred)


@modes
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("jit_compile", [True, False])
def test_layer_can_be_read_in_compute_loss(mode, selection, jit_compile):
    inputs = keras.Input((6,))
    model = Reading(inputs, small_layer(mode, selection=selection)(inputs))
    expected = np.sum(numpy_of(readings(model.get_layer("layer"))))
    model.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    for loss in (
        model.fit(*data(), batch_size=4, epochs=2, verbose=0).history["loss"][-1],
        model.evaluate(*data(), verbose=0),
    ):
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


@modes
def test_layer_can_be_read_in_traced_functions(mode):
    layer = small_layer(mode)
    layer.build((None, 6))
    expected = numpy_of(readings(layer))
    if ON_TENSORFLOW:
        import tensorflow as tf

        traced = [tf.function(lambda: readings(layer), jit_compile=x) for x in (True, False)]
    else:
        import jax

        traced = [jax.jit(lambda: readings(layer))]
    for function in traced:
        np.testing.assert_allclose(numpy_of(function()), expected, rtol=1e-5)


@modes
@pytest.mark.tensorflow
def test_layer_can_be_read_in_a_train_step(mode):
    import tensorflow as tf

    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            layer = self.get_layer("layer")
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
                loss += 0.1 * tf.reduce_mean(layer.kernel**2)
            before = readings(layer)
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply(gradients, self.trainable_weights)
            return {"moved": tf.reduce_sum(tf.abs(readings(layer) - before)), "loss": loss}

    inputs = keras.Input((6,))
    model = Own(inputs, small_layer(mode)(inputs))
    model.compile(keras.optimizers.SGD(0.5))
    assert model.fit(*data(), epochs=2, verbose=0).history["moved"][-1] > 0


@modes
@pytest.mark.jax
def test_layer_reads_the_values_of_a_stateless_scope(mode):
    import jax

    layer, other = small_layer(mode), small_layer(mode)
    for x in (layer, other):
        x.build((None, 6))
    trained = [np.random.default_rng(0).normal(size=v.shape) for v in other.trainable_variables]
    for v, value in zip(other.trainable_variables, trained, strict=True):
        v.assign(value)

    @jax.jit
    def read(values):
        pairs = zip(layer.trainable_variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            return readings(layer)

    values = [numpy_of(v) for v in other.trainable_variables]
    np.testing.assert_allclose(numpy_of(read(values)), numpy_of(readings(other)), rtol=1e-5)


# Sparse inputs and gradients.


def sparse(x):
    if ON_TENSORFLOW:
        import tensorflow as tf

        return tf.sparse.from_dense(x)
    import jax.experimental.sparse

    return jax.experimental.sparse.BCOO.fromdense(x, n_batch=1)


@modes
def test_fit_on_sparse_inputs_is_fit_on_dense_ones(mode):
    x, y = data()
    x = np.where(np.random.default_rng(1).random(x.shape) < 0.5, x, 0).astype("float32")
    results = []
    for is_sparse in (False, True):
        inputs = keras.Input((6,), sparse=is_sparse)
        layer = small_layer(mode)
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
        model.fit(sparse(x) if is_sparse else x, y, epochs=2, verbose=0, shuffle=False)
        results.append([numpy_of(v) for v in layer.trainable_variables])
    assert_close(*results)


@modes
def test_gather_of_the_kernel_has_the_straight_through_gradient(mode):
    layer = small_layer(mode, use_bias=False)
    layer.build((None, 6))
    rows = np.array([0, 2, 2])
    bank = numpy_of(layer.bank)

    def loss():
        return ops.sum(ops.take(layer.kernel, rows, axis=0))

    variable = layer.scores if mode == "per_value" else layer.lever
    if ON_TENSORFLOW:
        import tensorflow as tf

        # `tf.gather` has a gradient of its own kind, with the rows that were taken and no others.
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.gather(layer.kernel, rows))
        gradient = tape.gradient(value, variable.value)
    else:
        import jax

        def stateless(value):
            with keras.StatelessScope(state_mapping=[(variable, value)]):
                return loss()

        gradient = jax.grad(stateless)(variable.value)
    upstream = np.zeros((6, 3))
    np.add.at(upstream, rows, 1.0)
    expected = upstream[..., None] * bank if mode == "per_value" else upstream
    gradient = gradient if not ON_TENSORFLOW else ops.convert_to_tensor(gradient)
    np.testing.assert_allclose(numpy_of(gradient), expected, rtol=1e-6)


# Wrappers and scopes.


@modes
def test_spectral_normalization_cannot_train_a_slot_layer(mode):
    wrapper = L.SpectralNormalization(small_layer(mode))
    with pytest.raises(AttributeError):
        wrapper(data()[0], training=True)


#: What Keras can rematerialize on both backends. On TensorFlow it cannot pass `training` on in mode "full", which
#: plain Dense takes, and every slot layer.
REMAT = {
    "dense_activations": (lambda **k: SlotDense(3, activation="relu", **k), (8, 6), "activations"),
    "conv_activations": (
        lambda **k: SlotConv2D(3, 2, activation="relu", **k),
        (8, 4, 4, 2),
        "activations",
    ),
}
if not ON_TENSORFLOW:
    REMAT["dense_full"] = (REMAT["dense_activations"][0], (8, 6), "full")
    REMAT["conv_full"] = (REMAT["conv_activations"][0], (8, 4, 4, 2), "full")


@modes
@pytest.mark.parametrize("regularizer", [None, "l2"])
@pytest.mark.parametrize(("make", "shape", "remat"), REMAT.values(), ids=REMAT)
def test_remat_scope_changes_no_number(make, shape, remat, regularizer, mode):
    x = data(shape)[0]
    results = []
    for is_remat in (False, True):
        arguments = {"kernel_regularizer": regularizer, "score_mode": mode, "seed": 1}
        if is_remat:
            with keras.RematScope(mode=remat):
                layer = make(**arguments)
        else:
            layer = make(**arguments)
        model = keras.Sequential([keras.Input(shape[1:]), layer])
        model.compile(keras.optimizers.SGD(0.5), lambda y, p: ops.mean((p - 1) ** 2))
        history = model.fit(x, np.zeros(8), epochs=3, verbose=0, shuffle=False).history["loss"]
        results.append([np.array(history), *(numpy_of(v) for v in layer.trainable_variables)])
    assert_close(*results)
