"""Layers inside composite layers and subclassed models: `slotify`, `materialize`, and what files bring back."""

import keras
import numpy as np
import pytest

from comparisons import assert_close, assert_same, numpy_of
from keras_slots import (
    SelectionMonitor,
    SlotDense,
    SlotEmbedding,
    SlotLayer,
    load_slots,
    materialize,
    save_slots,
    slotify,
    summary_dict,
)
from mode_table import SCORE_MODES

L = keras.layers
register = keras.saving.register_keras_serializable(package="test_composites")


@register
class Block(L.Layer):
    """Makes layers in `__init__` and in `build`, in attributes, a list and a dictionary, one of them twice."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.norm = L.LayerNormalization(name="norm")
        self.feed = keras.Sequential([L.Dense(2 * width, activation="relu"), L.Dense(width)])
        self.several = [L.Dense(width), {"last": L.Dense(width)}]
        self.again = self.several[0]

    def build(self, shape):
        self.attention = L.MultiHeadAttention(2, 3)
        self.attention.build(shape, shape)
        self.scale = self.add_weight(shape=(self.width,), name="scale", initializer="ones")
        for layer in (self.norm, self.feed, self.several[0], self.several[1]["last"]):
            layer.build(shape)

    def call(self, x, training=None):
        x = self.norm(x + self.attention(x, x, training=training))
        return self.several[1]["last"](self.several[0](self.again(self.feed(x)))) * self.scale

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@register
class Late(L.Layer):
    """Makes its layer in `build`."""

    def build(self, shape):
        self.dense = L.Dense(6)
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


@register
class Lazy(L.Layer):
    """Has no `build`: Keras builds what is inside in the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(6)
        self.norm = L.LayerNormalization()
        self.late = Late()

    def call(self, x):
        return self.late(self.norm(self.dense(x)))


@register
class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lazy = Lazy()
        self.head = L.Dense(3)

    def call(self, x):
        return self.head(self.lazy(x))


@register
class Backbone(keras.Model):
    """A Functional model that makes its graph from an argument of its own, as those of KerasHub do."""

    def __init__(self, width, **kwargs):
        inputs = keras.Input((5, 6))
        first = L.Dense(width, name="first")
        outputs = L.Dense(3, name="last")(Block(width, name="block")(first(inputs)))
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.first, self.width = first, width

    def get_config(self):
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def functional():
    inputs = keras.Input((5, 6))
    x = Block(6, name="two")(Block(6, name="one")(inputs))
    return keras.Model(inputs, L.Dense(3, name="last")(Lazy(name="lazy")(x)))


def subclassed():
    model = Net()
    model(numbers())
    return model


def backbone():
    return Backbone(6)


def numbers(count=4):
    return np.random.default_rng(0).normal(size=(count, 5, 6)).astype("float32")


def inner(model):
    return model._flatten_layers()


def trained(model, mode="nearest", **arguments):
    slot = slotify(model, score_mode=mode, seed=1, **arguments)
    slot.compile("adam", "mse")
    slot.fit(numbers(), np.zeros((4, 5, 3)), epochs=2, verbose=0)
    return slot


#: All kernels: four of the attention and four others in a block, in one list twice; and those around the blocks.
KERNELS = {functional: 2 * 8 + 2 + 1, subclassed: 2 + 1, backbone: 8 + 2}
models = pytest.mark.parametrize("make", KERNELS)
# Keras' own about `Lazy`; and ours, about classes that a reader of a file must know.
quiet = pytest.mark.filterwarnings("ignore:`build..` was called", "ignore:The model has layer classes")


@register
class Stack(L.Layer):
    """Keeps its layers under the name that a Functional model has for those of its graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layers = [L.Dense(6), L.Dense(6)]

    def build(self, shape):
        for layer in self.layers:
            layer.build(shape)

    def call(self, x):
        return self.layers[1](self.layers[0](x))


@register
class Residual(L.Layer):
    """Is given its layer, and has it in its configuration."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, shape):
        if not self.layer.built:
            self.layer.build(shape)

    def call(self, x):
        return x + self.layer(x)

    def get_config(self):
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})


@register
class Twice(L.Wrapper):
    """Has the configuration of Keras' own base class."""

    def call(self, x):
        return self.layer(self.layer(x))


@register
class Halves(keras.Model):
    def __init__(self, first, last, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = first, last

    def call(self, x):
        return self.last(self.first(x))

    def get_config(self):
        parts = {"first": self.first, "last": self.last}
        return {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: keras.saving.deserialize_keras_object(part) for name, part in config.items()})


