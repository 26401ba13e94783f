"""What the source of the library, the examples and the benchmarks must never do."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(p for name in ("keras_slots", "examples", "benchmarks") for p in ROOT.glob(f"{name}/**/*.py"))
# Modules that make code or objects of data, or open connections.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
NETWORK = {"socket", "ssl", "http", "urllib", "ftplib", "requests"}
CALLS = {"eval", "exec", "compile", "__import__"}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def faults(source):
    """What of a text could make a file of a stranger run code."""
    tree = ast.parse(source)
    yield from (f"import {name}" for name in imported(tree) if name in MODULES | NETWORK)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"{node.func.id}()"
        if isinstance(node.func, ast.Attribute) and node.func.attr == "enable_unsafe_deserialization":
            yield node.func.attr
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if (keyword.arg, value) in {("safe_mode", False), ("allow_pickle", True), ("shell", True)}:
                yield f"{keyword.arg}={value}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_makes_no_code_of_data_and_opens_no_connection(path):
    assert not list(faults(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "eval(text)",
        "np.load(path, allow_pickle=True)",
        "keras.models.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "subprocess.run(command, shell=True)",
    ],
)
def test_source_scan_finds_what_it_is_for(source):
    assert list(faults(source))
