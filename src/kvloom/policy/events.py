"""What happens to stored KV, as one stream of events: for whoever decides what stays, keeps copies, or only watches.

stored -> reused* -> idle -> reused* -> idle -> ... -> gone
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from kvloom.segment import PageId, PageKey, Why


class Format(Hashable, Protocol):
    """A page format, as far as it concerns a listener: blocks of equal formats can take each other's place."""


Hints = Mapping[str, float]
"""What a request said of its KV, by name, such as a priority."""

NO_HINTS: Hints = MappingProxyType({})

DEFAULT_PRIORITY = 50
"""Of what nobody said anything else about. Of two blocks, the one of lower priority goes first."""


def priority_of(hints: Hints) -> float:
    return hints.get("priority", DEFAULT_PRIORITY)


def with_priority(priority: float) -> Hints:
    """Hints that say nothing else, or nothing at all."""
    return NO_HINTS if priority == DEFAULT_PRIORITY else MappingProxyType({"priority": priority})


def merged(first: Hints, second: Hints) -> Hints:
    """What two requests that share a block say of it: the higher priority counts, else the second has the last word."""
    if first is second:
        return first
    return {**first, **second, **with_priority(max(priority_of(first), priority_of(second)))}


class Block(NamedTuple):
    """What is stored and dropped as one: a page, or an extent of pages.

    One value for as long as it is stored, except for ``hints``: who shares it has a say.

    ``page`` is its address, and the name by which it is held and dropped; ``key`` names what it holds, ``tokens`` from
    ``position`` on, after the prefix ``parent``. Slabs, of which only a policy hears, hold no tokens and have no keys.
    """

    key: PageKey | None
    parent: PageKey | None
    page: PageId
    format: Format
    position: int
    tokens: Sequence[int]
    size_bytes: int
    hints: Hints = NO_HINTS


class Listener(Protocol):
    """Hears of every event, after it has happened. ``now``: monotonic seconds.

    Events come between two steps of whoever computes: a listener returns at once. One that raises is counted and does
    no harm.
    """

    def stored(self, block: Block, now: float) -> None:
        """It was published: others can find it. Whoever made it still holds it."""
        ...

    def reused(self, block: Block, now: float) -> None:
        """Somebody holds it (too) who did not make it."""
        ...

    def idle(self, block: Block, now: float) -> None:
        """The last holder let go at ``now``, the same for all that was let go together. Said again, it counts anew.

        A slab is idle since the first of its pages is: of slabs, ``now`` may lie before that of earlier events.
        """
        ...

    def gone(self, block: Block, why: Why, now: float) -> None:
        """It cannot be found any more. Whoever holds it keeps it."""
        ...