def given(cls):
    """A model with a composite of that class that is given its layers."""
    inputs = keras.Input((5, 6))
    if cls is Halves:
        parts = [keras.Sequential([keras.Input((5, width)), L.Dense(10 - width)]) for width in (6, 4)]
        model = Halves(*parts)
        model(numbers())
        return model
    return keras.Model(inputs, cls(keras.Sequential([keras.Input((5, 6)), L.Dense(6)]))(cls(L.Dense(6))(inputs)))


@quiet
@pytest.mark.parametrize("cls", [Residual, Twice, Halves])
def test_layers_that_a_composite_is_given_are_replaced_there_and_back_in_memory_and_in_files(tmp_path, cls):
    slot = slotify(given(cls), score_mode="nearest", seed=1)
    slot.compile("adam", "mse")
    slot.fit(numbers(), np.zeros((4, 5, 6)), verbose=0)
    expected = slot(numbers())
    slot.save(tmp_path / "slot.keras")
    loaded = keras.models.load_model(tmp_path / "slot.keras")
    plain = materialize(slot)
    plain.save(tmp_path / "plain.keras")
    for model in (materialize(loaded), plain, keras.models.load_model(tmp_path / "plain.keras")):
        assert_same(model(numbers()), expected)
        assert not any(isinstance(layer, SlotLayer) for layer in inner(model))
        assert len(summary_dict(slotify(model, start="weights"))["kernels"]) == 2
    assert_same(load_slots(save_slots(slot, tmp_path / "model.slots"))(numbers()), expected)


