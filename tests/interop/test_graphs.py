"""Slot layers in traced code, under wrappers and scopes, with sparse inputs and sparse gradients."""

import keras
import numpy as np
import pytest
from keras import ops

from backends import BACKEND
from comparisons import assert_close, numpy_of
from keras_slots import SelectionRule, SlotConv2D, SlotDense, SlotMultiHeadAttention
from layer_table import MODES, L

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


@pytest.mark.quick
@modes
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("jit_compile", BACKEND.jit_compile)
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
    for way in BACKEND.compilations:
        function = BACKEND.compiled(lambda: readings(layer), way)
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


@pytest.mark.tensorflow
@pytest.mark.jax
@pytest.mark.quick("per_value")
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
        model.fit(BACKEND.sparse(x) if is_sparse else x, y, epochs=2, verbose=0, shuffle=False)
        results.append([numpy_of(v) for v in layer.trainable_variables])
    assert_close(*results)


@modes
def test_gather_of_the_kernel_has_the_straight_through_gradient(mode):
    layer = small_layer(mode, use_bias=False)
    layer.build((None, 6))
    rows = np.array([0, 2, 2])
    bank = numpy_of(layer.bank)

    def total():
        # `tf.gather` has a gradient of its own kind, with the rows that were taken and no others.
        return ops.sum(ops.take(layer.kernel, rows, axis=0)), ()

    variable = layer.scores if mode == "per_value" else layer.lever
    _, (gradient,) = BACKEND.gradients(total, [variable])
    upstream = np.zeros((6, 3))
    np.add.at(upstream, rows, 1.0)
    expected = upstream[..., None] * bank if mode == "per_value" else upstream
    gradient = numpy_of(ops.convert_to_tensor(gradient))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


# Wrappers and scopes.


@modes
def test_spectral_normalization_cannot_train_a_slot_layer(mode):
    wrapper = L.SpectralNormalization(small_layer(mode))
    with pytest.raises(AttributeError):
        wrapper(data()[0], training=True)


REMAT = {
    "dense": (lambda **k: SlotDense(3, activation="relu", **k), (8, 6)),
    "conv": (lambda **k: SlotConv2D(3, 2, activation="relu", **k), (8, 4, 4, 2)),
}


@pytest.mark.quick
@modes
@pytest.mark.parametrize("regularizer", [None, "l2"])
@pytest.mark.parametrize("remat", BACKEND.remat_modes)
@pytest.mark.parametrize(("make", "shape"), REMAT.values(), ids=REMAT)
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


# Rematerialization of a random selection: the pass and its recomputation must be of one draw.


def drawing_model(remat, mode, selection, kind):
    """Two layers with random selection. What the first one selects acts on the gradient of the second."""
    arguments = {"score_mode": mode, "selection": selection, "kernel_regularizer": "l2"}
    if kind == "dense":
        layers = [
            SlotDense(5, activation="tanh", seed=1, name="first", **arguments),
            SlotDense(3, activation="tanh", seed=2, name="second", **arguments),
        ]
        inputs, make = keras.Input((6,)), lambda x: layers[1](layers[0](x))
    elif kind == "twice":
        layers = [SlotDense(6, activation="tanh", seed=1, name="first", **arguments)]
        inputs, make = keras.Input((6,)), lambda x: layers[0](layers[0](x))
    else:
        layers = [SlotMultiHeadAttention(2, 3, seed=1, name="first", **arguments)]
        inputs = keras.Input((4, 6))

        def make(x):
            return layers[0](x, x)

    for layer in layers:
        layer._remat_mode = remat
    return keras.Model(inputs, make(inputs))


class Other(SelectionRule):
    """Draws with two numbers for each connection."""

    def random_shape(self, kernel_shape, num_values):
        return (2, *kernel_shape)

    def index(self, scores, uniform=None):
        k = scores.shape[-1]
        return ops.cast(ops.floor(uniform[0] * uniform[1] * k), "int32")


class Second(SelectionRule):
    """The second value, without random numbers."""

    def index(self, scores, uniform=None):
        return ops.ones(scores.shape[:-1], "int32")


def remat_mode(mode, **arguments):
    with keras.RematScope(mode, **arguments):
        return SlotDense(1)._remat_mode


REMAT_MODES = {
    "full": lambda: remat_mode("full"),
    "activations": lambda: remat_mode("activations"),
    "list": lambda: remat_mode("list_of_layers", layer_names=["first", "second"]),
    "larger": lambda: remat_mode("larger_than", output_size_threshold=1),
}


DRAWING = {
    "dense": ("full", "per_value", "probabilistic", "dense"),
    "lever": ("full", "per_connection", "probabilistic", "dense"),
    "twice": ("full", "per_value", "probabilistic", "twice"),
    "own_rule": ("list", "per_value", Other(), "dense"),
    "large": ("larger", "per_value", "probabilistic", "dense"),
    "activations": ("activations", "per_value", "probabilistic", "dense"),
    "attention": ("full", "per_value", "probabilistic", "attention"),
    "attention_own_rule": ("full", "per_value", Second(), "attention"),
}


@pytest.mark.quick("dense-compiled", "lever-eager", "attention_own_rule-eager", "activations-eager")
@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("case", DRAWING)
def test_remat_scope_computes_the_gradient_of_the_draw_of_the_pass(case, run_eagerly):
    remat, mode, selection, kind = DRAWING[case]
    x = data((8, 4, 6) if kind == "attention" else (8, 6))[0]
    results = []
    for scope in (None, REMAT_MODES[remat]()):
        model = drawing_model(scope, mode, selection, kind)
        optimizer = keras.optimizers.SGD(0.5)
        model.compile(optimizer, lambda y, p: ops.mean((p - 1) ** 2), run_eagerly=run_eagerly)
        history = model.fit(x, np.zeros(8), epochs=2, batch_size=4, verbose=0, shuffle=False)
        results.append([np.array(history.history["loss"]), *map(numpy_of, model.variables)])
    assert_close(*results)


class Block(keras.layers.Layer):
    """A layer of another kind around a slot layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


@pytest.mark.tensorflow
@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
def test_random_selection_inside_another_layer_that_is_rematerialized_is_refused(run_eagerly):
    inner = SlotDense(3, selection="probabilistic", name="inside")
    with keras.RematScope("full"):
        block = Block(inner)
    model = keras.Sequential([keras.Input((6,)), block])
    model.compile("sgd", "mse", run_eagerly=run_eagerly)
    text = "(?s)random selection.*would draw again.*`keras.RematScope` around"
    for inner._remat_mode in (None, block._remat_mode):
        with pytest.raises(ValueError, match=text):
            model.fit(*data(), verbose=0)
