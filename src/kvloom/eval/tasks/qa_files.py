"""Readers for question files as published: SQuAD, HotpotQA and Lost in the Middle (NaturalQuestions)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvloom.errors import DataFileError


@dataclass(frozen=True, slots=True)
class Passage:
    """A text and its title, which may be empty."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """A question, its accepted answers, and the passages that contain them."""

    question: str
    answers: tuple[str, ...]
    gold: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class QaSet:
    """All items of a file, and all its passages without duplicates."""

    items: tuple[Item, ...]
    passages: tuple[Passage, ...]


def read_squad(path: Path) -> QaSet:
    """SQuAD 1.1 or 2.0 (JSON), without unanswerable questions. Raises DataFileError."""
    items: list[Item] = []
    passages: list[Passage] = []
    with _Reading(path):
        for article in _json(path)["data"]:
            for paragraph in article["paragraphs"]:
                passage = Passage(_text(article.get("title", "")), _text(paragraph["context"]))
                passages.append(passage)
                for asked in paragraph["qas"]:
                    answers = tuple(dict.fromkeys(_text(answer["text"]) for answer in asked["answers"]))
                    if answers and not asked.get("is_impossible", False):
                        items.append(Item(_text(asked["question"]), answers, (passage,)))
    return _checked(items, passages, path)


def read_hotpot(path: Path) -> QaSet:
    """HotpotQA, either setting (JSON). The supporting passages are gold, or all of them if none is marked.

    RULER keeps all ten passages of a question, which do not fit into short contexts. Raises DataFileError.
    """
    items: list[Item] = []
    passages: list[Passage] = []
    with _Reading(path):
        for row in _json(path):
            given = tuple(Passage(_text(title), "".join(map(_text, sentences))) for title, sentences in row["context"])
            wanted = {_text(title) for title, _ in row.get("supporting_facts", ())} or {p.title for p in given}
            passages.extend(given)
            gold = tuple(passage for passage in given if passage.title in wanted)
            items.append(Item(_text(row["question"]), (_text(row["answer"]),), gold))
    return _checked(items, passages, path)


def read_open_questions(path: Path) -> QaSet:
    """Lost in the Middle's question files (JSON lines, optionally gzipped). Passages marked as gold are gold.

    If none is marked, the first one is. Raises DataFileError with the number of the malformed line.
    """
    items: list[Item] = []
    passages: list[Passage] = []
    for number, line in _lines(path):
        with _Reading(path, number):
            row = json.loads(line)
            given = [(Passage(_text(ctx["title"]), _text(ctx["text"])), ctx.get("isgold")) for ctx in row["ctxs"]]
            gold = tuple(passage for passage, marked in given if marked) or (given[0][0],)
            answers = tuple(_text(answer) for answer in row["answers"])
            passages.extend(passage for passage, _ in given)
            items.append(Item(_text(row["question"]), answers, gold))
    return _checked(items, passages, path)


Reader = Callable[[Path], QaSet]


class _Reading:
    """Converts any error while reading a file into DataFileError."""

    def __init__(self, path: Path, line: int | None = None) -> None:
        self._path, self._line = path, line

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, json.JSONDecodeError):
            line = self._line or error.lineno
            raise DataFileError(f"not JSON: {error.msg}", path=self._path, line=line) from error
        if isinstance(error, UnicodeDecodeError):
            raise DataFileError("not UTF-8 text", path=self._path, line=self._line) from error
        if isinstance(error, KeyError):
            raise DataFileError(f"no field {error}", path=self._path, line=self._line) from error
        if isinstance(error, (TypeError, ValueError, AttributeError, IndexError)):
            raise DataFileError(f"not in the expected form: {error}", path=self._path, line=self._line) from error


def _json(path: Path) -> Any:
    return json.loads(_bytes(path).decode("utf-8"))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with _Reading(path):
        text = _bytes(path).decode("utf-8")
    yield from ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except EOFError as error:
        raise DataFileError("the gzip file is cut off", path=path) from error
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror or error}", path=path) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a string")
    return value


def _checked(items: list[Item], passages: list[Passage], path: Path) -> QaSet:
    if not items:
        raise DataFileError("has no question with an answer", path=path)
    return QaSet(tuple(items), tuple(dict.fromkeys(passages)))
