"""Prompts over parts of an earlier context, in the engine against plain torch, and what becomes of that context."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tiny
import tiny_decoder
from dict_tier import DictTier
from fused_in_torch import Fused, full_prefill, fused_prefill
from kvloom.engine.cache_params import CacheParams, Source
from kvloom.engine.params import SamplingParams
from kvloom.errors import ParamsError
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.tier.base import Fault, Place, TierFault
from kvloom.policy.actions import Drop
from kvloom.policy.fusion import parse_fusion
from kvloom.segment import Span, SpanSet, Why

MODEL = tiny_decoder.decoder((None,) * 4, activations="float32")
SCORED = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, logprobs=8)
ONE = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
SELECTORS = ["reuse", "a3", "cacheblend", "epic", "fusionrag", "prophetkv", "recompute", "a3+epic"]
EARLIER = tiny.random_prompt(150, 1)


def engine_of(**given: object) -> tiny.Engine:
    """It fuses whether that is worth it or not."""
    engine = tiny.make_engine(**{"model": MODEL, "kv_bytes": "16MiB"} | given)
    engine.intake.worth = lambda cache, prompt_tokens: True
    return engine


def with_earlier(earlier: list[int] = EARLIER, **given: object) -> tiny.Engine:
    """An engine that has computed the earlier context."""
    engine = engine_of(**given)
    tiny.run(engine, {"earlier": earlier}, ONE)
    return engine


@pytest.fixture
def any_part_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is there, or left to compute."""
    monkeypatch.setattr("kvloom.engine.scheduler.fuse.faster", lambda *_: True)


class Edited:
    """Parts of the earlier context, by number of token or as tokens of their own, one after another."""

    def __init__(self, *parts: tuple[int, int] | list[int], prefix: int = 0) -> None:
        self.prompt = EARLIER[:prefix]
        self.documents: list[tuple[int, int]] = []
        self.starts: list[int] = []
        for part in parts:
            if isinstance(part, list):
                self.prompt = self.prompt + part
                continue
            start, stop = part
            self.documents.append((len(self.prompt), len(self.prompt) + stop - start))
            self.starts.append(start)
            self.prompt = self.prompt + EARLIER[start:stop]

    @property
    def source(self) -> Source:
        return Source(tuple(EARLIER), tuple(self.starts))

    def asked(self, text: str, **given: object) -> CacheParams:
        return CacheParams(fusion=parse_fusion(text), documents=tuple(self.documents), source=self.source, **given)

    def in_torch(self, text: str) -> Fused:
        return fused_prefill(MODEL, self.prompt, self.documents, parse_fusion(text), source=self.source)


QUESTION = tiny.random_prompt(9, 77)
EDITS = {
    "deleted": Edited((83, 150), QUESTION, prefix=50),
    "deleted in whole pages": Edited((80, 144), QUESTION, prefix=48),
    "inserted": Edited(tiny.random_prompt(21, 5), (50, 150), QUESTION, prefix=50),
    "replaced by as many": Edited(tiny.random_prompt(33, 5), (83, 150), QUESTION, prefix=50),
    "another beginning": Edited(tiny.random_prompt(31, 6), (20, 150), QUESTION),
    "no beginning": Edited((20, 150), QUESTION),
    "moved": Edited((100, 130), (50, 100), (130, 150), QUESTION, prefix=50),
    "two deleted": Edited((60, 75), (99, 150), QUESTION, prefix=40),
    "two replaced": Edited([5, 6, 7], (60, 75), [8, 9], (99, 141), QUESTION, prefix=40),
    "twice": Edited((40, 70), (40, 70), QUESTION, prefix=40),
    "nothing after it": Edited((83, 149), EARLIER[149:], prefix=50),
}


def run(engine: tiny.Engine, edit: Edited, text: str, params: SamplingParams = SCORED, **given: object) -> tiny.Done:
    return tiny.run(engine, {"edited": edit.prompt}, params, cache=edit.asked(text, **given))["edited"]


def assert_like(done: tiny.Done, expected: Fused) -> None:
    assert done.tokens[0] == expected.greedy(len(done.tokens[0]))
    exact = expected.logits_V.astype(np.float64)
    exact = exact - np.log(np.exp(exact - exact.max()).sum()) - exact.max()
    first = next(each for update in done.updates for delta in update.deltas for each in delta.logprobs or ())
    for token, it in first.items():
        assert it.logprob == pytest.approx(exact[token], abs=2e-3)


