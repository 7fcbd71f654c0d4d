"""What pays least for being kept goes first: the cost of recomputing it, times the rate at which it is used again.

    victim = argmin worth rate(kind, age)      worth: recompute seconds per byte; age: since its last use

The rate follows from survival curves that are learned online, one for every kind of block (``hazard``). Kinds are: the
turn of the conversation that a block was released with, how often it was used itself (which tells what many share
from what one conversation said), and whether its request gave a ``ttl_s``, as agents do that call a tool. The turn is
how many times the chain of blocks up to the released one was taken up again and continued.

Rates are constant within a bucket of ages. Blocks that are released together (within a quarter of a second) and are of
one kind, a cohort, pass from one bucket to the next together, and only their cheapest is of interest. Cohorts of one
kind and age are therefore ordered by that block's worth alone, whatever the rates are; the firsts of all kinds and ages
are ordered by worth times rate, and put in order anew when the rates have changed. Their number depends on that of
kinds and ages, not of blocks.

What was evicted is remembered for a while: its next use is counted as that of an idle block, so that eviction does not
hide what it prevents, and the block goes on as the one that it was.

Source: ours; the order-preserving structure is a generalisation of AsymCache's (arXiv 2606.02964), with constant pieces
in place of two exponentials.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Set
from typing import NamedTuple

from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block, Format, priority_of
from kvloom.policy.retention.ghosts import Ghosts
from kvloom.policy.retention.hazard import ENDS_S, LifeTable
from kvloom.policy.retention.worth import seconds_per_byte
from kvloom.segment import PageId, PageKey, Why

_MOST_USES = 64
_TURNS_APART = 8
"""Turns up to that are kinds of their own; later ones are 9 to 15, 16 to 31, and so on up to ``_MOST_TURNS``."""

_MOST_TURNS = 64
_LEARN_FIRST, _LEARN_EVERY = 32, 512
"""Uses again after which rates are computed anew: at first after every doubling, then that often."""

_TOGETHER_S = 0.25
"""Releases that are no further apart count as one: half of the first bucket of ages."""

_MOST_WAITING = 8
"""Cohorts whose blocks are still being released: no more are left for the next victim to place."""

_FEW = 16
"""Heaps of more are rid of what is stale when that is half of them."""

_Entry = tuple[float, float, int, PageId]
"""A block in its cohort: worth, since when it is idle, minus its position, page."""


class _Life:
    """What is known of a block while it is stored, and after its eviction. ``entry``: None while it is held."""

    __slots__ = ("cohort", "entry", "key", "turn", "uses")

    def __init__(self, key: PageKey | None, turn: int, uses: int = 1) -> None:
        self.key, self.turn, self.uses = key, turn, uses
        self.cohort: _Cohort | None = None
        self.entry: _Entry | None = None


class _Cohort:
    """Blocks of one kind that are idle since ``since``, or hardly later. ``idle`` of them are stored, ``seen`` are
    watched: these, and those evicted since. ``home``, ``item``: its class, and its place there, while any is idle.
    ``waits``: to be placed, before the next victim is named.
    """

    __slots__ = ("bucket", "entries", "format", "home", "idle", "item", "priority", "row", "seen", "since", "waits")

    def __init__(self, row: int, format: Format, priority: float, since: float) -> None:
        self.row, self.format, self.priority, self.since = row, format, priority, since
        self.bucket = self.idle = self.seen = 0
        self.entries: list[_Entry] = []
        self.home: _Class | None = None
        self.item: _Item | None = None
        self.waits = False


_Item = tuple[float, float, int, int, _Cohort]
"""A cohort in its class: what ranks its cheapest block, and a running number."""


class _Key(NamedTuple):
    """Of a class: cohorts of one format, priority, kind and age."""

    format: Format
    priority: float
    row: int
    bucket: int


class _Class:
    """``cohorts``: how many items are not stale; ``first``: what stands for it among the firsts of all."""

    __slots__ = ("cohorts", "first", "items", "key")

    def __init__(self, key: _Key) -> None:
        self.key, self.cohorts = key, 0
        self.items: list[_Item] = []
        self.first: _First | None = None


_First = tuple[float, float, float, int, int, _Class, _Item]
"""The first of a class among those of all: priority, worth times rate, and its item's ranks."""


