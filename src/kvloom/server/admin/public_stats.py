"""The engine's counters as clients and scrapers may see them."""

from __future__ import annotations

import dataclasses

from kvloom.engine.stats import EngineStats
from kvloom.segment import Why


def public_why(why: Why) -> Why:
    """That a text is stored under another salt is nobody's business."""
    return Why.NEW if why is Why.OTHER_SALT else why


def public_stats(stats: EngineStats) -> EngineStats:
    """The counters as if every salt were alone: that a guess is stored under another salt counts as new.

    The order of the reasons would tell which came first, so it is fixed.
    """
    misses = dict(stats.cache.misses_by_why)
    elsewhere = misses.pop(Why.OTHER_SALT, 0)
    if elsewhere:
        misses[Why.NEW] = misses.get(Why.NEW, 0) + elsewhere
    hits = dict(sorted(stats.cache.hit_tokens_by_tier.items()))
    cache = dataclasses.replace(stats.cache, misses_by_why=dict(sorted(misses.items())), hit_tokens_by_tier=hits)
    return dataclasses.replace(stats, cache=cache)
