"""Layers with one lever a connection keep their initial scores under every optimizer of Keras."""

import inspect

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import SlotDense

STEPS = 4
RATE = 0.01
DECAY = 0.1
#: What wraps other optimizers; tested below.
WRAPPERS = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"}
OPTIMIZERS = sorted(
    name
    for name, value in vars(keras.optimizers).items()
    if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer) and name not in WRAPPERS
)
#: They write into every trained variable, one whose gradient is zero too.
OVERWRITE = {"Ftrl", "ScheduleFreeAdamW"}


def optimizer(name, decay, **arguments):
    cls = getattr(keras.optimizers, name)
    known = inspect.signature(cls).parameters
    # Some of them decay by default.
    for argument in ("weight_decay", "adam_weight_decay"):
        if argument in known:
            arguments[argument] = decay
    return cls(learning_rate=RATE, **arguments)


def small_layer(seed=1, **arguments):
    layer = SlotDense(3, score_mode="per_connection", seed=seed, name="layer", **arguments)
    layer.build((None, 4))
    return layer


def stepped(optimizer):
    """A layer after some steps of the optimizer alone, on random gradients of the lever."""
    layer, rng = small_layer(), np.random.default_rng(0)
    for _ in range(STEPS):
        gradients = [rng.normal(size=v.shape) * (v is layer.lever) for v in layer.trainable_variables]
        gradients = [keras.ops.convert_to_tensor(x, "float32") for x in gradients]
        optimizer.apply(gradients, layer.trainable_variables)
    return layer


def fitted(optimizer, **arguments):
    model = keras.Sequential([keras.Input((4,)), small_layer(**arguments)])
    model.compile(optimizer, "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4 * STEPS, 4)), rng.normal(size=(4 * STEPS, 3))
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    return model.get_layer("layer")


def assert_line(layer):
    """scores = initial scores + lever * value, and the kernel is its arg-max."""
    fresh, lever = small_layer(), numpy_of(layer.lever)
    assert np.any(lever != 0)
    bank = numpy_of(fresh.bank)
    scores = numpy_of(fresh.scores) + lever[..., None] * bank
    np.testing.assert_allclose(numpy_of(layer.scores), scores, rtol=1e-4, atol=1e-6)
    best = np.take_along_axis(bank, scores.argmax(-1)[..., None], -1)[..., 0]
    np.testing.assert_array_equal(numpy_of(layer.kernel), best)


def test_the_table_of_optimizers_is_that_of_keras():
    assert {"SGD", "Adam", "AdamW", "Lamb", "Lion", "Muon"} | OVERWRITE <= set(OPTIMIZERS)
    assert len(OPTIMIZERS) >= 14


@pytest.mark.quick("Adadelta", "Adam", "Lamb", "Nadam", "ScheduleFreeAdamW", "SGD")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lever_keeps_its_initial_scores_without_weight_decay(name):
    assert_line(stepped(optimizer(name, 0.0)))


@pytest.mark.quick("SGD", "Ftrl")
@pytest.mark.parametrize("name", ["SGD", "Adam", *sorted(OVERWRITE)])
def test_lever_keeps_its_initial_scores_in_fit_without_weight_decay(name):
    assert_line(fitted(optimizer(name, 0.0)))


@pytest.mark.quick("Adafactor", "AdamW", "Ftrl", "Lion", "Muon", "SGD")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lever_keeps_its_initial_scores_under_weight_decay(name):
    assert_line(stepped(optimizer(name, DECAY)))


def test_lever_is_pulled_back_to_the_initial_choice_by_weight_decay():
    layer, rng = small_layer(), np.random.default_rng(0)
    start, lever = numpy_of(layer.kernel), rng.normal(size=(4, 3)).astype("float32")
    layer.lever.assign(lever)
    assert np.any(numpy_of(layer.kernel) != start)
    sgd = keras.optimizers.SGD(0.5, weight_decay=0.4)
    for steps in range(1, 80):
        sgd.apply([keras.ops.zeros((4, 3))], [layer.lever])
        np.testing.assert_allclose(numpy_of(layer.lever), lever * 0.8**steps, rtol=1e-4)
    np.testing.assert_array_equal(numpy_of(layer.kernel), start)


@pytest.mark.parametrize("name", ["SGD", "Ftrl"])
def test_lever_keeps_its_initial_scores_in_probabilistic_training(name):
    layer = fitted(optimizer(name, 0.0), selection="probabilistic")
    assert_line(layer)
    drawn = numpy_of(layer(np.eye(4, dtype="float32"), training=True)) - numpy_of(layer.bias)
    assert np.isfinite(drawn).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"use_ema": True, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
        {"global_clipnorm": 0.1},
        {"clipvalue": 0.1},
    ],
    ids=lambda x: next(iter(x)),
)
def test_lever_keeps_its_initial_scores_under_options_of_an_optimizer(arguments):
    assert_line(stepped(optimizer("SGD", None, **arguments)))


def test_lever_keeps_its_initial_scores_under_loss_scaling():
    inner = keras.optimizers.SGD(RATE)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    assert_line(fitted(scaled))
