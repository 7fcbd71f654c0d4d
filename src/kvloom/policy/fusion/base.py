"""What selectors see of a prompt whose documents were computed alone, and what they say: plain data.

    position   0          start                             question         length
               [ prefix   )[ document )[ document )[ other  )[ question       )
    KV           exact      computed alone          none      computed

Every entry between the prefix and the question is scored; those of documents may be chosen to be computed again. What
lies between documents, and the question, has to be computed in any case.

Legend of the shape suffixes: S entries between prefix and question, N those and the question, Q rows of the question, H
query heads, K KV heads, D head dim, L layers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvloom.segment import Span

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

NEVER = np.float32(-np.inf)
"""The score of an entry that a scorer does not ask for."""


class Need(enum.Enum):
    """What a scorer has to see, and what that takes."""

    CHECKED_QUERIES = "checked queries"  # and keys, of the check layer: all rows run through the layers up to it
    CHECKED_VALUES = "checked values"  # the same, and the old values of that layer
    LAST_ATTENTION = "last attention"  # the question runs through all layers over old KV, once more
    ALL_ATTENTION = "all attention"  # the same


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """Of the check layer: keys and queries as attention gets them, rotated to their positions, and values.

    ``scale`` multiplies q.k. ``keys_NKD``, ``values_SKD``: computed in this request. ``old_values_SKD``: those of the
    documents alone; of entries outside of documents whatever was computed.
    """

    scale: float
    queries_QHD: Floats
    keys_NKD: Floats
    values_SKD: Floats
    old_values_SKD: Floats


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """``documents``: ascending. ``attention_LS``: that the question pays to old KV, summed over its rows and all heads,
    of the layers that the scorer needs and that see everything. What no scorer needs is None. ``threads``: how many
    cores to use at most. ``prefix``: tokens of the prefix, where something lies between it and the first document.
    """

    length: int
    question: int
    documents: tuple[Span, ...]
    checked: Checked | None = None
    attention_LS: Floats | None = None
    threads: int = 1
    prefix: int | None = None

    @property
    def start(self) -> int:
        return self.documents[0].start if self.prefix is None else self.prefix

    @property
    def candidates(self) -> Flags:
        """(S,): which entries lie in a document."""
        inside_S = np.zeros(self.question - self.start, np.bool_)
        for span in self.documents:
            inside_S[span.start - self.start : span.stop - self.start] = True
        return inside_S


class Scorer(Protocol):
    """One way to say which entries are worth computing again."""

    @property
    def needs(self) -> frozenset[Need]: ...
    def scores(self, view: View) -> Floats:
        """float32 (S,): the higher, the sooner; ``NEVER``: not at all."""
        ...
