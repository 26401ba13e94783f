"""Saved models and weights come back bit for bit, and a resumed run is the uninterrupted one."""

import copy
from pathlib import Path

import keras
import numpy as np
import pytest

from comparisons import assert_same_weights, numpy_of
from keras_slots import SelectionRule, SlotDense, SlotMultiHeadAttention, SlotSeparableConv1D, ValueBank
from layer_table import LAYERS, built_layer, slot_layer
from make_fixtures import model_of_all_modes
from mode_table import MODE_ARGUMENTS
from small_models import compiled_model, small_data, small_model

SELECTIONS = tuple(SelectionRule.registry)


def trained_model(selection="greedy", **arguments):
    model = compiled_model(small_model(selection=selection, **arguments))
    x, y = small_data(32)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, shuffle=False)
    return model, x, y


@pytest.mark.quick
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("sharing", ["connection", "layer", ValueBank(4, bound=0.3, seed=1)])
def test_load_model_brings_back_every_bit(tmp_path, selection, sharing):
    model, x, _ = trained_model(selection, sharing=sharing)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_weights(model, loaded)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    for name in ("conv", "logits"):
        old, new = model.get_layer(name), loaded.get_layer(name)
        np.testing.assert_array_equal(numpy_of(new.kernel), numpy_of(old.kernel))
        assert new.get_config() == old.get_config()


def test_load_model_of_an_unseeded_model_brings_back_its_numbers(tmp_path):
    model = keras.Sequential([keras.Input((3,)), SlotDense(4)])
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(99)
    assert_same_weights(model, keras.models.load_model(tmp_path / "model.keras"))


def test_load_model_gives_each_unseeded_layer_its_own_seed_back(tmp_path):
    model = keras.Sequential([keras.Input((3,)), SlotDense(4), SlotDense(2), SlotDense(2, score_mode="nearest")])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    seeds, again = ([layer.slot_kernel.seed for layer in x.layers] for x in (model, loaded))
    assert again == seeds and len(set(seeds)) == 3


@pytest.mark.quick("probabilistic")
@pytest.mark.parametrize("selection", SELECTIONS)
def test_load_weights_fills_a_model_of_another_seed(tmp_path, selection):
    model, x, _ = trained_model(selection)
    model.save_weights(tmp_path / "model.weights.h5")
    other = compiled_model(small_model(seed=50, selection=selection))
    assert np.any(numpy_of(other.get_layer("conv").bank) != numpy_of(model.get_layer("conv").bank))
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.h5")
    for name in ("conv", "logits"):
        for part in ("bank", "scores", "kernel", "bias"):
            np.testing.assert_array_equal(
                numpy_of(getattr(other.get_layer(name), part)), numpy_of(getattr(model.get_layer(name), part))
            )
    np.testing.assert_array_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.quick(".keras-probabilistic")
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_load_model_and_load_weights_resume_as_an_uninterrupted_run(tmp_path, selection, suffix):
    x, y = small_data()
    arguments = {"batch_size": 16, "verbose": 0, "shuffle": False}
    whole = compiled_model(small_model(selection=selection))
    whole.fit(x, y, epochs=2, **arguments)

    first = compiled_model(small_model(selection=selection))
    first.fit(x, y, epochs=1, **arguments)
    path = tmp_path / f"model{suffix}"
    if suffix == ".keras":
        first.save(path)
        resumed = keras.models.load_model(path)
    else:
        first.save_weights(path)
        resumed = compiled_model(small_model(seed=50, selection=selection))
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(path)
    resumed.fit(x, y, initial_epoch=1, epochs=2, **arguments)
    for old, new in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(numpy_of(new), numpy_of(old), err_msg=old.path)


