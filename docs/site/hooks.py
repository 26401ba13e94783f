"""Adds files from elsewhere in the repository as pages of the site, and rewrites their links.

README.md becomes the home page, and each example a page with its source. A link to a file that is not a page of
the site becomes plain text.
"""

import ast
import html
import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = {
    "README.md": "index.md",
    "examples/README.md": "examples/index.md",
    "examples/paper/README.md": "paper.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
EXAMPLES = sorted(p for p in (ROOT / "examples").iterdir() if p.suffix in (".py", ".ipynb"))
READERS = [ROOT / "reader" / name for name in ("slots.c", "lenet.c")]
READER = """# Small devices: a reader in C

A `.slots` file can be read without Python. `slots.c` does it in one file of C99, and [lenet.c](lenet.md) runs a
network with it on [MNIST](../slots_format.md#lenet-without-python). For LiteRT and ONNX Runtime, see
[Save, export, fine-tune](../saving.md#litert-and-onnx).
"""
#: File -> the page that shows its source.
PROGRAMS = {
    path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).with_suffix(".md").as_posix()
    if path.suffix != ".ipynb"
    else f"examples/{path.stem}_notebook.md"
    for path in [*EXAMPLES, *READERS]
}
SOURCES = {page: source for source, page in [*PAGES.items(), *PROGRAMS.items()]}
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)#\s]*)(#[^)\s]*)?\)")
#: How a line of commands for a shell begins.
COMMAND = re.compile(r"(python|pip|bash|cc|cd|\./|#|[A-Z_]+=)")
CODE_BLOCK = re.compile(r'<div class="highlight"><pre><span></span><code>(.*?)</code></pre></div>', re.DOTALL)
CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
FOLDED = re.compile(
    r'<p>\s*<span class="doc-section-title">(Arguments as in Keras|Advanced arguments):?</span>\s*</p>'
    r"\s*(<ul>.*?</ul>)",
    re.DOTALL,
)


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for source, page in PROGRAMS.items():
        files.append(File.generated(config, page, content=page_of_program(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")
    if here == "index.md":
        markdown = first_screen(markdown)
        page.meta["hide"] = ["navigation", "toc"]  # its section has no other page

    def turn(match):
        image, text, link, anchor = match.groups(default="")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        wanted = PAGES.get(target) or PROGRAMS.get(target)
        if wanted:
            pass
        elif target.startswith("docs/"):
            wanted = target.removeprefix("docs/")
            if files.get_file_from_path(f"{wanted}/README.md"):
                wanted += "/README.md"
        elif (ROOT / target).exists():
            return text
        else:
            return match.group(0)  # mkdocs warns of it
        return f"{image}[{text}]({posixpath.relpath(wanted, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(turn, markdown)


def on_page_content(content, page, config, files):
    content = CODE_BLOCK.sub(mark_commands, content)
    content = CELL.sub(lambda cell: re.sub("<code>.*?</code>", allow_breaks, cell[0]), content)
    return FOLDED.sub(r'<details class="arguments"><summary>\1</summary>\2</details>', content)


def first_screen(readme):
    """The README with its motive beside the picture, and its code before the installation."""
    start, *sections = re.split(r"^(?=## )", readme, flags=re.MULTILINE)
    title, lead, picture, caption, why = start.strip().split("\n\n")
    use = next(s for s in sections if s.startswith("## Use\n"))
    sections.remove(use)
    beside = '<div class="motive" markdown>\n\n' + f"{caption}\n\n{why}\n\n</div>"
    screen = f'<div class="first-screen" markdown>\n\n{picture}\n\n{beside}\n\n</div>'
    return "\n\n".join([title, lead, screen, use, *sections])


def page_of_program(path):
    """A page with what a program says of itself, and its source."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return page_of_notebook(json.loads(text))
    if path.suffix == ".py":
        about = ast.get_docstring(ast.parse(text))
        language = "python"
    else:
        about = re.match(r"/\* (.*?)\s*\*/", text, re.DOTALL)[1]
        about = re.sub(r"^ {5}(?=\S)", "    ", about, flags=re.MULTILINE)  # commands
        about = re.sub(r"^ {3}(?=\S)", "", about, flags=re.MULTILINE)
        language = "c"
    title = READER if path.name == "slots.c" else f"# {path.name}\n"
    return f"{title}\n{about}\n\n## {path.parent.name}/{path.name}\n\n```{language}\n{text}```\n"


def page_of_notebook(notebook):
    """The cells of a notebook and what they print."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = [
            "".join(output.get("text", []) or output.get("data", {}).get("text/plain", []))
            for output in cell.get("outputs", [])
        ]
        parts += [f"```text\n{text.rstrip()}\n```" for text in printed if text]
    parts[0] = parts[0].replace("# Quickstart", "# quickstart.ipynb", 1)
    return "\n\n".join(parts)


def allow_breaks(code):
    """Code in a table may be broken after punctuation."""
    return re.sub(r"(\w[(=/._]\"?)(?=\w)", r"\1<wbr>", code[0])


def mark_commands(block):
    """Marks the lines and the words of a block of commands: long lines wrap, and only at spaces."""
    lines = html.unescape(re.sub(r"<[^>]+>", "", block[1])).rstrip("\n").split("\n")
    before = ["", *lines]
    if not all(COMMAND.match(line) or last.endswith("\\") for last, line in zip(before, lines, strict=False)):
        return block[0]
    marked = (re.sub(r"\S+", lambda m: f"<span>{html.escape(m[0])}</span>", line) for line in lines)
    code = "".join(f'<span class="line">{line}\n</span>' for line in marked)
    return f'<div class="highlight command"><pre><span></span><code>{code}</code></pre></div>'
