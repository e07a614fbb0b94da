"""Sphinx's configuration for the documentation site; `make site` runs it on the whole repository.

The pages are those that are read in the repository.  The table of contents is that of
docs/README.md; the pages outside of docs that others link to come last.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_ROOT = Path(__file__).parents[2]
_LIST = re.compile(
    r"^\*\*(?P<caption>[^*\n]+)\*\*\n\n(?P<items>(?:- .*\n(?:  .*\n)*)+)", re.MULTILINE
)
_PAGE = re.compile(r"\]\((?P<path>[\w./-]+)\.md\)")

project = "uProxy"
root_doc = "docs/README"
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
include_patterns = [
    "*.md",
    *(f"{folder}/{name}" for folder in ("docs", "deploy") for name in ("*.md", "**/*.md")),
    "certs/*.md",
    "bpf_redirect/*.md",
]
exclude_patterns = [".*", "**/.*"]
html_theme = "furo"
html_title = "uProxy"
html_extra_path = ["index.html"]
html_copy_source = False
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
nitpicky = True


def setup(app: Sphinx) -> None:
    """Have the table of contents made."""
    app.connect("source-read", _with_contents)


def _with_contents(_app: Sphinx, name: str, source: list[str]) -> None:
    """Add to docs/README.md what Sphinx needs to know the order of the pages."""
    if name == root_doc:
        listed = [(found["caption"], _pages(found["items"])) for found in _LIST.finditer(source[0])]
        known = {page for _caption, pages in listed for page in pages}
        listed.append(("Elsewhere", [page for page in _elsewhere() if page not in known]))
        source[0] += "".join(_toctree(caption, pages) for caption, pages in listed)


def _pages(items: str) -> list[str]:
    paths = ((_ROOT / "docs" / f"{found['path']}.md").resolve() for found in _PAGE.finditer(items))
    return [_name(path) for path in paths]


def _name(path: Path) -> str:
    return f"/{path.relative_to(_ROOT).with_suffix('')}"


def _elsewhere() -> list[str]:
    found = {path for pattern in include_patterns for path in _ROOT.glob(pattern)}
    return [name for name in map(_name, sorted(found)) if not name.startswith("/docs/")]


def _toctree(caption: str, pages: list[str]) -> str:
    lines = "\n".join(pages)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"
