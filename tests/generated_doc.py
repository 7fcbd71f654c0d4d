"""Pages of ``docs/`` whose rest, from a mark on, is made from the code. What comes before it is written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True, slots=True)
class Generated:
    """``name``: of the page. ``module``: of ``tests``, which makes it. ``body``: what the code says now."""

    name: str
    module: str
    body: str

    @property
    def path(self) -> Path:
        return DOCS / self.name

    @property
    def mark(self) -> str:
        return f"<!-- from here on made by `python -m tests.{self.module}` -->\n"

    @property
    def written(self) -> str:
        """The whole page as it should be."""
        by_hand, mark, _ = self.path.read_text(encoding="utf-8").partition(self.mark)
        assert mark, f"{self.path} has no line {self.mark}"
        return f"{by_hand}{mark}\n{self.body}"

    def write(self) -> None:
        self.path.write_text(self.written, encoding="utf-8")


def table(*columns: str, rows: Iterable[Iterable[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """Text that stays within a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
