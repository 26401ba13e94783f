"""`save_slots(fold_batch_norm=, float_dtype=)`: fewer bytes, the same kernels, and nearly the same predictions."""

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import SlotConv2D, SlotDense, SlotLSTM, load_slots, materialize, save_slots, slotify
from keras_slots.__main__ import main
from keras_slots.slots_file.container import split
from small_models import conv_model, dense_model, moved

layers = keras.layers


def normalized_model(**norm):
    """A nested model, and batch normalizations after a convolution, an activation and a dense layer."""
    inner = keras.Sequential([keras.Input((6, 6, 4)), SlotConv2D(5, 3, seed=2), layers.BatchNormalization(**norm)])
    x = inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm", **norm)(SlotConv2D(4, 3, seed=1, use_bias=False, name="conv")(x))
    x = layers.BatchNormalization(axis=1, name="rows")(layers.ReLU()(inner(x)))
    x = SlotDense(6, seed=3, name="dense")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.BatchNormalization(axis=1, name="last", **norm)(x))
    random = np.random.default_rng(0)
    for variable in model.variables:
        if "normalization" in variable.path or variable.path.startswith(("norm", "rows", "last")):
            variable.assign(random.uniform(0.5, 2, variable.shape))
    return model


def images(count=16):
    return np.random.default_rng(1).normal(size=(count, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize(
    "norm", [{}, {"center": False}, {"scale": False, "epsilon": 0.1}, {"center": False, "scale": False}], ids=str
)
def test_save_slots_folds_batch_norms_into_a_scale_and_a_bias_of_each_channel(tmp_path, norm):
    model = normalized_model(**norm)
    plain, loaded = materialize(model), load_slots(save_slots(model, tmp_path / "m.slots", fold_batch_norm=True))
    assert [type(loaded.get_layer(name)) for name in ("norm", "rows", "last")] == [
        layers.EinsumDense,
        layers.BatchNormalization,  # it normalizes rows
        layers.EinsumDense,
    ]
    old, new = plain.get_layer("norm"), loaded.get_layer("norm")
    gamma, beta = (numpy_of(getattr(old, name)) if norm.get(key, True) else default for name, key, default in (
        ("gamma", "scale", 1.0), ("beta", "center", 0.0)
    ))  # fmt: skip
    scale = gamma / np.sqrt(numpy_of(old.moving_variance).astype("float64") + old.epsilon)
    np.testing.assert_allclose(numpy_of(new.kernel), scale, rtol=1e-6)
    np.testing.assert_allclose(numpy_of(new.bias), beta - numpy_of(old.moving_mean) * scale, rtol=1e-5, atol=1e-6)
    for name in ("conv", "dense"):
        one, other = (numpy_of(x.get_layer(name).kernel) for x in (plain, loaded))
        np.testing.assert_array_equal(one, other)
    expected = plain.predict(images(), verbose=0)
    np.testing.assert_allclose(loaded.predict(images(), verbose=0), expected, rtol=1e-4, atol=1e-4)
    assert "stored" not in {
        r.form for r in split((tmp_path / "m.slots").read_bytes()).records if len(r.shape) == 4
    }


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_save_slots_leaves_batch_norms_that_a_mask_passes(tmp_path, kind):
    parts = [layers.Masking(), layers.BatchNormalization(name="norm"), SlotLSTM(4, seed=0, return_sequences=True)]
    parts.append(layers.BatchNormalization(name="last"))
    x = inputs = keras.Input((5, 3))
    for part in parts:
        x = part(x)
    model = keras.Model(inputs, x) if kind == "functional" else keras.Sequential([inputs, *parts])
    random = np.random.default_rng(0)
    for variable in parts[1].variables:
        variable.assign(random.uniform(0.5, 2, variable.shape))
    loaded = load_slots(save_slots(model, tmp_path / "m.slots", fold_batch_norm=True))
    data = random.normal(size=(2, 5, 3)).astype("float32")
    data[:, 3:] = 0
    np.testing.assert_array_equal(numpy_of(loaded(data)), numpy_of(model(data)))
    assert type(loaded.get_layer("norm")) is layers.BatchNormalization


@keras.saving.register_keras_serializable("folding")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.norm = layers.Dense(3), layers.BatchNormalization()

    def call(self, x):
        return self.norm(self.dense(x))


@pytest.mark.filterwarnings("ignore:The model has layer classes:UserWarning")
def test_save_slots_takes_subclassed_models_with_batch_norms_to_fold(tmp_path):
    model, x = Subclassed(), np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    model(x)
    model = slotify(model, seed=0)
    expected = numpy_of(model(x))
    loaded = load_slots(save_slots(model, tmp_path / "m.slots", fold_batch_norm=True))
    np.testing.assert_allclose(numpy_of(loaded(x)), expected, rtol=1e-5)


def test_save_slots_leaves_batch_norms_in_half_precision(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), SlotDense(3), layers.BatchNormalization(name="norm", dtype="bfloat16")]
    )
    loaded = load_slots(save_slots(model, tmp_path / "m.slots", fold_batch_norm=True))
    assert type(loaded.get_layer("norm")) is layers.BatchNormalization


