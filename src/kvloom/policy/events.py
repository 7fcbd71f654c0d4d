"""Lifecycle events of stored KV, for components that decide on retention, keep copies, or only observe.

stored -> reused* -> idle -> reused* -> idle -> ... -> gone
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from kvloom.segment import PageId, PageKey, Why


class Format(Hashable, Protocol):
    """A page format as seen by a listener: blocks of equal formats are interchangeable in memory."""


Hints = Mapping[str, float]
"""A request's hints about its KV, by name, such as a priority."""

NO_HINTS: Hints = MappingProxyType({})

DEFAULT_PRIORITY = 50
"""Used where no hint sets one. Of two blocks, the one with lower priority is evicted first."""

HIGHEST_PRIORITY = 100
"""That a request may ask for."""


def priority_of(hints: Hints) -> float:
    return hints.get("priority", DEFAULT_PRIORITY)


def with_priority(priority: float) -> Hints:
    """Hints with this priority alone; empty for the default."""
    return NO_HINTS if priority == DEFAULT_PRIORITY else MappingProxyType({"priority": priority})


def hints_of(
    priority: float,
    ttl_s: float | None,
    pin_s: float | None = None,
    chunk: bool = False,
    session: int | None = None,
) -> Hints:
    """``ttl_s``: how long idle KV is worth keeping; None leaves that to the policy. ``pin_s``: how long to pin it.
    ``chunk``: it is of a passage that was computed alone. ``session``: which has come again with it.
    """
    told = ("ttl_s", ttl_s), ("pin_s", pin_s), ("chunk", 1.0 if chunk else None), ("session", session)
    said = {name: value for name, value in told if value is not None}
    hints = with_priority(priority)
    return MappingProxyType({**hints, **said}) if said else hints


def merged(first: Hints, second: Hints) -> Hints:
    """Hints for a block shared by two requests: of every hint, the higher value wins."""
    if first is second:
        return first
    others = {**first, **second}.keys() - {"priority"}
    both = {name: max(hints[name] for hints in (first, second) if name in hints) for name in others}
    return {**both, **with_priority(max(priority_of(first), priority_of(second)))}


class Block(NamedTuple):
    """The unit of storage and eviction: a page, or an extent of pages.

    Constant while it is stored, except for ``hints``, which depend on the requests that share it.

    ``page`` is its address, and identifies it when it is held or dropped; ``key`` identifies its contents: ``tokens``
    from ``position`` on, after the prefix ``parent``. Slabs, which only policies see, have no tokens and no keys.
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
    """Receives every event after it has happened. ``now``: monotonic seconds.

    Events are delivered between steps, so a listener must return quickly. Exceptions are counted and otherwise ignored.
    """

    def stored(self, block: Block, now: float) -> None:
        """It was published: others can find it. Its creator still holds it."""
        ...

    def reused(self, block: Block, now: float) -> None:
        """It gained a holder other than its creator."""
        ...

    def idle(self, block: Block, now: float) -> None:
        """The last holder released it at ``now``, the same for all released together. A repeat restarts it.

        A slab is idle from the moment its first page is, so its ``now`` may precede that of earlier events.
        """
        ...

    def gone(self, block: Block, why: Why, now: float) -> None:
        """It can no longer be found. Current holders keep it."""
        ...


class Heedless:
    """A listener that ignores every event: the base of those that heed some."""

    __slots__ = ()

    def stored(self, block: Block, now: float) -> None:
        pass

    def reused(self, block: Block, now: float) -> None:
        pass

    def idle(self, block: Block, now: float) -> None:
        pass

    def gone(self, block: Block, why: Why, now: float) -> None:
        pass
