"""Python source that runs in a process of its own, and can import what tests can."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def script(source: str, *arguments: str) -> list[str]:
    """The command that runs it."""
    paths = [str(_ROOT / "tests"), str(_ROOT)]
    return [sys.executable, "-c", f"import sys\nsys.path[:0] = {paths}\n{source}", *arguments]
