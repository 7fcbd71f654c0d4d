"""Documents from files, to be split into passages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvloom.errors import ConfigError, DataFileError

SUFFIXES = (".txt", ".md", ".rst", ".jsonl")


def documents(paths: Sequence[Path]) -> list[str]:
    """The texts of files, and of all files in directories that look like text. Raises ConfigError, DataFileError.

    A file is a document; of one in JSON Lines, the ``text`` of each line is.
    """
    files = [file for path in paths for file in _files(path)]
    found = [text for file in files for text in _texts(file) if text.strip()]
    if not found:
        raise ConfigError("there is no text in these files", hint=f"directories are searched for {', '.join(SUFFIXES)}")
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())


def _texts(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror}", path=path) from None
    except UnicodeDecodeError as error:
        raise DataFileError(f"is not UTF-8: {error.reason} at byte {error.start}", path=path) from None
    if path.suffix.lower() != ".jsonl":
        yield text
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _text_of(line, path, number)


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataFileError(f"is not JSON: {error}", path=path, line=number) from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise DataFileError("has no `text`", path=path, line=number, hint='{"text": "..."}')
    return str(value["text"])
