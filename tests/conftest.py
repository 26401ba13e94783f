"""One backend per run, two virtual devices, one seed and the default dtype policy per test.

The backend is the one of `KERAS_BACKEND`, TensorFlow where it is not set. A test module or test of
another backend is left out before it is imported, and the header of the run says so: tests in
`tests/<backend>_only/`, and tests marked `@pytest.mark.<backend>`.
"""

import os

import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine.
settings.register_profile("keras_slots", deadline=None, derandomize=True, database=None)
settings.load_profile("keras_slots")

BACKENDS = ("tensorflow", "jax")
BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
OTHERS = tuple(name for name in BACKENDS if name != BACKEND)
NUM_DEVICES = 2

collect_ignore = [f"{name}_only" for name in OTHERS]


def pytest_configure():
    if BACKEND not in BACKENDS:
        raise pytest.UsageError(
            f"KERAS_BACKEND must be one of {BACKENDS} to run the tests. Received: {BACKEND!r}"
        )
    # The devices must be set before the backend starts, so before Keras is imported.
    {"tensorflow": split_tensorflow_cpu, "jax": split_jax_cpu}[BACKEND]()
    import keras

    if keras.backend.backend() != BACKEND:
        raise pytest.UsageError(
            f"KERAS_BACKEND={BACKEND} was asked for, but Keras runs on "
            f"{keras.backend.backend()!r}: it was imported before the tests could choose."
        )


def split_tensorflow_cpu():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(NUM_DEVICES)]
    tf.config.set_logical_device_configuration(cpu, devices)


def split_jax_cpu():
    flag = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def pytest_report_header():
    left_out = "".join(f"; left out: tests/{n}_only/, tests marked {n}" for n in OTHERS)
    return f"backend: {BACKEND}, {NUM_DEVICES} CPU devices{left_out}"


def pytest_collection_modifyitems(config, items):
    left_out = [x for x in items if any(x.get_closest_marker(n) for n in OTHERS)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [x for x in items if x not in set(left_out)]


@pytest.fixture(autouse=True)
def same_start():
    """Every test starts from the same random state and dtype policy, in whatever order they run."""
    import keras

    keras.utils.set_random_seed(0)
    yield
    # Example scripts choose a policy for their whole process.
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def own_registrations():
    """The table of slot layers; what a test registers, of any kind, is forgotten afterwards."""
    from keras_slots import SelectionRule, SlotLayer
    from keras_slots.kernels import SlotKernel
    from keras_slots.values.source import ValueSource

    tables = [x.registry for x in (SlotLayer, SelectionRule, SlotKernel, ValueSource)]
    before = [dict(table) for table in tables]
    yield SlotLayer.registry
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


@pytest.fixture
def x64():
    """float64 on JAX too, where it is off unless asked for."""
    if BACKEND != "jax":
        yield
        return
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
