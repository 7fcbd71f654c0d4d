"""Measure what prefill costs: steps of many sizes at many positions, each several times, and what moving bytes takes.

One context is computed once. Then parts of it are computed again where they are: what a position costs depends on what
comes before it, whether the end of a context is computed, or a hole in one that is otherwise cached.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Protocol

from kvloom.engine.cost_profile import CostProfile, MeasuredOn
from kvloom.engine.engine import Engine
from kvloom.eval.single import SingleSequence
from kvloom.learn.prefill_fit import Step, fit_paper, fit_prefill, quality
from kvloom.learn.tiers import measure_tiers
from kvloom.learn.timing import Clock, seconds_of
from kvloom.policy.cost import position_sum
from kvloom.segment import Span, SpanSet

Advance = Callable[[int], None]

_HOLD_OUT = 4
"""Every so many-th step is not fitted to, but the fit is tried on it."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is measured: steps of ``sizes`` tokens at ``starts`` positions each of a context of ``longest`` tokens, and
    the same in two halves, what is between them being there. Each ``rounds`` times. ``tier_bytes``: of a large
    transfer.
    """

    sizes: tuple[int, ...]
    starts: int
    longest: int
    rounds: int
    tier_bytes: int

    def steps(self, longest: int, most: int) -> list[SpanSet]:
        """Where a context has at most ``longest`` tokens, and at most ``most`` of them are computed at once."""
        longest = min(longest, self.longest)
        found = []
        for size in sorted({min(size, most, max(1, longest // 4)) for size in self.sizes}):
            half, last = size // 2, longest - size
            starts = sorted({n * last // (self.starts - 1) for n in range(self.starts)})
            found += [SpanSet((Span(start, start + size),)) for start in starts]
            found += [
                SpanSet((Span(hole, hole + half), Span(end, end + size - half)))
                for hole, end in pairwise(starts)
                if half and hole + half < end
            ]
        return found


FULL = Survey((16, 64, 192, 512), starts=9, longest=8192, rounds=5, tier_bytes=64 * 2**20)
"""Minutes, for a small model."""

BRIEF = Survey((16, 64, 192), starts=4, longest=1536, rounds=3, tier_bytes=8 * 2**20)
"""Seconds."""


class Recomputed(Protocol):
    """A context whose KV is there."""

    def compute_again(self, spans: SpanSet) -> None:
        """Compute the KV of these positions once more."""
        ...


def learn_costs(
    engine: Engine, survey: Survey, disk: Path, clock: Clock, advance: Advance = lambda tokens: None
) -> CostProfile:
    """Of the engine's model on this machine. ``disk``: a directory on the disk that is measured. ``clock``: seconds.

    ``advance`` is told of tokens that have been computed: ``tokens_of`` says how many there are in all. Raises
    EvalError when the model's context is too short to measure enough.
    """
    steps = _steps(engine, survey)
    sequence = _filled(engine, _longest(steps), advance)
    measured = measure_prefill(sequence, steps, survey.rounds, clock, advance)
    learned = [step for n, step in enumerate(measured) if n % _HOLD_OUT]
    held_out = measured[::_HOLD_OUT]
    ours, paper = fit_prefill(learned), fit_paper(learned)
    return CostProfile(
        measured_on=MeasuredOn.here(engine.model.weights_id, engine.config),
        prefill=fit_prefill(measured),
        fit=quality(lambda spans: ours.step(len(spans), position_sum(spans)), held_out),
        paper_fit=quality(paper.step, held_out),
        tiers=measure_tiers(disk, clock, survey.tier_bytes, survey.rounds),
        steps=len(measured),
        longest=_longest(steps),
    )


def tokens_of(engine: Engine, survey: Survey) -> int:
    """That ``learn_costs`` computes."""
    steps = _steps(engine, survey)
    return _longest(steps) + survey.rounds * sum(map(len, steps))


def measure_prefill(
    sequence: Recomputed,
    steps: Sequence[SpanSet],
    rounds: int,
    clock: Clock,
    advance: Advance = lambda tokens: None,
) -> list[Step]:
    """What each of ``steps`` took, the median over ``rounds``. Each round has them in another order: if the machine
    becomes slower meanwhile, it does for all.
    """
    order, taken = list(range(len(steps))), [[0.0] * rounds for _ in steps]
    shuffle = random.Random(0).shuffle
    for number in range(rounds):
        shuffle(order)
        for n in order:
            taken[n][number] = seconds_of(partial(sequence.compute_again, steps[n]), clock)
            advance(len(steps[n]))
    return [Step(spans, median(seconds)) for spans, seconds in zip(steps, taken, strict=True)]


def _steps(engine: Engine, survey: Survey) -> list[SpanSet]:
    return survey.steps(engine.max_len, engine.layout.step_tokens)


def _longest(steps: Sequence[SpanSet]) -> int:
    return max(spans.spans[-1].stop for spans in steps)


def _filled(engine: Engine, length: int, advance: Advance) -> SingleSequence:
    """A context of random tokens."""
    sequence = SingleSequence(engine, length)
    sequence.mark()  # none of it is final, so its pages stay as they are: they are written to again
    for tokens in _batched(random.Random(0).choices(range(engine.model.vocab_size), k=length), engine):
        sequence.append(tokens)
        advance(len(tokens))
    return sequence


def _batched(tokens: list[int], engine: Engine) -> Iterator[list[int]]:
    size = engine.layout.step_tokens
    return (tokens[n : n + size] for n in range(0, len(tokens), size))
