"""Metrics, as the authors of the benchmarks define them. All are between 0 and 1."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def share_contained(output: str, answers: Sequence[str]) -> float:
    """Share of the answers that the output contains, in any case. Source: RULER, string_match_all."""
    text = output.lower()
    return sum(answer.lower() in text for answer in answers) / len(answers)


def any_contained(output: str, answers: Sequence[str]) -> float:
    """Whether the output contains one of the answers, in any case. Source: RULER, string_match_part."""
    text = output.lower()
    return float(any(answer.lower() in text for answer in answers))


def normalized(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. Source: SQuAD."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def first_line(output: str) -> str:
    """The first line that is not blank: a base model goes on writing."""
    return output.strip().split("\n", 1)[0].strip()


def first_line_contains(output: str, answers: Sequence[str]) -> float:
    """Whether the normalized first line contains a normalized answer. Source: Lost in the Middle, best_subspan_em."""
    text = normalized(first_line(output))
    return float(any(normalized(answer) in text for answer in answers))


def only_label(output: str, question: str, answer: str, labels: Collection[str]) -> float:
    """Whether the output's first sentence names the answer and no other label. Source: BABILong.

    Labels that the question names do not count. An ``answer`` with commas is a set: all of it and nothing else. Unlike
    the authors' code, labels are whole words (``none`` is not ``one``), and the cut before a following question, which
    their code intends, happens.
    """
    text = re.split(r"\.|<context>|<example>|question", output.lower(), maxsplit=1)[0]
    named = {label for label in labels if _has_word(text, label) and not _has_word(question.lower(), label)}
    return float(named == set(answer.split(",")))


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word.lower())}\b", text) is not None


def near_number(output: str, answer: int) -> float:
    """0.75 to the power of the error of the first number on the first line; 0 without one. Source: Oolong."""
    found = re.search(r"-?\d+", first_line(output).replace(",", ""))
    return 0.75 ** abs(int(found[0]) - answer) if found else 0.0


def same_phrase(output: str, answer: str) -> float:
    """Whether the first line, up to its first punctuation mark, is the answer, in any case. Source: Oolong, exact."""
    return float(re.split(r"[.,;:!?]", first_line(output), maxsplit=1)[0].strip().lower() == answer.lower())


def only_phrase(output: str, answer: str, phrases: Collection[str]) -> float:
    """Whether the first line holds the answer and no other of the phrases. Source: Oolong, comparisons."""
    text = first_line(output).lower()
    return float([phrase for phrase in phrases if phrase in text] == [answer])


def units_of(output: str, marker: str) -> dict[int, str]:
    """Text of each numbered unit, where ``marker`` and a number open it; the first of two with a number counts."""
    parts = re.split(rf"{re.escape(marker)} (\d+)\b", output)
    units: dict[int, str] = {}
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        units.setdefault(int(number), text)
    return units


def demands_met(units: Mapping[int, str], demands: Mapping[int, Sequence[str]]) -> float:
    """Share of all demanded phrases that stand in their unit; one that was not written meets none. At least one demand.

    Source: LongGenBench, STIC-2.
    """
    pairs = [(unit, phrase) for unit, phrases in demands.items() for phrase in phrases]
    return sum(phrase.lower() in units.get(unit, "").lower() for unit, phrase in pairs) / len(pairs)


def same_numbers(output: str, answers: Sequence[str]) -> float:
    """Share of numbered answers (``Answer 3: 42``) whose last number is right. Source: LongGenBench (Liu et al.)."""
    found = {number: re.findall(r"-?\d+", text)[-1:] for number, text in units_of(output, "Answer").items()}
    return sum(found.get(n) == [answer] for n, answer in enumerate(answers, 1)) / len(answers)
