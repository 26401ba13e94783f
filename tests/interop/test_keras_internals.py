"""The private parts of Keras that the library uses still do what it expects of them."""

import concurrent.futures
import inspect
import re
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_slots
from comparisons import numpy_of
from keras_slots import SlotDense, materialize
from keras_slots import _keras as keras_internals

PACKAGE = Path(keras_slots.__file__).parent


def test_keras_internals_is_the_only_place_that_reaches_into_keras():
    private = r"keras\.src|_flatten_layers|_get_call_context|_maybe_reset|_inputs_struct|\._layers\b"
    found = {path.name for path in PACKAGE.rglob("*.py") if re.search(private, path.read_text(encoding="utf-8"))}
    assert found == {"_keras.py"}


def test_keras_internals_einsum_shapes_are_those_that_keras_builds():
    layer = keras.layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")
    layer.build((2, 3, 4))
    shapes = keras_internals.einsum_shapes(layer, (2, 3, 4))
    output = layer.compute_output_shape((2, 3, 4))
    assert shapes == (tuple(layer.kernel.shape), tuple(layer.bias.shape), output)
    without = keras.layers.EinsumDense("ab,bc->ac", output_shape=3)
    assert keras_internals.einsum_shapes(without, (2, 4)) == ((4, 3), None, (2, 3))


def test_keras_internals_inner_layers_reach_through_layers_of_any_kind():
    inner = keras.layers.Dense(2)
    outer = keras.Sequential([keras.layers.TimeDistributed(inner)])
    assert any(layer is inner for layer in keras_internals.inner_layers(outer))


def test_keras_internals_writing_and_reading_scope_keep_a_layer_in_two_places_one_layer():
    inner = keras.layers.Dense(2)
    model = keras.Sequential([inner, keras.layers.TimeDistributed(inner)])
    with keras_internals.writing_scope():
        config = keras.saving.serialize_keras_object(model)
    with keras_internals.reading_scope():
        dense, wrapper = keras.saving.deserialize_keras_object(config).layers
    assert wrapper.layer is dense


def test_keras_internals_reading_scope_keeps_copies_that_a_constructor_makes_apart():
    layer = keras.layers.Dense(2)
    with keras_internals.reading_scope():
        config = keras.saving.serialize_keras_object(layer)
        copies = [keras.saving.deserialize_keras_object(config) for _ in range(2)]
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert len({id(x) for x in [layer, *copies, again]}) == 4


def test_keras_internals_direct_layers_are_in_order_and_no_deeper():
    names = ("first", "second", "third")
    inner = keras.Sequential([keras.layers.Dense(2, name=name) for name in names], name="inner")
    model = keras.Sequential([keras.Input((2,)), inner, keras.layers.ReLU(name="last")])
    found = {layer.name for layer in keras_internals.direct_layers(model)}
    assert {"inner", "last"} <= found and not found & set(names)
    assert [x.name for x in keras_internals.direct_layers(inner) if x.name in names] == list(names)


class Asking(keras.layers.Layer):
    """Notes in which pass it is called."""

    def __init__(self, seen, asked):
        super().__init__()
        self.note = lambda: seen.append(keras_internals.current_call(asked))

    def call(self, inputs):
        self.note()
        return inputs


def test_keras_internals_current_pass_is_one_for_all_calls_within_the_outermost():
    seen = []
    stranger = keras.layers.Layer()
    first = Asking(seen, stranger)
    model = keras.Sequential([keras.Input((2,)), first, Asking(seen, stranger), first])
    seen.clear()
    for _ in range(2):
        model(np.ones((1, 2), "float32"))
    assert len(seen) == 6 and None not in seen
    assert len({id(x) for x in seen[:3]}) == len({id(x) for x in seen[3:]}) == 1
    assert seen[0] is not seen[3]
    assert keras_internals.current_call(stranger) is None


def test_keras_internals_training_of_call_is_that_of_the_outermost_call():
    seen, stranger = [], keras.layers.Layer()

    class Inner(keras.layers.Layer):
        def call(self, inputs):
            seen.append(keras_internals.training_of_call(stranger))
            return inputs

    model = keras.Sequential([keras.Input((2,)), Inner()])
    seen.clear()
    for training in (True, False):
        model(np.ones((1, 2), "float32"), training=training)
    assert seen == [True, False]
    assert keras_internals.training_of_call(stranger) is None


