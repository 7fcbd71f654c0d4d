"""What a scorer looks at beside positions and tokens: only that is read for it, or seen while a context is computed.

To be seen costs: those rows are computed although their KV may be cached.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from kvloom.segment import Span, SpanSet

_BLOCK = 16
_LEAST_REPEATED = 64


class Cached(enum.Enum):
    """What the cache holds of the entries."""

    KEYS = "keys"
    VALUES = "values"


class Given(enum.Enum):
    """What is known before anything is computed."""

    OUTPUT = "output"
    """The layer's output projection."""
    STRUCTURE = "structure"
    """Which tokens are punctuation or white space that repeats."""


@dataclass(frozen=True, slots=True)
class Every:
    """All rows of the context. ``of`` says which those are in a context of ``stop`` tokens."""

    def of(self, stop: int) -> SpanSet:
        return SpanSet.full(stop)


@dataclass(frozen=True, slots=True)
class Last:
    """The last ``count`` rows."""

    count: int

    def of(self, stop: int) -> SpanSet:
        return SpanSet.full(stop) - SpanSet.full(max(0, stop - self.count))


@dataclass(frozen=True, slots=True)
class Spread:
    """About ``count`` rows: blocks of 16 at even distances, from row ``first`` on. All of them where there are no more.

    >>> [(span.start, span.stop) for span in Spread(32, first=4).of(100)]
    [(4, 20), (84, 100)]
    """

    count: int
    first: int = 0

    def of(self, stop: int) -> SpanSet:
        rows = SpanSet.full(stop) - SpanSet.full(self.first)
        if len(rows) <= self.count:
            return rows
        starts = np.linspace(self.first, stop - _BLOCK, max(1, self.count // _BLOCK)).astype(int).tolist()
        return rows & SpanSet.of(Span(max(0, start), max(0, start) + _BLOCK) for start in starts)


@dataclass(frozen=True, slots=True)
class Repeated:
    """The rows of a repetition of the context after its end: ``chunk`` tokens at a time, fewer where there is no room
    for as many, each begun with ``overlap`` tokens before it. They are computed, seen, and forgotten.
    """

    chunk: int
    overlap: int = 8

    def of(self, stop: int) -> SpanSet:
        """No row of the context itself."""
        return SpanSet()

    def texts(self, context: Sequence[int], room: int) -> list[list[int]] | None:
        """What is to be computed after the context, where no more than ``room`` tokens have room. None: too little.

        >>> Repeated(3, overlap=1).texts([5, 6, 7, 8, 9], room=100)
        [[5, 6, 7], [7, 8, 9]]
        """
        chunk = min(self.chunk, room - self.overlap)
        if chunk < min(self.chunk, len(context), _LEAST_REPEATED):
            return None
        return [list(context[max(0, start - self.overlap) : start + chunk]) for start in range(0, len(context), chunk)]


@dataclass(frozen=True, slots=True)
class Following:
    """The rows of texts that follow the context, each by itself: computed, seen, and forgotten."""

    after: tuple[tuple[int, ...], ...]

    def of(self, stop: int) -> SpanSet:
        """No row of the context itself."""
        return SpanSet()

    def texts(self, context: Sequence[int], room: int) -> list[list[int]] | None:
        """As ``Repeated.texts``."""
        return None if any(len(text) > room for text in self.after) else [list(text) for text in self.after]


@dataclass(frozen=True, slots=True)
class Said:
    """The rows of ``count`` tokens that the model itself goes on with after the context, the likeliest one each time:
    computed, seen, and forgotten.
    """

    count: int

    def of(self, stop: int) -> SpanSet:
        """The last row, which says how it begins."""
        return Last(1).of(stop)

    def texts(self, context: Sequence[int], room: int) -> list[list[int]] | None:
        """As ``Repeated.texts``: none that are known beforehand."""
        return [] if self.count <= room else None


Inside = Every | Last | Spread
"""Rows of the context."""

After = Repeated | Following | Said
"""Rows of what comes after it."""


@dataclass(frozen=True, slots=True)
class Attention:
    """How much attention each entry gets from ``rows``: probabilities, added up over them and over the query heads that
    share a KV head, or the largest of them; with ``by_query_head`` for each of these. Those of several layers that read
    one layer's KV count alike.
    """

    rows: Inside | After = Every()
    reduce: Literal["sum", "max"] = "sum"
    by_query_head: bool = False


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries of ``rows``. Of several layers that read one layer's KV, the owner's."""

    rows: Inside


Digest = Callable[[int, npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class LearnedMaps:
    """A digest that the engine computes: by layer, hidden states over their root mean square, times ``maps``
    (N + M, C), plus ``offsets`` (N + M,), all float32. What the last M of these are above zero is added to the first N,
    times ``onto`` (N, M), where a layer has that; else M is 0.
    """

    maps: Mapping[int, npt.NDArray[np.float32]]
    offsets: Mapping[int, npt.NDArray[np.float32]]
    onto: Mapping[int, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What a digest makes of hidden states: ``digest(layer, x_RC)``, float32 (R, N), row by row, whatever rows come
    with it. ``x_RC``: the residual stream as it goes into the layer. All rows of the context are looked at.

    ``digest_for``: given the id of the model's weights, the digest; it raises ParamsError where it has none for them.
    """

    digest_for: Callable[[str], Digest | LearnedMaps]


Need = Cached | Given | Attention | Queries | Hidden

MEASURED = (Attention, Queries, Hidden)
"""A scorer has at most one need of each of these kinds."""


def rows_of(needs: frozenset[Need], stop: int) -> SpanSet:
    """Rows of a context of ``stop`` tokens that have to be computed so that they are seen."""
    rows = SpanSet()
    for need in needs:
        match need:
            case Attention(rows=which) | Queries(rows=which):
                rows = rows | which.of(stop)
            case Hidden():
                rows = rows | SpanSet.full(stop)
    return rows
