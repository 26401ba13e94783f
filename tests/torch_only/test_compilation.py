"""Selections that are read often are compiled by themselves, and nothing else changes."""

import keras
import numpy as np
import pytest
import torch
import torch._inductor.config

from comparisons import numpy_of
from keras_slots import SlotDense
from keras_slots._backend import torch as backend
from mode_table import SCORE_MODES

MODES = tuple(SCORE_MODES)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Selections are compiled at their third call."""
    monkeypatch.setattr(backend, "_CALLS_BEFORE_COMPILING", 3)
    monkeypatch.setattr(backend, "_NOT_COMPILED", [])
    backend._program.cache_clear()
    yield
    backend._program.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """What is compiled; it runs as it was traced, without a compiler."""
    graphs = []
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, arrays: graphs.append(graph) or graph)
    return graphs


def layer_of(mode, units=40, **arguments):
    layer = SlotDense(units, score_mode=mode, seed=1, **arguments)
    layer.build((None, 30))
    (trained,) = layer.slot_kernels["kernel"].trained_variables()
    trained.assign(numpy_of(trained) + np.random.default_rng(0).normal(0, 0.3, trained.shape))
    return layer


@pytest.mark.parametrize("mode", MODES)
def test_a_compiled_selection_has_the_bits_of_the_eager_one(mode):
    layer = layer_of(mode)
    kernels = [numpy_of(layer.kernel) for _ in range(5)]
    assert not backend._NOT_COMPILED
    for kernel in kernels[1:]:
        np.testing.assert_array_equal(kernel, kernels[0])


@pytest.mark.parametrize("mode", MODES)
def test_layers_of_one_shape_share_a_program_that_is_compiled_once(mode, compilations):
    layers = [layer_of(mode), layer_of(mode)]
    for _ in range(10):
        for layer in layers:
            layer(np.ones((2, 30)))
    assert len(compilations) == 1
    for _ in range(10):
        layer_of(mode, units=50)(np.ones((2, 30)))
    assert len(compilations) == 2


@pytest.mark.parametrize("mode", MODES)
def test_training_takes_the_same_path_with_programs_and_without(mode, compilations, monkeypatch):
    results = []
    for calls in (3, 10**9):
        monkeypatch.setattr(backend, "_CALLS_BEFORE_COMPILING", calls)
        backend._program.cache_clear()
        layer = layer_of(mode, activation="relu")
        model = keras.Sequential([keras.Input((30,)), layer])
        model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
        x = np.random.default_rng(0).normal(size=(40, 30))
        model.fit(x, np.ones((40, 40)), batch_size=4, verbose=0, shuffle=False)
        results.append([numpy_of(v) for v in model.variables] + [numpy_of(layer.kernel)])
    assert compilations
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_random_selections_are_not_compiled(compilations):
    layer = layer_of("per_value", selection="probabilistic")
    for _ in range(10):
        layer(np.ones((2, 30)), training=True)
    assert not compilations


@torch._inductor.config.patch({"cpp.cxx": ("/nonexistent/c++",), "force_disable_caches": True})
def test_without_a_compiler_there_is_one_warning_and_the_same_selection():
    first, second = layer_of("nearest"), layer_of("per_connection")
    expected = [numpy_of(x.kernel) for x in (first, second)]
    with pytest.warns(UserWarning, match="could not compile the selection.*C.. compiler") as caught:
        kernels = [[numpy_of(x.kernel) for x in (first, second)] for _ in range(5)]
    ours = [x for x in caught if "could not compile" in str(x.message)]
    assert len(ours) == 1 and len(backend._NOT_COMPILED) == 2
    for pair in kernels:
        for kernel, wanted in zip(pair, expected, strict=True):
            np.testing.assert_array_equal(kernel, wanted)