@pytest.mark.parametrize(
    ("name", "selector"),
    [*itertools.product(EDITS, ["reuse", "a3:ratio=0.3"]), *[("two replaced", each) for each in SELECTORS[2:]]],
)
def test_the_engine_does_what_the_reference_does(name: str, selector: str) -> None:
    edit = EDITS[name]
    done = run(with_earlier(step_tokens=32), edit, selector)
    expected = edit.in_torch(selector)
    report = done.updates[-1].metrics.fused
    assert report is not None
    assert report.found == report.documents == sum(stop - start for start, stop in edit.documents)
    assert report.repaired == len(expected.rows)
    assert_like(done, expected)


@pytest.mark.parametrize("name", ["deleted", "another beginning", "two replaced"])
@pytest.mark.parametrize("selector", ["recompute:ratio=1", "a3:ratio=1", "prophetkv:ratio=1"])
def test_at_full_ratio_it_is_a_full_prefill(name: str, selector: str) -> None:
    edit = EDITS[name]
    assert_like(run(with_earlier(), edit, selector), full_prefill(MODEL, edit.prompt))


def test_reuse_differs_from_a_full_prefill() -> None:
    """Or the other tests would show nothing."""
    edit = EDITS["deleted"]
    reused, exact = edit.in_torch("reuse").logits_V, full_prefill(MODEL, edit.prompt).logits_V
    assert np.abs(reused - exact).max() > 0.1


@pytest.mark.parametrize("codec", ["int16", "int8"])
def test_from_pages_of_other_codecs(codec: str) -> None:
    edit = EDITS["two deleted"]
    done = run(with_earlier(kv_dtype=codec), edit, "a3:ratio=0.3")
    expected = edit.in_torch("a3:ratio=0.3")
    assert abs(done.updates[-1].metrics.fused.repaired - len(expected.rows)) <= 1
    assert done.updates[-1].finished


# -- the earlier context -----------------------------------------------------------------------------------------------


def kept_bytes(engine: tiny.Engine) -> dict[int, bytes]:
    """Of all idle pages."""
    memory = engine.ledger.arena.memory
    blocks = engine.ledger.events.idle_blocks.values()
    return {it.page: bytes(memory[it.page * GRAIN_BYTES :][: it.format.page_bytes]) for it in blocks}


def test_its_pages_are_never_written_to() -> None:
    engine = with_earlier()
    before = kept_bytes(engine)
    assert len(before) == 10
    for name, edit in EDITS.items():
        for selector in ("reuse", "a3:ratio=0.4"):
            tiny.run(engine, {f"{name}/{selector}": edit.prompt}, SCORED, cache=edit.asked(selector))
    after = kept_bytes(engine)
    assert all(after[page] == kept for page, kept in before.items())


def test_forks_share_it() -> None:
    """Pages that eight forks hold, each under a beginning of its own, are those of one and what is their own."""
    engine, beginnings = with_earlier(), [tiny.random_prompt(14 + n, 60 + n) for n in range(8)]
    forks = {f"f{n}": Edited(beginning, (20, 150), QUESTION) for n, beginning in enumerate(beginnings)}
    for name, fork in forks.items():
        engine.submit(name, fork.prompt, SCORED, cache=fork.asked("reuse"))
    most, of_one = 0, 9
    while engine.has_work:
        engine.step()
        engine.check()
        most = max(most, engine.ledger.held_pages)
    assert of_one <= most <= of_one + 8 * 4  # pages of a beginning, of a question, and what the two cut
    assert len({tuple(fork.prompt) for fork in forks.values()}) == 8


def test_what_is_computed_over_it_is_never_found() -> None:
    engine, edit = with_earlier(), EDITS["deleted"]
    before = engine.ledger.cached_pages
    run(engine, edit, "a3")
    assert engine.ledger.cached_pages <= before + 1  # the page that the edit cuts, up to there
    exact = tiny.run(engine, {"exact": edit.prompt}, SCORED)["exact"]
    assert exact.updates[-1].metrics.cached_tokens == 50
    assert_like(exact, full_prefill(MODEL, edit.prompt))


def test_in_exact_mode_nothing_of_what_was_deleted_is_left() -> None:
    """Tokens and bits are those of an engine that has never seen it, and no page that is read was computed after it."""
    edit = EDITS["deleted"]
    engine = with_earlier()
    deleted = {it.page for it in engine.ledger.events.idle_blocks.values() if it.position >= 48}
    engine.submit("exact", edit.prompt, SCORED)
    sequence = engine.requests["exact"].sequences[0]
    seen: set[int] = set()
    while engine.has_work:
        engine.step()
        seen |= {page for page, _ in sequence.holdings()}
    assert len(seen) >= 8
    assert not seen & deleted
    alone, again = engine_of(), engine_of()
    expected = tiny.run(alone, {"exact": edit.prompt}, SCORED)["exact"]
    tiny.run(again, {"earlier": EARLIER}, ONE)
    found = tiny.run(again, {"exact": edit.prompt}, SCORED)["exact"]
    assert found.tokens == expected.tokens
    assert found.updates[0].deltas[0].logprobs == expected.updates[0].deltas[0].logprobs


