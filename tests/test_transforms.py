"""`slotify` and `materialize`: the same architecture, the same predictions, the input model untouched."""

import keras
import numpy as np
import pytest

from comparisons import assert_same_weights, numpy_of, weights_of
from keras_slots import SlotConv2D, SlotDense, SlotLayer, materialize, slotify
from keras_slots.kernels import SlotKernel
from layer_table import bank_variable
from small_models import small_data, small_model

L = keras.layers


def functional():
    inputs = keras.Input((6, 6, 2), name="image")
    x = L.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = L.DepthwiseConv2D(2, name="depthwise")(x)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Flatten(name="flat")(x)
    return keras.Model(inputs, L.Dense(3, name="logits")(x), name="functional")


def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2), name="image"),
            L.Conv2D(4, 3, name="conv"),
            L.Flatten(),
            L.Dense(3, name="logits"),
        ],
        name="sequential",
    )


def nested():
    inner_input = keras.Input((6, 6, 2), name="inner_image")
    inner = L.Conv2D(4, 3, name="inner_conv")(inner_input)
    inner = keras.Model(inner_input, L.Dense(5, name="inner_dense")(inner), name="inner")
    inputs = keras.Input((6, 6, 2), name="image")
    head = keras.Sequential([L.Flatten(), L.Dense(3, name="head_dense")], name="head")
    return keras.Model(inputs, head(inner(inputs)), name="nested")


def shared():
    inputs = keras.Input((6, 6, 2), name="image")
    layer = L.Dense(2, name="shared_dense")
    return keras.Model(inputs, layer(layer(inputs)), name="shared")


def several():
    image, number = keras.Input((6, 6, 2), name="image"), keras.Input((2,), name="number")
    x = L.Flatten()(L.Conv2D(3, 3, name="conv")(image))
    both = L.Concatenate()([x, L.Dense(4, name="numbers")(number)])
    outputs = {"one": L.Dense(3, name="one")(both), "two": L.Dense(2, name="two")(both)}
    return keras.Model({"image": image, "number": number}, outputs, name="several")


def over_time():
    inputs = keras.Input((6, 6, 2), name="image")
    x = L.TimeDistributed(L.Dense(3, name="step"), name="steps")(inputs)
    return keras.Model(inputs, L.Conv1D(2, 2, name="conv")(L.Reshape((6, 18))(x)), name="over_time")


def mixed():
    inputs = keras.Input((6, 6, 2), name="image")
    x = L.Conv2D(4, 3, dtype="mixed_bfloat16", name="conv")(inputs)
    return keras.Model(inputs, L.Dense(3, dtype="float32", name="logits")(x), name="mixed")


MODELS = (functional, sequential, nested, shared, several, over_time, mixed)


def inputs_of(model, count=3):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(count, 6, 6, 2)).astype("float32")
    if model.name != "several":
        return image
    return {"image": image, "number": rng.normal(size=(count, 2)).astype("float32")}


def arrays(structure):
    return [numpy_of(y) for y in keras.tree.flatten(structure)]


def slot_layers(model):
    return [x for x in model._flatten_layers() if isinstance(x, SlotLayer)]


def randomize(model):
    """Every weight random, so that a weight that is not copied shows."""
    rng = np.random.default_rng(1)
    for v in model.weights:
        if v.name not in ("bank", "sampler") and "seed" not in v.path:
            v.assign(rng.uniform(0.5, 1.5, size=v.shape))
    return model


@pytest.mark.quick("nested", "several", "mixed")
@pytest.mark.parametrize("make", MODELS)
def test_materialize_predicts_as_the_slot_model(make):
    model = randomize(slotify(make(), num_values=3, seed=1))
    before = weights_of(model)
    plain = materialize(model)
    assert slot_layers(model) and not slot_layers(plain)
    x = inputs_of(model)
    ours, theirs = arrays(model(x, training=False)), arrays(plain(x, training=False))
    for y, expected in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(y, expected)
    for path, value in weights_of(model).items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.quick("functional", "several", "over_time")
