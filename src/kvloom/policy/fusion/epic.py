"""EPIC (LegoLink): compute again where each document but the first begins, where computing it alone made a sink.

Source: EPIC (arXiv 2410.15332). Nothing needs to be seen for that. We differ: there is a budget besides. Where it has
room for less than ``tokens`` of each, they come before what follows them, in all documents alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.fusion.base import NEVER, Floats, Need, View


@dataclass(frozen=True, slots=True)
class Epic:
    tokens: int = 16

    def __post_init__(self) -> None:
        if type(self.tokens) is not int or self.tokens < 1:
            raise ParamsError(f"tokens must be a number from 1 on, got {self.tokens!r}", param="tokens")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def scores(self, view: View) -> Floats:
        scores_S = np.full(view.question - view.start, NEVER, np.float32)
        for span in view.documents[1:]:
            first = span.start - view.start
            count = min(self.tokens, len(span))
            scores_S[first : first + count] = -np.arange(count, dtype=np.float32)
        return scores_S