@register
class Projection(L.Layer):
    """Reads the table of an embedding that it is given."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.table.embeddings))

    def get_config(self):
        return {**super().get_config(), "table": keras.saving.serialize_keras_object(self.table)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "table": keras.saving.deserialize_keras_object(config["table"])})


@quiet
def test_an_embedding_stays_shared_with_the_layer_that_reads_it(tmp_path):
    inputs, table = keras.Input((5,), dtype="int32"), SlotEmbedding(11, 4, seed=0, name="table")
    model = keras.Model(inputs, Projection(table, name="head")(table(inputs)))
    plain = materialize(model)
    tokens = np.array([[1, 2, 3, 4, 10]])
    assert_same(plain(tokens), model(tokens))
    loaded = load_slots(save_slots(model, tmp_path / "m.slots"))
    assert_same(loaded(tokens), model(tokens))
    for made in (plain, loaded):
        assert made.get_layer("head").table is made.get_layer("table") and len(made.variables) == 1


@register
class Projected(Projection):
    """Also has a layer of its own."""

    def __init__(self, table, **kwargs):
        super().__init__(table, **kwargs)
        self.dense = L.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return super().call(self.dense(x))


@quiet
@pytest.mark.parametrize("first", ["table", "head"])
@pytest.mark.parametrize("cls", [Projection, Projected])
def test_a_plain_layer_that_a_composite_shares_with_the_model_stays_shared(tmp_path, cls, first):
    inputs, table = keras.Input((5,), dtype="int32"), L.Embedding(11, 4, name="table")
    head = cls(table, name="head")
    if first == "table":
        model = keras.Model(inputs, head(L.Dense(4, name="dense")(table(inputs))))
    else:
        table.build()
        x = head(L.Dense(4, name="dense")(L.Embedding(11, 4, name="other")(inputs)))
        model = keras.Model(inputs, [x, table(inputs)])
    slot = slotify(model, filters=lambda layer: type(layer) is L.Dense, seed=1)
    copies = [slot, materialize(slot), load_slots(save_slots(slot, tmp_path / "m.slots"))]
    if first == "table":  # Keras itself cannot load a file of the other
        slot.save(tmp_path / "m.keras")
        copies.append(keras.models.load_model(tmp_path / "m.keras"))
    tokens = np.array([[1, 2, 3, 4, 10]])
    for made in copies:
        assert made.get_layer("head").table is made.get_layer("table")
        assert len(made.trainable_variables) <= len(model.trainable_variables)
        for one, other in zip(keras.tree.flatten(made(tokens)), keras.tree.flatten(slot(tokens)), strict=True):
            assert_same(one, other)


@quiet
@pytest.mark.parametrize("filters", [None, ["last"]])
def test_a_plain_layer_that_two_composites_share_stays_shared(tmp_path, filters):
    inputs, norm = keras.Input((5, 6)), L.LayerNormalization()
    x = Twice(norm, name="two")(Residual(norm, name="one")(inputs))
    model = keras.Model(inputs, L.Dense(3, name="last")(x))
    norm.set_weights([np.full(6, 2.0), np.full(6, 0.5)])
    slot = slotify(model, filters=filters)
    for made in (slot, materialize(slot), load_slots(save_slots(slot, tmp_path / "m.slots"))):
        assert made.get_layer("one").layer is made.get_layer("two").layer
        assert_same(made(numbers()), slot(numbers()))
        assert (
            len(made.layers[1].trainable_variables) == 2
            and len(made.variables) == len(made.layers[-1].variables) + 2
        )


@quiet
@pytest.mark.parametrize("frozen", ["two", "two/norm", "two/feed", "two/several/1/last", "lazy/norm"])
def test_frozen_layers_inside_a_composite_stay_frozen(frozen):
    name, _, path = frozen.partition("/")
    model = functional()
    part = model.get_layer(name)
    for key in filter(None, path.split("/")):
        part = (
            getattr(part, key)
            if isinstance(key, str) and hasattr(part, key)
            else part[int(key) if key.isdigit() else key]
        )
    part.trainable = False
    slot = slotify(model, seed=1)
    # Each weight comes from one: a kernel from scores, all others from themselves.
    count = len(model.trainable_variables)
    assert len(slot.trainable_variables) == count < len(model.variables)
    back = materialize(slot)
    assert len(back.trainable_variables) == count


@register
class Pair(L.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.last = L.Dense(units), L.Dense(units)

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, self.units))

    def call(self, x):
        return self.last(self.first(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_slotify_and_materialize_reach_layers_in_an_attribute_called_layers(tmp_path):
    inputs = keras.Input((5, 6))
    slot = slotify(keras.Model(inputs, Stack(name="stack")(inputs)), score_mode="nearest", seed=1)
    assert len(summary_dict(slot)["kernels"]) == 2
    expected = slot(numbers())
    assert_same(materialize(slot)(numbers()), expected)
    slot.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras")(numbers()), expected)


@pytest.mark.quick
@models
@pytest.mark.parametrize("mode", SCORE_MODES)
def test_slotify_and_materialize_reach_all_kernels_inside_composites(make, mode):
    plain = make()
    before = [numpy_of(w) for w in plain.weights]
    slot = trained(plain, mode)
    assert len(summary_dict(slot)["kernels"]) == KERNELS[make]
    assert isinstance(slot, type(plain))
    assert make is not backbone or slot.first is slot.layers[1]
    for weight, value in zip(plain.weights, before, strict=True):
        np.testing.assert_array_equal(numpy_of(weight), value)
    back = materialize(slot)
    assert type(back) is type(plain)
    assert [type(x) for x in inner(back)] == [type(x) for x in inner(plain)]
    assert [v.path for v in back.weights] == [v.path for v in plain.weights]
    assert_same(back(numbers()), slot(numbers(), training=False))


@register
class BothWays(L.Layer):
    """Makes a wrapper in `__init__`, which makes copies of its layer there."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.both = L.Bidirectional(L.GRU(units, return_sequences=True))

    def build(self, shape):
        self.both.build(shape)

    def call(self, x):
        return self.both(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Copies(Residual):
    """Makes copies of the layer that it is given."""

    def __init__(self, layer, **kwargs):
        super().__init__(layer, **kwargs)
        config = keras.saving.serialize_keras_object(layer)
        self.copies = [keras.saving.deserialize_keras_object(config) for _ in range(2)]

    def build(self, shape):
        for layer in (self.layer, *self.copies):
            if not layer.built:
                layer.build(shape)

    def call(self, x):
        return self.copies[1](self.copies[0](self.layer(x)))


@quiet
@pytest.mark.parametrize("make", [lambda: BothWays(3), lambda: Copies(L.Dense(6))], ids=["wrapper", "copies"])
def test_files_bring_back_composites_that_copy_layers_in_their_constructor(make, tmp_path):
    plain = keras.Sequential([keras.Input((5, 6)), make(), make(), L.Dense(3)])
    slot = slotify(plain, score_mode="nearest", seed=1)
    x, expected = numbers(), slot(numbers())
    assert_same(load_slots(save_slots(slot, tmp_path / "model.slots"))(x), expected)
    slot.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras")(x), expected)


@register
class Forgetful(Stack):
    """Makes another number of layers from its configuration."""

    def __init__(self, number=3, **kwargs):
        super().__init__(**kwargs)
        self.layers = [L.Dense(6) for _ in range(number)]

    def get_config(self):
        return {"name": self.name}


def test_materialize_refuses_a_layer_that_its_configuration_does_not_bring_back():
    model = keras.Sequential([keras.Input((5, 6)), Forgetful(2, name="forgets"), SlotDense(3)])
    with pytest.raises(ValueError, match="Layer 'forgets' of type Forgetful cannot be copied: .* shapes"):
        materialize(model)


@register
class Keyed(Stack):
    """Has a dictionary in its configuration whose keys are other ones in a file."""

    def __init__(self, sizes, **kwargs):
        super().__init__(**kwargs)
        self.sizes = sizes
        self.layers = [L.Dense(sizes.get(i, 6)) for i in range(2)]

    def get_config(self):
        return {"name": self.name, "sizes": self.sizes}


@quiet
def test_save_slots_refuses_a_model_that_its_file_would_not_bring_back(tmp_path):
    model = keras.Sequential([keras.Input((5, 6)), SlotDense(6), Keyed({1: 4})])
    with pytest.raises(ValueError, match="A file cannot hold model .*get_config"):
        save_slots(model, tmp_path / "model.slots")
    assert not list(tmp_path.iterdir())


class Unknown(Late):
    """Is not registered with Keras."""


def test_save_slots_warns_once_of_a_composite_that_load_slots_must_be_given(tmp_path):
    inputs = keras.Input((5, 6))
    slot = slotify(keras.Model(inputs, Unknown(name="unknown")(inputs)), score_mode="nearest", seed=1)
    with pytest.warns(UserWarning, match=r"Keras does not know: \['Unknown'\]") as caught:
        path = save_slots(slot, tmp_path / "model.slots")
    assert sum(each.category is UserWarning for each in caught) == 1
    assert_same(load_slots(path, custom_objects={"Unknown": Unknown})(numbers()), slot(numbers()))


def own_activation(x):
    return 2 * x


def test_save_slots_warns_of_a_file_that_load_slots_cannot_read_by_itself(tmp_path):
    model = keras.Sequential([keras.Input((5,)), SlotDense(3), L.Activation(own_activation)])
    with pytest.warns(UserWarning, match=r"`load_slots` cannot read this file by itself: .*own_activation"):
        path = save_slots(model, tmp_path / "model.slots")
    x = np.ones((2, 5), "float32")
    assert_same(load_slots(path, custom_objects={"own_activation": own_activation})(x), model(x))


def test_files_tell_many_composites_apart(tmp_path):
    x = inputs = keras.Input((6,))
    for index in range(8):
        x = Pair(units=index + 1, name=f"pair_{index}")(x)
    slot = slotify(keras.Model(inputs, x), score_mode="nearest", seed=1)
    slot.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [v.shape for v in again.weights] == [v.shape for v in slot.weights]


@quiet
@pytest.mark.quick
@models
@pytest.mark.parametrize("mode", SCORE_MODES)
def test_files_bring_back_slot_layers_inside_composites(make, mode, tmp_path):
    slot = trained(make(), mode)
    x, expected = numbers(), slot(numbers())
    slot.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_same(again(x), expected)
    assert [v.name for v in again.weights] == [v.name for v in slot.weights]
    assert_same(materialize(again)(x), expected)
    again.fit(x, np.zeros((4, 5, 3)), verbose=0)
    assert_same(load_slots(save_slots(slot, tmp_path / "model.slots"))(x), expected)
    slot.save_weights(tmp_path / "model.weights.h5")
    again.load_weights(tmp_path / "model.weights.h5")
    assert_same(again(x), expected)


@models
def test_slotify_copies_all_that_is_not_a_kernel_from_a_composite(make):
    plain = make()
    rng = np.random.default_rng(1)
    plain.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in plain.get_weights()])
    slot = slotify(plain, num_values=4096, start="weights", seed=1)
    kept = {v.path: numpy_of(v) for v in plain.weights if v.name in ("scale", "gamma", "beta", "bias")}
    got = {v.path: numpy_of(v) for v in slot.weights if v.name in ("scale", "gamma", "beta", "bias")}
    assert kept.keys() == got.keys()
    for path, value in kept.items():
        np.testing.assert_array_equal(got[path], value)
    np.testing.assert_allclose(numpy_of(slot(numbers())), numpy_of(plain(numbers())), rtol=0.01, atol=0.01)


