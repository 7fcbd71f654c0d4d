"""What of the prompts was reused, and why the rest was not: totals, and what each request's metrics say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kvloom.engine.request import Sequence
from kvloom.engine.scheduler.match import Match
from kvloom.segment import RAM, Miss, Reused, Span, SpanSet, Why


@dataclass
class Account:
    """Totals of prompt tokens. ``hit_tokens_by_tier``: the tier that they came from."""

    clock: Callable[[], float]
    hit_tokens: int = 0
    miss_tokens: int = 0
    misses_by_why: Counter[Why] = field(default_factory=Counter)
    hit_tokens_by_tier: Counter[str] = field(default_factory=Counter)

    def started(self, sequence: Sequence, found: Match) -> None:
        """Count what a sequence found when it started; only the first time, and the first of its request."""
        if sequence.started:
            return
        sequence.started = True
        if sequence.index > 0:
            return
        metrics, num_prompt = sequence.request.metrics, sequence.num_prompt
        prompt, missing = SpanSet.full(num_prompt), sequence.kv.missing
        computed = len(missing & prompt)
        metrics.cached_tokens = num_prompt - computed
        metrics.misses = list(_within(found.misses, num_prompt))
        metrics.reused = _reused(prompt - missing, found)
        metrics.queue_s = self.clock() - sequence.request.submitted_s
        self.hit_tokens += metrics.cached_tokens
        self.miss_tokens += computed
        for miss in metrics.misses:
            self.misses_by_why[miss.why] += len(miss.span)
        for part in metrics.reused:
            self.hit_tokens_by_tier[part.tier] += len(part.span)

    def not_loaded(self, sequence: Sequence, spans: SpanSet) -> None:
        """Correct the account of a sequence whose tiers did not deliver these positions."""
        metrics = sequence.request.metrics
        if sequence.index > 0:
            return
        kept: list[Reused] = []
        for part in metrics.reused:
            lost = SpanSet((part.span,)) & spans if part.tier != RAM else SpanSet()
            kept += [Reused(span, part.tier) for span in SpanSet((part.span,)) - lost]
            metrics.misses += [Miss(span, Why.NOT_LOADED) for span in lost]
            metrics.cached_tokens -= len(lost)
            self.hit_tokens -= len(lost)
            self.miss_tokens += len(lost)
            self.hit_tokens_by_tier[part.tier] -= len(lost)
            self.misses_by_why[Why.NOT_LOADED] += len(lost)
        metrics.reused = kept
        metrics.misses.sort(key=lambda miss: miss.span)


def _reused(spans: SpanSet, found: Match) -> list[Reused]:
    """By tier; a position whose layer groups come from several counts once."""
    parts, rest = [], found.pending & spans
    for name in dict.fromkeys(load.tier.name for load in found.loads):
        mine = rest & SpanSet.of([load.span for load in found.loads if load.tier.name == name])
        parts += [Reused(span, name) for span in mine]
        rest = rest - mine
    parts += [Reused(span, RAM) for span in spans - found.pending]
    return sorted(parts, key=lambda part: part.span)


def _within(misses: tuple[Miss, ...], stop: int) -> Iterator[Miss]:
    """Without what is only repeated of a context."""
    for miss in misses:
        if miss.span.start < stop:
            yield Miss(Span(miss.span.start, min(miss.span.stop, stop)), miss.why)
