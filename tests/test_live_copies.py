"""Copies keep the functions, objects and classes of a model; only a file that cannot hold one refuses it."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import ops

from comparisons import numpy_of
from keras_slots import SlotDense, load_slots, materialize, save_slots, slotify

L = keras.layers


def twice(x):
    return 2 * x


def no_mask(inputs, mask):
    return None


def relu(x):  # not the one of Keras that is called like it
    return ops.relu(x) - x / 3


def total(x):
    return 0.01 * ops.sum(x)


def halves(shape, dtype=None):
    return 0.5 * ops.ones(shape, dtype)


class Halves:
    def __call__(self, shape, dtype=None):
        return halves(shape, dtype)


class Named(keras.initializers.Initializer):
    def __init__(self, value=0.25):
        self.value = value

    def __call__(self, shape, dtype=None):
        return self.value * ops.ones(shape, dtype)

    def get_config(self):
        return {"value": self.value}


class Sum(keras.regularizers.Regularizer):
    def __call__(self, x):
        return total(x)


class Halved(keras.constraints.Constraint):
    def __call__(self, w):
        return w / 2


class Around(L.Layer):
    """A class that is not registered, with a function as it is in its configuration."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "function": self.function}


class Written(Around):
    """The same, with the function as Keras writes it."""

    def get_config(self):
        written = keras.saving.serialize_keras_object(self.function)
        return {**super().get_config(), "function": written}

    @classmethod
    def from_config(cls, config):
        function = keras.saving.deserialize_keras_object(config.pop("function"))
        return cls(function, **config)


LAMBDA = lambda x: x * 3  # noqa: E731
PARTIAL = functools.partial(ops.leaky_relu, negative_slope=0.3)
FUNCTIONS = {"lambda": LAMBDA, "partial": PARTIAL, "named": twice, "like_keras": relu, "ops": ops.sin}


def dense(**arguments):
    return lambda: L.Dense(4, name="own", **arguments)


LAYERS = {
    **{f"activation_{name}": dense(activation=f) for name, f in FUNCTIONS.items()},
    **{f"activation_layer_{name}": lambda f=f: L.Activation(f, name="own") for name, f in FUNCTIONS.items()},
    **{f"lambda_{name}": lambda f=f: L.Lambda(f, name="own") for name, f in FUNCTIONS.items()},
    **{f"raw_{name}": lambda f=f: Around(f, name="own") for name, f in FUNCTIONS.items()},
    **{f"written_{name}": lambda f=f: Written(f, name="own") for name, f in FUNCTIONS.items()},
    "initializer_function": dense(kernel_initializer=halves, bias_initializer=lambda s, dtype=None: ops.ones(s)),
    "initializer_object": dense(kernel_initializer=Halves(), bias_initializer=Named(0.5)),
    "initializer_partial": dense(bias_initializer=functools.partial(halves, dtype="float32")),
    "regularizer_function": dense(kernel_regularizer=total, bias_regularizer=lambda x: total(x)),
    "regularizer_object": dense(kernel_regularizer=Sum(), activity_regularizer=Sum()),
    "activity_lambda": dense(activity_regularizer=lambda x: total(x)),
    "constraint": dense(bias_constraint=Halved()),
    "constraint_function": dense(bias_constraint=lambda w: w / 2),
    "lambda_with_mask": lambda: L.Lambda(LAMBDA, output_shape=lambda s: s, mask=no_mask, name="own"),
    "over_time": lambda: keras.Sequential(
        [L.Reshape((2, 2)), L.TimeDistributed(L.Dense(2, activation=PARTIAL)), L.Flatten()]
    ),
    "wrapped": lambda: keras.Sequential([L.Reshape((2, 2)), L.TimeDistributed(Around(LAMBDA)), L.Flatten()]),
    "recurrent": lambda: keras.Sequential(
        [L.Reshape((2, 2)), L.RNN([L.LSTMCell(3, activation=LAMBDA), L.GRUCell(4, activation=PARTIAL)])]
    ),
    "lstm": lambda: keras.Sequential([L.Reshape((2, 2)), L.LSTM(4, activation=LAMBDA)]),
}
OPERATIONS = {
    "scalar": lambda x: x * np.float32(2),
    "array": lambda x: ops.add(x, np.ones((4,), "float32")),
    "argument": lambda x: ops.clip(x, np.float32(-0.5), np.float32(0.5)),
    "array_argument": lambda x: ops.repeat(x, np.array([1, 1, 1, 1]), axis=1),
    "function": lambda x: ops.map(lambda row: row * 2, x),
    "vectorized": lambda x: ops.vectorized_map(twice, x),
    "slice": lambda x: x[:, np.int64(0) : np.int64(4)],
}
X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def model_with(middle):
    inputs = keras.Input((4,))
    x = SlotDense(4, seed=1, name="first")(inputs)
    return keras.Model(inputs, L.Dense(2, name="last")(middle(x)), name="model")


