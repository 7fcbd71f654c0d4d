"""Bands: KV of layers that lies apart changes no answer, and a prompt that has room for one band begins, gives every
page back only when a tier has it, and answers as if it had waited.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from dict_tier import DictTier, nothing
from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.observe import NOBODY, Observers
from kvloom.attend.plan import Plan
from kvloom.engine.banded import BandedPrefill
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.engine.request import Sequence as RequestSequence
from kvloom.engine.tiers import tiers as tiers_of
from kvloom.errors import ConfigError
from kvloom.memory.arena import page_stride
from kvloom.memory.format import PAGE_TOKENS
from kvloom.memory.tier.base import Fault, Place, StoredPage, TierFault
from kvloom.memory.tier.warm import WarmTier
from kvloom.model.base import Indices
from kvloom.model.kv_map import KvMap, LayerKv
from kvloom.policy.compression import compression_of
from kvloom.policy.cost import PrefillCost
from kvloom.policy.tier_cost import layers_that_stay
from kvloom.segment import PageKey
from timed import Clock

FULL, HYBRID = (None,) * 8, (None, 24, None, 24, 24, None, None, 24)
MODELS = {"full": FULL, "hybrid": HYBRID}
SCORED = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=3)
LONG = SamplingParams(temperature=0.0, max_tokens=100, ignore_eos=True, logprobs=3)
MEDIUM = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True, logprobs=3)
COST = PrefillCost(start_s=2.0, token_s=0.05, position_s=1e-5)
ROOM = {FULL: 1_630_000, HYBRID: 2_110_000}
"""Beside the two streams there is room for a band of the late prompt, and its hidden states, but not for all of it."""

OTHER, FULLER = tiny.random_prompt(20, 2), tiny.random_prompt(200, 9)
PROMPT, LATE = tiny.random_prompt(200, 1), tiny.random_prompt(300, 3)


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time, but where that is what is tested."""
    for name in ("_LEAST_PATIENCE_S", "_OFFLOAD_PATIENCE_S"):
        monkeypatch.setattr(tiers_of, name, 1e9 if "hangs" not in request.node.name else 0.3)


# -- the map -----------------------------------------------------------------------------------------------------------


class TestMap:
    def test_contiguous_and_even(self) -> None:
        layout = tiny.make_engine(FULL, bands=3).layout
        assert layout.kv_map.bands == (range(2), range(2, 5), range(5, 8))
        assert [group.layers for group in layout.kv_map.groups] == [(0, 1), (2, 3, 4), (5, 6, 7)]
        assert [fmt.name for fmt in layout.formats] == ["full.0", "full.1", "full.2"]

    def test_every_layer_group_is_cut(self) -> None:
        groups = tiny.make_engine(HYBRID, bands=2).layout.kv_map.groups
        assert {group.name: group.layers for group in groups} == {
            "full.0": (0, 2),
            "full.1": (5, 6),
            "window24.0": (1, 3),
            "window24.1": (4, 7),
        }

    def test_one_band_changes_nothing(self) -> None:
        whole, one = tiny.make_engine(HYBRID), tiny.make_engine(HYBRID, bands=1)
        assert whole.layout.identity == one.layout.identity
        assert "." not in whole.layout.identity
        assert one.layout.kv_map is one.model.kv_map

    @pytest.mark.parametrize("bands", [0, 9])
    def test_too_few_layers(self, bands: int) -> None:
        with pytest.raises(ConfigError, match="bands"):
            tiny.make_engine(FULL, bands=bands)

    def test_a_layer_that_reads_another_band(self) -> None:
        shared = KvMap(tuple(LayerKv(owner, 2, 16, 16, 0.25) for owner in (0, 0, 2, 0)))
        with pytest.raises(ConfigError, match="cannot be cut"):
            shared.in_bands(2)
        assert KvMap(tuple(LayerKv(owner, 2, 16, 16, 0.25) for owner in (0, 0, 2, 2))).in_bands(2).num_bands == 2


# -- nothing changes ---------------------------------------------------------------------------------------------------


