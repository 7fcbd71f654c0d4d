"""The extents in which the pages of a sequence's lists lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvloom.engine.kv.holder import Holder
from kvloom.memory.arena import page_stride
from kvloom.memory.format import PageFormat
from kvloom.memory.ledger import Extent
from kvloom.segment import PageId


@dataclass(slots=True, eq=False)
class Extents:
    """By layer group. Extents that are allocated but not yet assigned to a group are in the holder's ``loose``."""

    holder: Holder
    of_groups: list[tuple[Extent, ...]]

    def take(self, fmt: PageFormat, count: int) -> Extent | None:
        """Allocate pages for lists that will be put in place later. None: no room."""
        extent = self.holder.ledger.allocate_extent(fmt, count, self.holder.owner)
        if extent is not None:
            self.holder.loose.append(extent.page)
        return extent

    def put(self, group: int, extents: Sequence[Extent]) -> None:
        """Assign allocated extents to a group and release its previous ones."""
        before = self.of_groups[group]
        self.holder.loose += [extent.page for extent in before]
        self.of_groups[group] = tuple(extents)
        for extent in extents:
            self.holder.loose.remove(extent.page)
        self.holder.let_go([extent.page for extent in before if extent not in extents])

    def share(self, child: Extents) -> None:
        """Let the child hold them as well."""
        for group, extents in enumerate(self.of_groups):
            child.of_groups[group] = extents
            for extent in extents:
                self.holder.ledger.hold(extent.page, child.holder.owner, child.holder.hints)

    def adopt(self, of_groups: Sequence[tuple[Extent, ...]]) -> None:
        """Hold extents that are published."""
        self.of_groups[:] = of_groups
        for page in self.pages():
            self.holder.ledger.hold(page, self.holder.owner, self.holder.hints)

    def clear(self) -> None:
        self.of_groups = [()] * len(self.of_groups)

    @property
    def held_bytes(self) -> int:
        return sum(len(extent.pages) * page_stride(extent.format) for extent in self)

    def pages(self) -> list[PageId]:
        """Their first pages, which identify them in the ledger."""
        return [extent.page for extent in self]

    def __iter__(self) -> Iterator[Extent]:
        return (extent for extents in self.of_groups for extent in extents)
