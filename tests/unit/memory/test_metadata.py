"""What the books take of Python's memory is not more than what is charged for them."""

from __future__ import annotations

import pytest

from kvloom.memory.arena import Arena
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index, content_hash
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Identity, Ledger
from kvloom.policy.retention import POLICIES
from kvloom.segment import PageId
from timed import Clock
from tiny import GIVEN
from traced_memory import watched

FULL = PageFormat("full", (0,), 1, 128, 128, "float32")
HEAD = PageFormat("per-head", (), 1, 64, 64, "int16", labelled=True)
TOGETHER_S = 0.3
ROOT = root_key(weights="w", formats="f")
SLAB_BYTES = 2**20


def keep(ledger: Ledger, page: PageId, number: int, tokens: int) -> None:
    """Publish under tokens that nothing else holds, and let go."""
    text = tuple(1000 + tokens * number + n for n in range(tokens))
    ledger.publish(page, Identity(ROOT, text, 16 * (number % 256), content_hash(number, text), 0))
    ledger.release([page], "a")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_page_costs_what_is_charged_with_all_ghosts_there_are(policy: str) -> None:
    room = 16 * Arena(SLAB_BYTES, SLAB_BYTES).slab_cost_bytes(FULL)
    arena = Arena(room, SLAB_BYTES)
    pages = 16 * arena.pages_per_slab(FULL)
    clock = Clock()
    ledger = Ledger(arena, Index(1, max_ghosts=2 * pages), POLICIES[policy](GIVEN), clock)
    with watched() as grown:
        for number in range(4 * pages):
            clock.now_s += TOGETHER_S if number % 64 == 0 else 0.0  # requests of a thousand tokens
            page = ledger.allocate(FULL, "a")
            assert page is not None
            keep(ledger, page, number, 16)
    assert ledger.cached_pages == pages
    assert 0.8 * arena.metadata_bytes < grown.bytes <= arena.metadata_bytes


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [1, 90, 1000, 5000])
def test_an_extent_costs_what_is_charged(policy: str, count: int) -> None:
    arena = Arena(2**30, SLAB_BYTES)
    ledger = Ledger(arena, Index(1), POLICIES[policy](GIVEN))
    with watched() as grown:
        for number in range(max(12, 3000 // count)):
            extent = ledger.allocate_extent(HEAD, count, "a")
            assert extent is not None
            keep(ledger, extent.page, number, count)
            del extent
    assert 0.3 * arena.metadata_bytes < grown.bytes <= arena.metadata_bytes
