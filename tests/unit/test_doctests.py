"""The examples in docstrings are real sessions."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules_with_examples() -> list[str]:
    found = []
    for folder in (ROOT / "src", ROOT):
        for path in sorted((folder / ("kvloom" if folder.name == "src" else "bench")).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                parts = path.relative_to(folder).with_suffix("").parts
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_examples_are_found_and_run() -> None:
    assert "kvloom.segment" in modules_with_examples()
    assert doctest.testmod(importlib.import_module("kvloom.segment")).attempted > 0
