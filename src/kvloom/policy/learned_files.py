"""What was learned beforehand and ships with kvloom."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "learned"


def shipped_files(pattern: str) -> tuple[Path, ...]:
    return tuple(sorted(_FOLDER.glob(pattern)))
