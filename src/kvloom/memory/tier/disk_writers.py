"""Who has written pages to a directory: ``writers.json``, for people, and to say why pages cannot be used.

Nothing depends on it. A file that is damaged or missing begins anew; what it does not name is of an unknown writer.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from kvloom.memory.tier.writer import Writer

WRITERS = "writers.json"
WRITERS_BYTES = 4096
"""The file is no larger: those that began first are forgotten."""

_KINDS = {"weights": str, "formats": str, "keys": int, "model": str}


def known_writers(directory: Path, ours: Writer | None) -> Mapping[int, Writer]:
    """By tag, ``ours`` included, which is written down if it is new. Never fails: a full disk keeps the old file."""
    file = directory / WRITERS
    writers = _read(file)
    if ours is not None and writers.get(ours.tag) != ours:
        writers[ours.tag] = ours
        with contextlib.suppress(OSError):
            _write(file, list(writers.values()))
    return writers


def _read(file: Path) -> dict[int, Writer]:
    try:
        with file.open("rb") as lines:
            said = json.loads(lines.read(WRITERS_BYTES))
        writers = [Writer(**fields) for fields in said if _fits(fields)]
    except (OSError, ValueError, TypeError):
        return {}
    return {writer.tag: writer for writer in writers}


def _fits(fields: object) -> bool:
    return isinstance(fields, dict) and {name: type(value) for name, value in fields.items()} == _KINDS


def _write(file: Path, writers: list[Writer]) -> None:
    """As many as there is room for, the last ones. Raises OSError."""
    while len(data := json.dumps([asdict(each) for each in writers]).encode()) > WRITERS_BYTES:
        del writers[0]
    temporary = file.with_name(f"{WRITERS}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, file)
