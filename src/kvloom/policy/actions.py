"""What a policy may propose. Plain data: only the ledger acts."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.segment import PageId


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop a cached page; it is recomputed when it is needed again."""

    page: PageId


@dataclass(frozen=True, slots=True)
class Recode:
    """Store a full page in another codec for ``holders``: as a page of their own, which no one else can find.

    Other holders, and requests that find the page, keep reading the original.
    """

    page: PageId
    codec: str
    holders: tuple[str, ...]