def assert_same_predictions(model, other):
    for training in (False, True):
        np.testing.assert_array_equal(numpy_of(other(X, training=training)), numpy_of(model(X, training=training)))
    losses = [[float(numpy_of(x)) for x in each.losses] for each in (model, other)]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.quick(
    "activation_lambda",
    "activation_layer_ops",
    "lambda_partial",
    "raw_named",
    "written_like_keras",
    "initializer_function",
    "regularizer_object",
    "activity_lambda",
    "constraint",
    "lambda_with_mask",
    "over_time",
    "wrapped",
    "recurrent",
)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_materialize_and_slotify_keep_the_functions_of_a_layer(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LSTM layers stay plain; initializers are called twice
        layer = make()
        model = model_with(layer)
        plain = materialize(model)
        again = slotify(model, filters=["last"])
    assert_same_predictions(model, plain)
    for copy in (plain, again):
        own = copy.get_layer(layer.name)
        assert type(own) is type(layer)
        for name in ("activation", "function", "activity_regularizer", "bias_constraint", "mask"):
            if type(layer) is L.Dense or name in ("activation", "function"):
                assert getattr(own, name, None) is getattr(layer, name, None)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_materialize_and_slotify_keep_the_arguments_of_operations(operation):
    model = model_with(operation)
    nodes = [len(x._inbound_nodes) for x in model.operations]
    assert_same_predictions(model, materialize(model))
    slotify(model)
    assert [len(x._inbound_nodes) for x in model.operations] == nodes


@pytest.mark.parametrize("regularizer", [total, lambda x: 2 * total(x), Sum()], ids=["named", "lambda", "object"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **arguments: L.MultiHeadAttention(2, 2, **arguments),
        lambda **arguments: L.GroupQueryAttention(2, 2, 1, **arguments),
    ],
    ids=["multi_head", "grouped_query"],
)
def test_slot_attention_takes_over_regularizers_and_gives_them_back(make, regularizer):
    inputs = keras.Input((3, 4))
    arguments = {"kernel_regularizer": regularizer, "bias_regularizer": regularizer}
    plain = keras.Model(inputs, make(**arguments)(inputs, inputs))
    slot = slotify(plain, seed=1)
    back = materialize(slot)
    assert len(plain.losses) == len(slot.losses) == len(back.losses) == 8
    x = X.reshape(2, 3, 4)
    np.testing.assert_array_equal(numpy_of(back(x)), numpy_of(slot(x)))
    losses = [sorted(float(numpy_of(loss)) for loss in model.losses) for model in (slot, back)]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("argument", ["activation", "activity_regularizer", "kernel_initializer"])
def test_slot_layers_take_over_the_functions_of_their_keras_layer_and_give_them_back(argument, function):
    functions = {
        "activation": function,
        "activity_regularizer": lambda x: ops.sum(function(x)),
        "kernel_initializer": lambda shape, dtype=None: function(keras.random.normal(shape, seed=1)),
    }
    plain = keras.Sequential([keras.Input((4,)), L.Dense(3, name="own", **{argument: functions[argument]})])
    slot = slotify(plain, 2, seed=1, filters=lambda layer: True)
    back = materialize(slot)
    for copy in (slot, back):
        assert getattr(copy.layers[0], argument) is functions[argument]
    assert_same_predictions(slot, back)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"activation": LAMBDA}, "`activation` of layer 'own'.*lambda"),
        ({"activation": PARTIAL}, "`activation` of layer 'own'.*partial"),
        ({"bias_initializer": Halves()}, "`bias_initializer` of layer 'own'.*Halves"),
        ({"activity_regularizer": LAMBDA}, "`activity_regularizer` of layer 'own'"),
        ({"bias_constraint": LAMBDA}, "`bias_constraint` of layer 'own'"),
    ],
)
@pytest.mark.parametrize("kind", [L.Dense, SlotDense])
def test_save_slots_refuses_what_a_file_cannot_hold_naming_layer_and_argument(kind, arguments, text, tmp_path):
    model = keras.Sequential([keras.Input((4,)), SlotDense(4), kind(2, name="own", **arguments)])
    with pytest.raises(ValueError, match=text):
        save_slots(model, tmp_path / "model.slots")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("middle", "text"),
    [
        (L.Lambda(LAMBDA, name="own"), "`function` of layer 'own'"),
        (
            keras.Sequential([L.Reshape((4, 1)), L.TimeDistributed(L.Dense(1, activation=LAMBDA)), L.Flatten()]),
            "`layer.activation` of layer 'time_distributed|`activation` of layer 'dense",
        ),
        (lambda x: ops.clip(x, np.float32(0), 1.0), "model 'model'.*Clip"),
    ],
    ids=["lambda", "wrapped", "operation"],
)
def test_save_slots_refuses_lambda_layers_and_operations_that_a_file_cannot_hold(middle, text, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){text}"):
        save_slots(model_with(middle), tmp_path / "model.slots")
    assert not list(tmp_path.iterdir())


