"""What a policy may propose. Plain data: only the ledger acts."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.segment import PageId


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a cached page; whoever wants it again computes it again."""

    page: PageId
