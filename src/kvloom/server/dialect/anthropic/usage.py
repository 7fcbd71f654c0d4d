"""What a message took, and gave, in tokens.

    |<------------- prompt ------------->|<- answer ->|
    |== read ==|.. computed, kept ..|....|
                                    ^ last breakpoint

``cache_read_input_tokens``: tokens of the prompt whose KV was found, marked or not: everything is kept while there is
room. ``cache_creation_input_tokens``: tokens before the last breakpoint whose KV was computed, and which are kept for
the lifetime of the first breakpoint behind them. ``input_tokens``: the rest, so that the three are the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvloom.engine.cache_params import Mark
from kvloom.segment import Reused
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.writing import Usage

_HOUR_S = 3600.0


def usage_of(usage: Usage, marks: Sequence[Mark]) -> Json:
    """``marks``: ascending; none where nothing is written."""
    hour, minutes = written(usage.metrics.reused, marks)
    return {
        "input_tokens": usage.prompt - usage.cached - hour - minutes,
        "cache_creation_input_tokens": hour + minutes,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": minutes, "ephemeral_1h_input_tokens": hour},
        "output_tokens": usage.generated,
        "service_tier": "standard",
        **usage.told,
    }


def written(reused: Sequence[Reused], marks: Sequence[Mark]) -> tuple[int, int]:
    """Tokens that were computed and are kept for an hour, and for five minutes.

    >>> from kvloom.segment import Span
    >>> written([Reused(Span(0, 10), "device")], [Mark(30, 3600.0), Mark(50, 300.0)])
    (20, 20)
    """
    hour = minutes = 0
    for start, mark in zip([0, *(mark.tokens for mark in marks)], marks, strict=False):
        computed = mark.tokens - start - _overlap(reused, start, mark.tokens) if mark.tokens > start else 0
        if mark.ttl_s >= _HOUR_S:
            hour += computed
        else:
            minutes += computed
    return hour, minutes


def _overlap(reused: Sequence[Reused], start: int, stop: int) -> int:
    return sum(max(0, min(each.span.stop, stop) - max(each.span.start, start)) for each in reused)
