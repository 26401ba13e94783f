"""README.md and docs/: the Python runs, and versions, commands, tests and figures are what they say."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *("README.md", "CONTRIBUTING.md", "examples/README.md", "docs/results/README.md"),
    *(f"docs/{name}.md" for name in ("gpu", "per_connection", "scaling")),
]


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


@pytest.mark.parametrize("page", PAGES)
def test_every_linked_file_exists(page):
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text):
        source = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {name}(" in source or not name, f"{file} has no {name}"


def ratios(name):
    rows = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))["rows"]
    return {row["variant"]: row["ratio"] for row in rows}


@pytest.mark.parametrize("page", ["README.md", "docs/per_connection.md"])
@pytest.mark.parametrize("network", ["lenet300100", "conv6"])
@pytest.mark.parametrize("num_values", [8, 64])
def test_the_prices_of_a_step_are_those_of_the_committed_run(page, network, num_values):
    measured = ratios(f"step_time_{network}.json")
    lever, scores = (measured[f"{mode} K={num_values}"] for mode in ("per_connection", "per_value"))
    digits = 2 if scores < 10 else 1
    row = f"K = {num_values} | 1 | {lever:.2f} | {scores:.{digits}f} |"
    assert row in (ROOT / page).read_text(encoding="utf-8")


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
