"""What a remote tier knows of its server: the pages that are there, and those that this engine is charged for.

    charged   written by this engine, and not known to be gone: at most the budget, dropped least recently used first
    known     can be read, as far as is known: charged pages that were confirmed, and pages of other engines

A write is charged before it is sent, and what is to be dropped until the server has confirmed it: a page that may be
there counts. Surveys (complete scans of the namespace) correct both: what they do not find has expired, or the server
dropped it. As they take time, each change has a number, and a survey says nothing of what changed after its start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import RLock

from kvloom.memory.tier.base import Fault, Place, TierFault


@dataclass(slots=True)
class _Charge:
    size: int
    changed: int


@dataclass(slots=True, eq=False)
class Survey:
    """One scan of the namespace. ``began``: the number of the last change before it."""

    began: int
    charged: set[Place] = field(default_factory=set)
    others: set[Place] = field(default_factory=set)


class RemotePlaces:
    """Thread-safe. ``most_others``: pages of other engines that are remembered, a bound on memory, not on the server's.

    ``knows`` takes no lock: it is asked by the engine's thread.
    """

    def __init__(self, budget_bytes: int, *, most_others: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self.dropped_pages = 0
        self._most_others = most_others
        self._charges: OrderedDict[Place, _Charge] = OrderedDict()
        self._known: set[Place] = set()
        self._writing: dict[Place, bool] = {}  # whether it was charged before, so that it may be there if this fails
        self._leaving: set[Place] = set()
        self._changes = 0
        self._hidden_at = 0
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def changes(self) -> int:
        """Number of the last change: pass it to ``lost`` to say what an answer from the server can be about."""
        return self._changes

    def knows(self, place: Place) -> bool:
        return place in self._known

    def charges(self, place: Place) -> bool:
        return place in self._charges

    def used(self, place: Place) -> None:
        with self._lock:
            if place in self._charges:
                self._charges.move_to_end(place)

    def begin_write(self, place: Place) -> bool:
        """Followed by ``written`` or ``not_written``. False: another thread is writing it already."""
        with self._lock:
            if place in self._writing:
                return False
            self._writing[place] = place in self._charges
            return True

    def charge(self, place: Place, size: int) -> list[Place]:
        """Charge a page before it is sent. Where there is no room: the places to drop first, charging nothing.

        The caller deletes them at the server, says so with ``dropped`` or ``not_dropped``, and asks again. Raises
        TierFault (FULL): too large for the budget, or on its way out.
        """
        with self._lock:
            if size > self.budget_bytes or place in self._leaving:
                raise TierFault(Fault.FULL, f"no room for {size:,} bytes in a budget of {self.budget_bytes:,}")
            before = self._charges.get(place)
            more = size - (before.size if before else 0)
            if self.used_bytes + more > self.budget_bytes:
                return self._choose(self.used_bytes + more - self.budget_bytes)
            self.used_bytes += more
            self._charges[place] = _Charge(size, self._next())
            self._charges.move_to_end(place)
            return []

    def _choose(self, missing: int) -> list[Place]:
        chosen = []
        for place, charge in self._charges.items():
            if missing <= 0:
                break
            if place not in self._writing and place not in self._leaving:
                chosen.append(place)
                missing -= charge.size
        if not chosen:
            raise TierFault(Fault.FULL, "all room is taken by pages that are being written or dropped")
        self._leaving.update(chosen)
        self._known.difference_update(chosen)
        return chosen

    def written(self, place: Place) -> None:
        with self._lock:
            self._writing.pop(place, None)
            if place in self._charges:
                self._charges[place].changed = self._next()
                self._known.add(place)

    def not_written(self, place: Place, *, perhaps: bool) -> None:
        """``perhaps``: the server may have it all the same, so it stays charged, but nobody is told to read it."""
        with self._lock:
            was_charged = self._writing.pop(place, True)
            self._known.discard(place)
            if not perhaps and not was_charged:
                self._uncharge(place)

    def dropped(self, places: Iterable[Place]) -> None:
        """The server has confirmed that they are gone."""
        with self._lock:
            for place in places:
                self._leaving.discard(place)
                self._uncharge(place)
                self.dropped_pages += 1

    def not_dropped(self, places: Iterable[Place]) -> None:
        """The server did not answer: they stay charged, and unknown until a survey finds them."""
        with self._lock:
            self._leaving.difference_update(places)

    def lost(self, place: Place, since: int) -> None:
        """The server said, when ``changes`` was ``since`` or later, that it does not have this page."""
        with self._lock:
            charge = self._charges.get(place)
            if place in self._writing or (charge is not None and charge.changed > since):
                return
            self._known.discard(place)
            if place not in self._leaving:
                self._uncharge(place)

    def hide(self, place: Place) -> None:
        """Not to be read again, though it may still be there."""
        with self._lock:
            self._known.discard(place)

    def hide_all(self) -> None:
        with self._lock:
            self._hidden_at = self._next()
            self._known = set()

    def survey(self) -> Survey:
        with self._lock:
            return Survey(self._changes)

    def see(self, survey: Survey, places: Iterable[Place]) -> None:
        """A part of what the server has."""
        with self._lock:
            for place in places:
                if place in self._charges:
                    survey.charged.add(place)
                elif len(survey.others) < self._most_others:
                    survey.others.add(place)

    def conclude(self, survey: Survey) -> None:
        """The scan is complete: what it did not find is gone, unless it changed in the meantime."""
        with self._lock:
            if survey.began < self._hidden_at:
                return
            found = survey.charged | survey.others
            for place in [place for place in self._charges if place not in found]:
                self.lost(place, survey.began)
            recent = {place for place, charge in self._charges.items() if charge.changed > survey.began}
            readable = (survey.charged & self._charges.keys()) - recent - self._writing.keys()
            others = survey.others - self._charges.keys()
            self._known = (self._known & recent | readable | others) - self._leaving

    def _uncharge(self, place: Place) -> None:
        charge = self._charges.pop(place, None)
        if charge is not None:
            self.used_bytes -= charge.size

    def _next(self) -> int:
        self._changes += 1
        return self._changes