def test_keras_internals_replaced_parts_are_forgotten():
    layer = keras.layers.RNN(keras.layers.GRUCell(2, seed=1))
    cell = keras.layers.GRUCell(3, seed=1)
    keras_internals.replace_parts(layer, cell=cell)
    keras_internals.replace_parts(cell, seed_generator=keras.random.SeedGenerator(2))
    layer(np.ones((1, 2, 4), "float32"))
    assert keras_internals.direct_layers(layer) == [cell] and layer.cell is cell
    assert len(layer.weights) == 3 and len(layer.variables) == 4


def test_dir_names_what_keras_passes_over_when_it_saves(tmp_path):
    reads = []

    class Costly(keras.layers.Dense):
        @property
        def bank(self):
            reads.append("bank")

        def __dir__(self):
            return keras_internals.names_hidden_from_saving(Costly, super().__dir__())

    layer = Costly(2)
    model = keras.Sequential([keras.Input((3,)), layer])
    assert {"bank", "units", "__init__"} <= set(dir(layer)) and "bank" in sorted(dir(layer))
    assert [name for name in dir(layer) if name.startswith("ban")] == ["bank"]
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    assert not reads


def test_copy_operation_is_the_same_operation_before_its_first_call():
    x = keras.Input((3,))
    y = keras.ops.clip(x, np.float32(-1), np.float32(1))
    operation = y._keras_history[0]
    new = keras_internals.copy_operation(operation)
    assert type(new) is type(operation) and (new.x_min, new.x_max) == (-1, 1)
    keras.Model(x, new(x))
    assert len(operation._inbound_nodes) == len(new._inbound_nodes) == 1
    assert operation.output is y


@pytest.mark.parametrize(
    ("filters", "refused"),
    [
        (None, True),
        ("slot", True),
        (["no_such", "slot"], True),
        (lambda layer: isinstance(layer, keras.layers.Dense), True),
        ("plain", False),
        (lambda layer: layer.name == "plain", False),
    ],
)
def test_a_model_with_slot_layers_is_not_quantized_before_anything_changes(filters, refused):
    plain, slot = keras.layers.Dense(4, name="plain"), SlotDense(4, name="slot")
    inner = keras.Sequential([keras.Input((4,)), slot, keras.layers.Dense(4, name="plain_too")])
    model = keras.Sequential([keras.Input((4,)), plain, inner])
    before = [v.path for v in model.variables], [x.dtype_policy.name for x in model.layers]
    if filters is None:
        arguments = {}
    else:
        if "filters" not in inspect.signature(keras.Model.quantize).parameters:
            pytest.skip("this version of Keras has no filters")
        arguments = {"filters": filters}
    if not refused:
        model.quantize("int8", **arguments)
        assert plain.dtype_policy.quantization_mode == "int8"
        return
    with pytest.raises(ValueError, match="slot layer 'slot'.*`keras_slots.materialize"):
        model.quantize("int8", **arguments)
    after = [v.path for v in model.variables], [x.dtype_policy.name for x in model.layers]
    assert after == before
    quantized = materialize(model).layers[0]
    quantized.quantize("int8")
    assert quantized.dtype_policy.quantization_mode == "int8"


def test_shapes_alone_builds_models_whose_weights_take_no_memory():
    with keras_internals.without_values():
        layer = keras.layers.Dense(2**30, use_bias=False)
        layer.build((None, 2**20))  # 4 PiB
    assert tuple(layer.variables[0].shape) == (2**20, 2**30)
    # Nothing is left that Keras would give values to at the next occasion.
    with keras.StatelessScope():
        pass
    del layer


@pytest.mark.tensorflow
@pytest.mark.jax
def test_shapes_alone_takes_values_for_variables_in_its_own_thread_alone():
    made = {}

    def elsewhere():
        made["plain"] = keras.Variable(np.full(2, 5.0, "float32"))
        with keras.StatelessScope(), pytest.raises(ValueError, match="in a stateless scope"):
            keras.Variable(np.ones(2, "float32"))

    with keras_internals.without_values() as created:
        made["array"] = keras.Variable(np.arange(3))
        made["number"] = keras.Variable(4, dtype="float32", trainable=False, name="number")
        made["assigned"] = keras.Variable(initializer=keras.ops.zeros(2))
        made["assigned"].assign(made["assigned"] + 7)
        made["drawn"] = keras.Variable("ones", (2,))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(numpy_of(made.pop("plain")), [5, 5])
    assert [id(v) for v in created] == [id(v) for v in made.values()]
    for variable in created:
        keras_internals.set_first_value(variable)
    given = {name: numpy_of(variable) for name, variable in made.items()}
    assert given["array"].tolist() == [0, 1, 2] and given["array"].dtype.kind == "i"
    assert given["number"] == 4 and given["number"].dtype == "float32"
    assert not made["number"].trainable and made["number"].name == "number"
    assert given["assigned"].tolist() == [7, 7] and given["drawn"].tolist() == [1, 1]
    with keras.StatelessScope(), pytest.raises(ValueError, match="in a stateless scope"):
        keras.Variable(np.ones(2, "float32"))


