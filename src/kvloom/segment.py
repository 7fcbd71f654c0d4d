"""Spans and segments: the pure data that says which positions exist and where their KV is.

    position   0         16        32        48        64
               |---------|---------|---------|---------|
    segments   [ Resident "ram"   )[ Missing )[ Resident )     half-open, sorted, one after another

No tensors and no I/O here. Everything is immutable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from kvloom.errors import SpanError

PageId = NewType("PageId", int)
"""Address of a page: byte offset from the arena's start in units of ``memory.arena.GRAIN_BYTES``."""

PageKey = NewType("PageKey", bytes)
"""Identity of a page's content: 32 bytes, see ``memory.keys``."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Half-open, never empty range of token positions ``[start, stop)``."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise SpanError(f"a span needs 0 <= start < stop, got [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, position: int) -> bool:
        return self.start <= position < self.stop

    def positions(self) -> range:
        return range(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class SpanSet:
    """Sorted, disjoint, non-touching spans: a set of positions.

    >>> SpanSet.of([Span(4, 6), Span(0, 4), Span(9, 10)])
    SpanSet(spans=(Span(start=0, stop=6), Span(start=9, stop=10)))
    """

    spans: tuple[Span, ...] = ()

    @staticmethod
    def of(spans: Iterable[Span]) -> SpanSet:
        """Normalise any spans, in any order, overlapping or not."""
        merged: list[Span] = []
        for span in sorted(spans):
            if merged and span.start <= merged[-1].stop:
                merged[-1] = Span(merged[-1].start, max(merged[-1].stop, span.stop))
            else:
                merged.append(span)
        return SpanSet(tuple(merged))

    @staticmethod
    def full(length: int) -> SpanSet:
        return SpanSet((Span(0, length),)) if length > 0 else SpanSet()

    def __len__(self) -> int:
        spans = self.spans
        if len(spans) == 1:  # called a dozen times per row of a step
            return spans[0].stop - spans[0].start
        return sum([span.stop - span.start for span in spans])

    def __bool__(self) -> bool:
        return bool(self.spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)

    def __contains__(self, position: int) -> bool:
        return any(position in span for span in self.spans)

    def __or__(self, other: SpanSet) -> SpanSet:
        return SpanSet.of((*self.spans, *other.spans))

    def __sub__(self, other: SpanSet) -> SpanSet:
        if other is self:
            return _EMPTY
        left: list[Span] = []
        for span in self.spans:
            start = span.start
            for without in other.spans:
                if without.stop <= start or without.start >= span.stop:
                    continue
                if without.start > start:
                    left.append(Span(start, without.start))
                start = max(start, without.stop)
            if start < span.stop:
                left.append(Span(start, span.stop))
        return SpanSet(tuple(left))

    def __and__(self, other: SpanSet) -> SpanSet:
        return self - (self - other)

    def first(self, count: int) -> SpanSet:
        """The lowest ``count`` positions (all of them when there are fewer)."""
        if count >= len(self):
            return self
        taken: list[Span] = []
        for span in self.spans:
            if count <= 0:
                break
            taken.append(Span(span.start, min(span.stop, span.start + count)))
            count -= len(taken[-1])
        return SpanSet(tuple(taken))


_EMPTY = SpanSet()


class Why(StrEnum):
    """Why a span of a prompt could not be reused and had to be computed."""

    NEW = "new"  # nothing with this content was ever stored
    DIFFERS = "differs"  # the stored continuation of this prefix has another token here
    EVICTED = "evicted"  # it was stored, and dropped to make room
    RESET = "reset"  # it was stored, and the cache was reset
    OTHER_SALT = "other-salt"  # the same content is stored under another salt
    WINDOW = "window"  # full-attention pages are there, but a window layer gave its pages back
    TOO_SHORT = "too-short"  # the tail after a reused prefix fills no page, and was not kept
    LAST_TOKEN = "last-token"  # wholly cached: the last token is computed again for its logits
    SCATTERED = "scattered"  # cached, and computed again: too little, or too often, between holes
    WATCHED = "watched"  # cached, and computed again: a method of compression has to see its attention
    COMPRESSED = "compressed"  # it comes after a context that this request compresses: nobody else computes the same
    FUSED = "fused"  # KV of documents that was computed elsewhere, or comes after: read as it lies, or repaired
    SOURCE_GONE = "source-gone"  # it is part of an earlier context, whose KV is no longer there
    OTHER_WEIGHTS = "other-weights"  # the same text is in a tier, of another model or with other activations
    OTHER_FORMATS = "other-formats"  # the same text is in a tier, in other page formats
    NOT_LOADED = "not-loaded"  # a tier had it, and did not deliver it
    NOT_ASKED = "not-asked"  # the request does not read the cache, or wants logits of every prompt position


RAM = "ram"
"""Name of the tier in main memory."""


@dataclass(frozen=True, slots=True)
class Resident:
    """KV that can be attended: which tier holds it and in which page format."""

    tier: str
    format: str


@dataclass(frozen=True, slots=True)
class Missing:
    """KV that must be computed. The recipe is always the tokens themselves; ``why`` says what was missed."""

    why: Why


@dataclass(frozen=True, slots=True)
class Pending:
    """KV that is being loaded from a tier, and need not be computed."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A maximal run of positions whose KV is in one state."""

    span: Span
    state: Resident | Missing | Pending


Context = tuple[Segment, ...]
"""Sorted, adjacent segments from position 0 on."""


@dataclass(frozen=True, slots=True)
class Reused:
    """A span of a prompt whose KV was cached, and the tier it came from. ``lossy``: in fewer bits."""

    span: Span
    tier: str
    lossy: bool = False


@dataclass(frozen=True, slots=True)
class Miss:
    """A span that was computed although a cache exists, and why."""

    span: Span
    why: Why
