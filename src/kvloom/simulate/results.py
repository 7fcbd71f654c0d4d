"""What came of a simulated trace: per request as it ends, and in sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.stats import EngineStats
from kvloom.memory.format import PAGE_TOKENS
from kvloom.policy.cost import PrefillCost
from kvloom.segment import Span, SpanSet, Why
from kvloom.simulate.requests import SimulatedRequest


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of a distribution of times; all 0 when there are none."""

    mean: float
    median: float
    p95: float
    p99: float

    @staticmethod
    def of(values: Sequence[float]) -> Seconds:
        if not values:
            return Seconds(0.0, 0.0, 0.0, 0.0)
        median, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
        return Seconds(float(np.mean(values)), median, p95, p99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of a whole trace.

    seconds: until the last answer was complete. ttft: from arrival to first token. tpot_s: mean time per token after
    it, over requests. block_hits: share of the prompts' whole blocks that were found; endless_block_hits: that a cache
    without limits finds. saved: share of the seconds of computing all prompts, position by position, that what was
    found has saved (the compute-savings ratio); endless_saved: the same without limits. recompute_s: of computing what
    had been there before. holes: per request, spans that had to be computed though something after them was found.
    tier_tokens: of the prompts' tokens that were found, those that came from each tier, RAM included; not_loaded: those
    that a tier had and did not deliver. refused: requests that can never fit.
    """

    requests: int
    refused: int
    seconds: float
    ttft: Seconds
    tpot_s: float
    block_hits: float
    endless_block_hits: float
    saved: float
    endless_saved: float
    recompute_s: float
    holes: float
    evictions: int
    preemptions: int
    tier_tokens: Mapping[str, int]
    not_loaded: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a request found of its prompt. Seconds are those of computing prompts, without what steps cost."""

    blocks: int
    hits: int
    endless_hits: int
    prompt_s: float
    saved_s: float
    endless_saved_s: float
    recompute_s: float
    holes: int


def found_of(request: SimulatedRequest, metrics: RequestMetrics, cost: PrefillCost) -> Found:
    """A block counts as found though its last token is computed again because it is the prompt's."""
    length, known = request.input_length, request.known
    missing = SpanSet.of([miss.span for miss in metrics.misses])
    reused = SpanSet.of([each.span for each in metrics.reused])
    last = reused.spans[-1].stop if reused else 0
    return Found(
        blocks=length // PAGE_TOKENS,
        hits=length // PAGE_TOKENS - _blocks_in(missing, length),
        endless_hits=(known + (known == length - 1)) // PAGE_TOKENS,
        prompt_s=cost.block(0, length),
        saved_s=_seconds(cost, reused),
        endless_saved_s=cost.block(0, known),
        recompute_s=_seconds(cost, missing & SpanSet.full(known)),
        holes=sum(span.stop < last for span in missing),
    )


def _blocks_in(missing: SpanSet, length: int) -> int:
    """Whole blocks of a prompt that ``missing`` is in."""
    if missing.spans and missing.spans[-1] == Span(length - 1, length):
        missing = SpanSet(missing.spans[:-1])
    whole = length // PAGE_TOKENS
    touched = {n for span in missing for n in range(span.start // PAGE_TOKENS, -(-span.stop // PAGE_TOKENS))}
    return sum(n < whole for n in touched)


def _seconds(cost: PrefillCost, spans: SpanSet) -> float:
    return sum(cost.block(span.start, len(span)) for span in spans)


@dataclass(slots=True)
class Results:
    """Hears how requests end. ``cost``: of prefill; ``grain``: real tokens in one of the simulation's. ``on_end``:
    called for every request.
    """

    cost: PrefillCost
    grain: int = 1
    on_end: Callable[[], None] = lambda: None
    refused: int = 0
    ttft_s: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)

    def add(self, request: SimulatedRequest, metrics: RequestMetrics, late_s: float) -> None:
        assert metrics.ttft_s is not None
        self.ttft_s.append(late_s + metrics.ttft_s)
        times = metrics.token_times_s
        if len(times) > 1:
            self.tpot_s.append((times[-1] - times[0]) / (len(times) - 1) / self.grain)
        self.found.append(found_of(request, metrics, self.cost))
        self.on_end()

    def refuse(self, request: SimulatedRequest) -> None:
        self.refused += 1
        self.on_end()

    def summary(self, seconds: float, stats: EngineStats) -> Summary:
        blocks, prompt_s = sum(each.blocks for each in self.found), sum(each.prompt_s for each in self.found)
        return Summary(
            requests=len(self.found) + self.refused,
            refused=self.refused,
            seconds=seconds,
            ttft=Seconds.of(self.ttft_s),
            tpot_s=float(np.mean(self.tpot_s)) if self.tpot_s else 0.0,
            block_hits=sum(each.hits for each in self.found) / max(1, blocks),
            endless_block_hits=sum(each.endless_hits for each in self.found) / max(1, blocks),
            saved=sum(each.saved_s for each in self.found) / (prompt_s or 1.0),
            endless_saved=sum(each.endless_saved_s for each in self.found) / (prompt_s or 1.0),
            recompute_s=sum(each.recompute_s for each in self.found),
            holes=sum(each.holes for each in self.found) / max(1, len(self.found)),
            evictions=stats.cache.evicted_pages,
            preemptions=stats.preemptions,
            tier_tokens={name: tokens * self.grain for name, tokens in stats.cache.hit_tokens_by_tier.items()},
            not_loaded=stats.cache.misses_by_why.get(Why.NOT_LOADED, 0) * self.grain,
        )
