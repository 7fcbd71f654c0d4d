"""Rows of a public data set: from a JSON or JSON lines file, or from the hub through ``datasets``."""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kvloom.errors import DataFileError, EvalError

Row = Mapping[str, Any]
T = TypeVar("T")

_ENDINGS = (".jsonl", ".json", ".jsonl.gz")


def local_rows(path: Path, name: str, convert: Callable[[Row], T]) -> list[T]:
    """Converted rows of ``path``, or of the file ``name`` in that directory.

    Raises DataFileError with the line number if a row is malformed or lacks a field.
    """
    file = _find(path, name)
    converted = []
    for line, row in _parsed(file):
        try:
            converted.append(convert(row))
        except (KeyError, TypeError, ValueError, IndexError, SyntaxError, AttributeError) as error:
            fault = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataFileError(f"malformed row: {fault}", path=file, line=line) from None
    if not converted:
        raise DataFileError("holds no rows", path=file)
    return converted


def hub_rows(repository: str, name: str | None, split: str, convert: Callable[[Row], T]) -> list[T]:
    """Converted rows of a data set on the hub. Raises EvalError if ``datasets`` or the data set is unavailable."""
    try:
        load_dataset = importlib.import_module("datasets").load_dataset
    except ImportError:
        hint = "pip install 'kvloom[eval]', or give a local copy with --data"
        raise EvalError(f"`{repository}` needs the package `datasets`", hint=hint) from None
    try:
        loaded = load_dataset(repository, name, split=split)
    except Exception as error:  # any error of the network, the hub or the library
        hint = "check the network, or give a local copy with --data"
        raise EvalError(f"cannot load `{repository}` from the hub: {error}", hint=hint) from error
    return [convert(row) for row in loaded]


def _find(path: Path, name: str) -> Path:
    if path.is_file():
        return path
    for folder in (path, path / "data"):
        for ending in _ENDINGS:
            if (folder / f"{name}{ending}").is_file():
                return folder / f"{name}{ending}"
    raise DataFileError(f"holds no file `{name}.jsonl`", path=path)


def _parsed(file: Path) -> Iterator[tuple[int, Row]]:
    try:
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(f"cannot be read: {error}", path=file) from None
    if file.suffix == ".json" and text.lstrip().startswith("["):
        yield from enumerate(_loaded(text, file, 1), start=1)
        return
    for line, each in enumerate(text.split("\n"), start=1):
        if each.strip():
            yield line, _loaded(each, file, line)


def _loaded(text: str, file: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataFileError(f"not JSON: {error}", path=file, line=line) from None
