"""Texts to measure with: written for the project."""

from __future__ import annotations

import json
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def long_text() -> str:
    """The document that the demo reads, several thousand tokens of prose."""
    return (_ROOT / "examples" / "data" / "observatory.md").read_text(encoding="utf-8")


def real_text() -> str:
    """More of it: that document, and ours for users and developers."""
    names = ("README.md", "docs/architecture.md", "CONTRIBUTING.md")
    return "\n\n".join([long_text(), *((_ROOT / name).read_text(encoding="utf-8") for name in names)])


def prompts() -> list[str]:
    """Twenty short prompts of many kinds."""
    loaded: list[str] = json.loads((_ROOT / "bench" / "data" / "prompts.json").read_text(encoding="utf-8"))
    return loaded