def test_nobody_reads_what_another_salt_has() -> None:
    edit = EDITS["deleted"]
    done = run(with_earlier(), edit, "reuse", salt="theirs")
    metrics = done.updates[-1].metrics
    assert metrics.fused is None
    assert Why.SOURCE_GONE in {miss.why for miss in metrics.misses}
    assert_like(done, full_prefill(MODEL, edit.prompt))


def drop(engine: tiny.Engine, pages: range) -> None:
    """Pages of the earlier context, by number."""
    for block in list(engine.ledger.events.idle_blocks.values()):
        if block.position // 16 in pages:
            engine.ledger.apply(Drop(block.page))


def test_where_it_has_gone_the_prompt_is_computed_as_ever() -> None:
    engine, edit = with_earlier(), EDITS["deleted"]
    drop(engine, range(5, 10))
    done = run(engine, edit, "a3")
    metrics = done.updates[-1].metrics
    assert metrics.fused is None
    assert metrics.cached_tokens == 50
    assert [(miss.why, miss.span.start) for miss in metrics.misses] == [(Why.SOURCE_GONE, 50)]
    assert engine.account.misses_by_why[Why.SOURCE_GONE] == len(edit.prompt) - 50
    assert engine.account.misses_by_why[Why.FUSED] == 0
    assert_like(done, full_prefill(MODEL, edit.prompt))
    again = tiny.run(engine, {"again": edit.prompt}, SCORED)["again"]  # it was exact, so it is found
    assert again.updates[-1].metrics.cached_tokens == len(edit.prompt) - 1