class Survival:
    """Ties go to the longest idle, then to the deepest."""

    def __init__(self, cost: PrefillCost) -> None:
        self._cost = cost
        self._table = LifeTable()
        self._lives: dict[PageId, _Life] = {}
        self._by_key: dict[PageKey, _Life] = {}
        self._ghosts: dict[Format, Ghosts[_Life]] = {}
        self._classes: dict[_Key, _Class] = {}
        self._firsts: dict[Format, list[_First]] = {}
        self._due: list[tuple[float, int, _Cohort]] = []
        self._release: tuple[float, int, int] | None = None
        self._cohorts: dict[tuple[int, Format, float], _Cohort] = {}
        self._waiting: list[_Cohort] = []
        self._number = self._uses = self._watched = 0
        self._learn_at = _LEARN_FIRST

    def stored(self, block: Block, now: float) -> None:
        self._pass(now)
        ghosts = self._ghosts.get(block.format)
        before = None if ghosts is None else ghosts.take(block.key)
        if before is None:
            parent = None if block.parent is None else self._by_key.get(block.parent)
            life = _Life(block.key, 1 if parent is None else parent.turn + (parent.uses > 1))
        else:
            life = _Life(block.key, before.turn, before.uses + 1)
            self._used(before)
        self._lives[block.page] = life
        if block.key is not None:
            self._by_key[block.key] = life

    def reused(self, block: Block, now: float) -> None:
        self._pass(now)
        life = self._lives[block.page]
        life.uses += 1
        if life.entry is not None:
            self._leave(life)
            self._used(life)

    def idle(self, block: Block, now: float) -> None:
        self._pass(now)
        life = self._lives[block.page]
        if life.entry is not None:
            self._leave(life)
            self._lose(life)
        cohort = life.cohort = self._cohort(block, life, now)
        entry = life.entry = (seconds_per_byte(self._cost, block), now, -block.position, block.page)
        cohort.idle += 1
        heapq.heappush(cohort.entries, entry)
        if cohort.entries[0] is entry and not cohort.waits:
            cohort.waits = True
            self._waiting.append(cohort)
            if len(self._waiting) > _MOST_WAITING:
                self._place_waiting()

    def gone(self, block: Block, why: Why, now: float) -> None:
        self._pass(now)
        life = self._lives.pop(block.page)
        if block.key is not None and self._by_key.get(block.key) is life:
            del self._by_key[block.key]
        if life.entry is None:
            return
        self._leave(life)
        if why is not Why.EVICTED:
            self._lose(life)
            return
        ghosts = self._ghosts.get(block.format)
        if ghosts is None:
            ghosts = self._ghosts[block.format] = Ghosts()
        for forgotten in ghosts.put(life, len(self._lives)):
            self._lose(forgotten)

    def victim(self, format: Format | None, now: float) -> PageId | None:
        self._pass(now)
        self._place_waiting()
        if format is None:
            first = min(filter(None, map(self._first, self._firsts)), default=None)
        else:
            first = self._first(format)
        return None if first is None else first[-1][-1].entries[0][-1]

    def fresh(self) -> Survival:
        return Survival(self._cost)

    def book(self) -> Set[PageId]:
        return {page for page, life in self._lives.items() if life.entry is not None}

    def _pass(self, now: float) -> None:
        """Cohorts whose time has come are in the next bucket."""
        while self._due and self._due[0][0] <= now:
            cohort = heapq.heappop(self._due)[-1]
            if not cohort.seen:
                continue
            self._table.outlived(cohort.row, cohort.bucket, cohort.seen)
            self._displace(cohort)
            cohort.bucket += 1
            self._await(cohort)
            if cohort.idle:
                self._place(cohort)

    def _await(self, cohort: _Cohort) -> None:
        end_s = cohort.since + ENDS_S[cohort.bucket]
        if end_s < math.inf:
            heapq.heappush(self._due, (end_s, self._next(), cohort))
        if len(self._due) > _FEW and len(self._due) > 2 * self._watched:
            self._due = [due for due in self._due if due[-1].seen]
            heapq.heapify(self._due)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _used(self, life: _Life) -> None:
        """A block that was idle, or has been evicted since, is used again."""
        cohort = life.cohort
        assert cohort is not None
        self._table.used(cohort.row, cohort.bucket)
        self._unwatch(life)
        self._uses += 1
        if self._uses == self._learn_at:
            self._learn_at += min(self._uses, _LEARN_EVERY)
            self._table.learn()
            self._order_anew()

    def _lose(self, life: _Life) -> None:
        """Nothing more will be known of how long a block is idle."""
        cohort = life.cohort
        assert cohort is not None
        self._table.lost(cohort.row, cohort.bucket)
        self._unwatch(life)

    def _unwatch(self, life: _Life) -> None:
        cohort, life.cohort = life.cohort, None
        assert cohort is not None
        cohort.seen -= 1
        self._watched -= not cohort.seen

    def _cohort(self, block: Block, life: _Life, since: float) -> _Cohort:
        """Where a block belongs, which is watched from now on. Blocks of one release come deepest first: the first says
        which turn it is.
        """
        release = self._release
        if release is None or release[0] != since or block.position > release[1]:
            release = since, block.position, life.turn
        self._release = since, block.position, release[2]
        row = self._row(release[2], life.uses, "ttl_s" in block.hints)
        key = row, block.format, priority_of(block.hints)
        cohort = self._cohorts.get(key)
        if cohort is None or not cohort.seen or cohort.bucket or not 0 <= since - cohort.since <= _TOGETHER_S:
            cohort = self._cohorts[key] = _Cohort(*key, since)
            self._watched += 1
            cohort.seen = 1
            self._await(cohort)
        else:
            cohort.seen += 1
        return cohort

    def _row(self, turn: int, uses: int, timed: bool) -> int:
        """Of a kind in the life table: uses tell more than turns, and are what a family has in common."""
        turns = turn if turn <= _TURNS_APART else _TURNS_APART - 3 + min(turn, _MOST_TURNS).bit_length()
        family = min(uses, _MOST_USES).bit_length(), timed
        return self._table.row((turns, family), family)

    def _leave(self, life: _Life) -> None:
        """It is no longer idle. Its entry is stale, and found to be when it surfaces."""
        cohort = life.cohort
        assert cohort is not None
        life.entry = None
        cohort.idle -= 1
        if not cohort.idle:
            cohort.entries.clear()
            self._displace(cohort)
        elif len(cohort.entries) > _FEW and len(cohort.entries) > 2 * cohort.idle:
            cohort.entries = [entry for entry in cohort.entries if self._is_live(entry)]
            heapq.heapify(cohort.entries)

    def _cheapest(self, cohort: _Cohort) -> _Entry:
        """Of a cohort with idle blocks."""
        entries = cohort.entries
        while not self._is_live(entries[0]):
            heapq.heappop(entries)
        return entries[0]

    def _is_live(self, entry: _Entry) -> bool:
        life = self._lives.get(entry[-1])
        return life is not None and life.entry is entry

    def _place(self, cohort: _Cohort) -> None:
        """Into its class, by its cheapest block."""
        self._displace(cohort)
        key = _Key(cohort.format, cohort.priority, cohort.row, cohort.bucket)
        each = self._classes.get(key)
        if each is None:
            each = self._classes[key] = _Class(key)
        item = cohort.item = (*self._cheapest(cohort)[:3], self._next(), cohort)
        cohort.home = each
        heapq.heappush(each.items, item)
        each.cohorts += 1
        if each.items[0] is item:
            self._promote(each, item)

    def _place_waiting(self) -> None:
        for cohort in self._waiting:
            cohort.waits = False
            if cohort.idle:
                self._place(cohort)
        self._waiting.clear()

    def _displace(self, cohort: _Cohort) -> None:
        """Out of its class."""
        each = cohort.home
        if each is None:
            return
        cohort.home = cohort.item = None
        each.cohorts -= 1
        if len(each.items) > _FEW and len(each.items) > 2 * each.cohorts:
            each.items = [item for item in each.items if item[-1].item is item]
            heapq.heapify(each.items)

    def _promote(self, each: _Class, item: _Item) -> None:
        """The first of its class, among those of all."""
        firsts = self._firsts.setdefault(each.key.format, [])
        heapq.heappush(firsts, self._as_first(each, item))
        if len(firsts) > _FEW and len(firsts) > 2 * len(self._classes):
            self._order_anew()

    def _as_first(self, each: _Class, item: _Item) -> _First:
        worth, since, depth, number, _ = item
        rate = self._table.rate(each.key.row, each.key.bucket)
        first = each.first = each.key.priority, worth * rate, since, depth, number, each, item
        return first

    def _order_anew(self) -> None:
        """The firsts of all classes, by the rates as they are now."""
        self._firsts = {}
        for key, each in list(self._classes.items()):
            item = self._top(each)
            if item is None:
                del self._classes[key]
            else:
                self._firsts.setdefault(key.format, []).append(self._as_first(each, item))
        for firsts in self._firsts.values():
            heapq.heapify(firsts)

    def _top(self, each: _Class) -> _Item | None:
        """The cohort with the cheapest block of a class, where it belongs by what is left of it."""
        items = each.items
        while items:
            item = items[0]
            cohort = item[-1]
            if cohort.item is not item:
                heapq.heappop(items)
                continue
            cheapest = self._cheapest(cohort)
            if cheapest[:3] == item[:3]:
                return item
            cohort.item = (*cheapest[:3], item[3], cohort)
            heapq.heapreplace(items, cohort.item)
        return None

    def _first(self, format: Format) -> _First | None:
        """Whose block goes first, of one format."""
        firsts = self._firsts.get(format, [])
        while firsts:
            each, item = firsts[0][-2:]
            if each.first is not firsts[0]:
                heapq.heappop(firsts)
                continue
            top = self._top(each)
            if top is item:
                return firsts[0]
            if top is None:
                heapq.heappop(firsts)
                continue
            first = self._as_first(each, top)
            heapq.heapreplace(firsts, first)
            if firsts[0] is first:
                return first
        return None
