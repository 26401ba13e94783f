"""What a user sees as a weight: its shape follows from the arguments, it is finite, and it can be moved around."""

import keras
import numpy as np
import pytest

from comparisons import assert_same, numpy_of
from keras_slots import SelectionRule, SlotConv2D, SlotDense, export_selected, materialize
from layer_table import LAYER_AND_MODE, LAYERS, MODES, L, layer_input, model_of, slot_layer
from plain_models import kernel_layers, kernels

SELECTIONS = tuple(SelectionRule.registry)
modes = pytest.mark.parametrize("mode", MODES)
selections = pytest.mark.parametrize("selection", SELECTIONS)
every_layer = pytest.mark.parametrize("name", LAYERS)
#: Sources of values and scores: drawn by us, or by a Keras initializer that only its numbers bring back.
SOURCES = {
    "ours": {},
    "keras": {"bank_initializer": "random_normal", "score_initializer": "random_uniform"},
    "one_set": {"sharing": "layer"},
}
_SETS = (
    ("per_value", "greedy", "ours"),
    ("per_value", "probabilistic", "keras"),
    ("per_connection", "greedy", "ours"),
    ("per_connection", "greedy", "keras"),
    ("per_connection", "greedy", "one_set"),
    ("per_connection", "probabilistic", "ours"),
)
#: Arguments of a slot layer that decide how its values come back.
argument_sets = pytest.mark.parametrize(
    "arguments",
    [{"mode": mode, "selection": selection, **SOURCES[source]} for mode, selection, source in _SETS],
    ids=["-".join(names) for names in _SETS],
)


def small(seed, mode, selection="greedy", num_values=16, units=2, **arguments):
    """So few connections that the number of values that can win differs from seed to seed."""
    layer = SlotDense(
        units, num_values=num_values, score_mode=mode, selection=selection, seed=seed, name="layer", **arguments
    )
    return keras.Sequential([keras.Input((2,), name="x"), layer])


def moved(model, seed=0):
    """The model with trained-looking levers or scores, so that its kernel is not the initial one."""
    layer = model.get_layer("layer")
    variable = layer.scores if layer.score_mode == "per_value" else layer.lever
    variable.assign(np.random.default_rng(seed).normal(size=variable.shape))
    return model


def assert_same_layer(one, other):
    for part in ("kernel", "bank", "scores", "selected_indices"):
        np.testing.assert_array_equal(
            numpy_of(getattr(other.get_layer("layer"), part)),
            numpy_of(getattr(one.get_layer("layer"), part)),
            err_msg=part,
        )


# Shapes and values.


@pytest.mark.quick
@every_layer
@modes
@selections
def test_weights_have_shapes_that_follow_from_the_arguments(name, mode, selection):
    shapes = set()
    for seed in range(2):
        layer = slot_layer(name, seed=seed, score_mode=mode, selection=selection)
        shape = LAYERS[name][-1]
        layer.build(*(2 * [shape] if "attention" in name else [shape]))
        shapes.add(tuple(tuple(v.shape) for v in layer.variables))
        for v in layer.variables:
            assert np.isfinite(numpy_of(v)).all(), v.path
    assert len(shapes) == 1


@pytest.mark.quick
@argument_sets
@pytest.mark.parametrize("num_values", [1, 2, 16])
def test_weights_have_one_shape_for_any_seed(arguments, num_values):
    found = set()
    for seed in range(10):
        weights = small(seed, num_values=num_values, units=1, **arguments).variables
        found.add(tuple(tuple(v.shape) for v in weights))
        assert all(np.isfinite(numpy_of(v)).all() for v in weights)
    assert len(found) == 1


@modes
def test_weights_are_finite_after_a_soft_update(mode):
    target, source = small(1, mode), moved(small(2, mode))
    for t, s in zip(target.weights, source.weights, strict=True):
        t.assign(0.9 * numpy_of(t) + 0.1 * numpy_of(s))
        assert np.isfinite(numpy_of(t)).all(), t.path
    assert np.isfinite(numpy_of(target(np.ones((1, 2), "float32")))).all()


# Moving weights between models of different seeds.


@pytest.mark.quick
@argument_sets
def test_set_weights_gives_a_model_of_another_seed_the_same_kernels(arguments):
    for seed in range(4):
        model = moved(small(seed, **arguments), seed)
        other = small(seed + 100, **arguments)
        other.set_weights(model.get_weights())
        assert_same_layer(model, other)