@pytest.mark.parametrize("gone", [range(5, 7), range(7, 8), range(8, 10)], ids=str)
@pytest.mark.parametrize("selector", ["reuse", "a3:ratio=0.2"])
def test_where_a_part_has_gone_that_part_is_computed(
    gone: range, selector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like tokens between documents, before the first, or after the last."""
    monkeypatch.setattr("kvloom.engine.scheduler.fuse.faster", lambda *_: True)
    engine, edit = with_earlier(), EDITS["deleted"]
    drop(engine, gone)
    done = run(engine, edit, selector)
    report = done.updates[-1].metrics.fused
    assert report is not None
    assert report.documents == 67
    lost = SpanSet((Span(83, 150),)) & SpanSet((Span(gone.start * 16, gone.stop * 16),))
    assert report.found == 67 - len(lost)
    there = [Span(span.start - 33, span.stop - 33) for span in SpanSet((Span(83, 150),)) - lost]
    expected = partly(edit, there, selector)
    assert report.repaired == len(expected.rows)
    assert_like(done, expected)


def partly(edit: Edited, there: list[Span], selector: str) -> Fused:
    """In torch, with documents of which these spans are left."""
    source = Source(tuple(EARLIER), tuple(span.start + 33 for span in there))
    documents = [(span.start, span.stop) for span in there]
    return fused_prefill(MODEL, edit.prompt, documents, parse_fusion(selector), source=source, prefix=50)


def test_too_little_of_it_is_not_worth_it() -> None:
    engine, edit = with_earlier(), EDITS["deleted"]
    drop(engine, range(6, 10))
    done = run(engine, edit, "a3:ratio=0.9")
    assert done.updates[-1].metrics.fused is None
    assert_like(done, full_prefill(MODEL, edit.prompt))


def test_it_waits_for_who_is_computing_it() -> None:
    engine, edit = engine_of(step_tokens=32), EDITS["deleted"]
    engine.submit("earlier", EARLIER, ONE)
    engine.submit("edited", edit.prompt, SCORED, cache=edit.asked("reuse"))
    done = tiny.drain(engine, ["earlier", "edited"])["edited"]
    assert done.updates[-1].metrics.fused.found == 67
    assert_like(done, edit.in_torch("reuse"))


# -- company, aborts, memory -------------------------------------------------------------------------------------------


def bits(done: tiny.Done) -> list[object]:
    return [each for update in done.updates for delta in update.deltas for each in delta.logprobs or ()]


def test_with_others_beside_it() -> None:
    edits = {"deleted": "a3:ratio=0.3", "moved": "cacheblend", "two replaced": "reuse"}
    alone = {
        name: tiny.run(with_earlier(), {name: EDITS[name].prompt}, SCORED, cache=EDITS[name].asked(text))[name]
        for name, text in edits.items()
    }
    plain = tiny.run(engine_of(), {"plain": tiny.random_prompt(90, 9)}, SCORED)["plain"]
    engine = with_earlier(step_tokens=20)
    for name, text in edits.items():
        engine.submit(name, EDITS[name].prompt, SCORED, cache=EDITS[name].asked(text))
    engine.submit("plain", tiny.random_prompt(90, 9), SCORED)
    together = tiny.drain(engine, [*edits, "plain"])
    assert all(bits(together[name]) == bits(alone[name]) for name in edits)
    assert bits(together["plain"]) == bits(plain)


def test_continuations_share_it() -> None:
    edit, params = EDITS["deleted"], SamplingParams(temperature=1.0, seed=5, n=3, max_tokens=20, ignore_eos=True)
    expected = run(with_earlier(), edit, "a3", params)
    assert run(with_earlier(max_seqs=2), edit, "a3", params).tokens == expected.tokens
    engine = with_earlier()
    drop(engine, range(10))
    exact = tiny.run(engine_of(), {"exact": edit.prompt}, params)["exact"]
    assert run(engine, edit, "a3", params).tokens == exact.tokens


@pytest.mark.parametrize("steps", range(0, 12, 2))
@pytest.mark.parametrize("gone", [range(0), range(10)], ids=["there", "gone"])
def test_aborted_at_any_time_nothing_is_left(steps: int, gone: range) -> None:
    engine, edit = with_earlier(step_tokens=24), EDITS["another beginning"]
    drop(engine, gone)
    tiny.abort_after(engine, steps, edit.prompt, SCORED, edit.asked("a3+prophetkv"))


def test_preempted_it_comes_to_the_same_or_is_computed() -> None:
    """Who is preempted may lose what it reads: it is exact then, and says so."""
    edit = EDITS["deleted"]
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
    fused = run(with_earlier(), edit, "a3", params).tokens[0]
    exact = tiny.run(engine_of(), {"exact": edit.prompt}, params)["exact"].tokens[0]
    engine = with_earlier(kv_bytes="620KiB", step_tokens=24)
    names = {f"r{n}": [*edit.prompt[:-2], 3 + n, 4] if n else edit.prompt for n in range(3)}
    for name, prompt in names.items():
        engine.submit(name, prompt, params, cache=edit.asked("a3"))
    done = tiny.drain(engine, list(names))
    assert engine.preempt.preemptions > 0
    assert done["r0"].tokens[0] in (fused, exact)
    assert all(len(it.tokens[0]) == 40 for it in done.values())
    assert engine.ledger.held_pages == 0


def in_tiers_alone(tier: DictTier) -> tiny.Engine:
    engine = with_earlier(tiers=[tier])
    assert engine.tiers.flush(10)
    engine.ledger.reset()
    return engine


@pytest.mark.usefixtures("any_part_is_worth_it")
def test_it_comes_from_tiers() -> None:
    tier, edit = DictTier(), EDITS["deleted"]
    engine = in_tiers_alone(tier)
    done = run(engine, edit, "reuse")
    report = done.updates[-1].metrics.fused
    assert report is not None
    assert report.found == 61  # the last page of the earlier context was never whole
    assert engine.ledger.held_pages == 0
    assert run(engine, edit, "reuse").updates[-1].metrics.fused.found == 61


def test_what_a_tier_does_not_deliver_is_computed() -> None:
    tier, edit = DictTier(), EDITS["deleted"]
    engine = in_tiers_alone(tier)

    def gone(place: Place) -> None:
        raise TierFault(Fault.GONE, "it is not there")

    tier.before_read = gone
    done = run(engine, edit, "reuse")
    assert done.updates[-1].metrics.fused is None
    assert_like(done, full_prefill(MODEL, edit.prompt))
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Source((1, 2, 3), (0, 1)), "2 starts, 1 documents"),
        (Source((1, 2, 3), (0,)), "not within a source of 3"),
        (Source(tuple(range(90)), (-1,)), "not within"),
        (Source((*range(1, 90), 2.5), (0,)), "whole numbers"),
        (Source(tuple(range(1, 90)), (0,)), "not those of its source"),
    ],
)
def test_sources_that_make_no_sense(source: Source, says: str) -> None:
    engine = engine_of()

    def ask() -> None:
        cache = CacheParams(fusion=parse_fusion("a3"), documents=((50, 117),), source=source)
        engine.submit("edited", EDITS["deleted"].prompt, SCORED, cache=cache)

    with pytest.raises(ParamsError, match=says):
        ask()
    with pytest.raises(ParamsError):
        CacheParams(source=source)
    assert not engine.has_work
