"""What a policy may propose. Plain data: only the ledger acts."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.segment import PageId


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a cached page; whoever wants it again computes it again."""

    page: PageId


@dataclass(frozen=True, slots=True)
class Recode:
    """Let ``holders`` keep a full page in another codec: as a page of their own, which nobody else can find.

    Whoever else holds the page, and whoever finds it, reads what was there before.
    """

    page: PageId
    codec: str
    holders: tuple[str, ...]
