"""Kernels are found wherever a layer holds them, and each weight goes to the plain weight of its name."""

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import (
    SelectionMonitor,
    SlotDense,
    SlotLayer,
    SlotMultiHeadAttention,
    load_slots,
    materialize,
    register,
    save_slots,
    slotify,
    summary_dict,
)
from keras_slots.inspect.choices import named_kernels
from layer_table import ONE_INPUT, built_layer

L = keras.layers
pytestmark = pytest.mark.usefixtures("own_registrations")


@keras.saving.register_keras_serializable(package="named_weights")
class Two(L.Layer):
    """`y = (x @ first_kernel + bias) @ second_kernel`, kernels of one shape."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first_initializer = self.second_initializer = "glorot_uniform"
        self.first_regularizer = self.second_regularizer = None

    def build(self, input_shape):
        shape = (input_shape[-1],) * 2
        self.first_kernel = self.add_weight(name="first_kernel", shape=shape)
        self.bias = self.add_weight(name="bias", shape=shape[-1:])
        self.second_kernel = self.add_weight(name="second_kernel", shape=shape)

    def call(self, inputs):
        return (inputs @ self.first_kernel + self.bias) @ self.second_kernel


class SlotTwo(SlotLayer, Two):
    kernel_arguments = ("first", "second")

    def build(self, input_shape):
        self.bias = self.add_weight(name="bias", shape=input_shape[-1:], initializer="random_normal")
        shape = (input_shape[-1],) * 2
        self.hold({x: self.add_slot_kernel(shape, x) for x in self.order})

    order = kernel_arguments

    def call(self, inputs, training=None):
        first, second = (x.select(training) for x in self.kernels())
        return (inputs @ first + self.bias) @ second


class AssignedBackwards(SlotTwo):
    def hold(self, kernels):
        self.a, self.b = kernels["second"], kernels["first"]

    def kernels(self):
        return self.b, self.a


class MadeBackwards(SlotTwo):
    order = ("second", "first")

    def hold(self, kernels):
        self.first, self.second = kernels["first"], kernels["second"]

    def kernels(self):
        return self.first, self.second


class InAList(SlotTwo):
    def hold(self, kernels):
        self.held = [kernels["second"], kernels["first"]]

    def kernels(self):
        return self.held[::-1]


class InATuple(SlotTwo):
    def hold(self, kernels):
        self.held = (kernels["second"], kernels["first"])

    def kernels(self):
        return self.held[::-1]


class InADict(SlotTwo):
    def hold(self, kernels):
        self.held = {"z": kernels["first"], "a": kernels["second"]}

    def kernels(self):
        return self.held["z"], self.held["a"]


class Deep(SlotTwo):
    def hold(self, kernels):
        self.held = {"deep": [{"z": kernels["second"]}, (kernels["first"],)]}

    def kernels(self):
        return self.held["deep"][1][0], self.held["deep"][0]["z"]


HOLDERS = (AssignedBackwards, MadeBackwards, InAList, InATuple, InADict, Deep)


def registered(cls, plain=Two):
    return register(plain)(type(cls.__name__, (cls,), {}))


def model_of(layer, width=4):
    model = keras.Sequential([keras.Input((width,)), layer])
    return model, np.random.default_rng(0).normal(size=(5, width)).astype("float32")


@pytest.mark.quick
@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
@pytest.mark.parametrize("holder", HOLDERS, ids=lambda cls: cls.__name__)
def test_kernels_go_to_the_weights_of_their_names_however_they_are_held(holder, mode, tmp_path):
    layer = registered(holder)(name="two", seed=1, score_mode=mode)
    model, x = model_of(layer)
    assert set(layer.slot_kernels) == {"first_kernel", "second_kernel"}
    expected = numpy_of(model(x, training=False))
    plain = materialize(model)
    np.testing.assert_array_equal(numpy_of(plain(x, training=False)), expected)
    with pytest.warns(UserWarning, match="layer classes that Keras does not know"):
        loaded = load_slots(save_slots(model, tmp_path / "model.slots"))
    for one, other in zip(loaded.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(named_kernels(model)) == {"two/first_kernel", "two/second_kernel"}


class Unnamed(Two):
    """Weights that only their attributes name."""

    def build(self, input_shape):
        shape = (input_shape[-1],) * 2
        self.second_kernel = self.add_weight(shape=shape)
        self.first_kernel = self.also = self.add_weight(shape=shape)
        self.bias = self.add_weight(name="bias", shape=shape[-1:])


def test_kernels_go_to_weights_that_only_their_attributes_name():
    model, x = model_of(registered(InAList, Unnamed)(seed=1))
    plain = materialize(model)
    np.testing.assert_array_equal(numpy_of(plain(x)), numpy_of(model(x)))
    slot = slotify(plain, seed=2)
    np.testing.assert_array_equal(numpy_of(slot.layers[0].bias), numpy_of(plain.layers[0].bias))


class Block(L.Layer):
    """Two dense layers, in containers."""

    dense = L.Dense

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = {"b": [self.dense(4, name="up")], "a": (self.dense(4, name="down"),)}

    def build(self, input_shape):
        for part in (self.parts["b"][0], self.parts["a"][0]):
            part.build(input_shape)

    def call(self, inputs, training=None):
        return self.parts["a"][0](self.parts["b"][0](inputs))


class SlotBlock(SlotLayer, Block):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.parts = {
            "a": (SlotDense(4, name="down", seed=2, bias_initializer="ones"),),
            "b": [SlotDense(4, name="up", seed=1)],
        }


def test_kernels_of_inner_slot_layers_in_containers_go_to_the_weights_of_their_names():
    layer = registered(SlotBlock, Block)(name="block")
    model, x = model_of(layer)
    assert set(layer.slot_kernels) == {"up/kernel", "down/kernel"}
    expected = numpy_of(model(x, training=False))
    np.testing.assert_array_equal(numpy_of(materialize(model)(x)), expected)


def test_kernels_of_inner_slot_layers_inside_another_layer_are_found():
    class Outer(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = Block(name="inner")

        def build(self, input_shape):
            self.inner.build(input_shape)

        def call(self, inputs):
            return self.inner(inputs)

    class SlotOuter(SlotLayer, Outer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.inner = Block(name="inner")
            self.inner.parts = {
                name: [SlotDense(4, name=name, seed=seed)] for seed, name in enumerate(("down", "up"))
            }
            self.inner.parts["b"], self.inner.parts["a"] = (self.inner.parts["up"], self.inner.parts["down"])

    layer = registered(SlotOuter, Outer)(name="outer")
    model, x = model_of(layer)
    assert set(layer.slot_kernels) == {"inner/up/kernel", "inner/down/kernel"}
    expected = numpy_of(model(x, training=False))
    np.testing.assert_array_equal(numpy_of(materialize(model)(x)), expected)


class OneMissing(SlotTwo):
    def build(self, input_shape):
        self.bias = self.add_weight(name="bias", shape=input_shape[-1:])
        self.only = self.add_slot_kernel((input_shape[-1],) * 2, "first")

    def call(self, inputs, training=None):
        return inputs @ self.only.select(training) + self.bias


class OneUnknown(InAList):
    def add_slot_kernel(self, shape, argument):
        return super().add_slot_kernel(shape, argument, name=f"{argument}_other")


class OtherShape(InAList):
    def add_slot_kernel(self, shape, argument):
        return super().add_slot_kernel((2, 2), argument)

    def call(self, inputs, training=None):
        return inputs


class BiasLeftOut(InAList):
    def build(self, input_shape):
        super().build(input_shape)
        self.offset = self.add_weight(name="offset", shape=())


class Untracked(InAList):
    def hold(self, kernels):
        self.held = lambda: [kernels["second"], kernels["first"]]

    def kernels(self):
        return self.held()[::-1]


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        (OneMissing, r"'two'.*'second_kernel'"),
        (OneUnknown, r"'two'.*'first_kernel'.*'first_other'"),
        (OtherShape, r"'two'.*'first_kernel'.*\(4, 4\).*\(2, 2\)"),
        (BiasLeftOut, r"'two'.*'offset'"),
        (Untracked, r"'two'.*'first_kernel'"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_materialize_and_save_slots_refuse_weights_that_do_not_pair_by_name(holder, text, tmp_path):
    model, _ = model_of(registered(holder)(name="two", seed=1))
    for transform in (materialize, lambda model: save_slots(model, tmp_path / "model.slots")):
        with pytest.raises(ValueError, match=f"(?s){text}"):
            transform(model)
    assert not list(tmp_path.iterdir())


class SameName(InAList):
    def add_slot_kernel(self, shape, argument):
        return super().add_slot_kernel(shape, argument, name="kernel")


@pytest.mark.parametrize("kind", ["initializer", "regularizer"])
def test_a_layer_without_the_attributes_of_a_kernel_says_which(kind):
    layer = InAList(name="two")
    delattr(layer, f"second_{kind}")
    text = f"argument='second' for the layer 'two', of type InAList, without second_{kind}. Set"
    with pytest.raises(ValueError, match=text):
        layer.build((None, 2))


def test_two_kernels_of_one_name_in_a_layer_are_refused():
    with pytest.raises(ValueError, match="'two' already has a kernel named 'kernel'.*`name`"):
        model_of(registered(SameName)(name="two", seed=1))


class Subclassed(keras.Model):
    """Layers of one name, right inside the model, in a list, in nested models and in blocks."""

    def __init__(self):
        super().__init__(name="model")
        self.first = SlotDense(4, name="h", seed=1)
        self.others = [SlotDense(4, name="h", seed=2), SlotDense(4, name="h_1", seed=3)]
        self.nested = [
            keras.Sequential([keras.Input((4,)), SlotDense(4, name="h", seed=s)], name="nested") for s in (4, 5)
        ]
        self.attention = [SlotMultiHeadAttention(1, 2, name="h", seed=s) for s in (6, 7)]

    def call(self, x):
        for layer in (self.first, *self.others, *self.nested):
            x = layer(x)
        x = x[:, None]
        return self.attention[0](x, x) + self.attention[1](x, x)


def test_layers_of_one_name_have_names_that_no_two_share():
    lists, x = [], np.ones((3, 4), "float32")
    for _ in range(2):
        model = Subclassed()
        model(x)
        kernels = named_kernels(model)
        assert len({id(kernel) for _, kernel in kernels.values()}) == 5 + 2 * 4
        lists.append([(name, layer.seed) for name, (layer, _) in kernels.items()])
    assert lists[0] == lists[1] and ("h_1", 3) in lists[0]
    assert len(summary_dict(model)["kernels"]) == 13
    model.compile("sgd", "mse")
    logs = model.fit(x, np.ones((3, 1, 4)), verbose=0, callbacks=[SelectionMonitor()]).history
    assert {f"slots/{name}/changed" for name in kernels} <= set(logs)


@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
@pytest.mark.parametrize("name", ONE_INPUT)
def test_the_variables_of_the_kernels_come_before_the_bias(name, mode):
    layer, _ = built_layer(name, score_mode=mode)
    names = [v.path.removeprefix(f"{layer.path}/").split("/")[0] for v in layer.weights]
    expected = sorted(names, key="bias".__eq__)
    assert names == expected and ("bias" in names) == bool(getattr(layer, "use_bias", True))
    for variables in (layer.variables, layer.trainable_variables):
        of_bias = [v is layer.bias for v in variables]
        assert of_bias == sorted(of_bias)


def test_projections_have_their_kernel_before_their_bias_and_lists_agree():
    layer = SlotMultiHeadAttention(2, 3)
    model = keras.Sequential([keras.Input((4,)), SlotDense(3), SlotDense(2)])
    layer(np.ones((1, 2, 4), "float32"), np.ones((1, 2, 4), "float32"))
    names = [v.path.split("/")[1:] for v in layer.trainable_variables]
    assert [x[-1] for x in names] == ["scores", "bias"] * 4
    assert [v.name for v in model.trainable_variables] == ["scores", "bias"] * 2
    assert [id(v) for v in model.weights] == [id(v) for v in model.variables]
    assert len({id(v) for v in model.weights}) == len(model.weights) == 8


def test_a_saved_optimizer_goes_on_as_the_one_that_was_saved(tmp_path):
    model = keras.Sequential([keras.Input((4,)), SlotDense(4, seed=1), SlotDense(4, seed=2)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = np.eye(4, dtype="float32"), np.ones((4, 4), "float32")
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, epochs=2, verbose=0)
    states = [[*each.variables, *each.optimizer.variables] for each in (model, loaded)]
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(numpy_of(one), numpy_of(other), rtol=1e-5, atol=1e-6)