def test_slotify_gives_layers_of_equal_names_in_two_blocks_other_values():
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, Block(6, name="two")(Block(6, name="one")(inputs)))
    slot = slotify(model, seed=1)
    banks = [numpy_of(x.several[1]["last"].bank) for x in slot.layers[1:3]]
    assert not np.isin(banks[0], banks[1]).any()
    again = slotify(model, seed=1)
    np.testing.assert_array_equal(banks[0], numpy_of(again.layers[1].several[1]["last"].bank))


def test_slotify_keeps_a_layer_in_two_attributes_one_layer():
    block = slotify(backbone()).layers[2]
    assert block.again is block.several[0] and isinstance(block.again, SlotLayer)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (lambda layer: layer.path.startswith("two/"), 8),
        (lambda layer: isinstance(layer, L.MultiHeadAttention), 8),
        (["last"], 1),
    ],
)
def test_slotify_filters_reach_inside_composites(filters, count):
    assert len(summary_dict(slotify(functional(), filters=filters))["kernels"]) == count


def test_slotify_filters_take_the_path_of_an_inner_layer():
    model = backbone()
    path = model.layers[2].several[1]["last"].path
    (row,) = summary_dict(slotify(model, filters=[path]))["kernels"]
    assert row["shape"] == (6, 6)


