"""The documentation site: built without a warning, complete, and readable without a network.

python -m pytest docs/site    # after pip install -e ".[docs,test]"
"""

import ast
import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_slots

ROOT = Path(__file__).resolve().parent.parent.parent
#: Page -> number of slot layers on it.
LAYERS = {
    f"{path.stem}.html": count
    for path in sorted((ROOT / "docs" / "api").glob("*.md"))
    if (count := len(re.findall(r"::: keras_slots\.Slot(?!Layer)", path.read_text(encoding="utf-8"))))
}
GROUPS = ["Arguments as in Keras", "Slot arguments", "Advanced arguments"]


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


def text_of(page):
    """The text of a piece of HTML."""
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def code_blocks(page):
    """The text of every block of code of a page."""
    blocks = re.findall(r"<pre>(.*?)</pre>", page.read_text(encoding="utf-8"), re.DOTALL)
    return [text_of(block) for block in blocks]


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
    assert len(arguments) == 8 and sum(LAYERS.values()) == len(keras_slots.SlotLayer.registry)
    for page, layers in LAYERS.items():
        counts = {name: listed(page).count(name) for name in arguments}
        assert counts == dict.fromkeys(arguments, layers), page
    assert [name for name in arguments if listed("index.html").count(name) != 1] == []


def test_site_api_groups_the_arguments_of_every_layer(site):
    title = re.compile(f">({'|'.join(GROUPS)}):?</")
    for page, layers in LAYERS.items():
        text = (site / "api" / page).read_text(encoding="utf-8")
        assert title.findall(text) == GROUPS * layers, page
    dense = (site / "api" / "dense.html").read_text(encoding="utf-8")
    keras, slots, advanced = title.split(dense)[2:7:2]
    advanced = advanced.partition("Raises:")[0]
    for name, group in {
        "units": keras,
        "use_bias": keras,
        "num_values": slots,
        "kernel_constraint": advanced,
    }.items():
        assert [f"<code>{name}</code></b>" in part for part in (keras, slots, advanced)] == [
            part is group for part in (keras, slots, advanced)
        ], name


def test_site_api_folds_nothing_but_arguments(api):
    # A line of a docstring such as "Forward: ..." above an indented one would become a box that folds.
    assert set(re.findall(r"<details[^>]*>", api)) == {'<details class="arguments">'}


def test_site_api_examples_are_code(api):
    assert "&gt;&gt;&gt; " in api
    assert "<blockquote>" not in api and "Example:" not in api


@pytest.mark.parametrize("page", ["index", "examples/index", "paper", "benchmarks", "changelog", "security"])
def test_site_has_the_pages_that_stand_elsewhere(site, page):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<h1", text)) == 1
    assert '.md"' not in text and ".md#" not in text


def test_site_home_begins_with_picture_motive_and_code(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    text = text[text.index("<article") :]
    places = [text.index(x) for x in ("first_layer.png", "Why?", "<pre>", 'id="install-and-try"')]
    assert places == sorted(places)
    assert code_blocks(site / "index.html")[0].count("\n") >= 10


def test_site_shows_the_source_of_every_example(site):
    scripts = [*(ROOT / "examples").glob("*.py"), *(ROOT / "reader").glob("*.c")]
    assert len(scripts) > 12
    for script in scripts:
        page = site / script.relative_to(ROOT).with_suffix(".html")
        assert code_blocks(page)[-1].strip() == script.read_text(encoding="utf-8").strip(), script
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    blocks = [block.strip() for block in code_blocks(site / "examples" / "quickstart_notebook.html")]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [source for source in sources if source not in blocks] == []


def test_site_guides_come_in_the_order_of_need(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    guides = ["quickstart", "monitoring", "saving", "reader/slots", "extending", "api/index", "results/index"]
    places = [text.rindex(f'href="{page}.html" class="md-nav__link') for page in guides]
    assert places == sorted(places)


def test_site_commands_wrap_and_lose_nothing(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    commands = [text_of(x) for x in re.findall(r'<div class="highlight command">(.*?)</div>', text, re.DOTALL)]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert commands == re.findall(r"^```\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)


def test_site_has_no_markdown_left(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert re.findall(r".*(?:\*\*|`).*", text_of(text)) == [], page
