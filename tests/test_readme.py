"""README.md: its Python runs as it stands, and what it says of versions and commands is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.tensorflow
def test_the_python_of_the_readme_runs_and_does_what_it_says(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.chdir(tmp_path)
    names = {}
    for number, block in enumerate(blocks("python"), 1):
        source = compile(block, f"README.md, Python block {number}", "exec")
        exec(source, names)  # noqa: S102
    selected = names["model"](names["x"][:3], training=False)
    np.testing.assert_array_equal(names["plain"](names["x"][:3]), selected)
    np.testing.assert_allclose(names["logits"], selected, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "selected" / "saved_model.pb").is_file()
    assert names["model"].history.history["val_accuracy"][-1] > 0.5


def test_the_first_two_blocks_are_one_command_each():
    setup, tests = blocks("")[:2]
    assert setup.count("\n") == 1 and setup.endswith("&& python examples/quickstart.py\n")
    assert '-e ".[test]"' in setup
    assert tests == "python -m pytest\n"


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)


def test_the_versions_are_those_of_the_metadata():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for required, stated in [
        ('python_requires=">=3.10,<3.14"', "Python 3.10 to 3.13"),
        ('"tensorflow>=2.20"', "TensorFlow 2.20 or newer"),
        ("'keras>=3.14; python_version >= \"3.11\"'", "Keras 3.14 or newer"),
        ("'keras>=3.12.4; python_version < \"3.11\"'", "3.12.4 on Python 3.10"),
        ('"numpy>=1.26"', "NumPy 1.26 or"),
    ]:
        assert required in setup and stated in README