def test_a_named_function_goes_into_the_file_and_is_given_to_load_slots(tmp_path):
    model = keras.Sequential([keras.Input((4,)), SlotDense(3, activation=twice, seed=1)])
    with pytest.warns(UserWarning, match="cannot read this file by itself: .*'twice'.*custom_objects"):
        path = save_slots(model, tmp_path / "model.slots")
    loaded = load_slots(path, custom_objects={"twice": twice})
    np.testing.assert_array_equal(numpy_of(loaded(X)), numpy_of(model(X)))


class Silent(L.Layer):
    """What Keras cannot copy: it does not know the function."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.held = [function]

    def call(self, inputs):
        return self.held[0](inputs)


@pytest.mark.parametrize("transform", [materialize, lambda model: slotify(model)])
def test_a_layer_without_get_config_is_refused_by_name(transform):
    with pytest.raises(ValueError, match="(?s)'own' of type Silent cannot be copied.*get_config"):
        transform(model_with(Silent(twice, name="own")))


# Classes of models.


class Kept(keras.Model):
    """Made by its class from inputs and outputs."""

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


class KeptWithConstructor(Kept):
    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.count = 0


class KeptPassingOn(Kept):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class KeptSequential(keras.Sequential):
    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


def layers_of(inputs):
    return L.Dense(2, name="last")(SlotDense(4, seed=1, name="first")(inputs))


class OnItsOwn(keras.Model):
    """Makes its layers itself."""

    def __init__(self):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers_of(inputs), name="model")


class WithStep(OnItsOwn):
    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


class WithCall(OnItsOwn):
    def call(self, inputs, **kwargs):
        return 2 * super().call(inputs, **kwargs)


class WithNumber(keras.Model):
    def __init__(self, inputs, outputs, number=1, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.number = number

    def test_step(self, *args, **kwargs):
        return super().test_step(*args, **kwargs)


class SequentialOnItsOwn(keras.Sequential):
    def __init__(self):
        super().__init__([keras.Input((4,)), SlotDense(4, seed=1), L.Dense(2, name="last")], name="model")

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


def from_tensors(cls):
    inputs = keras.Input((4,))
    return cls(inputs, layers_of(inputs), name="model")


def from_layers(cls):
    return cls([keras.Input((4,)), SlotDense(4, seed=1, name="first"), L.Dense(2, name="last")], name="model")


TRANSFORMS = {"materialize": materialize, "slotify": lambda model: slotify(model, filters=["last"])}


@pytest.mark.quick
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize(
    "model",
    [
        lambda: from_tensors(Kept),
        lambda: from_tensors(KeptWithConstructor),
        lambda: from_tensors(KeptPassingOn),
        lambda: from_layers(KeptSequential),
    ],
)
def test_the_class_of_a_model_is_kept(model, transform):
    model = model()
    copy = transform(model)
    assert type(copy) is type(model) and copy.name == model.name
    copy.compile("sgd", "mse")
    copy.fit(X, np.zeros((6, 2), "float32"), verbose=0)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize(
    ("make", "lost", "takes"),
    [
        (WithStep, "train_step", "`inputs`, `outputs`"),
        (lambda: from_tensors(WithNumber), "test_step", "`inputs`, `outputs`"),
        (SequentialOnItsOwn, "train_step", "`layers`"),
    ],
)
def test_a_class_that_cannot_be_kept_is_warned_of(make, lost, takes, transform):
    model = make()
    with pytest.warns(UserWarning, match=rf"'model' does not have \['{lost}'\].*{takes}"):
        copy = transform(model)
    assert [x.name for x in copy.layers] == [x.name for x in model.layers]


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_class_that_computes_something_else_and_cannot_be_kept_is_refused(transform):
    with pytest.raises(ValueError, match=r"'model' does not have \['call'\] of its class WithCall"):
        transform(WithCall())


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_class_that_only_makes_the_layers_is_copied_without_a_word(transform):
    model = OnItsOwn()
    copy = transform(model)
    assert [x.name for x in copy.layers] == [x.name for x in model.layers]


@pytest.mark.tensorflow
def test_export_selected_exports_lambdas(tmp_path):
    import tensorflow as tf

    from keras_slots import export_selected

    model = model_with(L.Dense(4, activation=PARTIAL, kernel_regularizer=lambda x: total(x)))
    path = export_selected(model, tmp_path / "selected")
    (served,) = tf.saved_model.load(str(path)).signatures["serving_default"](tf.constant(X)).values()
    np.testing.assert_allclose(numpy_of(served), numpy_of(model(X)), rtol=1e-5)
