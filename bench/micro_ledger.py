"""What the ledger's operations cost, by policy and by how many pages are cached.

    python -m bench.micro_ledger [--policies lru,asymcache] [--pages 1000,10000,100000] [--rounds 9] [--most-added-us 5]

Microseconds of processor time per page, medians over rounds, as one Markdown table; of all policies unless told.
Nothing is computed: pages are only taken, published, shared and dropped. Publishing includes the SHA-256 of the key.
Below, how long calls of the policy take by themselves, on average; an operation of the ledger makes several, for the
page and for its slab.

The goal is that no call of a policy takes over about 5 microseconds longer at 100,000 pages than one of the first
policy named (``lru``): with ``--most-added-us``, it is an error when one does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kvloom.memory.arena import Arena
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.keys import root_key
from kvloom.memory.ledger import Identity, Ledger
from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention import POLICIES, Given
from kvloom.policy.retention.base import Retention
from kvloom.segment import PageId

FULL = PageFormat("full", (0,), 1, 16, 16, "float32")
WINDOW = PageFormat("window", (1,), 1, 16, 16, "float32")
SLAB_BYTES = 64 * 1024
GIVEN = Given(PrefillCost(0.0, 1e-3, 1e-7))
ROOT = root_key(weights="w", formats="f")
REQUEST_PAGES = 256
"""4,096 tokens."""


@dataclass
class Timed:
    """A policy, with the seconds and number of its calls, by name. Slabs have one that is not timed."""

    policy: Retention
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def fresh(self) -> Retention:
        return self.policy.fresh()

    def book(self) -> Set[PageId]:
        return self.policy.book()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """``stored``, ``reused``, ``idle``, ``gone`` and ``victim``."""
        call = getattr(self.policy, name)

        def timed(*given: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*given)
            finally:
                self.seconds[name] += time.perf_counter() - start
                self.calls[name] += 1

        setattr(self, name, timed)
        return timed


class Traffic:
    """A ledger whose arena is full of cached pages, and what requests do to it."""

    def __init__(self, policy: Retention, pages: int) -> None:
        probe = Arena(8 * SLAB_BYTES, SLAB_BYTES)
        slabs = -(-pages // probe.pages_per_slab(FULL))
        arena = Arena(slabs * probe.slab_cost_bytes(FULL), SLAB_BYTES)
        self.ledger = Ledger(arena, Index(2, max_ghosts=2 * pages), policy)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._names = 0

    def fill(self) -> None:
        """Requests that find nothing, until the last of them drops pages."""
        dropped = self.ledger.evicted_pages
        while self.ledger.evicted_pages - dropped < REQUEST_PAGES:
            self.seconds.clear()
            self.miss()

    def miss(self) -> None:
        with self._timed("take, dropping another page"):
            pages = [self._take(FULL) for _ in range(REQUEST_PAGES)]
        with self._timed("publish"):
            for n, page in enumerate(pages):
                self._names += 1
                self.ledger.publish(page, Identity(ROOT, (self._names,), 16 * n, self._names, 0))
        with self._timed("release the last hold"):
            self.ledger.release(reversed(pages), "a")

    def hit(self) -> None:
        pages = self.ledger.droppable()[:REQUEST_PAGES]
        with self._timed("hold a cached page"):
            for page in pages:
                self.ledger.hold(page, "a")
        with self._timed("hold a held page"):
            for page in pages:
                self.ledger.hold(page, "b")
        with self._timed("release a shared page"):
            self.ledger.release(pages, "b")
        with self._timed("release the last hold"):
            self.ledger.release(reversed(pages), "a")

    def other_format(self) -> None:
        """Whole slabs go; a page in every hundredth slab is held, which keeps that slab."""
        cached = self.ledger.droppable()
        stuck = cached[:: 100 * self.ledger.arena.pages_per_slab(FULL)]
        for page in stuck:
            self.ledger.hold(page, "stuck")
        with self._timed("take, dropping a slab of another format"):
            pages = [self._take(WINDOW) for _ in range(REQUEST_PAGES)]
        self.ledger.release(pages, "a")
        self.ledger.release(stuck, "stuck")

    def _take(self, fmt: PageFormat) -> PageId:
        page = self.ledger.allocate(fmt, "a")
        assert page is not None
        return page

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.seconds[name].append(time.thread_time() - start)


def measure(policy: str, pages: int, rounds: int) -> dict[str, float]:
    """Microseconds per page, by operation."""
    traffic = Traffic(POLICIES[policy](GIVEN), pages)
    traffic.fill()
    for _ in range(rounds):
        traffic.miss()
        traffic.hit()
    several = dict(traffic.seconds)
    for _ in range(rounds):
        traffic.fill()
        traffic.other_format()
        several.setdefault("take, dropping a slab of another format", []).append(
            traffic.seconds["take, dropping a slab of another format"][-1]
        )
    return {name: 1e6 * statistics.median(times) / REQUEST_PAGES for name, times in several.items()}


def calls(policy: str, pages: int, rounds: int) -> dict[str, float]:
    """Microseconds per call of the policy, by call."""
    timed = Timed(POLICIES[policy](GIVEN))
    traffic = Traffic(timed, pages)
    traffic.fill()
    timed.seconds.clear(), timed.calls.clear()
    for _ in range(rounds):
        traffic.miss()
        traffic.hit()
    return {f"policy: {name}": 1e6 * timed.seconds[name] / timed.calls[name] for name in timed.calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--pages", default="1000,10000,100000")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--most-added-us", type=float)
    asked = parser.parse_args()
    runs = [(policy, int(pages)) for policy in asked.policies.split(",") for pages in asked.pages.split(",")]
    own = [calls(policy, pages, asked.rounds) for policy, pages in runs]
    columns = [measure(policy, pages, asked.rounds) | each for (policy, pages), each in zip(runs, own, strict=True)]
    print("| us per page | " + " | ".join(f"{policy}, {pages:,}" for policy, pages in runs) + " |")
    print("|---|" + "---|" * len(columns))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{column[name]:.2f}" for column in columns) + " |")
    if asked.most_added_us is not None:
        added = added_by(dict(zip(runs, own, strict=True)))
        sys.exit("\n".join(line for line, us in added.items() if us > asked.most_added_us) or 0)


def added_by(measured: dict[tuple[str, int], dict[str, float]]) -> dict[str, float]:
    """Microseconds more than with the first policy, by a line that says what of."""
    (first, _), *_ = measured
    return {
        f"{policy} at {pages:,} pages: {us - measured[first, pages][name]:.2f} us more: {name}": us
        - measured[first, pages][name]
        for (policy, pages), column in measured.items()
        for name, us in column.items()
    }


if __name__ == "__main__":
    main()
