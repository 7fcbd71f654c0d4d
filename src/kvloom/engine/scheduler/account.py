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
    """Totals of prompt tokens. ``lossy_tokens`` were found, but not exactly as they were stored: they are no hits.
    ``hit_tokens_by_tier``: the tier that both came from.
    """

    clock: Callable[[], float]
    hit_tokens: int = 0
    lossy_tokens: int = 0
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
        metrics.misses = list(_within(found.misses, num_prompt))
        metrics.reused = _reused(prompt - missing, found)
        metrics.lossy_tokens = sum(len(part.span) for part in metrics.reused if part.lossy)
        metrics.cached_tokens = num_prompt - computed - metrics.lossy_tokens
        metrics.queue_s = self.clock() - sequence.request.submitted_s
        self.hit_tokens += metrics.cached_tokens
        self.lossy_tokens += metrics.lossy_tokens
        self.miss_tokens += computed
        for miss in metrics.misses:
            self.misses_by_why[miss.why] += len(miss.span)
        for part in metrics.reused:
            self.hit_tokens_by_tier[part.tier] += len(part.span)

    def not_loaded(self, sequence: Sequence, spans: SpanSet) -> None:
        """Correct the account of a sequence that starts over, as tiers did not deliver these positions: copies that
        have come in fewer bits are its own, and lost with the rest.
        """
        metrics = sequence.request.metrics
        if sequence.index > 0:
            return
        kept: list[Reused] = []
        for part in metrics.reused:
            whole = SpanSet((part.span,))
            lost = whole if part.lossy else SpanSet() if part.tier == RAM else whole & spans
            kept += [Reused(span, part.tier) for span in whole - lost]
            metrics.misses += [Miss(span, Why.NOT_LOADED) for span in lost]
            if part.lossy:
                metrics.lossy_tokens -= len(lost)
                self.lossy_tokens -= len(lost)
            else:
                metrics.cached_tokens -= len(lost)
                self.hit_tokens -= len(lost)
            self.miss_tokens += len(lost)
            self.hit_tokens_by_tier[part.tier] -= len(lost)
            self.misses_by_why[Why.NOT_LOADED] += len(lost)
        metrics.reused = kept
        metrics.misses.sort(key=lambda miss: miss.span)

    def not_fused(self, sequence: Sequence) -> None:
        """Correct the account of a sequence that starts over, as the earlier context of its documents has gone."""
        metrics = sequence.request.metrics
        if sequence.index > 0:
            return
        for number, miss in enumerate(metrics.misses):
            if miss.why is Why.FUSED:
                metrics.misses[number] = Miss(miss.span, Why.SOURCE_GONE)
                self.misses_by_why[Why.FUSED] -= len(miss.span)
                self.misses_by_why[Why.SOURCE_GONE] += len(miss.span)


def _reused(spans: SpanSet, found: Match) -> list[Reused]:
    """By tier; a position whose layer groups come from several counts once, as lossy if any of them is."""
    parts, rest = [], found.pending & spans
    sources = dict.fromkeys((load.codec is None, load.tier.name) for load in found.loads)
    for exact, name in sorted(sources, key=lambda source: source[0]):
        mine = rest & SpanSet.of([load.span for load in found.loads if load.tier.name == name])
        parts += [Reused(span, name, not exact) for span in mine]
        rest = rest - mine
    parts += [Reused(span, RAM) for span in spans - found.pending]
    return sorted(parts, key=lambda part: part.span)


def _within(misses: tuple[Miss, ...], stop: int) -> Iterator[Miss]:
    """Without what is only repeated of a context."""
    for miss in misses:
        if miss.span.start < stop:
            yield Miss(Span(miss.span.start, min(miss.span.stop, stop)), miss.why)
