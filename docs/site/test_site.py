"""The documentation site: built without a warning, complete, and readable without a network.

python -m pytest docs/site    # after pip install -e ".[docs,test]"
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_slots

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a build in which warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def api(site):
    """All pages of the API as one text."""
    return "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))


def assignment(file, name):
    """The literal value of a name in a file of the package, which is not imported."""
    tree = ast.parse((ROOT / "keras_slots" / file).read_text(encoding="utf-8"))
    assigned = [n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == name]
    return ast.literal_eval(assigned[0].value)


def test_site_asks_for_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    loaded = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?([^\"'\s>]+)")
    for page in pages:
        outside = [url for url in loaded.findall(page.read_text(encoding="utf-8")) if re.match(r"(\w+:)?//", url)]
        assert outside == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text("utf-8"))


def test_site_search_needs_no_server(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index = ") and "export_selected" in index
    assert "iframe-worker.js" in (site / "index.html").read_text(encoding="utf-8")


def test_site_api_has_every_public_name(api):
    names = [name for name in assignment("__init__.py", "__all__") if name[0] != "_"]
    assert len(names) > 25
    anchors = {name: f'id="keras_slots.{name}"' for name in names}
    assert [name for name, anchor in anchors.items() if anchor not in api] == []


def test_site_api_shows_the_slot_arguments_of_every_layer(site):
    def listed(page):
        """Names of arguments, as often as they are described."""
        text = (site / "api" / page).read_text(encoding="utf-8")
        return re.findall(r"<li[^>]*class=\"doc-section-item[^>]*>\s*<b><code>(\w+)</code>", text)

    arguments = keras_slots.layers.base.SLOT_ARGUMENTS
    assert len(arguments) == 8
    for page, layers in {"dense.html": 2, "convolutions.html": 10, "attention.html": 2}.items():
        counts = {name: listed(page).count(name) for name in arguments}
        assert counts == dict.fromkeys(arguments, layers), page
    assert [name for name in arguments if listed("index.html").count(name) != 1] == []


def test_site_api_examples_are_code(api):
    assert "&gt;&gt;&gt; " in api
    assert "<blockquote>" not in api and "Example:" not in api


@pytest.mark.parametrize("page", ["index", "examples", "paper", "benchmarks", "changelog", "security"])
def test_site_has_the_pages_that_stand_elsewhere(site, page):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<h1", text)) == 1
    assert '.md"' not in text and ".md#" not in text
