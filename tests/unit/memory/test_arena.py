"""Bytes to slabs to pages, within a hard budget."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from kvloom.arrays import Bytes
from kvloom.errors import ConfigError
from kvloom.memory.arena import (
    GRAIN_BYTES,
    PAGE_METADATA_BYTES,
    Arena,
    fitting_slab_bytes,
    page_stride,
)
from kvloom.memory.format import PageFormat
from kvloom.segment import PageId

FULL = PageFormat("full", (0, 1, 2), 2, 16, 16, "float16")
WINDOW = PageFormat("window", (3,), 1, 80, 80, "float32")
HEADS = PageFormat("per-head", (), 1, 80, 80, "float32", labelled=True)


def take_all(arena: Arena, fmt: PageFormat) -> list:
    pages = []
    while (page := arena.allocate(fmt)) is not None:
        pages.append(page)
    return pages


def test_page_bytes_follow_from_the_format() -> None:
    assert FULL.page_bytes == 3 * 2 * 16 * (16 + 16) * 2
    assert HEADS.page_bytes == 16 * (80 + 80) * 4 + 16 * 4 + 16 * 4
    assert FULL.cell_offset(2, 1) == 5 * FULL.cell_bytes


@pytest.mark.parametrize("fmt", [FULL, HEADS])
def test_pages_are_aligned_disjoint_and_inside(fmt: PageFormat) -> None:
    arena = Arena(1_000_000, 65_536)
    starts = sorted(page * GRAIN_BYTES for page in take_all(arena, fmt))
    assert all(b - a >= fmt.page_bytes for a, b in itertools.pairwise(starts))
    assert starts[-1] + fmt.page_bytes <= arena.memory.size
    arena.check()


def test_the_budget_counts_metadata_and_is_never_exceeded() -> None:
    arena = Arena(1_000_000, 65_536)
    pages = take_all(arena, FULL)
    assert arena.used_bytes <= 1_000_000 < arena.used_bytes + arena.slab_cost_bytes(FULL)
    assert arena.metadata_bytes == len(pages) * PAGE_METADATA_BYTES


def test_a_slab_changes_format_when_it_is_empty() -> None:
    arena = Arena(2 * 65_536 + 100_000, 65_536)
    pages = take_all(arena, FULL)
    assert arena.allocate(WINDOW) is None
    for page in pages[: arena.pages_per_slab(FULL)]:
        arena.free(page)
    assert len(take_all(arena, WINDOW)) == arena.pages_per_slab(WINDOW)
    arena.check()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it may take")
def test_trim_offers_memory_of_free_slabs_only_and_the_arena_still_works() -> None:
    arena = Arena(16_000_000, 65_536)
    arena.memory.fill(7)
    kept, *pages = take_all(arena, FULL)
    for page in pages:
        arena.free(page)
    others_kb = lazily_free_kb(arena)  # of arenas that lie next to this one, and are one mapping with it
    arena.trim()
    whole_kb = len(arena.memory) // 1024
    assert whole_kb / 2 < lazily_free_kb(arena) - others_kb <= whole_kb - 64
    start = arena.slab_of(kept) * 65_536
    assert (arena.memory[start : start + 65_536] == 7).all()
    assert len(take_all(arena, FULL)) == len(pages)


def lazily_free_kb(arena: Arena) -> int:
    """Of the arena's memory, what the system may take without asking."""
    address = arena.memory.ctypes.data
    for part in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", part)
        if bounds and int(bounds[1], 16) <= address < int(bounds[2], 16):
            return int(re.findall(r"^LazyFree: +([0-9]+) kB", part, flags=re.MULTILINE)[0])
    raise AssertionError("the arena is not among this process's mappings")


def test_slab_size_wastes_little_and_holds_any_page() -> None:
    smollm = PageFormat("full", tuple(range(30)), 3, 64, 64, "float16")
    size = fitting_slab_bytes([smollm], 2 * 2**20)
    assert size % page_stride(smollm) / size < 0.02
    large = PageFormat("full", tuple(range(80)), 8, 128, 128, "float32")
    assert fitting_slab_bytes([large], 2 * 2**20) >= large.page_bytes


def test_a_budget_below_one_slab_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot hold one slab"):
        Arena(1000, 65_536)


def test_more_than_can_be_addressed_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than the 137438953472 that can be addressed"):
        Arena(2**37 + 65_536, 65_536)


def test_a_copied_page_has_the_same_bytes() -> None:
    arena = Arena(1_000_000, 65_536)
    source, target, other = (arena.allocate(FULL) for _ in range(3))
    assert source is not None
    assert target is not None
    assert other is not None
    wanted = np.arange(FULL.page_bytes) % 251
    bytes_of(arena, source)[:] = wanted
    arena.copy(source, target, FULL)
    assert (bytes_of(arena, target) == wanted).all()
    assert not bytes_of(arena, other).any()


def bytes_of(arena: Arena, page: PageId) -> Bytes:
    return arena.memory[page * GRAIN_BYTES :][: FULL.page_bytes]


@pytest.mark.parametrize(
    "change",
    [{"codec": "int3"}, {"tokens": 32}, {"layers": (), "heads": 2}],
    ids=["codec", "page size", "heads without layers"],
)
def test_impossible_formats_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError):
        PageFormat(**{"name": "x", "layers": (0,), "heads": 2, "k_dim": 16, "v_dim": 16, "codec": "float16"} | change)
