"""Adds files from elsewhere in the repository as pages of the site, and rewrites their links.

README.md becomes the home page. A link to a file that is not a page of the site becomes plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = {
    "README.md": "index.md",
    "examples/README.md": "examples.md",
    "examples/paper/README.md": "paper.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def turn(match):
        image, text, link, anchor = match.groups(default="")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if target in PAGES:
            wanted = PAGES[target]
        elif target.startswith("docs/"):
            wanted = target.removeprefix("docs/")
            if files.get_file_from_path(f"{wanted}/README.md"):
                wanted += "/README.md"
        elif (ROOT / target).exists():
            return text
        else:
            return match.group(0)  # mkdocs warns of it
        return f"{image}[{text}]({posixpath.relpath(wanted, posixpath.dirname(here) or '.')}{anchor})"

    if page.parent is None:
        page.meta["hide"] = ["navigation"]  # its section has no other page
    return LINK.sub(turn, markdown)
