"""Several devices and several processes select what one device selects; values spread over devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import keras
import numpy as np
import pytest

import devices
import engine
import networks
from example_scripts import DIGITS, assert_same_run, run
from slot_cases import numpy_of

EXAMPLES = Path(engine.__file__).parent
# In float64, so that the order of a sum over the batch decides nothing.
FLAGS = [*DIGITS, "--dtype-policy", "float64", "--epochs", "2", "--num-values", "4"]
FLAGS += ["--augmentation", "shift1", "--dropout", "0.2", "--validation-share", "0.2"]
MODES = ("per_value", "per_connection")
VARIANTS = {
    **{mode: ["--score-mode", mode] for mode in MODES},
    "probabilistic": ["--score-mode", "per_value", "--selection", "probabilistic"],
}


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    """JAX holds float64 in this module; policy and precision are put back after it."""
    jax.config.update("jax_enable_x64", True)
    yield
    keras.config.set_dtype_policy("float32")
    jax.config.update("jax_enable_x64", False)


def train(folder, variant, *more):
    places = ["--run-dir", folder / variant, "--results", folder / f"{variant}.csv"]
    assert run("train", *FLAGS, *VARIANTS[variant], *places, *more) == 0


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, double_precision):
    """Every variant, trained on one device."""
    folder = tmp_path_factory.mktemp("one")
    for variant in VARIANTS:
        train(folder, variant, "--strategy", "none")
    return folder


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder, index, *more, **environment):
    """Process `index` of two, with one CPU device of its own."""
    command = [sys.executable, Path(__file__).parent.parent / "training_process.py", EXAMPLES]
    command += [folder, *FLAGS, *more]
    environment = {**os.environ, "XLA_FLAGS": "", **environment}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(part) for part in command], env=environment, **output)


def test_two_processes_select_what_one_selects_and_go_on_after_a_stop(one_device, tmp_path):
    """Joined by flags in process 0, and in process 1 by the environment that Keras reads."""
    address = f"127.0.0.1:{free_port()}"
    by_flags = ["--hosts", address, "--num-processes", 2, "--process-id", 0]
    by_environment = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        "KERAS_DISTRIBUTION_PROCESS_ID": "1",
    }
    started = [
        start(tmp_path / "first", 0, *by_flags),
        start(tmp_path / "second", 1, **by_environment),
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 1, errors
        assert "holds another run (seed: there 0, here 5)" in errors
    assert not (tmp_path / "second").exists()
    for mode in MODES:
        assert_same_run(tmp_path / "first" / mode, one_device / mode)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("strategy", ["mirrored", "split"])
def test_two_devices_select_what_one_selects(one_device, tmp_path, strategy, variant):
    train(tmp_path, variant, "--strategy", strategy)
    assert_same_run(tmp_path / variant, one_device / variant)


def test_each_of_four_devices_holds_a_fourth_of_what_a_split_network_trains_with():
    """Bank, scores, staircase, lever and momentum; and the selections are those of one device."""
    script = Path(__file__).parent.parent / "split_process.py"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, script, EXAMPLES], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == 3
    for case in cases:
        assert case["same"], case
        assert case["one"] > 10 * 2**20
        assert case["several"] == [pytest.approx(case["one"] / 4, rel=0.001)] * 4


def test_a_large_variable_goes_to_its_devices_in_parts():
    """Keras treats initializers in another way from 250 MB on, counted over all devices."""
    keras.config.set_dtype_policy("float32")
    with devices.choose("split", 8).scope():
        layer = networks.slot_layers(num_values=64).dense(512, name="dense1")
        layer.build((None, 1024))
    assert layer.bank.value.nbytes * 2 > 250 * 2**20
    assert layer.bank.value.addressable_shards[0].data.shape == (512, 512, 64)
    again = networks.slot_layers(num_values=64).dense(512, name="dense1")
    again.build((None, 1024))
    np.testing.assert_array_equal(numpy_of(layer.bank), numpy_of(again.bank))