@pytest.mark.parametrize("make", MODELS)
def test_slotify_and_materialize_give_the_configuration_of_the_plain_model(make):
    plain = make()
    slot = slotify(plain)
    back = materialize(slot)
    assert type(back) is type(plain) and back.get_config() == plain.get_config()
    assert [x.name for x in slot.layers] == [x.name for x in plain.layers]
    for old, new in zip(plain._flatten_layers(), back._flatten_layers(), strict=True):
        assert (type(new), new.name, new.dtype_policy) == (type(old), old.name, old.dtype_policy)
    assert [v.path for v in back.weights] == [v.path for v in plain.weights]


@pytest.mark.filterwarnings("ignore:The kernels of model")
@pytest.mark.parametrize("make", MODELS)
def test_slotify_leaves_its_input_alone_and_copies_all_but_kernels(make):
    plain = randomize(make())
    before = weights_of(plain)
    slot = slotify(plain, seed=1)
    for path, value in weights_of(plain).items():
        np.testing.assert_array_equal(value, before[path])
    assert not slot_layers(plain) and slot.name == plain.name
    kept = {path: value for path, value in before.items() if not path.endswith("kernel")}
    copied = weights_of(slot)
    for path, value in kept.items():
        np.testing.assert_array_equal(copied[path], value)


def test_slotify_keeps_a_shared_layer_one_layer():
    slot = slotify(shared())
    assert len(slot_layers(slot)) == 1 and len(slot.layers) == 2
    assert len(materialize(slot).layers) == 2


def slot_kernels(model):
    return [x for x in model._flatten_layers() if isinstance(x, SlotKernel)]


def named(name, *layers):
    return keras.Sequential([keras.Input((3, 4)), *layers], name=name)


PLACES = {
    "sequential": lambda name: named(name, L.Dense(4, name="same")),
    "nested": lambda name: named(name, named("inner", L.Dense(4, name="same"))),
    "time_distributed": lambda name: L.TimeDistributed(L.Dense(4, name="same"), name=name),
    "in_a_wrapper": lambda name: L.TimeDistributed(
        keras.Sequential([L.Dense(4, name="same")], name="inner"), name=name
    ),
    "bidirectional": lambda name: L.Bidirectional(L.GRU(2, return_sequences=True, name="same"), name=name),
    "cells": lambda name: L.RNN(
        [L.GRUCell(4, name="same"), L.GRUCell(4, name="same")], return_sequences=True, name=name
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_slotify_seed_gives_layers_of_equal_names_in_different_places_different_seeds(place):
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, L.Add()([PLACES[place](name)(inputs) for name in ("one", "two")]))
    first, again = ([k.seed for k in slot_kernels(slotify(model, seed=1))] for _ in range(2))
    assert len(first) == len(set(first)) == {"bidirectional": 8, "cells": 8}.get(place, 2)
    assert first == again


def test_slotify_seed_gives_layers_different_seeds_and_the_same_ones_again():
    first, again, other = (slotify(sequential(), seed=seed) for seed in (1, 1, 2))
    assert_same_weights(first, again)
    seeds = [x.seed for model in (first, other) for x in slot_layers(model)]
    assert len(set(seeds)) == 4


def test_slotify_layer_args_reach_every_layer():
    slot = slotify(nested(), 5, selection="probabilistic", sharing="layer")
    layers = slot_layers(slot)
    assert len(layers) == 3
    for layer in layers:
        assert (layer.num_values, layer.selection, layer.sharing) == (5, "probabilistic", "layer")


@pytest.mark.filterwarnings("ignore:The kernels of model")
@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (None, {"conv", "depthwise", "logits"}),
        (lambda layer: isinstance(layer, L.Dense), {"logits"}),
        (["conv", "logits"], {"conv", "logits"}),
        ("conv", {"conv"}),
        ({"depthwise"}, {"depthwise"}),
    ],
)
def test_slotify_filters_choose_the_layers(filters, names):
    slot = slotify(randomize(functional()), filters=filters)
    assert {x.name for x in slot_layers(slot)} == names