@modes
def test_clone_model_takes_the_weights_of_an_unseeded_model(mode):
    for _ in range(6):
        model = moved(small(None, mode))
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        assert_same_layer(model, clone)


@pytest.mark.quick("conv1d-per_connection", "separable2d-per_value", "attention-per_value")
@pytest.mark.parametrize(("name", "mode"), LAYER_AND_MODE)
def test_set_weights_works_for_every_layer(name, mode):
    first, second = (model_of(slot_layer(name, seed=seed, score_mode=mode), LAYERS[name][-1]) for seed in (1, 2))
    second.set_weights(first.get_weights())
    for one, other in zip(kernel_layers(first), kernel_layers(second), strict=True):
        for kernel_name, kernel in kernels(one).items():
            np.testing.assert_array_equal(kernels(other)[kernel_name], kernel)
    assert_same(second(layer_input(name)), first(layer_input(name)))


@pytest.mark.quick
@argument_sets
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_files_fill_a_model_of_another_seed(tmp_path, arguments, suffix):
    path = tmp_path / f"model{suffix}"
    for seed in range(4 if suffix == ".weights.h5" else 1):
        model = moved(small(seed, **arguments), seed)
        if suffix == ".weights.h5":
            model.save_weights(path)
            other = small(seed + 100, **arguments)
            other.load_weights(path)
        else:
            model.save(path)
            other = keras.models.load_model(path)
        assert_same_layer(model, other)
        x = np.ones((1, 2), "float32")
        assert_same(other(x, training=True), model(x, training=True))


# Subclasses.


@keras.saving.register_keras_serializable(package="interop")
class GatedDense(SlotDense):
    """A slot layer with one more variable and a computation of its own."""

    def build(self, input_shape):
        super().build(input_shape)
        self.gate = self.add_weight(name="gate", shape=(self.units,), initializer="ones")

    def call(self, inputs, training=None):
        return self.gate * super().call(inputs, training=training)


@keras.saving.register_keras_serializable(package="interop")
class ScaledConv2D(SlotConv2D):
    """A slot layer with a variable that nothing trains."""

    def build(self, input_shape):
        super().build(input_shape)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones", trainable=False)

    def call(self, inputs, training=None):
        return super().call(inputs, training=training) * self.scale


class SmallDense(SlotDense):
    """A subclass that computes what a slot layer computes."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **{"num_values": 2, **kwargs})


SUBCLASSES = {
    "dense": (lambda **k: GatedDense(3, name="own", **k), "gate", (4,)),
    "conv2d": (lambda **k: ScaledConv2D(3, 2, name="own", **k), "scale", (4, 4, 2)),
}
subclasses = pytest.mark.parametrize(("make", "variable", "shape"), SUBCLASSES.values(), ids=SUBCLASSES)


@modes
@subclasses
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_files_bring_back_the_variables_of_a_subclass(tmp_path, make, variable, shape, mode, suffix):
    model = keras.Sequential([keras.Input(shape), make(score_mode=mode, seed=1)])
    own = getattr(model.get_layer("own"), variable)
    own.assign(np.full(own.shape, 2.5))
    path = tmp_path / f"model{suffix}"
    if suffix == ".keras":
        model.save(path)
        again = keras.models.load_model(path)
    else:
        model.save_weights(path)
        again = keras.Sequential([keras.Input(shape), make(score_mode=mode, seed=2)])
        again.load_weights(path)
    assert (numpy_of(getattr(again.get_layer("own"), variable)) == 2.5).all()
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    assert_same(again(x), model(x))


@modes
@subclasses
def test_materialize_refuses_a_subclass_with_a_call_of_its_own(make, variable, shape, mode):
    model = keras.Sequential([keras.Input(shape), make(score_mode=mode)])
    with pytest.raises(ValueError, match="'own'"):
        materialize(model)


@pytest.mark.tensorflow
def test_export_selected_refuses_a_subclass_with_a_call_of_its_own(tmp_path):
    model = keras.Sequential([keras.Input((4,)), GatedDense(3, name="own")])
    with pytest.raises(ValueError, match="'own'"):
        export_selected(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_materialize_takes_a_subclass_without_a_call_of_its_own():
    model = keras.Sequential([keras.Input((4,)), SmallDense(3, seed=1, name="small")])
    plain = materialize(model)
    assert type(plain.get_layer("small")) is L.Dense
    x = np.ones((2, 4), "float32")
    assert_same(plain(x), model(x))
