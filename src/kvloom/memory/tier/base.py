"""A tier: pages kept outside the arena, beside the index, under the keys of the index.

    place    (page key, layer group)         the key covers weights, formats, salt and all tokens up to the page's last
    page     16 tokens of a layer group      the bytes that the arena had, unchanged; a chunk's last page has fewer

A tier has a hard budget of bytes, metadata included, and drops what was used least recently to stay within it. It never
decides what is loaded, and knows nothing of sequences. ``holds`` is asked by the engine's thread and answers at once,
from memory; ``write`` and ``read`` take their time in other threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from kvloom.errors import KvloomError
from kvloom.memory.tier.writer import Other
from kvloom.segment import PageKey


class Place(NamedTuple):
    """What a page is found by."""

    key: PageKey
    group: int


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A page: ``tokens`` at ``position``, after the prefix ``parent``. ``data``: uint8, as the arena had it."""

    place: Place
    parent: PageKey
    position: int
    tokens: tuple[int, ...]
    data: memoryview


class Fault(StrEnum):
    """Why a tier did not give what it was asked for."""

    GONE = "gone"  # it was dropped in the meantime
    SHORT = "short"  # fewer bytes than there should be
    CORRUPT = "corrupt"  # the bytes are not those that were written
    DIFFERS = "differs"  # of other tokens, or in another format
    FAILED = "failed"  # the medium, or whoever serves it, reported an error
    SLOW = "slow"  # not there when it was no longer worth waiting for
    FULL = "full"  # no room, even if everything else were dropped


class TierFault(KvloomError):
    """A page was not read or not written, and why. Nothing else of the tier is affected."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Foreign:
    """So much in a tier that is of no use to whoever has it now."""

    pages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TierUsage:
    """``used_bytes``: data and metadata; ``pages`` that are there; ``dropped_pages``: to make room, so far.
    ``foreign``: of what is there, by what makes it another model's or another format's (``writer``).
    """

    budget_bytes: int
    used_bytes: int
    pages: int
    dropped_pages: int
    foreign: Mapping[str, Foreign] = field(default_factory=dict)


class Tier(Protocol):
    """All methods may be called from any thread."""

    name: str
    """For people, in metrics and in answers: ``warm``, ``warm_int8``, ``disk``, ``remote``."""

    def holds(self, place: Place) -> bool:
        """Whether it could be read, as far as is known. Takes no time."""
        ...

    def write(self, page: StoredPage) -> None:
        """Keep a page; if it is there already, that counts as a use of it. Raises TierFault."""
        ...

    def read(self, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
        """Fill ``into``, of the page's size, with the page of these tokens: verified, or not at all reported as read.

        Raises TierFault; ``into`` may then hold anything. What turned out to be damaged is gone from then on.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def usage(self) -> TierUsage: ...

    def other_writers(self) -> Sequence[Other]:
        """Of pages that are here, those that are known but for our own: under their keys pages can be looked for."""
        ...

    def close(self) -> None:
        """Give back what the operating system lent. Nothing is read or written after this."""
        ...
