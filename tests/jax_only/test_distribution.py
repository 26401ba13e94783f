"""Several devices select what one device selects; values can be spread over devices."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import keras
import numpy as np
import pytest

import split_process
from comparisons import numpy_of
from keras_slots import SelectionMonitor, SlotDense, load_slots, save_slots

VARIANTS = {"per_value": "greedy", "per_connection": "greedy", "probabilistic": "probabilistic"}


@pytest.fixture(autouse=True)
def double_precision():
    """In float64 the order of a sum over the batch decides nothing; put back after the test."""
    jax.config.update("jax_enable_x64", True)
    keras.config.set_dtype_policy("float64")
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("strategy", ["DataParallel", "ModelParallel"])
def test_fit_on_two_devices_selects_what_one_device_selects(strategy, variant):
    case = (variant if variant != "probabilistic" else "per_value", VARIANTS[variant])
    kernels, _ = split_process.train(None, *case, units=16)
    if strategy == "DataParallel":
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    else:
        distribution = split_process.split_over_all_devices()
    again, held = split_process.train(distribution, *case, units=16)
    assert len(held) == 2 and all(held)
    assert split_process.same(kernels, again)


@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
@pytest.mark.parametrize("strategy", ["DataParallel", "ModelParallel"])
def test_selection_monitor_counts_on_two_devices_what_it_counts_on_one(strategy, mode):
    logs = []
    for spread in (False, True):
        scope = contextlib.nullcontext()
        if spread and strategy == "DataParallel":
            scope = keras.distribution.DataParallel(auto_shard_dataset=False).scope()
        elif spread:
            scope = split_process.split_over_all_devices().scope()
        with scope:
            model = split_process.network(mode, "greedy", units=16)
            model.compile(keras.optimizers.SGD(0.1), "mse")
            rng = np.random.default_rng(0)
            x, y = rng.normal(size=(16, 4, 4, 4)), rng.normal(size=(16, 8))
            arguments = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
            history = model.fit(x, y, **arguments, callbacks=[SelectionMonitor()]).history
        logs.append({key: x for key, x in history.items() if key.startswith("slots/")})
    assert logs[0]["slots/changed"][0] > 0
    for key, numbers in logs[0].items():
        assert logs[1][key] == pytest.approx(numbers), key


def test_model_parallel_gives_each_of_four_devices_a_fourth_of_what_training_holds():
    """Bank, scores, staircase, lever and momentum; and the selections are those of one device."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, split_process.__file__], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == 3
    for case in cases:
        assert case["same"], case
        assert case["one"] > 10 * 2**20
        # The arrays of the few tall connections are whole on every device.
        assert case["several"] == [pytest.approx(case["one"] / 4, rel=0.003)] * 4


def test_model_parallel_sends_a_large_variable_to_its_devices_in_parts():
    """Keras treats initializers in another way from 250 MB on, counted over all devices."""
    keras.config.set_dtype_policy("float32")

    def built():
        layer = SlotDense(512, num_values=64, seed=1, name="dense")
        layer.build((None, 1024))
        return layer

    with split_process.split_over_all_devices().scope():
        layer = built()
    assert layer.bank.nbytes * 2 > 250 * 2**20
    assert layer.bank.addressable_shards[0].data.shape == (512, 512, 64)
    np.testing.assert_array_equal(numpy_of(layer.bank), numpy_of(built().bank))


@pytest.mark.parametrize("units", [64, 2**14])
def test_load_slots_spreads_weights_over_the_devices_of_a_distribution(tmp_path, units, monkeypatch):
    keras.config.set_dtype_policy("float32")
    slots = {"score_mode": "per_connection", "seed": 1, "name": "dense"}
    model = keras.Sequential([keras.Input((8,)), SlotDense(units, **slots)])
    path = save_slots(model, tmp_path / "m.slots")
    # What Keras treats in another way from 250 MB on.
    names = keras.Variable._initialize_with_initializer.__globals__
    monkeypatch.setitem(names, "should_shard_at_init", lambda *_: units > 64)
    with split_process.split_over_all_devices().scope():
        kernel = load_slots(path).layers[-1].kernel
    assert kernel.value.addressable_shards[0].data.shape == (8 // jax.device_count(), units)
    np.testing.assert_array_equal(numpy_of(kernel), numpy_of(load_slots(path).layers[-1].kernel))
