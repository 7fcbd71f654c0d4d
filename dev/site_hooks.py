"""What the site needs beside ``docs/``: pages that lie elsewhere in the repository, and links between all of them.

A link from one file of the repository to another becomes a link from page to page. One to a file that is no page of the
site becomes its text, with the path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_PLACES = (("docs/", ""), ("bench/results/", "results/"))
_PAGES = {
    "bench/results/README.md": "results/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
_LINK = re.compile(r"(\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(([^()\s:#]+)(#[\w-]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for path in (*_PAGES, *_results()):
        if _PAGES.get(path) != "index.md":  # which docs/ has
            files.append(File.generated(config, place_of(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    return linked(markdown, source, {file.src_uri for file in files})


def linked(markdown: str, source: str, pages: set[str]) -> str:
    """``markdown`` of the file ``source`` of the repository with links for the site, which has ``pages``."""

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = place_of(path)
        if place in pages:
            here = posixpath.dirname(place_of(source))
            return f"{words}({posixpath.relpath(place, here or '.')}{anchor})"
        if (ROOT / path).exists():
            return f"{words[1:-1]} (`{path}`)" if path not in words else words[1:-1]
        return found[0]  # a mistake, which the build reports

    return _LINK.sub(link, markdown)


def place_of(path: str) -> str:
    """Where the site has a file of the repository, if it has it."""
    if path in _PAGES:
        return _PAGES[path]
    for folder, place in _PLACES:
        if path.startswith(folder):
            return place + path.removeprefix(folder)
    return f"../{path}"


def _results() -> list[str]:
    """Pages to read, and their pictures."""
    found = (ROOT / "bench" / "results").rglob("*")
    return sorted(
        each.relative_to(ROOT).as_posix()
        for each in found
        if each.suffix in (".md", ".png") and each.relative_to(ROOT).as_posix() not in _PAGES
    )
