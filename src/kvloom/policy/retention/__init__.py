"""The retention policies, by their names in the setting ``retention``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention.asymcache import AsymCache
from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.fifo import FirstInFirstOut
from kvloom.policy.retention.lfu import least_frequently_used
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.policy.retention.max_score import MaxScore
from kvloom.policy.retention.pause import PauseTtl
from kvloom.policy.retention.pensieve import CostOverAge
from kvloom.policy.retention.pgdsf import greedy_dual
from kvloom.policy.retention.survival import Survival
from kvloom.policy.retention.tail_lru import TailLru
from kvloom.policy.retention.ttl import TimeToLive


@dataclass(frozen=True, slots=True)
class Given:
    """What policies are made from. ``cost``: only its proportions matter to them."""

    cost: PrefillCost


POLICIES: Mapping[str, Callable[[Given], Retention]] = {
    "lru": lambda given: LeastRecentlyUsed(),
    "lfu": lambda given: least_frequently_used(),
    "fifo": lambda given: FirstInFirstOut(),
    "pgdsf": lambda given: greedy_dual(given.cost),
    "max_score": lambda given: MaxScore(),
    "pensieve": lambda given: CostOverAge(given.cost),
    "tail_lru": lambda given: TailLru(),
    "pause": lambda given: PauseTtl(given.cost),
    "ttl": lambda given: TimeToLive(),
    "asymcache": lambda given: AsymCache(given.cost),
    "survival": lambda given: Survival(given.cost),
}