def scores(done: tiny.Done) -> list:
    return [entry for update in done.updates for delta in update.deltas for entry in delta.logprobs or ()]


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_any_number_of_bands_gives_the_same_bits(windows: tuple[int | None, ...]) -> None:
    """A miss, a hit, a hit of a part, a hit from a tier, and requests side by side."""
    found = []
    for bands in (1, 2, 4):
        tier = DictTier()
        engine = tiny.make_engine(windows, bands=bands, step_tokens=32, tiers=[tier])
        runs = [
            {"miss": PROMPT},
            {"hit": PROMPT},
            {"part": PROMPT[:90] + OTHER, "new": OTHER},
        ]
        answers = [scores(done) for run in runs for done in tiny.run(engine, run, SCORED).values()]
        assert engine.tiers.flush(10)
        engine.ledger.reset()
        engine.prefill_cost.cost = PrefillCost(0.0, 1.0, 0.0)  # loading pays
        again = tiny.run(engine, {"loaded": PROMPT}, SCORED)["loaded"]
        assert again.updates[-1].metrics.cached_tokens == 192
        found.append([*answers, scores(again)])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("method", ["knorm", "snapkv", "h2o", "expected_attention"])
def test_methods_of_compression_do_not_notice(method: str) -> None:
    found = []
    for bands in (1, 4):
        engine = tiny.make_engine(HYBRID, bands=bands)
        cache = CacheParams(compression=compression_of(method, ratio=0.5))
        found.append(tiny.run(engine, {"a": PROMPT}, SCORED, cache=cache)["a"])
    assert scores(found[0]) == scores(found[1])


# -- prompts that begin by bands ---------------------------------------------------------------------------------------


