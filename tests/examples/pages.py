"""How the tests run a page of examples/: in this process, as its command line would."""

import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_page(monkeypatch, name, *flags):
    """Runs a page and returns its names."""
    path = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, flags)])
    return runpy.run_path(str(path), run_name="__main__")


def load_page(name):
    """A page as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
