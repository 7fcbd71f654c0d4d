"""Bytes -> slabs -> pages: the arena of one tier.

    arena   [ slab 0 | slab 1 | slab 2 | ... ]        reserved once, budget is hard
    slab    [ page | page | page | ...  tail ]        one page format at a time
    page    address = byte offset / GRAIN_BYTES       so that kernels need no per-format tables

A slab returns to the arena when its last page is freed, so formats of different sizes share one budget.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from kvloom.arrays import Bytes
from kvloom.errors import ConfigError, InternalError
from kvloom.memory.backing import Backing, Mapped
from kvloom.memory.format import PageFormat
from kvloom.segment import PageId

GRAIN_BYTES = 64
"""Pages start at multiples of this (a cache line)."""

PAGE_METADATA_BYTES = 3072
"""Charged per page for its record, index entry, place in the retention order and two ghosts, or four where the policy
keeps some itself (measured: up to 3.0 KB).
"""

EXTENT_METADATA_BYTES = 4096
"""The same for an extent of any size (measured: 2.4 KB, and 0.1 KB for every slab that it spans)."""

EXTENT_PAGE_METADATA_BYTES = 48
"""Charged per page of an extent: for its address and for a token of the text that identifies it (measured: 41)."""

_SLAB_STEP_BYTES = 4096

MOST_BYTES = 2**31 * GRAIN_BYTES
"""Kernels read addresses as int32."""


@dataclass(slots=True)
class Slab:
    """A run of equal pages. ``free`` is a stack of page ids: an array, since a slab may have many small pages."""

    format: PageFormat
    capacity: int
    free: array[int]

    @property
    def used(self) -> int:
        return self.capacity - len(self.free)


def page_stride(fmt: PageFormat) -> int:
    """Bytes from one page to the next: the page rounded up to whole grains."""
    return -(-fmt.page_bytes // GRAIN_BYTES) * GRAIN_BYTES


def slab_cost(fmt: PageFormat, slab_bytes: int) -> int:
    """What a slab that serves ``fmt`` costs: its bytes, and the metadata of all its pages."""
    page = EXTENT_PAGE_METADATA_BYTES if fmt.in_extents else PAGE_METADATA_BYTES
    return slab_bytes + slab_bytes // page_stride(fmt) * page


def fitting_slab_bytes(formats: Iterable[PageFormat], wanted_bytes: int) -> int:
    """The slab size between ``wanted_bytes`` and twice that which wastes least after its last page, over all formats.

    A slab holds at least one page of every format, however large.
    """
    strides = [page_stride(fmt) for fmt in formats]
    low = max(wanted_bytes, -(-max(strides) // _SLAB_STEP_BYTES) * _SLAB_STEP_BYTES)
    sizes = range(low, 2 * low + 1, _SLAB_STEP_BYTES)
    return min(sizes, key=lambda size: (round(sum(size % stride for stride in strides) / size, 2), size))


@dataclass
class Arena:
    """Pages from one range of addresses. Does not know who uses them or why.

    Parameters
    ----------
    budget_bytes:
        Hard: slabs in use, with the metadata of their pages and of all extents, never exceed it.
    slab_bytes:
        Size of every slab; no page may be larger.
    back:
        Makes what lies behind so many bytes.
    """

    budget_bytes: int
    slab_bytes: int
    back: Callable[[int], Backing] = field(default=Mapped, repr=False)
    memory: Bytes = field(init=False, repr=False)
    """All bytes, uint8."""

    def __post_init__(self) -> None:
        count = self.budget_bytes // self.slab_bytes
        if count < 1:
            raise ConfigError(
                f"kv_bytes of {self.budget_bytes} cannot hold one slab of {self.slab_bytes} bytes",
                hint="raise kv_bytes or lower slab_bytes",
            )
        if count * self.slab_bytes > MOST_BYTES:
            raise ConfigError(f"kv_bytes of {self.budget_bytes} is more than the {MOST_BYTES} that can be addressed")
        self._backing = self.back(count * self.slab_bytes)
        self.memory = self._backing.memory
        self._count = count
        self._slabs: dict[int, Slab] = {}
        self._free_slabs = list(range(count - 1, -1, -1))
        self._partial: dict[PageFormat, dict[int, None]] = {}
        self.extents = 0
        self._used_bytes = 0

    def pages_per_slab(self, fmt: PageFormat) -> int:
        return self.slab_bytes // page_stride(fmt)

    def slab_cost_bytes(self, fmt: PageFormat) -> int:
        """What claiming one slab for ``fmt`` adds to ``used_bytes``."""
        return slab_cost(fmt, self.slab_bytes)

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @property
    def metadata_bytes(self) -> int:
        return self._used_bytes - len(self._slabs) * self.slab_bytes

    @property
    def num_slabs(self) -> int:
        return self._count

    @property
    def free_slabs(self) -> int:
        """Slabs that serve no format."""
        return len(self._free_slabs)

    def claimable_slabs(self, fmt: PageFormat) -> int:
        """How many more slabs ``fmt`` could claim from the arena now."""
        return min(len(self._free_slabs), (self.budget_bytes - self.used_bytes) // self.slab_cost_bytes(fmt))

    def free_pages(self, fmt: PageFormat) -> int:
        """Free pages in slabs that already serve ``fmt``."""
        return sum(len(self._slabs[index].free) for index in self._partial.get(fmt, ()))

    def allocate(self, fmt: PageFormat) -> PageId | None:
        """Allocate a page; None when neither its slabs nor the budget has room. Contents are undefined."""
        partial = self._partial.setdefault(fmt, {})
        if not partial:
            if self.claimable_slabs(fmt) < 1:
                return None
            partial[self._claim(fmt)] = None
        index = next(iter(partial))
        slab = self._slabs[index]
        page = slab.free.pop()
        if not slab.free:
            del partial[index]
        return PageId(page)

    def allocate_extent(self, fmt: PageFormat, count: int) -> array[int] | None:
        """Allocate ``count`` pages whose metadata is charged together; None when there is no room for all."""
        slabs = -(-max(0, count - self.free_pages(fmt)) // self.pages_per_slab(fmt))
        cost = slabs * self.slab_cost_bytes(fmt) + EXTENT_METADATA_BYTES
        if slabs > len(self._free_slabs) or cost > self.budget_bytes - self._used_bytes:
            return None
        partial = self._partial.setdefault(fmt, {})
        pages = array("i")
        while len(pages) < count:
            index = next(iter(partial), None)
            if index is None:
                index = self._claim(fmt)
                partial[index] = None
            free = self._slabs[index].free
            taken = free[max(0, len(free) - count + len(pages)) :]
            del free[len(free) - len(taken) :]
            pages.extend(reversed(taken))
            if not free:
                del partial[index]
        self.extents += 1
        self._used_bytes += EXTENT_METADATA_BYTES
        return pages

    def free(self, page: PageId) -> None:
        """Free a page; an empty slab returns to the arena."""
        index = self.slab_of(page)
        slab = self._slabs[index]
        slab.free.append(page)
        partial = self._partial[slab.format]
        partial[index] = None
        if len(slab.free) == slab.capacity:
            del partial[index], self._slabs[index]
            self._free_slabs.append(index)
            self._used_bytes -= self.slab_cost_bytes(slab.format)

    def free_extent(self, pages: array[int]) -> None:
        """Free everything that one call of ``allocate_extent`` allocated."""
        for page in pages:
            self.free(PageId(page))
        self.extents -= 1
        self._used_bytes -= EXTENT_METADATA_BYTES

    def copy(self, source: PageId, target: PageId, fmt: PageFormat) -> None:
        """What page ``source`` holds, ``target`` holds too."""
        self._backing.copy(source * GRAIN_BYTES, target * GRAIN_BYTES, fmt.page_bytes)

    def trim(self) -> None:
        """Let the operating system reclaim the physical memory of free slabs.

        Adjacent slabs are passed together. One by one, every huge page that spans two of them would be split.
        """
        for first, stop in _runs(self._free_slabs):
            self._backing.give_up(first * self.slab_bytes, (stop - first) * self.slab_bytes)

    def slab_of(self, page: PageId) -> int:
        return page * GRAIN_BYTES // self.slab_bytes

    def slabs(self) -> Iterator[tuple[int, Slab]]:
        return iter(self._slabs.items())

    def slab(self, index: int) -> Slab:
        return self._slabs[index]

    def check(self) -> None:
        """Audit: every slab is free or in use, free pages are distinct, the budget holds. Raises InternalError."""
        total = self._count
        if len(self._free_slabs) + len(self._slabs) != total or set(self._free_slabs) & set(self._slabs):
            raise InternalError(f"{len(self._free_slabs)} free + {len(self._slabs)} used slabs != {total}")
        slabs = sum(self.slab_cost_bytes(slab.format) for slab in self._slabs.values())
        if self.used_bytes != slabs + self.extents * EXTENT_METADATA_BYTES:
            raise InternalError(f"{self.used_bytes} bytes counted as used, but slabs and extents say otherwise")
        if self.used_bytes > self.budget_bytes:
            raise InternalError(f"{self.used_bytes} bytes used of a budget of {self.budget_bytes}")
        for index, slab in self._slabs.items():
            if len(set(slab.free)) != len(slab.free) or any(self.slab_of(PageId(page)) != index for page in slab.free):
                raise InternalError(f"slab {index} lists a free page twice, or one of another slab")
            if bool(slab.free) != (index in self._partial[slab.format]):
                raise InternalError(f"slab {index} has {len(slab.free)} free pages but is listed otherwise")

    def _claim(self, fmt: PageFormat) -> int:
        index = self._free_slabs.pop()
        start, stride, capacity = index * self.slab_bytes, page_stride(fmt), self.pages_per_slab(fmt)
        pages = array("i", [(start + n * stride) // GRAIN_BYTES for n in range(capacity - 1, -1, -1)])
        self._slabs[index] = Slab(fmt, capacity, pages)
        self._used_bytes += self.slab_cost_bytes(fmt)
        return index


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Half-open ranges of adjacent numbers."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number:
            runs[-1] = runs[-1][0], number + 1
        else:
            runs.append((number, number + 1))
    return runs
