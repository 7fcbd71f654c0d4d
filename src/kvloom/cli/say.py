"""Messages for people, on standard error, and results, on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def say(line: str = "") -> None:
    print(line, file=sys.stderr, flush=True)


def say_aside(line: str) -> None:
    """What may be overlooked: dim, where there are colours."""
    from rich.console import Console

    Console(stderr=True, highlight=False, markup=False, emoji=False).print(line, style="dim", soft_wrap=True)


def show(facts: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a result: ``text`` for people, or ``facts`` as one JSON object."""
    print(json.dumps(facts, indent=2) if as_json else text)


def bytes_text(size: float) -> str:
    """
    >>> bytes_text(1536), bytes_text(512 * 2**20)
    ('1.5 KiB', '512 MiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while size >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.4g} {units[power]}"