def test_save_slots_writes_floats_in_float16_and_load_slots_brings_back_the_dtype(tmp_path):
    model = moved(conv_model())
    path = save_slots(model, tmp_path / "m.slots", float_dtype="float16")
    plain, loaded = materialize(model), load_slots(path)
    kernels = 0
    records = split(path.read_bytes()).records
    for record, one, other in zip(records, plain.variables, loaded.variables, strict=True):
        expected, got = numpy_of(one), numpy_of(other)
        if expected.dtype == "float32" and record.form == "stored":
            assert record.dtype == "float16"
            expected = expected.astype("float16").astype("float32")
        kernels += record.form != "stored"
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    assert kernels == 4
    whole = save_slots(model, tmp_path / "whole.slots")
    floats = [r for r in split(whole.read_bytes()).records if r.form == "stored" and r.dtype == "float32"]
    halved = sum(record.nbytes for record in floats)
    assert whole.stat().st_size - path.stat().st_size >= halved / 2 - len(records)


def test_save_slots_keeps_floats_that_float16_cannot_hold(tmp_path):
    model = dense_model()
    model.layers[0].bias.assign(np.full(24, 1e5))
    path = save_slots(model, tmp_path / "m.slots", float_dtype="float16")
    np.testing.assert_array_equal(numpy_of(load_slots(path).layers[0].bias), np.full(24, 1e5, "float32"))


def test_load_slots_counts_floats_in_float16_as_what_they_take_in_memory(tmp_path):
    path = save_slots(dense_model(), tmp_path / "m.slots", float_dtype="float16")
    needed = 4 * (40 * 24 + 24 + 24 * 6 + 6)
    with pytest.raises(ValueError, match=f"take {needed} bytes in memory"):
        load_slots(path, max_bytes=needed - 1)
    load_slots(path, max_bytes=needed)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", 16, ""])
def test_save_slots_refuses_another_float_dtype_and_writes_nothing(tmp_path, dtype):
    with pytest.raises(ValueError, match='`float_dtype` must be "float16"'):
        save_slots(dense_model(), tmp_path / "m.slots", float_dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_main_packs_with_the_options_of_save_slots(tmp_path):
    model = normalized_model()
    model.save(tmp_path / "m.keras")
    options = {"fold_batch_norm": True, "float_dtype": "float16"}
    expected = save_slots(model, tmp_path / "expected.slots", **options).read_bytes()
    flags = ["--fold-batch-norm", "--float-dtype", "float16"]
    main(["pack", str(tmp_path / "m.keras"), str(tmp_path / "m.slots"), *flags])
    assert (tmp_path / "m.slots").read_bytes() == expected