def test_selection_monitor_reports_kernels_inside_composites():
    slot = slotify(subclassed(), score_mode="nearest")
    slot.compile("adam", "mse")
    logs = slot.fit(numbers(), np.zeros((4, 5, 3)), verbose=0, callbacks=[SelectionMonitor()]).history
    assert len([name for name in logs if name.endswith("/changed")]) == 1 + KERNELS[subclassed]


def test_slotify_goes_on_where_filters_stopped():
    partly = slotify(functional(), filters=lambda layer: layer.path.startswith("two/"), seed=1)
    slot = slotify(partly, seed=2)
    assert len(summary_dict(slot)["kernels"]) == KERNELS[functional]
    old, new = (model.layers[2].several[1]["last"] for model in (partly, slot))
    np.testing.assert_array_equal(numpy_of(new.kernel), numpy_of(old.kernel))


class Reads(L.Layer):
    """Computes with the kernel of an inner layer, and never calls it."""

    def build(self, shape):
        self.dense = L.Dense(3, use_bias=False)
        self.dense.build(shape)

    def call(self, x):
        return x @ self.dense.kernel


@pytest.mark.parametrize("mode", SCORE_MODES)
def test_slot_kernels_train_where_a_composite_reads_the_kernel_of_an_inner_layer(mode):
    inputs = keras.Input((5, 6))
    slot = trained(keras.Model(inputs, Reads(name="reads")(inputs)), mode)
    layer, x = slot.layers[1], numbers()
    assert_close(slot(x), x @ numpy_of(layer.dense.kernel), rtol=1e-5, atol=1e-6)
    fresh = slotify(keras.Model(inputs, Reads(name="reads")(inputs)), score_mode=mode, seed=1).layers[1]
    assert np.any(numpy_of(fresh.dense.trainable_variables[0]) != numpy_of(layer.dense.trainable_variables[0]))


class Unordered(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = {1: L.Dense(3, name="hidden"), "two": L.ReLU()}

    def call(self, x):
        return self.parts[1](x)


class Tied(L.Layer):
    def build(self, shape):
        self.dense = L.Dense(3, name="hidden")
        self.dense.build(shape)
        self.matrix = self.dense.kernel

    def call(self, x):
        return self.dense(x) @ keras.ops.transpose(self.matrix)


class Wrapped(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3, name="hidden")
        self.memory = L.LSTM(3)

    def build(self, shape):
        self.dense.build(shape)

    def get_config(self):
        return {**super().get_config(), "units": 3}

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Unordered, r"The layers \['outer/hidden'\] inside layer 'outer' of type Unordered cannot be replaced"),
        (Tied, r"The layers \['outer/dense'\] cannot be replaced: layer 'outer' of type Tied also holds their"),
        (Wrapped, "Layer 'outer' of type Wrapped cannot be copied"),
    ],
)
def test_slotify_refuses_what_it_cannot_replace_inside_a_layer_with_its_path(cls, text):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, cls(name="outer")(inputs))
    with pytest.raises(ValueError, match=text):
        slotify(model)


def test_a_composite_whose_class_has_changed_is_refused_with_the_path_of_the_layer():
    block = slotify(functional()).layers[1]
    config = block.get_config()
    config["slots"]["former"] = config["slots"].pop("attention")
    with pytest.raises(ValueError, match="'one' of type Block was saved with a layer 'former'"):
        type(block).from_config(config)
