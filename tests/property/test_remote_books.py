"""What a remote tier knows and is charged for, against a server that loses commands, answers and pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, cast

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.memory.tier.page_bytes import page_bytes
from kvloom.memory.tier.remote import ENTRY_BYTES, RemoteTier
from kvloom.segment import PageKey

BUDGET = 3000
NUMBERS = st.integers(0, 4)
TROUBLE = st.lists(st.sampled_from(["command lost", "answer lost", "full", "ok"]), max_size=2)
FEW = st.lists(NUMBERS, max_size=2)


def page(number: int) -> StoredPage:
    data = np.random.default_rng(number).integers(0, 256, 16 * (number % 4), np.uint8)
    return StoredPage(Place(PageKey(bytes([number]) * 32), 0), PageKey(bytes(32)), 0, (number,), memoryview(data))


class LossyServer:
    """Instead of a ``RemoteServer``. ``trouble``: what becomes of the next commands, ``ok`` when there are none."""

    timeout_seconds = 1.0
    address = "lossy"

    def __init__(self) -> None:
        self.values: dict[Place, bytes] = {}
        self.ours: set[Place] = set()
        self.before_clear: set[Place] = set()
        self.trouble: list[str] = []
        self.between_parts: list[Any] = []

    def _command(self, do: Any) -> Any:
        fate = self.trouble.pop() if self.trouble else "ok"
        if fate == "full":
            raise TierFault(Fault.FULL, fate)
        answer = None if fate == "command lost" else do()
        if fate != "ok":
            raise TierFault(Fault.SLOW, fate)
        return answer

    def name_of(self, place: Place) -> str:
        return place.key.hex()

    def get(self, place: Place) -> bytes | None:
        return cast("bytes | None", self._command(lambda: self.values.get(place)))

    def touch(self, place: Place) -> bool:
        return bool(self._command(lambda: place in self.values))

    def put(self, place: Place, value: bytes) -> None:
        def put() -> None:
            self.values[place] = value
            self.ours.add(place)
            self.before_clear.discard(place)

        self._command(put)

    def drop(self, places: list[Place]) -> None:
        self._command(lambda: [self.lose(place) for place in places])

    def lose(self, place: Place) -> None:
        self.values.pop(place, None)
        self.ours.discard(place)
        self.before_clear.discard(place)

    def places(self) -> Iterator[list[Place]]:
        for place in sorted(self.values):
            if place in self.values:
                yield cast("list[Place]", self._command(lambda place=place: [place]))
            while self.between_parts:
                self.between_parts.pop()()

    def close(self) -> None:
        pass


@contextmanager
def faults(*possible: Fault) -> Iterator[list[Fault]]:
    """What went wrong inside, if it is among what is possible."""
    seen: list[Fault] = []
    try:
        yield seen
    except TierFault as error:
        if error.fault not in possible:
            raise
        seen.append(error.fault)


class RemoteBooks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.server = LossyServer()
        times = count(0, 1)
        clock = lambda: 1000.0 * next(times)  # noqa: E731  # a rest is over when it begins
        self.tier = RemoteTier(cast("Any", self.server), BUDGET, clock=clock)

    @rule(number=NUMBERS)
    def write(self, number: int) -> None:
        with faults(Fault.SLOW, Fault.FULL):
            self.tier.write(page(number))
            assert self.tier.holds(page(number).place)
            assert page(number).place in self.server.values

    @rule(number=NUMBERS)
    def read(self, number: int) -> None:
        of = page(number)
        into = bytearray(of.data.nbytes)
        with faults(Fault.GONE, Fault.SHORT, Fault.SLOW, Fault.FULL) as seen:
            self.tier.read(of.place, of.tokens, memoryview(into))
            assert into == of.data
            assert of.place not in self.server.before_clear
        if set(seen) & {Fault.GONE, Fault.SHORT}:
            assert not self.tier.holds(of.place)

    @rule(number=NUMBERS)
    def expire(self, number: int) -> None:
        self.server.lose(page(number).place)

    @rule(number=NUMBERS)
    def another_engine_writes(self, number: int) -> None:
        self.server.values[page(number).place] = page_bytes(page(number))
        self.server.before_clear.discard(page(number).place)

    @rule(number=NUMBERS)
    def damage(self, number: int) -> None:
        if (place := page(number).place) in self.server.values:
            self.server.values[place] = self.server.values[place][:-1]

    @rule(trouble=TROUBLE)
    def lose(self, trouble: list[str]) -> None:
        self.server.trouble = trouble

    @rule(trouble=TROUBLE)
    def clear(self, trouble: list[str]) -> None:
        self.server.trouble = trouble
        self.server.before_clear = set(self.server.values)
        self.tier.clear()

    @rule(written=FEW, read=FEW, expired=FEW, clears=st.integers(0, 1))
    def refresh_while_others_work(self, written: list[int], read: list[int], expired: list[int], clears: int) -> None:
        self.server.between_parts = [
            *(lambda number=number: self.write(number) for number in written),
            *(lambda number=number: self.read(number) for number in read),
            *(lambda number=number: self.expire(number) for number in expired),
            *[lambda: self.clear(["command lost"])] * clears,
        ]
        with faults(Fault.SLOW, Fault.FULL):
            self.tier.refresh()
        self.server.between_parts = []

    @rule()
    def refresh_in_peace(self) -> None:
        self.server.trouble = []
        for _ in range(2):  # the first one deletes what a clear could not
            self.tier.refresh()
        there = {number for number in range(5) if page(number).place in self.server.values}
        assert {number for number in range(5) if self.tier.holds(page(number).place)} == there
        assert self.tier.usage().used_bytes <= self._bytes(set(self.server.values)), "what is not there costs nothing"

    @invariant()
    def what_may_be_there_is_charged(self) -> None:
        usage = self.tier.usage()
        assert self._bytes(self.server.ours) <= usage.used_bytes <= BUDGET

    def _bytes(self, places: set[Place]) -> int:
        sizes = [len(page_bytes(page(number))) for number in range(5) if page(number).place in places]
        return sum(sizes) + len(sizes) * (ENTRY_BYTES + 64)


TestRemoteBooks = RemoteBooks.TestCase
TestRemoteBooks.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