def test_load_model_draws_what_the_original_would(tmp_path):
    layer, x = built_layer("dense", selection="probabilistic")
    layer(x, training=True)
    model = keras.Sequential([keras.Input((5,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for _ in range(3):
        np.testing.assert_array_equal(numpy_of(model(x, training=True)), numpy_of(loaded(x, training=True)))


def sequential(*layers):
    return keras.Sequential([keras.Input((5,)), *layers])


def dense(**arguments):
    return SlotDense(4, name="layer", **arguments)


@pytest.mark.parametrize(
    ("written", "read", "text"),
    [
        (lambda: dense(num_values=4), lambda: dense(num_values=8), r"The file has num_values=4"),
        (lambda: dense(num_values=4), lambda: dense(num_values=8), r"has shape \(5, 4, 8\)"),
        (lambda: keras.layers.Dense(4, name="layer"), lambda: dense(), r"written by another kind of layer"),
        (
            lambda: dense(selection="probabilistic"),
            lambda: dense(selection="greedy"),
            r"selection Greedy\(\)\) expects the variables .*'scores', 'seed'\]. Received: .*'sampler'",
        ),
        (
            lambda: dense(use_bias=False),
            dense,
            r"expects 1 other variables than its kernel, \['bias'\]. Received: 0",
        ),
        (lambda: dense(sharing="layer"), dense, r"'bank' of the kernel '.*layer/kernel' has shape \(5, 4, 8\)"),
    ],
)
def test_load_weights_that_do_not_fit_is_refused_and_changes_nothing(tmp_path, written, read, text):
    sequential(written()).save_weights(tmp_path / "a.weights.h5")
    model = sequential(read())
    before = model.get_weights()
    with pytest.raises(ValueError, match=text):
        model.load_weights(tmp_path / "a.weights.h5")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# Layers that are not built: as the Keras layer does in the same place.

every_mode = pytest.mark.parametrize("mode", MODE_ARGUMENTS)


@keras.saving.register_keras_serializable("saving")
class NeverCalled(keras.Model):
    """A subclassed model one layer of which is not built, because nobody calls it."""

    def __init__(self, spare, **kwargs):
        super().__init__(**kwargs)
        self.used, self.spare = SlotDense(4, seed=1, name="used"), spare

    def build(self, shape):
        self.used.build(shape)

    def call(self, x):
        return self.used(x)

    def get_config(self):
        return {"spare": keras.saving.serialize_keras_object(self.spare)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["spare"]))


def spare_of(name, mode):
    return slot_layer(name, {"name": "spare"}, **MODE_ARGUMENTS[mode])


@pytest.mark.quick
@every_mode
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_is_not_built_is_copied_saved_and_loaded(tmp_path, name, mode):
    layer = spare_of(name, mode)
    copied = copy.deepcopy(layer)
    assert not copied.built and copied.get_config() == layer.get_config()
    x = np.ones((2, 3), "float32")
    model = NeverCalled(layer)
    model(x)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    other = NeverCalled(spare_of(name, mode))
    other(x)
    other.used.bias.assign(numpy_of(other.used.bias) + 1)
    other.load_weights(tmp_path / "m.weights.h5")
    for new in (loaded, other):
        np.testing.assert_array_equal(numpy_of(new(x)), numpy_of(model(x)))
        assert not new.spare.built and new.spare.get_config() == layer.get_config()


@pytest.mark.quick
@every_mode
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("written", [True, False], ids=["written_built", "written_unbuilt"])
@pytest.mark.parametrize("read", [True, False], ids=["read_built", "read_unbuilt"])
def test_load_weights_of_an_unbuilt_layer_fails_where_that_of_dense_does(tmp_path, mode, use_bias, written, read):
    def fails(make):
        models = [NeverCalled(make()) for _ in range(2)]
        for model, built in zip(models, (written, read), strict=True):
            model(np.ones((2, 3), "float32"))
            if built:
                model.spare.build((2, 3))
        models[0].save_weights(tmp_path / "m.weights.h5")
        try:
            models[1].load_weights(tmp_path / "m.weights.h5")
        except ValueError:
            return True
        return False

    plain = fails(lambda: keras.layers.Dense(3, use_bias=use_bias, name="spare"))
    slots = fails(lambda: SlotDense(3, use_bias=use_bias, name="spare", **MODE_ARGUMENTS[mode]))
    assert plain == slots


def test_load_own_variables_of_an_unbuilt_layer_is_refused():
    text = "Layer 'layer' is not built, so it cannot load its weights.* Call it on an input first"
    with pytest.raises(ValueError, match=text):
        dense().load_own_variables({"0": np.ones(4)})
    with pytest.raises(ValueError, match="never built"):
        keras.layers.Dense(4).load_own_variables({"0": np.ones(4)})


def test_kernel_of_an_unbuilt_layer_is_an_error_that_says_so():
    for attribute in ("kernel", "bank", "scores", "selected_indices"):
        with pytest.raises(AttributeError, match="Layer 'layer' has no bank, scores or kernel yet"):
            getattr(dense(), attribute)


@pytest.mark.parametrize("scores", MODE_ARGUMENTS.values(), ids=MODE_ARGUMENTS)
def test_dir_shows_what_users_look_for_and_saving_computes_none_of_it(tmp_path, scores, monkeypatch):
    inputs = keras.Input((4, 4))
    x = SlotDense(4, name="dense", **scores)(inputs)
    x = SlotSeparableConv1D(4, 2, name="separable", **scores)(x)
    attention = SlotMultiHeadAttention(1, 2, name="attention", **scores)
    model = keras.Model(inputs, attention(x, x))
    shown = {"kernel", "bank", "scores", "selected_indices", "slot_kernels", "lever", "units"}
    assert shown <= set(dir(model.get_layer("dense")))
    kernels = [k for layer in model.layers for k in getattr(layer, "slot_kernels", {}).values()]
    assert len(kernels) == 1 + 2 + 4
    assert {"bank", "scores", "selected_indices"} <= set(dir(kernels[0]))
    computed = []
    for cls in {c for part in (*kernels, *model.layers) for c in type(part).__mro__}:
        for name, own in list(vars(cls).items()):
            if cls.__module__.startswith("keras_slots") and isinstance(own, property):
                monkeypatch.setattr(cls, name, counting(own, name, computed))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    assert set(computed) <= {"variables", "weights", "slot_kernels", "selection"}
    assert model.get_layer("dense").bank is not None and "bank" in computed


def counting(own, name, computed):
    return property(lambda self: (computed.append(name), own.fget(self))[1])


@pytest.mark.parametrize(
    ("mode", "written"),
    [
        ("per_value", {"scores": (5, 4, 8), "bank": (5, 4, 8)}),
        ("per_connection", {"lever": (5, 4), "decay": (), "seed": (4,), "origin": (4,)}),
        ("nearest", {"lever": (5, 4), "decay": (), "seed": (8,), "origin": (4,)}),
    ],
)
def test_weights_of_an_older_layout_are_refused_by_name_and_change_nothing(mode, written):
    layer = SlotDense(4, score_mode=mode)
    layer.build((None, 5))
    before = layer.get_weights()
    with pytest.raises(ValueError, match="were written by keras_slots 0.2 or earlier.*Received"):
        layer.slot_kernel.load_own_variables({k: np.zeros(v) for k, v in written.items()})
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("kind", ["model.keras", "model.weights.h5"])
def test_files_of_0_3_0_load_as_they_were_written(kind):
    folder = FIXTURES / "saved_0_3_0"
    if kind == "model.keras":
        model = keras.models.load_model(folder / kind)
    else:
        model = model_of_all_modes()
        model.load_weights(folder / kind)
    with np.load(folder / "kernels.npz") as expected:
        for name in expected.files:
            np.testing.assert_array_equal(numpy_of(model.get_layer(name).kernel), expected[name])
        assert len(expected.files) == 5
