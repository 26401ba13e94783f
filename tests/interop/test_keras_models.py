"""Real models: slotify, train, save, materialize, and export them on TensorFlow.

The large ones of `keras.applications` take minutes and are marked `slow`; so is one score mode of
each small one.
"""

import keras
import numpy as np
import pytest
from keras import ops

from backends import BACKEND
from comparisons import assert_close, assert_same
from keras_slots import export_selected, materialize, slotify
from layer_table import MODES, L
from plain_models import give_kernels, kernel_layers, kernels, random_input, slot_layers

APPLICATIONS = {
    "MobileNetV2": (32, {}),
    "MobileNetV3Small": (32, {}),
    "EfficientNetB0": (32, {}),
    "DenseNet121": (32, {}),
    "Xception": (71, {}),
    "NASNetMobile": (32, {}),
    "ConvNeXtTiny": (32, {}),
}
if BACKEND.name == "torch":
    del APPLICATIONS["NASNetMobile"]  # Keras refuses it there.


@pytest.fixture(autouse=True)
def _drop_what_is_compiled():
    yield
    BACKEND.forget_compiled()  # several GB after all these networks


def application(name):
    size, arguments = APPLICATIONS[name]
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classes=3, **arguments)


def u_net():
    def block(x, filters, name):
        for i in range(2):
            x = L.Conv2D(filters, 3, padding="same", name=f"{name}_{i}")(x)
            x = L.Activation("relu")(L.BatchNormalization()(x))
        return x

    inputs = keras.Input((16, 16, 2), name="image")
    first = block(inputs, 4, "first")
    second = block(L.MaxPooling2D()(first), 8, "second")
    x = block(L.MaxPooling2D()(second), 8, "bottom")
    x = L.Conv2DTranspose(8, 2, strides=2, name="up_one")(x)
    x = block(ops.concatenate([x, second], axis=-1), 8, "third")
    x = L.Conv2DTranspose(4, 2, strides=2, name="up_two")(x)
    x = block(L.Concatenate()([x, first]), 4, "fourth")
    return keras.Model(inputs, L.Conv2D(1, 1, activation="sigmoid", name="pixels")(x))


def transformer():
    inputs = keras.Input((7, 8), name="steps")
    attended = L.MultiHeadAttention(2, 4, dropout=0.1, name="attention")(inputs, inputs)
    x = L.LayerNormalization()(inputs + attended)
    hidden = L.Dense(8, name="contract")(L.Dense(16, activation="gelu", name="expand")(x))
    x = L.LayerNormalization()(x + L.Dropout(0.1)(hidden))
    return keras.Model(inputs, L.Dense(3, name="logits")(ops.mean(x, axis=1)))


def siamese():
    tower = keras.Sequential(
        [keras.Input((8, 8, 1)), L.SeparableConv2D(4, 3), L.ReLU(), L.Flatten(), L.Dense(5)], name="tower"
    )
    left, right = keras.Input((8, 8, 1), name="left"), keras.Input((8, 8, 1), name="right")
    distance = ops.abs(tower(left) - tower(right))
    return keras.Model([left, right], L.Dense(1, activation="sigmoid", name="same")(distance))


def dictionaries():
    inputs = {"image": keras.Input((8, 8, 2), name="image"), "age": keras.Input((1,), name="age")}
    x = L.Flatten()(L.DepthwiseConv2D(3, depth_multiplier=2)(inputs["image"]))
    x = L.Concatenate()([L.Dense(6, activation="relu")(x), inputs["age"] / 100.0])
    outputs = {"kind": L.Dense(3, name="kind")(x), "size": L.Dense(1, name="size")(x)}
    return keras.Model(inputs, outputs)


def conv1d_with_masks():
    tokens = keras.Input((9,), dtype="int32", name="tokens")
    known = ops.expand_dims(ops.cast(tokens > 0, "float32"), -1)
    x = L.Conv1D(6, 3, padding="causal", name="first")(one_hot(tokens)) * known
    x = x + L.Conv1D(6, 3, padding="same", name="second")(x)
    x = L.Masking()(x)
    x = L.TimeDistributed(L.Dense(4, activation="tanh", name="inside"), name="steps")(x)
    return keras.Model(tokens, L.Dense(2, name="last")(L.GlobalAveragePooling1D()(x)))


