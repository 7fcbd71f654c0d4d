"""What retention policies make a model recompute: a replay of requests over the policies alone, under their own clock.

    python -m bench.retention_sim [--policies lru,survival] [--cases made] [--pools 0.2,0.4,0.6] [--seeds 2]

The cases are traces with a model's cost of prefill (``bench.retention_cases``), with room for a share of what an
endless cache would hold at the busiest moment, but for the longest request at least. Requests are served one by one and
take no time; a block is found wherever it is in a context, so that holes cost what is in them and nothing else.

Of every policy, as means over seeds: LRU's seconds of recomputing over its own (larger is better); by how much of LRU's
distance to foresight (``bench.oracle``) it is nearer; the share of blocks found; and the share of all seconds of
prefill that these save. Beside them what an endless cache would find, and a bound that no policy can beat. Last, all
cases together.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.oracle import Belady, least_seconds, uses_of
from bench.retention_cases import Case, cases
from bench.retention_gaps import Gaps, capacity, input_blocks
from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block
from kvloom.policy.retention import POLICIES, Given
from kvloom.policy.retention.base import Retention
from kvloom.segment import PageId, PageKey, Why
from kvloom.simulate.traces.trace import Trace

FORMAT = "full"
ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class Simulated:
    """``seconds``: of recomputing what was there before, and ``saved_s`` of what was found, of ``total_s`` that all
    input would take; ``found``: so many of the blocks that were ``asked`` for.
    """

    seconds: float
    saved_s: float
    total_s: float
    found: int
    asked: int

    @property
    def hit_rate(self) -> float:
        return self.found / self.asked

    @property
    def savings(self) -> float:
        """The compute-savings ratio: hits weighted by what they cost."""
        return self.saved_s / self.total_s


class Replay:
    """A trace made ready for many policies."""

    def __init__(self, trace: Trace, cost: PrefillCost) -> None:
        self.trace, self.cost, self.gaps = trace, cost, Gaps.of(trace)
        size = trace.block_tokens
        self._costs = [cost.block(index * size, size) for index in range(trace.longest)]
        tokens = range(size)
        self._blocks = {
            number: Block(_key(number), _key(before), PageId(number), FORMAT, index * size, tokens, 1)
            for request in trace.requests
            for index, (before, number) in enumerate(zip((None, *request.blocks), request.blocks, strict=False))
        }

    def capacity(self, share: float) -> int:
        return capacity(self.trace, self.gaps, share)

    def simulate(self, policy: Retention, capacity: int) -> Simulated:
        """Raises ValueError when a request alone has more than ``capacity`` blocks."""
        if self.trace.longest > capacity:
            raise ValueError(f"a request of {self.trace.longest} blocks for a pool of {capacity}")
        blocks, costs = self._blocks, self._costs
        cached: set[int] = set()
        seen: set[int] = set()
        seconds, saved_s, total_s, found, asked = 0.0, 0.0, 0.0, 0, 0
        for request in self.trace.requests:
            now, brought = request.arrival_s, input_blocks(self.trace, request)
            missing = []
            for index, number in enumerate(request.blocks):
                if number in cached:
                    policy.reused(blocks[number], now)
                    if index < brought:
                        found += 1
                        saved_s += costs[index]
                else:
                    missing.append(number)
                    if index < brought and number in seen:
                        seconds += costs[index]
            for number in missing:
                if len(cached) == capacity:
                    victim = policy.victim(FORMAT, now)
                    assert victim is not None, "all that is not held is idle"
                    cached.remove(victim)
                    policy.gone(blocks[victim], Why.EVICTED, now)
                cached.add(number)
                policy.stored(blocks[number], now)
            seen.update(missing)
            for number in reversed(request.blocks):
                policy.idle(blocks[number], now)
            asked += brought
            total_s += math.fsum(costs[:brought])
        return Simulated(seconds, saved_s, total_s, found, asked)

    def policy(self, name: str, capacity: int) -> Simulated:
        return self.simulate(POLICIES[name](Given(self.cost)), capacity)

    def oracle(self, capacity: int) -> Simulated:
        return self.simulate(Belady(self.cost, uses_of(self.trace)), capacity)

    def endless(self) -> Simulated:
        return self.policy("lru", len(self._blocks))

    def least_seconds(self, capacity: int) -> float:
        return least_seconds(self.trace, self.gaps, capacity, self.cost)


def _key(number: int | None) -> PageKey:
    return PageKey(b"" if number is None else number.to_bytes(8, "big"))


@dataclass(frozen=True, slots=True)
class Cell:
    """One case with one pool: what every policy made of each of its traces, by name, foresight under ``ORACLE``."""

    case: str
    share: float
    results: dict[str, list[Simulated]]

    def ratio(self, name: str) -> float:
        """LRU's seconds over a policy's, the mean over traces."""
        return statistics.mean(_over(lru.seconds, own.seconds) for lru, own in self._beside(name))

    def gained(self, name: str) -> float:
        """By how much of LRU's seconds a policy needs less, the mean over traces."""
        return statistics.mean(1 - own.seconds / lru.seconds if lru.seconds else 0.0 for lru, own in self._beside(name))

    def closed(self, name: str) -> float:
        """By how much of LRU's distance to the oracle a policy is nearer to it; 0 where there is none."""
        return closed([self], name)

    def _beside(self, name: str) -> list[tuple[Simulated, Simulated]]:
        return list(zip(self.results["lru"], self.results[name], strict=True))


