"""Prefill budget: how much of new prompts a step may compute while answers are streaming."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kvloom.engine.scheduler.quiet_steps import QuietSteps
from kvloom.policy.cost import PrefillCost
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.segment import SpanSet

LEAST_ROWS = 8
"""Rows of prompts that every step may compute. Fewer would delay the prompt more than they help the streams: part of
the time that a long prompt adds to a step does not depend on the number of rows."""

_TAIL = 0.005
"""Part of the steps that may take longer than is aimed at: p99 is to be within it."""

_SCATTER, _SCATTER_STEP = 0.15, 0.03
"""Logarithm of what such a step takes more than expected: at the beginning, and by how much a step changes it."""

_PACE_WEIGHT = 0.25
"""Of the newest step in the mean of how far steps are from what was expected."""

_SURPRISE = math.log(2)
"""No step counts as further from it than this: steps that were held up by others are not to be learned from."""


@dataclass(slots=True)
class Allowance:
    """What prompts may add to a step: so many ``seconds`` by ``cost``, and ``least_rows`` whatever they take."""

    seconds: float = 0.0
    least_rows: int = 0
    cost: PrefillCost | None = None

    def rows(self, missing: SpanSet, share: float = 1.0) -> int:
        """How many of the lowest positions of ``missing`` there is time for, through that ``share`` of the layers."""
        if self.seconds == math.inf:
            return len(missing)
        affordable = 0 if self.cost is None else self.cost.within(missing, self.seconds / share)
        return max(affordable, min(int(self.least_rows / share), len(missing)))

    def affords(self, missing: SpanSet, share: float) -> bool:
        """Whether there is time for as many rows as every step may compute in any case, or for all of ``missing``."""
        if self.seconds == math.inf:
            return True
        wanted = min(len(missing), LEAST_ROWS)
        return self.cost is not None and self.cost.within(missing, self.seconds / share) >= wanted

    def use(self, spans: SpanSet, sign: int = 1, share: float = 1.0) -> None:
        """Take what these positions need; with ``sign`` -1, give it back."""
        self.least_rows -= sign * math.ceil(len(spans) * share)
        if self.cost is not None:
            self.seconds -= sign * share * self.cost.computing(spans)


@dataclass
class PrefillBudget:
    """Limits what a step with streams takes, so that they flow while long prompts are computed.

    The limit is ``max_token_latency_s``, or where there is none, ``max_decode_slowdown`` times what a step without
    prompts takes. For a slowdown of s, the prompt takes about ``s / (s - 1)`` times as long as it would alone. If there
    are more prompts than streams, what they may add grows in proportion then, so that many requests do not wait for
    their first token for the sake of a few smooth streams, and steps are large under full load; a latency is kept
    whoever waits. An infinite limit is none.

    A step is expected to take what a quiet one does, and by ``cost``, which is corrected by every step, what the rows
    of prompts take at their positions. Two more things are learned: ``_pace``, how far the last steps were from that,
    so that a machine that becomes slower is followed within a few steps; and ``_scatter``, what single steps take
    longer than expected, such that only the _TAIL of them exceed the limit (stochastic approximation of a quantile,
    Robbins and Monro 1951). Both are logarithms. The schedule depends on the clock, but results do not: a row's bits
    do not depend on the chunking.

    Source: AsymCache (arXiv 2606.02964) shrinks chunks where many answers stream, without saying by how much; LayerKV
    (arXiv 2410.00428) starts prompts only as far as the answers' latencies permit. Here both are one: the chunk is what
    there is time for, and a prompt for whose first rows there is no time is not started.
    """

    max_decode_slowdown: float
    max_token_latency_s: float | None = None
    cost: CostEstimate = field(default_factory=CostEstimate)
    _quiet: QuietSteps = field(default_factory=QuietSteps)
    _pace: float = 0.0
    _scatter: float = _SCATTER

    @property
    def spares_the_first(self) -> bool:
        """Whether requests that arrive together may be computed in large steps, though one of them answers already."""
        return self.max_token_latency_s is None

    def allowance(self, streams: int, prompts: int) -> Allowance:
        """Of the next step, which goes on with ``streams`` answers, if ``prompts`` sequences wait for it."""
        if self._limit_s(1.0) == math.inf:
            return Allowance(math.inf)
        share = max(1, prompts // streams) if self.max_token_latency_s is None else 1
        if self._quiet.due():
            return Allowance()
        cost, quiet_s = self.cost.cost, self._quiet.expected(streams)
        if cost is None or quiet_s is None:
            return Allowance(least_rows=share * LEAST_ROWS)
        expected_s = self._limit_s(quiet_s) / math.exp(self._pace + self._scatter)
        return Allowance(share * (expected_s - quiet_s - cost.start_s), share * LEAST_ROWS, cost)

    def took(self, streams: int, new: int, positions: int, seconds: float, plain: bool = True) -> None:
        """Learn from a step that went on with ``streams`` answers and computed ``new`` tokens of prompts.

        ``plain``: as ``cost`` has it, and not in another way that takes longer.
        """
        if not new:
            self._quiet.took(streams, seconds)
            return
        self._quiet.passed()
        cost, quiet_s = self.cost.cost, self._quiet.expected(streams)
        if quiet_s is None or not 0 < seconds < math.inf:
            return
        if cost is not None:
            self._compare(quiet_s + cost.step(new, positions), seconds)
        if plain:
            self.cost.took(new, positions, seconds, quiet_s)

    def _compare(self, expected_s: float, seconds: float) -> None:
        surprise = math.log(seconds / expected_s)
        exceeded = surprise > self._pace + self._scatter
        self._scatter = min(_SURPRISE, max(0.0, self._scatter + _SCATTER_STEP * (exceeded - _TAIL)))
        self._pace += _PACE_WEIGHT * (min(_SURPRISE, max(-_SURPRISE, surprise)) - self._pace)

    def _limit_s(self, quiet_s: float) -> float:
        latency_s = self.max_token_latency_s
        return self.max_decode_slowdown * quiet_s if latency_s is None else latency_s
