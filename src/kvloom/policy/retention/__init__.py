"""The retention policies, by their names in the setting ``retention``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.lfu import LeastFrequentlyUsed
from kvloom.policy.retention.lru import LeastRecentlyUsed

POLICIES: Mapping[str, Callable[[], Retention]] = {"lru": LeastRecentlyUsed, "lfu": LeastFrequentlyUsed}
