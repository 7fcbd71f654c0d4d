"""Documents from files, to be split into passages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvloom.errors import ConfigError, DataFileError

SUFFIXES = (".txt", ".md", ".rst", ".jsonl")


@dataclass(frozen=True, slots=True)
class Document:
    """``name``: of its file, within the directory that was given; in JSON Lines the ``id``, or with the line's number.

    >>> [Document.passage("a.txt", n, 2) for n in range(2)], Document.passage("a.txt", 0, 1)
    (['a.txt#1', 'a.txt#2'], 'a.txt')
    """

    name: str
    text: str

    @staticmethod
    def passage(name: str, number: int, count: int) -> str:
        """Name of one of ``count`` passages of a document."""
        return name if count == 1 else f"{name}#{number + 1}"


def documents(paths: Sequence[Path]) -> list[Document]:
    """The texts of files, and of all files in directories that look like text. Raises ConfigError, DataFileError.

    A file is a document; of one in JSON Lines, the ``text`` of each line is.
    """
    files = [(file, _name(file, path)) for path in paths for file in _files(path)]
    found = [each for file, name in files for each in _documents(file, name) if each.text.strip()]
    if not found:
        raise ConfigError("there is no text in these files", hint=f"directories are searched for {', '.join(SUFFIXES)}")
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())


def _name(file: Path, given: Path) -> str:
    return file.name if file == given else file.relative_to(given).as_posix()


def _documents(path: Path, name: str) -> Iterator[Document]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror}", path=path) from None
    except UnicodeDecodeError as error:
        raise DataFileError(f"is not UTF-8: {error.reason} at byte {error.start}", path=path) from None
    if path.suffix.lower() != ".jsonl":
        yield Document(name, text)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _in_line(line, path, number, name)


def _in_line(line: str, path: Path, number: int, name: str) -> Document:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataFileError(f"is not JSON: {error}", path=path, line=number) from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise DataFileError("has no `text`", path=path, line=number, hint='{"text": "..."}')
    given = value.get("id")
    return Document(str(given) if isinstance(given, str | int) and given != "" else f"{name}:{number}", value["text"])
