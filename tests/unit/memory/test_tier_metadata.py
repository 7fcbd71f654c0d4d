"""What a tier's books take of Python's memory is not more than what is charged for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kvloom.memory.arena import PAGE_METADATA_BYTES
from kvloom.memory.format import PageFormat
from kvloom.memory.keys import page_key
from kvloom.memory.tier.base import Place, StoredPage
from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.disk_books import ENTRY_BYTES
from kvloom.memory.tier.warm import WarmTier
from kvloom.segment import PageKey
from tier_cases import ROOT
from traced_memory import watched

SMALL = PageFormat("full", (0,), 1, 16, 16, "float32")
ON_DISK = ENTRY_BYTES - 512
"""Of what is charged for a page: for its row, its entry in a folder and its inode."""


def fresh_page(number: int) -> StoredPage:
    """Shares nothing with others: its tokens, its parent and its key take memory of their own."""
    tokens = tuple(1000 + 16 * number + n for n in range(16))
    parent = PageKey(bytes(ROOT[:16]) + number.to_bytes(16))
    return StoredPage(Place(page_key(parent, tokens), 0), parent, 16 * number, tokens, memoryview(bytes(2048)))


def test_a_page_in_warm_memory_costs_what_is_charged() -> None:
    tier = WarmTier(2**24, (SMALL,))
    with watched() as grown:
        for number in range(2000):
            tier.write(fresh_page(number))
    assert tier.usage().pages == 2000
    assert tier.usage().dropped_pages == 0
    assert 0.3 * PAGE_METADATA_BYTES < grown.bytes / 2000 <= PAGE_METADATA_BYTES


def test_a_page_on_disk_costs_what_is_charged(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 2**26)
    for number in range(500):
        tier.write(replace(fresh_page(number), data=memoryview(bytes(16))))
    tier.close()
    with watched() as grown:
        again = DiskTier(tmp_path, 2**26)
    assert again.usage().pages == 500
    assert 0.5 * (ENTRY_BYTES - ON_DISK) < grown.bytes / 500 <= ENTRY_BYTES - ON_DISK
    again.close()
    assert (tmp_path / "index.sqlite").stat().st_size / 500 < 0.5 * ON_DISK
