"""The remote tier: pages in a server that speaks the Valkey (Redis) protocol, shared by all engines of a namespace.

    holds     answers from memory: what this engine wrote, and what the last scan of the namespace found
    budget    what this engine put there; a page that expired or that the server dropped is charged until a scan or a
              read misses it
    expiry    the server keeps a page for the TTL after its last use, by whichever engine

A page of another engine is found at most one refresh after it was written, unless there are more than ``MOST_OTHERS``:
then which of them are found is up to the server. A page that is known may be gone when it is read (GONE). What
engines before this one wrote is found as others' pages are, and leaves with its TTL.

A server that fails or does not answer in time several times in a row is left alone for a while (``Breaker``), in which
nothing is held and nothing is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ParamSpec, TypeVar

from kvloom.config import RemoteConfig, parse_bytes
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault, TierUsage
from kvloom.memory.tier.breaker import Breaker
from kvloom.memory.tier.page_bytes import page_bytes, read_page_bytes
from kvloom.memory.tier.remote_places import RemotePlaces
from kvloom.memory.tier.remote_server import RemoteServer
from kvloom.memory.tier.repeated import Repeated
from kvloom.memory.tier.writer import Other

MOST_OTHERS = 2**17
"""Pages of other engines that are remembered. They take 21 MB of RAM, twice that in a scan, and no part of a budget."""

BOOK_BYTES = 512
"""Charged per page for what it takes in our books (measured: 0.4 KB)."""

ENTRY_BYTES = BOOK_BYTES + 128
"""Charged per page besides its name and value: our books, and the server's table entries and headers. Not what a
server's allocator rounds up (jemalloc: by at most a quarter)."""

_FAULTS = 3
_REST_SECONDS = 10.0

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class RemoteTier:
    """See ``Tier``. Another thread calls ``refresh`` from time to time: ``open_remote`` starts one."""

    name = "remote"

    def __init__(
        self,
        server: RemoteServer,
        budget_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_others: int = MOST_OTHERS,
    ) -> None:
        self._server = server
        self._places = RemotePlaces(budget_bytes, most_others=most_others)
        self._breaker = Breaker(faults=_FAULTS, rest_seconds=_REST_SECONDS, clock=clock)
        self._clock = clock
        self._clears_asked = self._clears_done = 0
        self._refresher: Repeated | None = None
        self._closed = False

    def holds(self, place: Place) -> bool:
        return self._places.knows(place) and not self._breaker.is_open

    def write(self, page: StoredPage) -> None:
        place = page.place
        if self._places.knows(place) and self._ask(self._server.touch, place):
            self._places.used(place)
            return
        if not self._places.begin_write(place):
            return
        value = page_bytes(page)
        try:
            self._charge(place, len(value) + len(self._server.name_of(place)) + ENTRY_BYTES)
            self._ask(self._server.put, place, value)
        except TierFault as error:
            self._places.not_written(place, perhaps=error.fault is not Fault.FULL)
            raise
        self._places.written(place)

    def _charge(self, place: Place, size: int) -> None:
        while victims := self._places.charge(place, size):
            try:
                self._ask(self._server.drop, victims)
            except TierFault:
                self._places.not_dropped(victims)
                raise
            self._places.dropped(victims)

    def read(self, place: Place, tokens: tuple[int, ...], into: memoryview) -> None:
        since = self._places.changes
        if not self._places.knows(place):
            raise TierFault(Fault.GONE, "the remote tier does not know of this page")
        try:
            value = self._ask(self._server.get, place)
            if value is None:
                self._places.lost(place, since)
                raise TierFault(Fault.GONE, "the page expired, or the server dropped it")
            read_page_bytes(value, place, tokens, into)
        except TierFault as error:
            if error.fault in (Fault.SHORT, Fault.CORRUPT):
                self._discard(place, since)
            elif error.fault is Fault.DIFFERS and not self._places.charges(place):
                self._places.hide(place)  # another version's: a write replaces it
            raise
        self._places.used(place)

    def _discard(self, place: Place, since: int) -> None:
        """A damaged page is read no more; it is charged until the server has confirmed that it is gone."""
        self._places.hide(place)
        with suppress(TierFault):
            self._ask(self._server.drop, [place])
            self._places.lost(place, since)

    def refresh(self) -> None:
        """Learn what the server has; after ``clear``, delete it instead. Raises TierFault."""
        survey, asked = self._places.survey(), self._clears_asked
        parts = self._server.places()
        while (part := self._ask(next, parts, None)) is not None:
            if asked == self._clears_done:
                self._places.see(survey, part)
            elif part:
                self._ask(self._server.drop, part)
        self._places.conclude(survey)
        self._clears_done = max(asked, self._clears_done)

    def clear(self) -> None:
        """Delete the pages of the whole namespace, which takes a scan of the database. If the server does not answer,
        none of them is read again by this engine, and the next refresh deletes them."""
        self._clears_asked += 1  # before the pages are hidden: a refresh that has begun shows none of them again
        self._places.hide_all()
        with suppress(TierFault):
            self.refresh()

    def usage(self) -> TierUsage:
        places = self._places
        return TierUsage(places.budget_bytes, places.used_bytes, len(places), places.dropped_pages)

    def damage(self, place: Place, damage: Callable[[bytes], bytes]) -> None:
        """See ``faulty``: other engines find the damaged page, too."""
        value = self._ask(self._server.get, place)
        if value is not None:
            self._ask(self._server.put, place, damage(value))

    def refresh_every(self, seconds: float) -> None:
        """Begin to ``refresh`` in a thread, at once and then so often. A fault is the next one's concern."""

        def refresh() -> None:
            with suppress(TierFault):
                self.refresh()

        self._refresher = Repeated(refresh, seconds, name="kvloom-remote-tier")

    def other_writers(self) -> Sequence[Other]:
        return ()

    def close(self) -> None:
        """Pages stay at the server. Waits at most as long as the server may take for one answer."""
        self._closed = True
        if self._refresher is not None:
            self._refresher.close(self._server.timeout_seconds)
        self._server.close()

    def _ask(self, command: Callable[Asked, Answer], *args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        """Call the server, unless it is left alone. An answer that took long is used, but counts as none in time."""
        if self._closed or not self._breaker.admit():
            raise TierFault(Fault.FAILED, f"`{self._server.address}` is left alone for now")
        began = self._clock()
        try:
            answer = command(*args, **kwargs)
        except TierFault as error:
            self._tell(error.fault not in (Fault.FAILED, Fault.SLOW))
            raise
        self._tell(self._clock() - began <= self._server.timeout_seconds)
        return answer

    def _tell(self, well: bool) -> None:
        if well:
            self._breaker.went_well()
        else:
            self._breaker.went_wrong()


def open_remote(config: RemoteConfig) -> RemoteTier:
    """A tier at the server of the config, which need not be there yet. Raises ConfigError."""
    tier = RemoteTier(RemoteServer(config), parse_bytes(config.budget_bytes))
    tier.refresh_every(config.refresh_seconds)
    return tier
