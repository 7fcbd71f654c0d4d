"""How an arena is filled: by format, and slab by slab. For people who look; takes a bounded time."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.memory.arena import Arena, page_stride
from kvloom.memory.format import PageFormat
from kvloom.memory.records import Books


@dataclass(frozen=True, slots=True)
class FormatUse:
    """Pages of one format, ``page_bytes`` apart: held by sequences, and idle, kept for reuse."""

    format: PageFormat
    page_bytes: int
    held_pages: int
    idle_pages: int


@dataclass(frozen=True, slots=True)
class SlabUse:
    """A slab in use. ``format``: as an index into ``Occupancy.formats``. ``filled``: the share of its pages that are
    not free; ``held``: the share of what is in it that some sequence holds. Both from 0 to 1.
    """

    format: int
    filled: float
    held: float


@dataclass(frozen=True, slots=True)
class Occupancy:
    """``slabs``: None where a slab serves no format. Of ``num_slabs`` these are all, or some at equal distances."""

    formats: tuple[FormatUse, ...]
    slabs: tuple[SlabUse | None, ...]
    num_slabs: int
    slab_bytes: int


def occupancy(arena: Arena, books: Books, most: int) -> Occupancy:
    """``most``: slabs to look at."""
    formats = tuple(FormatUse(fmt, page_stride(fmt), pool.held, pool.idle) for fmt, pool in books.pools.items())
    numbers = {use.format: n for n, use in enumerate(formats)}
    total = arena.num_slabs
    count = min(total, most)
    slabs = tuple(_use(arena, books, numbers, n * total // count) for n in range(count))
    return Occupancy(formats, slabs, total, arena.slab_bytes)


def _use(arena: Arena, books: Books, numbers: dict[PageFormat, int], index: int) -> SlabUse | None:
    book = books.slabs.get(index)
    if book is None:
        return None
    slab = arena.slab(index)
    return SlabUse(numbers[book.pool.format], slab.used / slab.capacity, book.held / max(1, len(book.records)))
