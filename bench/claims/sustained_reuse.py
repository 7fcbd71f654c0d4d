"""sustained-reuse: fusion is as fast at the end of a long day as it was in the beginning.

SmolLM2 and 500 passages of 256 tokens, KV memory for half of them, all of them on disk. 500 questions, one after the
other, each over 8 random passages in an order of its own, after a text that nobody ever repeats: fused (A^3, 15%).
Every eighth is answered a second time with everything computed. The machine's speed varies over minutes, so speed is
always that of fusing relative to that of computing beside it: in no stretch of 50 questions less than 2.5 times, and
in the last 100 no less than 95% of what it was in the first 100.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import Check, Outcome, at_least, note, worst_of
from bench.materialise import materialised, passages_of
from bench.passage_questions import FULL, Passages, answered, question_over
from kvloom import LLM, TierConfig
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
TIMES_GOAL, LAST_GOAL = 2.5, 0.95
ANSWER = 1


@dataclass(frozen=True, slots=True)
class Size:
    """``ends``: questions that are compared in the beginning and at the end. ``every``: so many, one is computed."""

    passages: int
    tokens: int
    together: int
    questions: int
    ends: int
    stretch: int
    every: int


QUICK, WHOLE = Size(100, 256, 8, 80, 20, 20, 5), Size(500, 256, 8, 500, 100, 50, 8)


@dataclass(frozen=True, slots=True)
class Asked:
    """Seconds to the first token: fused, and ``full``, None unless it was computed as well. ``loaded``: bytes that
    came from disk for it, ``of`` so many that its passages have."""

    fused_s: float
    full_s: float | None
    loaded: int
    of: int


def opened(directory: Path, kv_bytes: int | str) -> LLM:
    return LLM(MODEL, kv_bytes=kv_bytes, tiers=TierConfig(cache_dir=str(directory), disk_bytes="64GiB"))


def day(llm: LLM, passages: Passages, size: Size) -> list[Asked]:
    """All questions. The first few of an engine are not counted: they have the arena's page faults."""
    rng, asked = random.Random(5), list[Asked]()
    (disk,), page_bytes = llm.engine.tiers.levels, sum(fmt.page_bytes for fmt in llm.engine.layout.formats)
    of = size.together * -(-size.tokens // 16) * page_bytes
    warm_up = len(passages) // size.together
    for number in range(warm_up + size.questions):
        question = question_over(llm, rng.sample(list(passages), size.together), rng, number)
        before = disk.loaded_bytes
        fused = answered(llm, question, question.fused(), ANSWER)
        loaded = disk.loaded_bytes - before
        full = answered(llm, question, FULL, ANSWER) if number % size.every == 0 else None
        if number >= warm_up:
            asked.append(Asked(fused.ttft_s, None if full is None else full.ttft_s, loaded, of))
        if number % size.stretch == 0:
            note(f"{number} questions: the last one took {1e3 * fused.ttft_s:.0f} ms")
    return asked


def gain(asked: Sequence[Asked]) -> float:
    """How many times as fast fusing is."""
    return median(each.full_s for each in asked if each.full_s is not None) / median(each.fused_s for each in asked)


def judged(asked: Sequence[Asked], size: Size) -> tuple[list[Check], dict[str, Any]]:
    stretches = [asked[n : n + size.stretch] for n in range(0, len(asked), size.stretch)]
    gains = [gain(stretch) for stretch in stretches]
    first, last = asked[: size.ends], asked[-size.ends :]
    first_s, last_s = (median(each.fused_s for each in part) for part in (first, last))
    first_full, last_full = (median(each.full_s for each in part if each.full_s) for part in (first, last))
    said = f"{1e3 * first_s:.0f} and {1e3 * last_s:.0f} ms; computed {1e3 * first_full:.0f} and {1e3 * last_full:.0f}"
    shares = [sum(each.loaded for each in stretch) / sum(each.of for each in stretch) for stretch in stretches]
    checks = [
        at_least("the slowest stretch", min(gains), TIMES_GOAL, "times a full prefill", f"{len(gains)} stretches"),
        at_least(f"the last {size.ends}", gain(last) / gain(first), LAST_GOAL, f"of the first {size.ends}", said),
    ]
    return checks, {"gains": [round(each, 2) for each in gains], "from_disk": [round(each, 2) for each in shares]}


def measure(quick: bool) -> Outcome:
    """Full: 500 questions over 500 passages. Quick: 80 over 100."""
    pull(MODEL)
    size = QUICK if quick else WHOLE
    with tempfile.TemporaryDirectory() as place:
        with opened(Path(place), "512MiB") as llm:
            passages = passages_of(llm, size.passages, size.tokens)
            made = materialised(llm, passages)
            budget = size.passages * llm.engine.layout.bytes_for(size.tokens) // 2
            note(f"{made['tokens']:,} tokens in {made['seconds']:.0f} s; then {budget / 2**20:.0f} MiB of KV memory")
        with opened(Path(place), budget) as llm:
            asked = day(llm, passages, size)
            llm.engine.check()
    checks, figures = judged(asked, size)
    note(f"times a full prefill, by stretch: {figures['gains']}; from disk: {figures['from_disk']}")
    return worst_of("sustained-reuse", checks, {"quick": quick, "kv_bytes": budget, **figures})