@pytest.mark.tensorflow
@pytest.mark.jax
def test_shapes_alone_of_many_threads_is_that_of_each():
    def build(number):
        with keras_internals.without_values() as created:
            keras.layers.Dense(number).build((None, 2))
            keras.Variable(np.full(number, number))
        for variable in created:
            keras_internals.set_first_value(variable)
        return [tuple(v.shape) for v in created], numpy_of(created[-1]).tolist()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for number, (shapes, value) in enumerate(pool.map(build, range(1, 6)), 1):
            assert shapes == [(2, number), (number,), (number,)] and value == [number] * number


@pytest.mark.tensorflow
@pytest.mark.jax
def test_give_value_gives_variables_of_shapes_alone_an_array_or_what_their_initializer_says():
    before = keras.layers.Dense(2)
    with keras_internals.without_values() as created:
        layer = keras.layers.Dense(3, bias_initializer="ones")
        layer.build((None, 2))
    before.build((None, 2))  # of another layer, with values of its own
    assert [id(v) for v in created] == [id(v) for v in layer.variables]
    kernel = np.arange(6, dtype="float32").reshape(2, 3)
    keras_internals.set_first_value(layer.kernel, kernel)
    keras_internals.set_first_value(layer.bias)
    np.testing.assert_array_equal(layer.get_weights()[0], kernel)
    np.testing.assert_array_equal(layer.get_weights()[1], [1, 1, 1])
    np.testing.assert_array_equal(layer(np.ones((1, 2), "float32")), [[4, 6, 8]])
    layer.kernel.assign(kernel + 1)
    np.testing.assert_array_equal(layer.get_weights()[0], kernel + 1)


class Holder(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = keras.layers.Dense(2, name="first"), keras.layers.Dense(2, name="last")
        self.several = [self.first, {"deep": (keras.layers.ReLU(name="deep"),)}]
        self.number = 3

    def call(self, inputs):
        return self.last(self.several[0](inputs))


def test_keras_internals_parts_are_attributes_that_hold_layers():
    layer = Holder()
    layer(np.ones((1, 2)))
    assert keras_internals.parts_of(layer).keys() == {"first", "last", "several"}
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layer(inputs))
    assert list(keras_internals.parts_of(model)) == ["layers"]


def test_keras_internals_exchange_parts_puts_a_layer_into_all_places_and_keeps_the_order_of_weights():
    layer, new = Holder(), keras.layers.Dense(2, name="new")
    x = np.ones((1, 2), "float32")
    layer(x)
    new.build((1, 2))
    keras_internals.exchange_parts(layer, {id(layer.first): new})
    assert layer.first is new and layer.several[0] is new
    assert [x.name for x in layer._layers] == ["new", "last", "deep"]
    expected = numpy_of(x) @ numpy_of(new.kernel) @ numpy_of(layer.last.kernel)
    np.testing.assert_allclose(numpy_of(layer(x)), expected, rtol=1e-5)


def test_keras_internals_exchange_parts_puts_a_layer_into_a_graph_wherever_it_is_called():
    old, new = keras.layers.Dense(2, name="old"), keras.layers.Dense(2, name="new")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.ReLU()(old(old(inputs))))
    new.build((None, 2))
    keras_internals.exchange_parts(model, {id(old): new})
    assert [x.name for x in model.layers][1] == "new" and len(model.weights) == 2
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    kernel = numpy_of(new.kernel)
    np.testing.assert_allclose(numpy_of(model(x)), np.maximum(x @ kernel @ kernel, 0), rtol=1e-5)
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(numpy_of(again(x)), numpy_of(model(x)))
    assert keras.Model(model.input, model.get_layer("new").output).count_params() == 6
