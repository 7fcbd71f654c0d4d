"""What retention policies make a model recompute: a replay of requests over the policies alone, under their own clock.

    python -m bench.retention_sim [--policies lru,asymcache] [--pool 0.4] [--seeds 4] [--doubled-at 1143]

Conversations of 2K to 8K tokens that share their first 320 (``bench.retention_trace``), with room for a share of what
an endless cache would hold at the busiest moment. Requests are served one by one and take no time; a block is found
wherever it is in a context, so that holes cost what is in them and nothing else. Seconds of recomputing compared with
LRU's (larger is better) and the share of blocks found, both means over seeds; beside them what foresight reaches, and a
bound that nothing can (``bench.oracle``).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.oracle import Belady, least_seconds, uses_of
from bench.retention_trace import BLOCK_TOKENS, Turn, conversations, live_blocks
from kvloom.policy.cost import PrefillCost
from kvloom.policy.events import Block
from kvloom.policy.retention import POLICIES, Given
from kvloom.policy.retention.base import Retention
from kvloom.segment import PageId, PageKey, Why

FORMAT = "full"
_KEY = PageKey(b"")
_TOKENS = range(BLOCK_TOKENS)


@dataclass(frozen=True, slots=True)
class Simulated:
    """``seconds``: of recomputing what was there before. ``found``: so many of the blocks that were ``asked`` for."""

    seconds: float
    found: int
    asked: int


def simulate(turns: Sequence[Turn], capacity: int, policy: Retention, cost: PrefillCost) -> Simulated:
    """Raises ValueError when a request alone has more than ``capacity`` blocks."""
    cached: dict[int, Block] = {}
    seen: set[int] = set()
    seconds, found = 0.0, 0
    for turn in turns:
        if len(turn.blocks) > capacity:
            raise ValueError(f"a request of {len(turn.blocks)} blocks for a pool of {capacity}")
        missing = [(index, number) for index, number in enumerate(turn.blocks) if number not in cached]
        found += len(turn.blocks) - len(missing)
        for number in turn.blocks:
            if number in cached:
                policy.reused(cached[number], turn.now)
        for index, number in missing:
            if len(cached) == capacity:
                victim = policy.victim(FORMAT, turn.now)
                assert victim is not None, "all that is not held is idle"
                policy.gone(cached.pop(victim), Why.EVICTED, turn.now)
            block = Block(_KEY, _KEY, PageId(number), FORMAT, index * BLOCK_TOKENS, _TOKENS, 1)
            seconds += cost.block(block.position, BLOCK_TOKENS) if number in seen else 0.0
            seen.add(number)
            cached[number] = block
            policy.stored(block, turn.now)
        for number in reversed(turn.blocks):
            policy.idle(cached[number], turn.now)
    return Simulated(seconds, found, sum(len(turn.blocks) for turn in turns))


def compare(turns: Sequence[Turn], capacity: int, names: Sequence[str], cost: PrefillCost) -> dict[str, Simulated]:
    """By name, with the ``oracle``; and the ``bound``, which finds nothing."""
    results = {name: simulate(turns, capacity, POLICIES[name](Given(cost)), cost) for name in names}
    results["oracle"] = simulate(turns, capacity, Belady(cost, uses_of(turns)), cost)
    results["bound"] = Simulated(least_seconds(turns, capacity, cost), 0, results["oracle"].asked)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--pool", type=float, default=0.4)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--doubled-at", type=float, default=1143.0, help="position at which a token costs two")
    asked = parser.parse_args()
    cost = PrefillCost(0.0, 1e-3, 1e-3 / asked.doubled_at)
    names = list(dict.fromkeys(["lru", *asked.policies.split(",")]))
    runs = []
    for seed in range(asked.seeds):
        turns = conversations(seed)
        capacity = max(round(asked.pool * max(live_blocks(turns))), *(len(turn.blocks) for turn in turns))
        runs.append(compare(turns, capacity, names, cost))
    print("| policy | LRU's seconds / its seconds | by seed | blocks found |\n|---|---|---|---|")
    for name in runs[0]:
        ratios = [run["lru"].seconds / run[name].seconds if run[name].seconds else math.inf for run in runs]
        share = statistics.mean(run[name].found / run[name].asked for run in runs)
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {statistics.mean(ratios):.2f} | {each} | {'' if name == 'bound' else f'{share:.1%}'} |")


if __name__ == "__main__":
    main()
