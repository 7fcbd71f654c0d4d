"""The books of a tier: which pages are there, from the least recently used on, and which are being read or written.

Whoever owns a shelf holds a lock around every call but ``in``. Copying takes place outside of that lock, so a page that
is being read is pinned: it can be forgotten, but its room is given back only when the last reader has left.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from kvloom.memory.tier.base import Place


@dataclass(slots=True, eq=False)
class Record:
    """``pins``: how many are reading the page. ``gone``: it is not found any more."""

    place: Place
    pins: int = 0
    gone: bool = False


R = TypeVar("R", bound=Record)


class Shelf(Generic[R]):
    def __init__(self) -> None:
        self._kept: OrderedDict[Place, R] = OrderedDict()
        self._coming: dict[Place, R] = {}

    def __contains__(self, place: Place) -> bool:
        """Needs no lock."""
        return place in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def records(self) -> list[R]:
        """From the least recently used on."""
        return list(self._kept.values())

    # -- using what is there ---------------------------------------------------------------------------------------

    def use(self, place: Place) -> R | None:
        """The record of a page, which is now the one used last; None if it is not there."""
        record = self._kept.get(place)
        if record is not None:
            self._kept.move_to_end(place)
        return record

    def pin(self, place: Place) -> R | None:
        """``use`` by a reader, who must ``unpin`` it."""
        record = self.use(place)
        if record is not None:
            record.pins += 1
        return record

    def unpin(self, record: R) -> bool:
        """Returns whether its room is free now: it was forgotten in the meantime, and nobody else is reading."""
        record.pins -= 1
        return record.gone and record.pins == 0

    # -- what comes ------------------------------------------------------------------------------------------------

    def is_coming(self, place: Place) -> bool:
        """Whether it is being written."""
        return place in self._coming

    def begin(self, record: R) -> None:
        """Expect a page that is to be written."""
        self._coming[record.place] = record

    def expects(self, record: R) -> bool:
        """Whether a page is still wanted: False after ``clear``."""
        return self._coming.get(record.place) is record

    def finish(self, record: R) -> None:
        """An expected page has been written, and can be found from now on."""
        del self._coming[record.place]
        self._kept[record.place] = record

    def abandon(self, record: R) -> None:
        """A page will not be written after all."""
        if self.expects(record):
            del self._coming[record.place]

    # -- what goes -------------------------------------------------------------------------------------------------

    def oldest(self) -> R | None:
        """The least recently used page that nobody is reading."""
        return next((record for record in self._kept.values() if not record.pins), None)

    def remove(self, record: R) -> bool:
        """Forget a page. Returns whether its room is free now; otherwise that is said by ``unpin``."""
        if record.gone:
            return False
        del self._kept[record.place]
        record.gone = True
        return record.pins == 0

    def clear(self) -> list[R]:
        """Forget everything, and what is being written. Returns those whose room is free now."""
        self._coming.clear()
        return [record for record in self.records() if self.remove(record)]
