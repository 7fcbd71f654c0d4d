"""What the offline tasks are built from: a wording and a haystack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvloom.errors import EvalError
from kvloom.eval.corpus import essays, shipped_corpus
from kvloom.eval.tasks.filler import Prose
from kvloom.eval.tasks.wording import WORDINGS, Wording

EDITION = 2
"""Incremented whenever a change alters the samples of a seed: rows of different editions cannot be compared."""

HAYSTACKS: Mapping[str, Prose] = {"annals": shipped_corpus, "essays": essays}
"""``annals``: coherent text from few templates, half as dense as English. ``essays``: as dense as English, but
nearly meaningless."""


@dataclass(frozen=True, slots=True)
class Material:
    """A choice of wording and haystack, by name. Raises EvalError for an unknown name."""

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
