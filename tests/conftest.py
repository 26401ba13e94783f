"""One backend per run, two virtual devices, one seed and the default dtype policy per test.

The backend is the one of `KERAS_BACKEND`, TensorFlow where it is not set; `backends.py` says what the
tests know of it. A test module or test of another backend is left out before it is imported, and the
header of the run says so: tests in `tests/<backend>_only/`, and tests marked `@pytest.mark.<backend>`.
"""

import pytest
from hypothesis import settings

from backends import BACKEND, BACKENDS, NAME

# The same examples in every run, however slow the machine.
settings.register_profile("keras_slots", deadline=None, derandomize=True, database=None)
settings.load_profile("keras_slots")

OTHERS = tuple(name for name in BACKENDS if name != NAME)
NUM_DEVICES = 2

collect_ignore = [f"{name}_only" for name in OTHERS]


def pytest_configure(config):
    if BACKEND is None:
        raise pytest.UsageError(
            f"KERAS_BACKEND must be one of {tuple(BACKENDS)} to run the tests. Received: {NAME!r}"
        )
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # This process only hands tests to others.
    # The devices must be set before the backend starts, so before Keras is imported.
    BACKEND.split_cpu(NUM_DEVICES)
    import keras

    if keras.backend.backend() != NAME:
        raise pytest.UsageError(
            f"KERAS_BACKEND={NAME} was asked for, but Keras runs on "
            f"{keras.backend.backend()!r}: it was imported before the tests could choose."
        )


def pytest_report_header():
    left_out = "".join(f"; left out: tests/{n}_only/, tests marked {n} alone" for n in OTHERS)
    return f"backend: {NAME}, CPU devices asked for: {NUM_DEVICES}{left_out}"


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is exhaustive
def pytest_collection_modifyitems(config, items):
    if not any("::" in argument for argument in config.args):  # else these cases are wanted
        mark_exhaustive(items)
    left_out = [x for x in items if NAME not in (marked_backends(x) or BACKENDS)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [x for x in items if x not in set(left_out)]


def marked_backends(item):
    """Of the test's own marks; without any, of its file's."""
    own = {mark.name for mark in item.own_markers} & set(BACKENDS)
    return own or {mark.name for mark in item.iter_markers()} & set(BACKENDS)


def mark_exhaustive(items):
    """Of a test that is marked `quick`, all cases but a few."""
    cases = {}
    for item in items:
        if item.get_closest_marker("quick"):
            cases.setdefault((item.path, item.originalname), []).append(item)
    for group in cases.values():
        names = group[0].get_closest_marker("quick").args
        ids = [item.callspec.id for item in group]
        if unknown := set(names) - set(ids):
            raise pytest.UsageError(f"{group[0].nodeid} has no case {sorted(unknown)}")
        few = [x for x in group if x.callspec.id in names] if names else every_value_once(group)
        for item in set(group) - set(few):
            item.add_marker(pytest.mark.exhaustive)


def every_value_once(group):
    """Few cases in which every value of every parameter of the test occurs."""
    values = {item: {(k, repr(v)) for k, v in item.callspec.params.items()} for item in group}
    few, missing = [], set().union(*values.values())
    while missing:
        few.append(max(group, key=lambda item: len(values[item] & missing)))
        missing -= values[few[-1]]
    return few


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
    with BACKEND.double_precision():
        yield
