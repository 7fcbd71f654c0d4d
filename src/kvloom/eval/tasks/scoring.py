"""Metrics as defined by the authors of the benchmarks. All are between 0 and 1."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def share_contained(output: str, answers: Sequence[str]) -> float:
    """Fraction of the answers that the output contains, ignoring case. Source: RULER, string_match_all."""
    text = output.lower()
    return sum(answer.lower() in text for answer in answers) / len(answers)


def any_contained(output: str, answers: Sequence[str]) -> float:
    """Whether the output contains one of the answers, ignoring case. Source: RULER, string_match_part."""
    text = output.lower()
    return float(any(answer.lower() in text for answer in answers))


def normalized(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. Source: SQuAD."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def first_line(output: str) -> str:
    """The first non-blank line: a base model does not stop after the answer."""
    return output.strip().split("\n", 1)[0].strip()


def first_line_contains(output: str, answers: Sequence[str]) -> float:
    """Whether the normalized first line contains a normalized answer. Source: Lost in the Middle, best_subspan_em."""
    text = normalized(first_line(output))
    return float(any(normalized(answer) in text for answer in answers))


def only_label(output: str, question: str, answer: str, labels: Collection[str]) -> float:
    """Whether the output's first sentence names the answer and no other label. Source: BABILong.

    Labels that occur in the question do not count. An ``answer`` with commas is a set, which must be named exactly.
    Unlike in the authors' code, labels are whole words (``none`` does not contain ``one``), and the output is cut
    before a following question, which their code intends to do but does not.
    """
    text = re.split(r"\.|<context>|<example>|question", output.lower(), maxsplit=1)[0]
    named = {label for label in labels if _has_word(text, label) and not _has_word(question.lower(), label)}
    return float(named == set(answer.split(",")))


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word.lower())}\b", text) is not None


def near_number(output: str, answer: int) -> float:
    """0.75 ** error of the first number on the first line; 0 if there is none. Source: Oolong."""
    found = re.search(r"-?\d+", first_line(output).replace(",", ""))
    return 0.75 ** abs(int(found[0]) - answer) if found else 0.0


def same_phrase(output: str, answer: str) -> float:
    """Whether the first line, up to its first punctuation mark, is the answer, ignoring case. Source: Oolong, exact."""
    return float(re.split(r"[.,;:!?]", first_line(output), maxsplit=1)[0].strip().lower() == answer.lower())


def only_phrase(output: str, answer: str, phrases: Collection[str]) -> float:
    """Whether the first line contains the answer and none of the other phrases. Source: Oolong, comparisons."""
    text = first_line(output).lower()
    return float([phrase for phrase in phrases if phrase in text] == [answer])


def units_of(output: str, marker: str) -> dict[int, str]:
    """Text of each unit, by number. A unit begins with ``marker`` and its number; of duplicates the first counts."""
    parts = re.split(rf"{re.escape(marker)} (\d+)\b", output)
    units: dict[int, str] = {}
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        units.setdefault(int(number), text)
    return units


def demands_met(units: Mapping[int, str], demands: Mapping[int, Sequence[str]]) -> float:
    """Fraction of the demanded phrases that occur in their unit. A missing unit meets none. ``demands`` is not empty.

    Source: LongGenBench, STIC-2.
    """
    pairs = [(unit, phrase) for unit, phrases in demands.items() for phrase in phrases]
    return sum(phrase.lower() in units.get(unit, "").lower() for unit, phrase in pairs) / len(pairs)


def same_numbers(output: str, answers: Sequence[str]) -> float:
    """Fraction of numbered answers (``Answer 3: 42``) whose last number is right. Source: LongGenBench (Liu et al.)."""
    found = {number: re.findall(r"-?\d+", text)[-1:] for number, text in units_of(output, "Answer").items()}
    return sum(found.get(n) == [answer] for n, answer in enumerate(answers, 1)) / len(answers)
