"""What the offline tasks are made of: whose wording, and which haystack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvloom.errors import EvalError
from kvloom.eval.corpus import essays, shipped_corpus
from kvloom.eval.tasks.filler import Prose
from kvloom.eval.tasks.wording import WORDINGS, Wording

EDITION = 2
"""Raised whenever a change makes other samples of the same seed: rows of two editions answer different questions."""

HAYSTACKS: Mapping[str, Prose] = {"annals": shipped_corpus, "essays": essays}
"""``annals``: coherent, of few templates, half as dense as English. ``essays``: as dense as English, meaning little."""


@dataclass(frozen=True, slots=True)
class Material:
    """By name. Raises EvalError for a name that is not known."""

    wording: str = "own"
    haystack: str = "essays"

    def __post_init__(self) -> None:
        for what, name, known in (("wording", self.wording, WORDINGS), ("haystack", self.haystack, HAYSTACKS)):
            if name not in known:
                raise EvalError(f"unknown {what} `{name}`", hint=f"one of {', '.join(known)}")

    @property
    def words(self) -> Wording:
        return WORDINGS[self.wording]

    @property
    def prose(self) -> Prose:
        return HAYSTACKS[self.haystack]


OWN = Material()