def test_slotify_keeps_the_kernels_of_layers_left_plain():
    plain = functional()
    slot = slotify(plain, filters=["logits"])
    np.testing.assert_array_equal(
        numpy_of(slot.get_layer("conv").kernel), numpy_of(plain.get_layer("conv").kernel)
    )


def test_materialize_lets_normalization_compute_with_its_copied_statistics():
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, size=(50, 2)))
    slot = keras.Sequential([keras.Input((2,)), normalization, SlotDense(3, seed=1)])
    x = np.ones((2, 2), "float32")
    np.testing.assert_array_equal(numpy_of(materialize(slot)(x)), numpy_of(slot(x)))


def learned_layers():
    """Layers that have learned something before their model is built, and an input of each."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(3, 2, size=(50, 4)).astype("float32")
    adapted = {"normalization": L.Normalization(), "discretization": L.Discretization(num_bins=3)}
    for layer in adapted.values():
        layer.adapt(numbers)
    built = {"batch_norm": L.BatchNormalization(), "dense": L.Dense(2)}
    for layer in built.values():
        layer.build((None, 4))
        layer.set_weights([rng.uniform(1, 2, size=w.shape) for w in layer.weights])
    return {name: (layer, numbers[:3]) for name, layer in (adapted | built).items()}


@pytest.mark.parametrize("name", ["normalization", "discretization", "batch_norm", "dense"])
def test_slotify_copies_what_layers_of_a_model_that_is_not_built_have_learned(name):
    layer, x = learned_layers()[name]
    model = keras.Sequential([layer, L.Flatten(), L.Dense(3)])
    slot = slotify(model, filters=lambda each: each is model.layers[-1])
    np.testing.assert_array_equal(numpy_of(slot.layers[0](x)), numpy_of(layer(x)))
    assert not slot.built and numpy_of(slot(x)).shape == (3, 3)


def test_slotify_copies_the_bias_of_a_layer_of_a_model_that_is_not_built():
    layer, x = learned_layers()["dense"]
    with pytest.warns(UserWarning, match="seem to be trained"):
        slot = slotify(keras.Sequential([layer]))
    np.testing.assert_array_equal(numpy_of(slot.layers[0].bias), numpy_of(layer.bias))
    assert numpy_of(slot(x)).shape == (3, 2)


@pytest.mark.tensorflow
def test_slotify_copies_the_vocabulary_of_a_layer_of_a_model_that_is_not_built():
    words = L.StringLookup()
    words.adapt(["a", "b"])
    slot = slotify(keras.Sequential([words, L.Embedding(3, 2)]))
    assert slot.layers[0].get_vocabulary() == words.get_vocabulary() == ["[UNK]", "b", "a"]


def test_slotify_and_materialize_take_a_model_compiled_with_a_loss_that_cannot_be_saved():
    plain = functional()
    plain.compile(optimizer="sgd", loss=lambda y, p: keras.ops.mean(p))
    slot = slotify(plain)
    slot.compile(optimizer="sgd", loss=lambda y, p: keras.ops.mean(p))
    x, y = small_data(8)
    slot.fit(x, y, verbose=0)
    back = materialize(slot)
    assert plain.compiled and slot.compiled and not back.compiled
    plain.evaluate(x, y, verbose=0)


def test_materialize_takes_probabilistic_layers_greedily():
    model = small_model(selection="probabilistic")
    x, _ = small_data(4)
    np.testing.assert_array_equal(
        numpy_of(materialize(model)(x, training=False)), numpy_of(model(x, training=False))
    )


@pytest.mark.parametrize("trainable", [True, False])
def test_materialize_trainable_says_whether_slot_layers_can_be_fine_tuned(trainable):
    plain = materialize(small_model(), trainable=trainable)
    assert plain.get_layer("conv").trainable is trainable
    assert plain.get_layer("logits").trainable is trainable
    assert plain.get_layer("norm").trainable


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_materialize_refuses_scores_that_are_not_finite_naming_the_layer(wrong):
    model = small_model()
    layer = model.get_layer("logits")
    scores = numpy_of(layer.scores).copy()
    scores[0, 0, 0] = wrong
    layer.scores.assign(scores)
    with pytest.raises(ValueError, match="The scores of layer 'logits' holds NaN or infinity"):
        materialize(model)


def test_materialize_refuses_selected_values_that_are_not_finite_naming_the_layer():
    model = small_model()
    layer = model.get_layer("conv")
    bank_variable(layer).assign(np.full(layer.bank.shape, np.nan))
    with pytest.raises(ValueError, match="The bank of layer 'conv' holds NaN or infinity"):
        materialize(model)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize("transform", [slotify, materialize])
def test_slotify_and_materialize_refuse_a_subclassed_model_that_is_not_built(transform):
    text = f"`{transform.__name__}` takes .* subclassed ones once they are built.*type Subclassed"
    with pytest.raises(ValueError, match=text):
        transform(Subclassed())


def test_materialize_refuses_a_slot_layer_that_another_layer_makes():
    model = keras.Sequential(
        [keras.Input((4, 3)), L.Bidirectional(L.LSTM(2)), L.RepeatVector(2), Wrapped(name="wrap")]
    )
    with pytest.raises(
        ValueError, match="The slot layer 'wrap/inner' is made by layer 'wrap' itself, of type Wrapped"
    ):
        materialize(model)


def attentive():
    inputs = keras.Input((3, 4))
    x = L.MultiHeadAttention(2, 2, name="attention")(inputs, inputs)
    return keras.Model(inputs, L.Dense(2, name="last")(x))


class Wrapped(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = SlotDense(3, name="hidden")

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, inputs):
        return self.inner(inputs)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: materialize(functional()), "`model` has no slot layer.*'functional'"),
        (lambda: slotify(keras.Sequential([keras.Input((2,)), L.ReLU()])), "`model` has no layer to replace"),
        (lambda: slotify(functional(), filters=lambda x: False), "`model` has no layer to replace"),
        (
            lambda: slotify(functional(), filters=["conv", "no_such"]),
            r"names out of \['conv', 'depthwise', 'logits'\]. Received: \['no_such'\]",
        ),
        (lambda: slotify(functional(), filters=["norm"]), r"Received: \['norm'\]"),
        (lambda: slotify(attentive(), filters=["last", "query"]), r"out of \['attention', 'last'\].*\['query'\]"),
        (
            lambda: slotify(functional(), num_values=0),
            "Layer 'conv' cannot become a slot layer. `num_values` must be a positive integer",
        ),
        (lambda: slotify(functional(), seed=-1), "`seed` must be"),
    ],
)
def test_slotify_and_materialize_refuse_what_cannot_be_transformed(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_plain_class_of_every_slot_layer_is_its_keras_layer():
    for plain, cls in SlotLayer.registry.items():
        assert cls.plain_class is plain is getattr(L, cls.__name__.removeprefix("Slot"))


def test_materialize_refuses_an_unbuilt_model():
    with pytest.raises(ValueError, match="is not built yet, so nothing is selected"):
        materialize(keras.Sequential([SlotConv2D(2, 3)]))


def test_materialize_gives_weights_that_share_no_memory_with_the_slot_model():
    # On JAX, training one model would delete an array that both hold.
    model = small_model()
    model.build((None, *model.input_shape[1:]))
    held = [variable.value for variable in model.variables]
    plain = materialize(model, trainable=True)
    assert not any(variable.value is value for variable in plain.variables for value in held)
    for variable in plain.variables:
        variable.assign(variable + 1)
    for variable, value in zip(model.variables, held, strict=True):
        np.testing.assert_array_equal(numpy_of(variable), numpy_of(value))


@pytest.mark.parametrize("make", [sequential, nested])
def test_slotify_says_that_a_model_is_a_slot_model_already(make):
    slot = slotify(make())
    for model, filters in ((slot, None), (slot, lambda layer: True)):
        text = f"`model` is already a slot model.*model '{slot.name}'"
        with pytest.raises(ValueError, match=text):
            slotify(model, filters=filters)
    partly = slotify(functional(), filters=["conv"])
    assert len(slot_layers(slotify(partly))) == 3