class TimedLayers(tiny.TinyModel):
    """Computing takes what ``COST`` says, a layer its share, on a simulated clock."""

    def __init__(self, windows: tuple[int | None, ...], clock: Clock) -> None:
        super().__init__(windows)
        self.clock = clock

    def run(
        self,
        x_TC: Floats,
        plan: Plan,
        attend: Attend,
        layers: range,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        seconds = COST.step(plan.num_rows, int(plan.positions_T.sum()))
        self.clock.now_s += seconds * len(layers) / len(self.windows)
        return super().run(x_TC, plan, attend, layers, rows_R, observers)


@dataclass
class Crowded:
    """An engine in which a long answer streams, so that a prompt that comes later has no room for all its layers."""

    engine: tiny.Engine
    tier: DictTier
    peak_pages: int = 0
    updates: dict[str, tiny.Done] = field(default_factory=dict)

    @staticmethod
    def of(
        windows: tuple[int | None, ...] = FULL,
        bands: int = 4,
        tier: DictTier | None = None,
        **options: object,
    ) -> Crowded:
        clock, tier = Clock(), tier or DictTier()
        engine = tiny.make_engine(
            model=TimedLayers(windows, clock),
            bands=bands,
            kv_bytes=ROOM[windows],
            tiers=[tier],
            clock=clock,
            step_tokens=64,
            **options,
        )
        crowded = Crowded(engine, tier)
        crowded.submit("stream", OTHER, LONG)
        for _ in range(20):
            crowded.step()
        return crowded

    def fill(self) -> None:
        """Another stream, that takes much of the memory."""
        self.submit("full", FULLER, MEDIUM)
        self.until(lambda: len(self.tokens("full")) > 1)

    def submit(self, name: str, prompt: list[int], params: SamplingParams) -> None:
        self.updates[name] = tiny.Done({}, {}, {}, [])
        self.engine.submit(name, prompt, params)

    def sequence(self, name: str) -> RequestSequence:
        return self.engine.requests[name].sequences[0]

    def step(self) -> None:
        if not self.engine.runnable:
            self.engine.sleep(0.5)
        for update in self.engine.step():
            done = self.updates[update.request_id]
            done.updates.append(update)
            for delta in update.deltas:
                done.tokens.setdefault(delta.index, []).extend(delta.token_ids)
                done.reasons[delta.index] = delta.finish_reason
        self.engine.check()

    def until(self, reached: Callable[[], bool], most: int = 2000) -> None:
        for _ in range(most):
            if reached():
                return
            self.step()
        raise AssertionError("it does not come to that")

    def drain(self) -> None:
        self.until(lambda: not self.engine.has_work)
        assert self.engine.ledger.held_pages == 0

    def tokens(self, name: str) -> list[int]:
        return self.updates[name].tokens.get(0, [])


@cache
def _alone(prompt: tuple[int, ...], windows: tuple[int | None, ...]) -> tiny.Done:
    return tiny.run(tiny.make_engine(windows), {"a": list(prompt)}, SCORED)["a"]


def alone(prompt: list[int], windows: tuple[int | None, ...] = FULL, params: SamplingParams = SCORED) -> tiny.Done:
    if params == SCORED:
        return _alone(tuple(prompt), windows)
    return tiny.run(tiny.make_engine(windows), {"a": prompt}, params)["a"]


def crowded_and_begun(windows: tuple[int | None, ...] = FULL, **options: object) -> Crowded:
    crowded = Crowded.of(windows, **options)
    crowded.fill()
    crowded.submit("late", LATE, SCORED)
    crowded.until(lambda: crowded.engine.bands.begun == 1, most=20)
    return crowded


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_it_answers_as_if_it_had_waited(windows: tuple[int | None, ...]) -> None:
    crowded = crowded_and_begun(windows)
    engine = crowded.engine
    crowded.until(lambda: len(crowded.tokens("late")) == 1)
    assert crowded.updates["full"].reasons[0] is None, "the first token comes before there is room for all"
    crowded.drain()
    assert scores(crowded.updates["late"]) == scores(alone(LATE, windows))
    for name, prompt, params in (("stream", OTHER, LONG), ("full", FULLER, MEDIUM)):
        assert scores(crowded.updates[name]) == scores(alone(prompt, windows, params))
    stats = engine.stats()
    assert (stats.begun_by_bands, engine.bands.given_up) == (1, 0)
    assert stats.cache.tiers["disk"].offloaded_pages > 0
    assert stats.preemptions == 0


def leaving_pages(crowded: Crowded) -> list:
    return [(page, owner) for page, owner in crowded.sequence("late").holdings() if "/leaving" in owner]


def test_it_holds_at_most_two_bands_and_its_hidden_states() -> None:
    """Of the four bands it needs, beside a page of each for which no tier waits."""
    crowded = crowded_and_begun()
    layout, peak = crowded.engine.layout, 0
    whole = layout.dense_bytes(len(LATE))
    while not crowded.tokens("late"):
        banded = crowded.sequence("late").layerwise
        assert isinstance(banded, BandedPrefill)
        tables = [table for table in crowded.sequence("late").kv.tables if table.count()]
        leaving = {owner for _, owner in leaving_pages(crowded)}
        assert len(tables) + len(leaving) <= 2
        pages = sum(table.count() for table in tables) + len(leaving_pages(crowded))
        peak = max(peak, pages * page_stride(layout.formats[0]))
        crowded.step()
    assert peak <= whole / 4 * 2
    crowded.drain()


def test_a_page_is_let_go_of_only_when_the_tier_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tier that is delayed at every page."""
    crowded = Crowded.of(tier=DictTier(before_write=lambda place: threading.Event().wait(0.002)))
    crowded.fill()
    ledger, let_go = crowded.engine.ledger, []
    release = ledger.release

    def watched(pages: Sequence, owner: str) -> None:
        pages = list(pages)
        if "/leaving" in owner:
            banded = crowded.sequence("late").layerwise
            assert isinstance(banded, BandedPrefill)
            for page in pages:
                entry, group = ledger.index._by_page[page]
                assert crowded.tier.holds(Place(entry.key, group))
            let_go.extend(pages)
        release(pages, owner)

    monkeypatch.setattr(ledger, "release", watched)
    crowded.submit("late", LATE, SCORED)
    crowded.drain()
    assert crowded.engine.bands.begun == 1
    assert len(let_go) == 4 * (len(LATE) // PAGE_TOKENS)


@cache
def expected_pages(windows: tuple[int | None, ...]) -> dict[Place, bytes]:
    """What a tier has of all whole pages of the prompts, from an engine that has room for everything."""
    tier = DictTier()
    engine = tiny.make_engine(model=TimedLayers(windows, Clock()), bands=4, tiers=[tier])
    for name, prompt in {"late": LATE, "other": FULLER}.items():
        tiny.run(engine, {name: prompt}, SCORED)
    assert engine.tiers.flush(10)
    return {place: bytes(page.data) for place, page in tier.pages.items()}


@pytest.mark.parametrize("after", [1, 6, 7, 11, 12, 13, 17, 22])
@pytest.mark.parametrize("end", ["abort", "preempt", "reset"])
def test_it_may_be_stopped_at_any_point(end: str, after: int) -> None:
    """What a delayed tier has is what was computed, whatever became of the pages meanwhile."""
    expected = expected_pages(FULL)
    crowded = crowded_and_begun(tier=DictTier(before_write=lambda place: threading.Event().wait(0.001)))
    engine = crowded.engine
    for _ in range(after):
        crowded.step()
    if "late" in engine.requests and engine.bands.busy:
        if end == "abort":
            engine.abort("late")
        elif end == "preempt":
            engine.scheduler.queues.wait_again(crowded.sequence("late"))
        else:
            engine.reset_cache()
        engine.check()
    crowded.submit("again", FULLER, SCORED)
    crowded.drain()
    assert scores(crowded.updates["again"]) == scores(alone(FULLER))
    if end != "abort":
        assert scores(crowded.updates["late"]) == scores(alone(LATE))
    assert engine.tiers.flush(10)
    for place, page in crowded.tier.pages.items():
        assert expected.get(place, page.data) == page.data


def test_nothing_of_before_a_reset_is_found_after_it() -> None:
    """A page that is being written while everything is forgotten does not come back."""
    gate, there = threading.Event(), threading.Event()

    def waits(place: Place) -> None:
        there.set()
        gate.wait(10)

    crowded = crowded_and_begun(tier=DictTier(name="warm", before_write=waits))
    crowded.until(there.is_set)
    crowded.engine.reset_cache()
    gate.set()
    crowded.tier.before_write = nothing
    crowded.drain()
    assert crowded.engine.tiers.flush(10)
    assert scores(crowded.updates["late"]) == scores(alone(LATE))


class TestTrouble:
    @pytest.mark.parametrize("bad", [0, 1, 17, 18, 40, 60, 71])
    @pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
    def test_a_page_that_is_not_written(self, bad: int, windows: tuple[int | None, ...]) -> None:
        """The prompt waits like any other then, and what was lost is computed again."""
        calls = iter(range(10**6))

        def fails(place: Place) -> None:
            if threading.current_thread().name.endswith("-offload") and next(calls) == bad:
                raise TierFault(Fault.FULL, "made to fail")

        crowded = crowded_and_begun(windows, tier=DictTier(before_write=fails))
        crowded.drain()
        assert scores(crowded.updates["late"]) == scores(alone(LATE, windows))
        stats, stopped = crowded.engine.stats(), crowded.engine.bands.given_up + crowded.engine.preempt.preemptions
        assert stopped == (1 if next(calls) > bad else 0)
        assert stats.cache.tiers["disk"].offloaded_pages <= bad or not stopped

    def test_a_tier_that_hangs(self) -> None:
        gate = threading.Event()
        crowded = crowded_and_begun(tier=DictTier(before_write=lambda place: gate.wait(60)))
        crowded.drain()
        assert crowded.engine.bands.given_up == 1
        assert crowded.engine.stats().cache.tiers["disk"].faults["slow"] >= 1
        assert scores(crowded.updates["late"]) == scores(alone(LATE))
        gate.set()
        crowded.engine.check()

    def test_a_tier_that_hangs_while_nothing_else_runs(self) -> None:
        """The others have ended: the engine sleeps until patience is at an end, and answers."""
        gate = threading.Event()
        crowded = crowded_and_begun(tier=DictTier(before_write=lambda place: gate.wait(60)))
        crowded.engine.abort("stream")
        crowded.engine.abort("full")
        crowded.until(lambda: crowded.engine.has_work is False)
        assert scores(crowded.updates["late"]) == scores(alone(LATE))
        gate.set()

    def test_what_does_not_come_back_is_computed(self) -> None:
        def lost(place: Place) -> None:
            raise TierFault(Fault.GONE, "made to fail")

        crowded = crowded_and_begun(tier=DictTier(before_read=lost))
        crowded.drain()
        assert scores(crowded.updates["late"]) == scores(alone(LATE))

    def test_a_failure_in_a_pass_ends_it_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        crowded = crowded_and_begun()
        crowded.until(lambda: len(leaving_pages(crowded)) > 0)
        monkeypatch.setattr(BandedPrefill, "took", lambda self, done, x_TC: 1 / 0)
        crowded.until(lambda: "late" not in crowded.engine.requests)
        assert crowded.updates["late"].reasons[0] == "error"
        crowded.drain()


class TestWhoBegins:
    def late(self, crowded: Crowded, prompt: list[int] = LATE, **options: object) -> int:
        """How many have begun by bands when all is over."""
        crowded.fill()
        crowded.engine.submit("late", prompt, **({"params": SCORED} | options))
        crowded.updates["late"] = tiny.Done({}, {}, {}, [])
        crowded.drain()
        return crowded.engine.bands.begun

    def test_a_plain_prompt_that_has_no_room(self) -> None:
        assert self.late(Crowded.of()) == 1

    def test_not_one_that_has_room(self) -> None:
        assert self.late(Crowded.of(), tiny.random_prompt(30, 4)) == 0

    def test_not_with_one_band_or_without_a_tier(self) -> None:
        assert self.late(Crowded.of(bands=1)) == 0
        crowded = Crowded.of()
        crowded.engine.tiers.levels = ()
        assert self.late(crowded) == 0

    def test_not_while_an_answer_has_no_time_to_spare(self) -> None:
        """Its latency is less than what the streams alone take."""
        crowded = Crowded.of(max_token_latency_s=1.5)
        begun = []
        crowded.fill()
        crowded.submit("late", LATE, SCORED)
        while crowded.updates["full"].reasons[0] is None and crowded.updates["stream"].reasons[0] is None:
            crowded.step()
            begun.append(crowded.engine.bands.begun)
        assert not any(begun)
        crowded.drain()

    def test_with_time_to_spare_a_latency_is_kept(self) -> None:
        """Steps with passes take no longer than is allowed."""
        crowded = Crowded.of(max_token_latency_s=6.0)
        crowded.fill()
        crowded.submit("late", LATE, SCORED)
        clock, took = crowded.engine.clock, []
        while not crowded.tokens("late"):
            before_s = clock()
            crowded.step()
            took.append(clock() - before_s)
        assert crowded.engine.bands.begun == 1
        assert max(took) <= 6.0
        crowded.drain()

    @pytest.mark.parametrize(
        "options",
        [
            {"params": SamplingParams(temperature=1.0, max_tokens=3, n=2, seed=1)},
            {"params": SamplingParams(temperature=0.0, max_tokens=3, prompt_logprobs=0)},
            {"cache": CacheParams(write=False)},
            {"cache": CacheParams(read=False)},
            {"cache": CacheParams(compression=compression_of("knorm", ratio=0.5))},
        ],
        ids=["forks", "prompt scores", "no writes", "no reads", "compressed"],
    )
    def test_not_what_wants_more_than_an_answer(self, options: dict) -> None:
        assert self.late(Crowded.of(), **options) == 0

    def test_not_where_a_tier_is_slow_or_small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        crowded = Crowded.of()
        for _ in range(30):
            crowded.engine.tiers.levels[0].offload_rate.took(1, 2**20, 1e6)
        monkeypatch.setattr(crowded.engine.bands.prefill, "cost", PrefillCost(0.0, 1e-5, 0.0))
        assert self.late(crowded) == 0

    def test_the_order_of_arrival_is_kept(self) -> None:
        """Nobody who came later has a first token before one who came earlier, but for those that had room already."""
        crowded = Crowded.of()
        crowded.fill()
        order = ["late", "small", "large", "last"]
        prompts = [LATE, tiny.random_prompt(20, 5), tiny.random_prompt(280, 6), tiny.random_prompt(40, 7)]
        for name, prompt in zip(order, prompts, strict=True):
            crowded.submit(name, prompt, SCORED)
        firsts: list[str] = []
        while len(firsts) < len(order):
            crowded.step()
            firsts += [name for name in order if crowded.tokens(name) and name not in firsts]
        assert firsts == order
        crowded.drain()
        for name, prompt in zip(order, prompts, strict=True):
            assert scores(crowded.updates[name]) == scores(alone(prompt))

    def test_only_once(self) -> None:
        crowded = crowded_and_begun()
        crowded.step()
        crowded.engine.scheduler.queues.wait_again(crowded.sequence("late"))
        crowded.drain()
        assert crowded.engine.bands.begun == 1

    def test_a_prompt_that_only_warms_the_cache(self) -> None:
        crowded = Crowded.of()
        assert self.late(crowded, params=SamplingParams(temperature=0.0, max_tokens=0)) == 1
        crowded.submit("again", LATE, SCORED)
        crowded.drain()
        assert crowded.updates["again"].updates[-1].metrics.cached_tokens > 0
        assert scores(crowded.updates["again"]) == scores(alone(LATE))

    def test_hits_are_used_and_only_the_rest_is_computed(self) -> None:
        crowded = Crowded.of()
        crowded.submit("before", LATE[:100], SCORED)
        crowded.until(lambda: "before" not in crowded.engine.requests)
        computed = crowded.engine.commit.computed_tokens
        assert self.late(crowded) == 1
        assert scores(crowded.updates["late"]) == scores(alone(LATE))
        assert computed


def test_it_begins_with_a_warm_tier_of_memory_too() -> None:
    clock = Clock()
    layout = tiny.make_engine(model=TimedLayers(FULL, clock), bands=4).layout
    warm = WarmTier(2**22, layout.formats)
    crowded = crowded_and_begun(tier=warm)  # type: ignore[arg-type]
    crowded.drain()
    assert scores(crowded.updates["late"]) == scores(alone(LATE))
    assert crowded.engine.stats().cache.tiers["warm"].offloaded_pages == 4 * (len(LATE) // PAGE_TOKENS)
    warm.check()


class TestOffload:
    def test_of_nothing(self) -> None:
        """A prompt may be shorter than a page."""
        tiers = tiny.make_engine(tiers=[DictTier()]).tiers
        level = tiers.levels[0]
        offload = tiers.offload([], level)
        level.begin(offload)
        assert offload.left
        assert not offload.hopeless
        tiers.offloaded(offload, level)
        assert level.stats().faults == {}

    def test_what_is_let_go_of_before_it_was_copied_is_not_written(self) -> None:
        tier, data = DictTier(), bytearray(b"right")
        tiers = tiny.make_engine(tiers=[tier]).tiers
        pages = [StoredPage(Place(PageKey(bytes([n])), 0), PageKey(b""), 0, (), memoryview(data)) for n in range(3)]
        offload = tiers.offload(pages, tiers.levels[0])

        def reused_meanwhile(place: Place) -> None:
            if place.key == b"\x01":
                offload.cancel()
                data[:] = b"wrong"

        tier.before_write = reused_meanwhile
        offload.write()
        assert {place.key: bytes(page.data) for place, page in tier.pages.items()} == {b"\0": b"right", b"\1": b"right"}


# -- how many layers stay ----------------------------------------------------------------------------------------------


@given(st.floats(0, 1e3), st.floats(0, 10), st.integers(1, 80))
def test_the_layers_that_leave_do_so_while_the_prompt_is_computed(
    prefill_s: float, layer_s: float, layers: int
) -> None:
    stay = layers_that_stay(prefill_s, layer_s, layers)
    assert 0 <= stay <= layers
    assert (layers - stay) * layer_s <= prefill_s * (1 + 1e-9)


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.floats(1e-9, 1e-3), st.floats(0, 1e-6), st.floats(1e-9, 1e-2))
def test_fewer_stay_the_longer_the_prompt(a: int, b: int, token_s: float, position_s: float, kv_s: float) -> None:
    """Attention makes computing grow faster than KV does."""
    short, long = sorted((a, b))
    cost = PrefillCost(0.0, token_s, position_s)
    few, more = (layers_that_stay(cost.block(0, n), kv_s * n, 32) for n in (short, long))
    assert more <= few or long * token_s / kv_s > 1e6  # rounding alone