def closed(cells: Iterable[Cell], name: str) -> float:
    """Of several cells, each counting by how far LRU is from the oracle there, as a share of LRU's seconds."""
    cells = list(cells)
    distance = math.fsum(cell.gained(ORACLE) for cell in cells)
    return math.fsum(cell.gained(name) for cell in cells) / distance if distance else 0.0


def _over(one: float, other: float) -> float:
    return one / other if other else math.inf


def measured(case: str, replays: Sequence[Replay], names: Sequence[str], shares: Sequence[float]) -> Iterator[Cell]:
    """One cell after the other. LRU, with which all are compared, must be one of ``names``."""
    known: dict[tuple[int, ...], dict[str, list[Simulated]]] = {}
    for share in shares:
        rooms = tuple(replay.capacity(share) for replay in replays)
        if rooms not in known:
            both = list(zip(replays, rooms, strict=True))
            known[rooms] = {name: [replay.policy(name, room) for replay, room in both] for name in names}
            known[rooms][ORACLE] = [replay.oracle(room) for replay, room in both]
        yield Cell(case, share, known[rooms])


def table(cell: Cell, replays: Sequence[Replay]) -> str:
    rows = [
        f"\n{cell.case}, pool at {cell.share:.0%} of the busiest live set\n",
        "| policy | LRU's seconds / its | distance closed | blocks found | seconds saved |\n|---|---|---|---|---|",
    ]
    for name, runs in cell.results.items():
        hits, savings = (statistics.mean(getattr(run, what) for run in runs) for what in ("hit_rate", "savings"))
        rows.append(f"| {name} | {cell.ratio(name):.2f} | {cell.closed(name):.2f} | {hits:.1%} | {savings:.1%} |")
    endless = [replay.endless() for replay in replays]
    hits, savings = (statistics.mean(getattr(run, what) for run in endless) for what in ("hit_rate", "savings"))
    rows.append(f"| endless cache | | | {hits:.1%} | {savings:.1%} |")
    bounds = [replay.least_seconds(replay.capacity(cell.share)) for replay in replays]
    best = [_over(lru.seconds, bound) for lru, bound in zip(cell.results["lru"], bounds, strict=True)]
    return "\n".join([*rows, f"| bound | {statistics.mean(best):.2f} | | | |"])


def summary(cells: Sequence[Cell]) -> str:
    """Of all cells: which policy wins."""
    rows = ["\n| policy | distance closed, all cases | worst case | LRU's seconds / its, at worst |\n|---|---|---|---|"]
    names = sorted(cells[0].results, key=lambda name: -closed(cells, name))
    for name in names:
        worst = min(cells, key=lambda cell: cell.ratio(name))
        where = f"{worst.case}, {worst.share:.0%}"
        rows.append(f"| {name} | {closed(cells, name):.2f} | {where} | {worst.ratio(name):.2f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--pools", default="0.2,0.4,0.6")
    parser.add_argument("--cases", default="", help="those whose names contain one of these, separated by commas")
    parser.add_argument("--seeds", type=int, default=2, help="of made traces")
    asked = parser.parse_args()
    names = list(dict.fromkeys(["lru", *asked.policies.split(",")]))
    shares = [float(share) for share in asked.pools.split(",")]
    found: list[Cell] = []
    for case in _chosen(cases(asked.seeds), asked.cases.split(",")):
        replays = [Replay(trace, case.cost) for trace in case.traces()]
        for cell in measured(case.name, replays, names, shares):
            print(table(cell, replays), flush=True)
            found.append(cell)
    print(summary(found))


def _chosen(all_cases: Sequence[Case], parts: Sequence[str]) -> Iterator[Case]:
    yield from (case for case in all_cases if any(part in case.name for part in parts))


if __name__ == "__main__":
    main()
