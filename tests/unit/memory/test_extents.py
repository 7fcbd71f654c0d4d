"""Many small pages as one record: taken, shared, dropped and paid for together."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from kvloom.errors import InternalError
from kvloom.memory.arena import EXTENT_METADATA_BYTES, GRAIN_BYTES, Arena, fitting_slab_bytes, page_stride
from kvloom.memory.format import PAGE_TOKENS, PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Extent, Identity, Ledger
from kvloom.policy.actions import Drop
from kvloom.policy.retention.lru import LeastRecentlyUsed

FULL = PageFormat("full", (0, 1), 2, 32, 32, "float32")
HEAD = PageFormat("per-head", (), 1, 32, 32, "float32", labelled=True)
SLAB_BYTES = 65_536
ROOT = root_key(weights="w", formats="f")


def make(slabs: int, fmt: PageFormat = HEAD) -> Ledger:
    """Room for so many slabs of a format, and four extents."""
    cost = Arena(SLAB_BYTES, SLAB_BYTES).slab_cost_bytes(fmt)
    return Ledger(Arena(slabs * cost + 4 * EXTENT_METADATA_BYTES, SLAB_BYTES), Index(1), LeastRecentlyUsed())


def take(ledger: Ledger, count: int, owner: str = "a") -> Extent:
    extent = ledger.allocate_extent(HEAD, count, owner)
    assert extent is not None
    return extent


def publish(ledger: Ledger, extent: Extent, name: int) -> None:
    ledger.publish(extent.page, Identity(ROOT, (name,), 0, name, 0))


def test_an_extent_spans_slabs_and_its_pages_are_its_own() -> None:
    ledger = make(4)
    per_slab = ledger.arena.pages_per_slab(HEAD)
    first, second = take(ledger, per_slab + 3), take(ledger, per_slab - 5)
    pages = [*first.pages, *second.pages]
    starts = sorted(page * GRAIN_BYTES for page in pages)
    assert len(pages) == 2 * per_slab - 2
    assert all(b - a >= HEAD.page_bytes for a, b in itertools.pairwise(starts))
    assert sorted(first.pages) == list(first.pages), "neighbours are read one after another"
    assert ledger.held_pages == len(pages)
    assert ledger.arena.metadata_bytes == 2 * ledger.arena.slab_cost_bytes(HEAD) - 2 * SLAB_BYTES + 2 * 4096
    ledger.check([(first.page, "a"), (second.page, "a")])


def test_it_lives_and_dies_as_one() -> None:
    ledger = make(2)
    extent = take(ledger, 20)
    ledger.hold(extent.page, "b")
    publish(ledger, extent, 1)
    ledger.release([extent.page], "a")
    assert (ledger.held_pages, ledger.cached_pages) == (20, 0)
    ledger.release([extent.page], "b")
    assert (ledger.held_pages, ledger.cached_pages) == (0, 20)
    assert ledger.droppable() == [extent.page]
    ledger.apply(Drop(extent.page))
    assert ledger.evicted_pages == 20
    assert ledger.arena.used_bytes == 0
    ledger.check([])


def test_nothing_is_dropped_for_what_does_not_fit() -> None:
    ledger = make(2)
    per_slab = ledger.arena.pages_per_slab(HEAD)
    held, idle = take(ledger, 10), take(ledger, 10)
    publish(ledger, idle, 1)
    ledger.release([idle.page], "a")
    assert ledger.allocate_extent(HEAD, 2 * per_slab - 9, "b") is None
    assert ledger.droppable() == [idle.page]
    assert take(ledger, 2 * per_slab - 10, "b").pages
    assert ledger.droppable() == []
    ledger.release([held.page], "a")


def test_an_arena_full_of_idle_extents_takes_another() -> None:
    """Also when it is the metadata that has no room."""
    cost = Arena(SLAB_BYTES, SLAB_BYTES).slab_cost_bytes(HEAD)
    ledger = Ledger(Arena(cost + EXTENT_METADATA_BYTES, SLAB_BYTES), Index(1), LeastRecentlyUsed())
    for name in range(5):
        extent = take(ledger, 3)
        publish(ledger, extent, name)
        ledger.release([extent.page], "a")
        ledger.check([])
    assert ledger.evicted_pages == 12


def test_dense_pages_get_the_slabs_of_idle_extents() -> None:
    ledger = make(4, FULL)
    extents = [take(ledger, 20) for _ in range(3)]  # of slabs that hold 15
    for name, extent in enumerate(extents):
        publish(ledger, extent, name)
        ledger.release([extent.page], "a")
    ledger.hold(extents[0].page, "a")
    pages = []
    while ledger.fits({FULL: 1}):
        pages.append(ledger.allocate(FULL, "b"))
        ledger.check()
    assert None not in pages
    assert len(pages) == 2 * ledger.arena.pages_per_slab(FULL), "the two in which the held one does not lie"
    assert ledger.holders(extents[0].page) == 1


def test_a_single_page_of_a_small_format_is_an_extent_of_one() -> None:
    ledger = make(1)
    page = ledger.allocate(HEAD, "a")
    assert page is not None
    assert ledger.arena.metadata_bytes > EXTENT_METADATA_BYTES
    ledger.release([page], "a")
    assert ledger.arena.used_bytes == 0


@pytest.mark.parametrize(("fmt", "count"), [(HEAD, 0), (FULL, 3)])
def test_impossible_extents_are_refused(fmt: PageFormat, count: int) -> None:
    with pytest.raises(InternalError, match="an extent of"):
        make(2).allocate_extent(fmt, count, "a")


# -- what a thinned-out context of SmolLM2 costs -------------------------------------------------------------------

LAYERS, HEADS, WIDTH = 30, 3, 64


def kept_entries(split: str, tokens: int) -> list[int]:
    """Entries kept per (layer, head): a fifth of all, split evenly, or at random so that all lists round badly."""
    lists = LAYERS * HEADS
    total = tokens * lists // 5
    if split == "even":
        return [total // lists] * lists
    weights = np.random.default_rng(tokens).dirichlet(np.full(lists, 2.0))
    sizes = [min(tokens - PAGE_TOKENS, int(total * weight)) // PAGE_TOKENS * PAGE_TOKENS + 1 for weight in weights]
    chance = random.Random(tokens)
    while sum(sizes) <= total - PAGE_TOKENS:
        grown = chance.randrange(lists)
        sizes[grown] += PAGE_TOKENS * (sizes[grown] + PAGE_TOKENS <= tokens)
    return sizes


@pytest.mark.parametrize("codec", ["int16", "float16"])
@pytest.mark.parametrize("split", ["even", "uneven"])
@pytest.mark.parametrize("tokens", [1024, 2048, 4096, 8192])
def test_a_fifth_of_a_context_costs_at_most_23_percent(codec: str, split: str, tokens: int) -> None:
    """Rounding to pages and metadata included; from 2,048 tokens on, unused pages of the last slab as well."""
    dense = PageFormat("full", tuple(range(LAYERS)), HEADS, WIDTH, WIDTH, codec)
    head = PageFormat("per-head", (), 1, WIDTH, WIDTH, codec, labelled=True)
    slab = fitting_slab_bytes([dense], 2 * 2**20)
    arena = Arena(2**30, slab)
    ledger = Ledger(arena, Index(1), LeastRecentlyUsed())

    for _ in range(tokens // PAGE_TOKENS):
        assert ledger.allocate(dense, "dense") is not None
    dense_slabs = arena.used_bytes
    per_page = (arena.slab_cost_bytes(dense) - slab) // arena.pages_per_slab(dense)
    dense_bytes = ledger.held_bytes + tokens // PAGE_TOKENS * per_page

    sizes = kept_entries(split, tokens)
    kept = sum(sizes) / (tokens * LAYERS * HEADS)
    assert 0.196 < kept <= 0.2
    count = sum(-(-size // PAGE_TOKENS) for size in sizes)
    assert ledger.allocate_extent(head, count, "kept") is not None
    per_page = (arena.slab_cost_bytes(head) - slab) // arena.pages_per_slab(head)
    extent_bytes = count * (page_stride(head) + per_page) + EXTENT_METADATA_BYTES
    assert extent_bytes <= 0.23 * dense_bytes * kept / 0.2
    if tokens >= 2048:
        assert arena.used_bytes - dense_slabs <= 0.23 * dense_slabs
    ledger.check()
