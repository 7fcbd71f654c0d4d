"""Code in the documents: fenced blocks by their language, and indented ones.

A comment before a block says what a reader need not see:

    <!-- given: passages = [...] -->      Python that runs before it
    <!-- not run: it needs a GPU -->      why the block is not run
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

INDENTED = "indented"
LANGUAGES = {"python", "bash", "json", "toml", "text", "", INDENTED}
"""``text`` and none: what is printed, drawings, files of another form."""

_FENCE = re.compile(r"^ *```(\w*)\s*$")
_COMMENT = re.compile(r"<!-- (given|not run): (.*?) -->\n?", re.DOTALL)
_COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(kvloom|curl) ")
_ENDS = {"|", "<", ">", ">>", "&", "&&", ";"}


@dataclass(frozen=True, slots=True)
class Snippet:
    """``line``: of its first line in the page. ``given``: see above. ``not_run``: why; None: it is run."""

    page: str
    line: int
    language: str
    text: str
    given: str = ""
    not_run: str | None = None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of commands of kvloom and curl, up to pipes. Where alternatives stand, ``a | b``, each of them."""
        joined = re.sub(r" *\\\n *", " ", self.text)
        for line in _whole(joined) if self.language == "bash" else joined.splitlines():
            if _COMMAND.match(line):
                yield from _words(line.removeprefix("$ "), aligned=self.language != "bash")


def _whole(text: str) -> Iterator[str]:
    """Lines of a shell: one goes on while a quotation is open."""
    begun = ""
    for line in text.splitlines():
        begun += line
        if begun.count("'") % 2 == 0:
            yield begun
            begun = ""
        else:
            begun += "\n"
    assert not begun, begun


def _words(line: str, aligned: bool) -> Iterator[list[str]]:
    """``aligned``: what comes after two spaces is an explanation."""
    command = re.split(r"\s{2,}", line)[0] if aligned else line
    either = re.search(r" (\w+) \| (\w+) ", command + " ")
    if either is not None and aligned:
        for word in either.groups():
            yield from _words(command.replace(f"{either[1]} | {either[2]}", word), aligned)
        return
    words = shlex.split(command.replace(" [OPTIONS]", ""), comments=True)
    while "=" in words[0]:
        words.pop(0)
    end = next((at for at, word in enumerate(words) if word in _ENDS or word.startswith("2>")), len(words))
    yield words[:end]


def snippets() -> list[Snippet]:
    return [found for page in PAGES for found in of_page(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8"))]


def of_page(page: str, text: str) -> Iterator[Snippet]:
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is not None:
            stop = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            yield _snippet(page, lines, at, lines[at + 1 : stop], fence[1])
        elif lines[at].startswith("    ") and at and not lines[at - 1].strip():
            stop = next((n for n in range(at, len(lines)) if lines[n] and not lines[n].startswith("    ")), len(lines))
            yield _snippet(page, lines, at, [line[4:] for line in lines[at:stop]], INDENTED)
            stop -= 1
        else:
            stop = at
        at = stop + 1


def _snippet(page: str, lines: list[str], at: int, code: list[str], language: str) -> Snippet:
    above = "\n".join(lines[:at]).rstrip("\n") + "\n"
    told: dict[str, str] = {}
    while (found := list(_COMMENT.finditer(above))) and found[-1].end() == len(above):
        told.setdefault(found[-1][1], found[-1][2].strip())
        above = above[: found[-1].start()].rstrip("\n") + "\n"
    return Snippet(page, at + 1, language, "\n".join(code) + "\n", told.get("given", ""), told.get("not run"))
