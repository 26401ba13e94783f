"""The package as a whole: its names, its version, and what importing it does."""

import json
import os
import re
import runpy
import subprocess
import sys
import types
from importlib import resources
from pathlib import Path

import keras
import pytest

import keras_slots

ROOT = Path(__file__).parents[1]
PUBLIC_NAMES = {
    "GlorotNormal",
    "GlorotUniform",
    "Greedy",
    "HeNormal",
    "HeUniform",
    "NearestScores",
    "Probabilistic",
    "SelectionMonitor",
    "SelectionRule",
    "SignedConstant",
    "SlotConv1D",
    "SlotConv1DTranspose",
    "SlotConv2D",
    "SlotConv2DTranspose",
    "SlotConv3D",
    "SlotConv3DTranspose",
    "SlotDense",
    "SlotDepthwiseConv1D",
    "SlotDepthwiseConv2D",
    "SlotEinsumDense",
    "SlotEmbedding",
    "SlotGRU",
    "SlotGRUCell",
    "SlotGroupQueryAttention",
    "SlotLSTM",
    "SlotLSTMCell",
    "SlotLayer",
    "SlotMultiHeadAttention",
    "SlotReversibleEmbedding",
    "SlotSeparableConv1D",
    "SlotSeparableConv2D",
    "SlotSimpleRNN",
    "SlotSimpleRNNCell",
    "StratifiedUniform",
    "UniformScores",
    "ValueBank",
    "__version__",
    "export_selected",
    "load_slots",
    "materialize",
    "register",
    "save_slots",
    "slotify",
    "summary",
    "summary_dict",
}

# Imports Keras, then keras_slots, and reports what only the second import did. Every write to the
# environment counts, also one that a second import would find done already.
IMPORT_REPORT = """
import json, os, sys, time
writes = []
environ = type(os.environ)
set_item = environ.__setitem__
def record(self, key, value):
    writes.append(key)
    set_item(self, key, value)
environ.__setitem__ = record
import keras
del writes[:]
before, environment, start = set(sys.modules), dict(os.environ), time.process_time()
import keras_slots
seconds = time.process_time() - start
print(json.dumps({
    "writes": writes,
    "environment unchanged": environment == dict(os.environ),
    "backend": keras.backend.backend(),
    "before": sorted({name.partition(".")[0] for name in before}),
    "new": sorted({name.partition(".")[0] for name in set(sys.modules) - before}),
    "seconds": seconds,
}))
"""


@pytest.fixture(scope="module")
def import_report(tmp_path_factory):
    """What `import keras_slots` does in a process that has only `KERAS_BACKEND` set."""
    ours = ("KERAS_", "TF_", "XLA_", "JAX_", "PYTEST_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    environment |= {
        "KERAS_BACKEND": keras.backend.backend(),
        "KERAS_HOME": str(tmp_path_factory.mktemp("keras")),
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    command = [sys.executable, "-c", IMPORT_REPORT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["backend"] == keras.backend.backend()
    return report


def test_all_is_the_public_api():
    assert len(keras_slots.__all__) == len(set(keras_slots.__all__))
    assert set(keras_slots.__all__) == PUBLIC_NAMES


def test_every_public_name_can_be_imported():
    namespace = {}
    exec("from keras_slots import *", namespace)  # noqa: S102 - a star import fits no function
    assert PUBLIC_NAMES <= set(namespace)


def test_nothing_else_is_public():
    names = {
        name
        for name, value in vars(keras_slots).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert names == PUBLIC_NAMES - {"__version__"}


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES - {"__version__"}))
def test_every_public_name_has_a_docstring_with_an_example(name):
    assert ">>> " in getattr(keras_slots, name).__doc__


def test_importing_sets_no_environment_variable(import_report):
    assert import_report["writes"] == []
    assert import_report["environment unchanged"]


def test_importing_brings_no_package_that_keras_has_not_brought(import_report):
    third_party = set(import_report["new"]) - set(sys.stdlib_module_names) - {"keras_slots"}
    assert third_party == set()


def test_importing_takes_less_than_three_tenths_of_a_second(import_report):
    assert import_report["seconds"] < 0.3


@pytest.mark.jax
@pytest.mark.torch
def test_importing_on_another_backend_imports_no_tensorflow(import_report):
    assert "tensorflow" not in import_report["before"] + import_report["new"]


def test_every_backend_has_the_same_functions():
    from keras_slots import _backend

    folder, names = Path(_backend.__file__).parent, set(vars(_backend)) & set(vars(_backend._module))
    functions = {name for name in names if callable(getattr(_backend, name))}
    assert len(functions) == 7
    for module in {*_backend.MODULES.values(), "generic"}:
        text = (folder / f"{module}.py").read_text(encoding="utf-8")
        assert functions <= set(re.findall(r"^def (\w+)\(", text, re.MULTILINE)), module


def test_a_backend_that_nobody_wrote_for_says_once_that_it_cannot_train(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "mlx")
    with pytest.warns(UserWarning, match="cannot train on the Keras backend 'mlx'.*KERAS_BACKEND") as caught:
        generic = runpy.run_module("keras_slots._backend.generic")
    assert len(caught) == 1
    assert float(generic["straight_through"](lambda x: 2 * x, None)(3.0)) == 6.0


def test_type_hints_are_declared():
    assert resources.files("keras_slots").joinpath("py.typed").is_file()


@pytest.fixture
def metadata(monkeypatch):
    """What setup.py tells setuptools."""
    calls = []
    fake = types.ModuleType("setuptools")
    fake.setup = lambda **keywords: calls.append(keywords)
    fake.find_packages = lambda **keywords: keywords
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    runpy.run_path(str(ROOT / "setup.py"))
    return calls[0]


def test_version_has_one_source(metadata):
    source = (ROOT / "keras_slots" / "version.py").read_text(encoding="utf-8")
    assert source == f'__version__ = "{keras_slots.__version__}"\n'
    assert metadata["version"] == keras_slots.__version__


def test_wheel_holds_the_files_that_are_no_python(metadata):
    package = ROOT / "keras_slots"
    wanted = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    listed = metadata["package_data"].items()
    folders = {ROOT / name.replace(".", "/"): patterns for name, patterns in listed}
    assert wanted == {path for folder in folders for pattern in folders[folder] for path in folder.glob(pattern)}


def test_changelog_has_a_section_for_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(keras_slots.__version__)}\b", changelog, re.MULTILINE)


def test_test_extra_holds_what_the_examples_the_tuner_and_jax_need(metadata):
    extras = metadata["extras_require"]
    for name in ("examples", "jax", "litert", "onnx", "plots", "tuner"):
        assert set(extras[name]) <= set(extras["test"]), name


def test_every_requirement_has_a_lower_bound(metadata):
    requirements = metadata["install_requires"] + sum(metadata["extras_require"].values(), [])
    assert [x for x in requirements if ">=" not in x.partition(";")[0]] == []


def test_oldest_versions_are_the_lower_bounds_of_setup_py(metadata):
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.pop("jaxlib") == pins["jax"]
    wanted = {}
    for requirement in [*metadata["install_requires"], *metadata["extras_require"]["test"]]:
        name, _, rest = requirement.partition(">=")
        if 'python_version < "3.11"' not in requirement:
            wanted[name] = re.match(r"[0-9.]+", rest)[0]
    assert pins.keys() == wanted.keys()
    for name, lowest in wanted.items():
        assert f"{pins[name]}.".startswith(f"{lowest}."), name
