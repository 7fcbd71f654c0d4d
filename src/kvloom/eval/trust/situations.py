"""Situations in which an answer from cached KV must have the same tokens as one computed from scratch.

A cell holds when the tokens are identical cold and warm and the cache was really used; the ledger is audited in each.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvloom.config import TierConfig
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.eval.drive import EngineFactory, run_all, run_one
from kvloom.eval.subject import engine_beside
from kvloom.memory.format import PAGE_TOKENS
from kvloom.policy.actions import Drop
from kvloom.segment import RAM


@dataclass(frozen=True, slots=True)
class Setting:
    """A model to try, and a text in its tokens of which prompts are cut.

    ``length``: prompt tokens, a multiple of the page size; longer than a hybrid's window, so that pages are released.
    ``growing_from``: prompt tokens where answers should outgrow the memory; below the window, so that they grow in
    every layer group. ``roomy``: a KV budget in which nothing needs to be dropped.
    """

    make: EngineFactory
    text: Sequence[int]
    length: int
    growing_from: int
    new_tokens: int = 24
    roomy: int | str = "512MiB"

    @property
    def greedy(self) -> SamplingParams:
        return SamplingParams(temperature=0.0, max_tokens=self.new_tokens, ignore_eos=True)

    def prompt(self, extra: int = 0, start: int = 0) -> list[int]:
        return list(self.text[start : start + self.length + extra])


@dataclass(frozen=True, slots=True)
class Cell:
    """The result of one situation."""

    identical: bool
    cached_tokens: int
    prompt_tokens: int
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.identical and self.cached_tokens > 0


def _cold_then_warm(engine: Engine, prompt: list[int], params: SamplingParams) -> Cell:
    engine.reset_cache()
    cold = run_one(engine, prompt, params)
    warm = run_one(engine, prompt, params)
    assert cold.metrics.cached_tokens == 0, "the cache was not empty before the cold run"
    engine.check()
    return Cell(cold.tokens == warm.tokens, warm.metrics.cached_tokens, len(prompt))


def page_aligned(setting: Setting) -> Cell:
    return _cold_then_warm(setting.make(setting.roomy), setting.prompt(), setting.greedy)


def ragged_tail(setting: Setting) -> Cell:
    return _cold_then_warm(setting.make(setting.roomy), setting.prompt(extra=PAGE_TOKENS // 2 + 1), setting.greedy)


def hole_in_the_middle(setting: Setting) -> Cell:
    """Drop the stored pages of the middle third: what lies behind them must still be used."""
    engine, prompt = setting.make(setting.roomy), setting.prompt(extra=3)
    cold = run_one(engine, prompt, setting.greedy)
    low, high = setting.length // 3, 2 * setting.length // 3
    dropped = 0
    for entry in list(engine.ledger.index.entries.values()):
        if low <= entry.position < high:
            for page in [page for page in entry.pages if page is not None]:
                engine.ledger.apply(Drop(page))
                dropped += 1
    warm = run_one(engine, prompt, setting.greedy)
    engine.check()
    behind = warm.metrics.cached_tokens > 0 and any(miss.span.start < high for miss in warm.metrics.misses)
    identical = cold.tokens == warm.tokens and behind and dropped > 0
    return Cell(identical, warm.metrics.cached_tokens, len(prompt), f"{dropped} pages dropped")


def fork(setting: Setting) -> Cell:
    """Three sampled continuations of one prompt: forks share its pages and copy what they write to."""
    params = SamplingParams(n=3, temperature=0.9, seed=11, max_tokens=setting.new_tokens, ignore_eos=True)
    cell = _cold_then_warm(setting.make(setting.roomy), setting.prompt(extra=5), params)
    return Cell(cell.identical, cell.cached_tokens, cell.prompt_tokens, "3 continuations")


def after_preemption(setting: Setting) -> Cell:
    """Several requests in a budget that cannot hold them all; each must answer as it does alone."""
    prompts = [list(setting.text[n * 7 : n * 7 + setting.growing_from]) for n in range(4)]
    num_new = max(setting.new_tokens, 5 * PAGE_TOKENS)
    growing = SamplingParams(temperature=0.0, max_tokens=num_new, ignore_eos=True)
    roomy = setting.make(setting.roomy)
    alone = []
    for prompt in prompts:
        roomy.reset_cache()
        alone.append(run_one(roomy, prompt, growing).tokens)
    one_bytes = roomy.layout.bytes_for(setting.growing_from + num_new)
    for share in (0.65, 0.6, 0.7, 0.5, 0.75, 0.4, 0.8):  # which one forces a preemption depends on how slabs round
        tight = setting.make(int(one_bytes * len(prompts) * share))
        together = [answer.tokens for answer in run_all(tight, prompts, growing)]
        tight.check()
        if together != alone or tight.preempt.preemptions:
            break
    warm = run_one(tight, prompts[-1], growing)
    tight.check()
    identical = together == alone and warm.tokens == alone[-1] and tight.preempt.preemptions > 0
    return Cell(identical, warm.metrics.cached_tokens, setting.growing_from, f"{tight.preempt.preemptions} preemptions")


def after_abort_storm(setting: Setting) -> Cell:
    """Many requests on a shared prefix, most of them aborted at random moments; then the prompt itself."""
    rng = random.Random(5)
    engine, prompt = setting.make(setting.roomy), setting.prompt(extra=2)
    cold = run_one(engine, prompt, setting.greedy)
    engine.reset_cache()
    names = [f"storm-{n}" for n in range(16)]
    for n, name in enumerate(names):
        cut = rng.randrange(setting.length // 2, setting.length)
        engine.submit(name, [*prompt[:cut], *setting.text[n : n + 9]], setting.greedy)
    aborted = 0
    while engine.has_work:
        engine.step()
        if rng.random() < 0.6 and engine.requests:
            aborted += engine.abort(rng.choice(list(engine.requests))) is not None
        engine.check()
    warm = run_one(engine, prompt, setting.greedy)
    engine.check()
    identical = cold.tokens == warm.tokens and aborted > 0
    return Cell(identical, warm.metrics.cached_tokens, len(prompt), f"{aborted} of {len(names)} aborted")


def from_warm_ram(setting: Setting) -> Cell:
    return _from_a_tier(setting, TierConfig(warm_bytes=setting.roomy))


def from_disk(setting: Setting) -> Cell:
    with tempfile.TemporaryDirectory() as place:
        return _from_a_tier(setting, TierConfig(cache_dir=place))


def from_a_faulty_disk(setting: Setting) -> Cell:
    """Some pages are damaged, cut short, or cannot be read: they are computed, and the others used."""
    with tempfile.TemporaryDirectory() as place:
        return _from_a_tier(setting, TierConfig(cache_dir=place, tier_faults=_FAULTS))


_FAULTS = "disk:corrupt=0.1,short=0.1,fail=0.1"
_TRIES = 5
"""A machine that is busy with other things may give a load up: then nothing was tried."""


def _from_a_tier(setting: Setting, tiers: TierConfig) -> Cell:
    """Drop all of RAM: the KV must come from elsewhere. Where faults are injected, some must have happened."""
    small = setting.make(setting.roomy)
    engine, prompt = engine_beside(small, small.config.cache, tiers=tiers), setting.prompt(extra=PAGE_TOKENS + 1)
    cold, identical, loaded = run_one(engine, prompt, setting.greedy), True, 0
    for _ in range(_TRIES):
        engine.tiers.flush(60)
        for page in engine.ledger.droppable():
            engine.ledger.apply(Drop(page))
        warm = run_one(engine, prompt, setting.greedy)
        engine.check()
        identical &= cold.tokens == warm.tokens
        loaded += sum(len(part.span) for part in warm.metrics.reused if part.tier != RAM)
        faults = sum(sum(each.faults.values()) for each in engine.stats().cache.tiers.values())
        if loaded and (faults or not tiers.faults):
            break
    engine.close()
    return Cell(identical and (faults > 0 or not tiers.faults), loaded, len(prompt), f"faults: {faults}")


SITUATIONS: dict[str, Callable[[Setting], Cell]] = {
    "page-aligned": page_aligned,
    "ragged-tail": ragged_tail,
    "hole-in-the-middle": hole_in_the_middle,
    "fork": fork,
    "after-preemption": after_preemption,
    "after-abort-storm": after_abort_storm,
    "from-warm-ram": from_warm_ram,
    "from-disk": from_disk,
    "from-a-faulty-disk": from_a_faulty_disk,
}
