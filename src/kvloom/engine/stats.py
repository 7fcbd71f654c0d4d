"""Counters and gauges of a running engine: plain numbers, read by the CLI, the server's metrics and the tests."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from kvloom.engine.outputs import FusedPrompt
from kvloom.memory.tier.base import Foreign
from kvloom.policy.cost import PrefillCost


@dataclass(frozen=True, slots=True)
class TierStats:
    """State of a tier, and totals since the start.

    budget_bytes, used_bytes: metadata included. dropped_pages: to stay within the budget; missed_pages: left RAM before
    they were written. offloaded_pages: written while they were held, to make room. passed_over: how often computing was
    expected to be faster than loading. faults: pages that were not read or not written, by ``memory.tier.base.Fault``
    value. foreign: what is there, but is of another model or format, by what differs (``memory.tier.writer.Differs``).
    """

    budget_bytes: int
    used_bytes: int
    pages: int
    written_pages: int
    dropped_pages: int
    missed_pages: int
    offloaded_pages: int
    loaded_pages: int
    loaded_bytes: int
    load_seconds: float
    passed_over: int
    faults: dict[str, int]
    foreign: dict[str, Foreign] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """State of KV memory. Bytes include metadata. held: pages some sequence uses; cached: reusable, droppable pages.

    hits and misses count prompt tokens, and so does lossy_tokens, those found in a format that has lost something: they
    are neither. misses_by_why counts tokens by ``segment.Why`` value, hit_tokens_by_tier by the tier that they came
    from. tiers: those beside RAM, by name.
    pinned_bytes: of what is cached. pins_refused_bytes: what was not pinned because pins had no room left;
    pins_broken_bytes: what was evicted although it was pinned, because a request needed its room and nothing else was
    left.
    """

    budget_bytes: int
    used_bytes: int
    held_bytes: int
    cached_bytes: int
    metadata_bytes: int
    held_pages: int
    cached_pages: int
    hit_tokens: int
    miss_tokens: int
    lossy_tokens: int
    evicted_pages: int
    misses_by_why: dict[str, int] = field(default_factory=dict)
    hit_tokens_by_tier: dict[str, int] = field(default_factory=dict)
    tiers: dict[str, TierStats] = field(default_factory=dict)
    pinned_bytes: int = 0
    pins_refused_bytes: int = 0
    pins_broken_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GuardStats:
    """Of all guarded requests. ``restored``: went back to exact KV; ``lost``: how often exact KV was given up."""

    checks: int = 0
    restored: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class FusionStats:
    """Of fused prompts that are over. Tokens of their documents: ``found`` in the cache, ``computed`` alone, and
    ``repaired``, which is computed again where they stand.
    """

    prompts: int = 0
    found_tokens: int = 0
    computed_tokens: int = 0
    repaired_tokens: int = 0

    def and_also(self, fused: FusedPrompt) -> FusionStats:
        return FusionStats(
            self.prompts + 1,
            self.found_tokens + fused.found,
            self.computed_tokens + fused.documents - fused.found,
            self.repaired_tokens + fused.repaired,
        )


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Where the time of all steps went. ``forward``: inside the model, its logits and argmax included; the rest is
    overhead. ``sample``: drawing the tokens that are not the argmax."""

    schedule: float = 0.0
    plan: float = 0.0
    forward: float = 0.0
    sample: float = 0.0
    commit: float = 0.0

    @property
    def overhead(self) -> float:
        return self.schedule + self.plan + self.sample + self.commit


STEP_ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bounds of the histogram of a step's rows: vLLM's."""


@dataclass(frozen=True, slots=True)
class StepRows:
    """How many rows the steps that computed any had: ``counts[i]`` of them had at most ``STEP_ROWS[i]`` and more than
    the bound before; the last count is of those with more than all bounds. ``total``: rows of all of them.
    """

    counts: tuple[int, ...] = (0,) * (len(STEP_ROWS) + 1)
    total: int = 0


class RowCounter:
    """Adds up the rows of steps."""

    def __init__(self) -> None:
        self._counts = [0] * (len(STEP_ROWS) + 1)
        self._total = 0

    def add(self, rows: int) -> None:
        if rows > 0:
            self._counts[bisect_left(STEP_ROWS, rows)] += 1
            self._total += rows

    def rows(self) -> StepRows:
        return StepRows(tuple(self._counts), self._total)


Phase = Literal["schedule", "plan", "forward", "sample", "commit"]


class StepWatch:
    """Adds up seconds per phase: every ``lap`` charges the time since the last one to a phase. ``clock``: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)
        self._last = 0.0

    def start(self) -> None:
        self._last = self._clock()

    def lap(self, phase: Phase) -> None:
        now = self._clock()
        self._spent[phase] += now - self._last
        self._last = now

    def seconds(self) -> StepSeconds:
        return StepSeconds(**self._spent)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """State of the scheduler, and totals since the start. ``squeezed``: contexts compressed for want of memory.
    ``fusion``: by the names of selectors. ``begun_by_bands``: prompts that were begun with room for some of their
    layers. ``deferred``: of those that wait, how many wait for pages that others are computing. ``finished``:
    continuations, by finish reason.

    ``prefill_cost``: what computing KV is expected to cost, as measured and corrected by what steps took; None: no
    prompt has been computed alone yet.
    """

    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    computed_tokens: int
    preemptions: int
    squeezed: int
    finished: dict[str, int]
    cache: CacheStats
    seconds: StepSeconds = field(default_factory=StepSeconds)
    guard: GuardStats = field(default_factory=GuardStats)
    prefill_cost: PrefillCost | None = None
    begun_by_bands: int = 0
    fusion: dict[str, FusionStats] = field(default_factory=dict)
    deferred: int = 0
    step_rows: StepRows = field(default_factory=StepRows)