def one_hot(tokens):
    return L.CategoryEncoding(5, output_mode="one_hot")(ops.expand_dims(tokens, -1))


SMALL = (u_net, transformer, siamese, dictionaries, conv1d_with_masks)


def without_memory(model):
    """Batch normalization by the last batch: after two steps, its averages would still be the initial ones."""
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.0
    return model


def train(model, steps=6):
    """A few steps on random numbers; the losses must be finite."""
    x = random_input(model, 2 * steps)
    rng = np.random.default_rng(1)
    y = keras.tree.map_structure(lambda t: rng.random((2 * steps, *t.shape[1:])).astype("float32"), model.output)
    # Every number moves by about the learning rate, however small its gradient.
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    history = model.fit(x, y, batch_size=2, verbose=0, shuffle=False)
    assert np.isfinite(history.history["loss"]).all()


def serve(path, model, x):
    import tensorflow as tf

    names = [t.name for t in model.inputs]
    values = x if isinstance(x, dict) else dict(zip(names, keras.tree.flatten(x), strict=True))
    answer = tf.saved_model.load(str(path)).signatures["serving_default"](
        **{name: tf.constant(value) for name, value in values.items()}
    )
    return [answer[name] for name in sorted(answer)]


def check(plain, mode, tmp_path):
    x = random_input(plain)
    slot = slotify(plain, num_values=3, seed=1, score_mode=mode)
    assert len(kernel_layers(slot)) == len(kernel_layers(plain))
    before = [kernels(layer) for layer in kernel_layers(slot)]
    train(slot)
    after = [kernels(layer) for layer in kernel_layers(slot)]
    changed = [any(np.any(a[k] != b[k]) for k in a) for a, b in zip(after, before, strict=True)]
    assert sum(changed) > len(changed) / 2
    expected = slot(x, training=False)
    assert all(np.isfinite(ops.convert_to_numpy(y)).all() for y in keras.tree.flatten(expected))

    slot.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded(x, training=False), expected)

    back = materialize(slot)
    assert not slot_layers(back)
    assert [type(a) for a in back._flatten_layers()] == [type(a) for a in plain._flatten_layers()]
    assert [a.name for a in back.layers] == [a.name for a in plain.layers]
    assert_same(back(x, training=False), expected)
    if BACKEND.exports:
        path = export_selected(slot, tmp_path / "out")
        assert_close(serve(path, slot, x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.quick("transformer-per_value", "conv1d_with_masks-per_connection")
@pytest.mark.parametrize(
    ("make", "mode"),
    [
        pytest.param(
            make,
            mode,
            id=f"{make.__name__}-{mode}",
            # One score mode of each network is quick enough for every run of the tests.
            marks=() if mode == MODES[(i + 1) % 2] else pytest.mark.slow,
        )
        for i, make in enumerate(SMALL)
        for mode in MODES
    ],
)
def test_slotify_trains_saves_and_materializes_a_small_model(make, mode, tmp_path):
    check(without_memory(make()), mode, tmp_path)


@pytest.mark.quick("u_net", "dictionaries")
@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.__name__)
def test_slotify_computes_what_the_plain_small_model_does_with_the_same_kernels(make):
    plain = without_memory(make())
    slot = slotify(plain, num_values=3, seed=1)
    x = random_input(plain)
    assert_close(slot(x), give_kernels(slot, plain)(x), atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "mode"), [(name, MODES[i % 2]) for i, name in enumerate(APPLICATIONS)])
def test_slotify_trains_saves_and_materializes_an_application(name, mode, tmp_path):
    check(without_memory(application(name)), mode, tmp_path)


@pytest.mark.quick("transformer")
@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.__name__)
def test_plain_small_model_trains_and_is_exported(make, tmp_path):
    """The control: what is asked of slot models holds for plain ones."""
    plain = without_memory(make())
    train(plain)
    x = random_input(plain)
    expected = plain(x, training=False)
    plain.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras")(x, training=False), expected)
    clone = keras.models.clone_model(plain)
    clone.set_weights(plain.get_weights())
    assert_same(clone(x, training=False), expected)
    if BACKEND.exports:
        plain.export(tmp_path / "out", verbose=False)
        assert_close(serve(tmp_path / "out", plain, x), expected, rtol=1e-4, atol=1e-5)
