"""Claims: stored KV of sessions that come again, which goes after what others have stored, within fair shares.

A block of such a session (hint ``session``) is filed half a priority higher while it is idle, so that every policy
drops it after all others of its priority, and in its own order among them. Requests that are over for good can then
fill what is not claimed, and no more. Claims have a part of the budget, in which sessions have fair shares: where it is
full, whoever claims the most gives way, with what lies deepest, to one that claims less. A claim ends some time after
the last use, or when the time is up that its request gave as ``ttl_s``, if that is later; and whatever is claimed is
dropped before a request goes without room.

Source: ours; shares are max-min fair, as in Bertsekas, Gallager: Data Networks, 6.5.2.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kvloom.errors import InternalError
from kvloom.policy.events import Block, priority_of
from kvloom.segment import PageId

CLAIM_S = 600.0
"""For which a session that is not heard of keeps its claim."""

_STEP = 0.5
"""Requests ask for whole priorities."""


@dataclass(frozen=True, slots=True, eq=False)
class _Claim:
    """``block``: with the hints that were asked for."""

    block: Block
    session: float
    until_s: float


@dataclass(slots=True, eq=False)
class _Session:
    """``deepest``: a heap of (minus the position, page). A page may be claimed by another by now, or by nobody."""

    bytes: int = 0
    deepest: list[tuple[int, PageId]] = field(default_factory=list)


@dataclass(slots=True)
class Claims:
    """``bytes``: of what is claimed, at most ``budget_bytes``."""

    budget_bytes: int
    bytes: int = 0
    _claimed: dict[PageId, _Claim] = field(default_factory=dict)
    _sessions: dict[float, _Session] = field(default_factory=dict)
    _largest: list[tuple[int, float]] = field(default_factory=list)
    """A heap of (minus the bytes, session), of which those count that are as the session is now."""
    _ends: list[tuple[float, PageId]] = field(default_factory=list)
    _displaced: list[Block] = field(default_factory=list)

    def claim(self, block: Block, idle_s: float, now: float) -> Block:
        """The block as it is filed while it is idle, which it has been since ``idle_s``. ``displaced`` says who made
        room for it.
        """
        number = block.hints.get("session")
        if number is None or "chunk" in block.hints:
            return block
        until_s = idle_s + max(CLAIM_S, block.hints.get("ttl_s", 0.0))
        if until_s <= now or not self._make_room(number, block):
            return block
        self._claimed[block.page] = _Claim(block, number, until_s)
        session = self._sessions.setdefault(number, _Session())
        heapq.heappush(session.deepest, (-block.position, block.page))
        heapq.heappush(self._ends, (until_s, block.page))
        self._count(number, block.size_bytes)
        return block._replace(hints={**block.hints, "priority": priority_of(block.hints) + _STEP})

    def displaced(self) -> list[Block]:
        """Blocks that have lost their claim since the last time, as they were before."""
        found, self._displaced = self._displaced, []
        return found

    def asked(self, block: Block) -> Block:
        """The block with the hints that were asked for, claimed or not."""
        return block if (found := self._claimed.get(block.page)) is None else found.block

    def unclaim(self, page: PageId) -> Block | None:
        """End a claim: the block as it was before. None: it has none."""
        claim = self._claimed.pop(page, None)
        if claim is None:
            return None
        self._count(claim.session, -claim.block.size_bytes)
        return claim.block

    def over(self, now: float) -> Iterator[Block]:
        """End all claims whose time is up: the blocks as they were before."""
        while self._ends and self._ends[0][0] <= now:
            until_s, page = heapq.heappop(self._ends)
            claim = self._claimed.get(page)
            if claim is not None and claim.until_s == until_s:
                self.unclaim(page)
                yield claim.block

    def check(self, idle: Mapping[PageId, Block]) -> None:
        """Audit against all idle blocks, as they are filed. Raises InternalError."""
        claimed = {page for page, block in idle.items() if priority_of(block.hints) % 1}
        if claimed != self._claimed.keys():
            raise InternalError(f"{set(self._claimed)} are claimed, but {claimed} are filed so")
        sizes: dict[float, int] = {}
        for claim in self._claimed.values():
            sizes[claim.session] = sizes.get(claim.session, 0) + claim.block.size_bytes
        if sizes != {number: session.bytes for number, session in self._sessions.items()}:
            raise InternalError(f"sessions claim {sizes} bytes, not what is counted")
        if self.bytes != sum(sizes.values()) or self.bytes > self.budget_bytes or self._displaced:
            raise InternalError(f"{self.bytes} bytes are claimed, and {self.budget_bytes} may be")

    def _make_room(self, number: float, block: Block) -> bool:
        """Whether ``block`` gets a claim: of others as long as they have more than its session would have, then of what
        lies deeper in its own.
        """
        while self.bytes + block.size_bytes > self.budget_bytes:
            mine = self._sessions.get(number)
            mine_bytes = 0 if mine is None else mine.bytes
            largest = self._first_session()
            if largest is None:
                return False
            if self._sessions[largest].bytes <= mine_bytes + block.size_bytes:
                largest = number
            deepest = self._deepest(largest)
            if deepest is None or (largest == number and deepest.block.position <= block.position):
                return False
            self.unclaim(deepest.block.page)
            self._displaced.append(deepest.block)
        return True

    def _first_session(self) -> float | None:
        """The one that claims the most."""
        while self._largest:
            size, number = self._largest[0]
            session = self._sessions.get(number)
            if session is not None and session.bytes == -size:
                return number
            heapq.heappop(self._largest)
        return None

    def _deepest(self, number: float) -> _Claim | None:
        session = self._sessions.get(number)
        while session is not None and session.deepest:
            position, page = session.deepest[0]
            claim = self._claimed.get(page)
            if claim is not None and (claim.session, -claim.block.position) == (number, position):
                return claim
            heapq.heappop(session.deepest)
        return None

    def _count(self, number: float, change: int) -> None:
        self.bytes += change
        session = self._sessions[number]
        session.bytes += change
        if not session.bytes:
            del self._sessions[number]
        else:
            heapq.heappush(self._largest, (-session.bytes, number))
        self._tidy(session)

    def _tidy(self, session: _Session) -> None:
        """Drop what does not count any more, once it is most of a heap."""
        claimed = len(self._claimed)
        if len(self._largest) > 64 + 4 * len(self._sessions):
            self._largest = [(-each.bytes, number) for number, each in self._sessions.items()]
            heapq.heapify(self._largest)
        if len(self._ends) > 64 + 4 * claimed:
            self._ends = [(claim.until_s, page) for page, claim in self._claimed.items()]
            heapq.heapify(self._ends)
        if len(session.deepest) > 64 + 4 * claimed:
            session.deepest = [entry for entry in set(session.deepest) if entry[1] in self._claimed]
            heapq.heapify(session.deepest)
