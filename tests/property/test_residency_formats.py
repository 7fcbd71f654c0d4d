"""A hit gives the same tokens as a miss in every number format of KV; and what is recoded stays with its request."""

from __future__ import annotations

import dataclasses

import pytest

import tiny
from kvloom.codec import CODECS
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError
from kvloom.memory.arena import page_stride, slab_cost
from kvloom.policy.actions import Drop

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
WINDOWS = {"dense": (None, None), "hybrid": (24, None, 24)}


def engine(windows: tuple[int | None, ...], codec: str, **options: object) -> tiny.Engine:
    return tiny.make_engine(windows, kv_dtype=codec, **options)


def cold(windows: tuple[int | None, ...], codec: str, prompt: list[int], params: SamplingParams = GREEDY) -> list[int]:
    return tiny.run(engine(windows, codec), {"cold": prompt}, params)["cold"].tokens[0]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
class TestHitEqualsMiss:
    def test_whole_pages_and_a_hole(self, windows: tuple[int | None, ...], codec: str) -> None:
        prompt, warm = tiny.random_prompt(100, 1), engine(windows, codec)
        tiny.run(warm, {"warm-up": prompt}, GREEDY)
        for entry in list(warm.ledger.index.entries.values()):
            for page in [page for page in entry.pages if page is not None and 32 <= entry.position < 64]:
                warm.ledger.apply(Drop(page))
        done = tiny.run(warm, {"warm": prompt}, GREEDY)["warm"]
        assert done.tokens[0] == cold(windows, codec, prompt)
        assert done.updates[-1].metrics.cached_tokens > 0

    def test_a_tail_that_is_copied(self, windows: tuple[int | None, ...], codec: str) -> None:
        shared, warm = tiny.random_prompt(71, 2), engine(windows, codec)
        tiny.run(warm, {"warm-up": [*shared, 1, 2, 3]}, GREEDY)
        prompt = [*shared, 9, 9, 9, 9]
        done = tiny.run(warm, {"warm": prompt}, GREEDY)["warm"]
        assert done.tokens[0] == cold(windows, codec, prompt)
        assert done.updates[-1].metrics.cached_tokens == 71

    def test_forks_that_copy_on_write(self, windows: tuple[int | None, ...], codec: str) -> None:
        prompt = tiny.random_prompt(53, 4)
        params = SamplingParams(n=4, seed=5, temperature=1.0, max_tokens=12, ignore_eos=True)
        together = tiny.run(engine(windows, codec), {"fork": prompt}, params)["fork"]
        assert together.tokens[0] == cold(windows, codec, prompt, dataclasses.replace(params, n=1))
        assert len({tuple(tokens) for tokens in together.tokens.values()}) > 1

    def test_preemption(self, windows: tuple[int | None, ...], codec: str) -> None:
        """In room for one request and a slab more."""
        prompts = {f"p{n}": tiny.random_prompt(20, 10 + n) for n in range(24)}
        longer = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)
        layout = engine(windows, codec).layout
        slab = max(slab_cost(fmt, layout.slab_bytes) for fmt in layout.formats)
        tight = engine(windows, codec, kv_bytes=layout.bytes_for(81) + slab)
        done = tiny.run(tight, prompts, longer)
        assert tight.stats().preemptions > 0
        for name in ("p0", "p23"):
            assert done[name].tokens[0] == cold(windows, codec, prompts[name], longer)


@pytest.mark.parametrize("codec", CODECS)
def test_capacity_counts_what_pages_take(codec: str) -> None:
    made = engine((None, None), codec)
    (fmt,) = made.layout.formats
    tiny.run(made, {"a": tiny.random_prompt(64, 1)}, GREEDY)
    stats = made.stats().cache
    assert stats.cached_bytes == stats.cached_pages * page_stride(fmt)


def test_int8_holds_more_tokens_in_the_same_budget() -> None:
    room = {codec: engine((None, None), codec).layout.capacity_tokens(2**21, 10**6) for codec in ("int16", "int8")}
    assert room["int8"] > 1.1 * room["int16"]


def recode_old(made: tiny.Engine, request: str, keep: int) -> int:
    """An exact recent window: all sealed pages but the last ``keep`` become int8. Returns how many did."""
    count = 0
    for sequence in made.requests[request].sequences:
        for group, table in enumerate(sequence.kv.tables):
            for index, _ in list(table.pages())[:-keep]:
                if table.is_full(index) and not table.writable[index] and table.format_of(index) == table.format:
                    assert sequence.kv.recode(group, index, "int8")
                    count += 1
    made.check()
    return count


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_an_exact_recent_window_decodes_and_adds_up(windows: tuple[int | None, ...]) -> None:
    prompt, made = tiny.random_prompt(150, 7), engine(windows, "float32")
    longer = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    exact = cold(windows, "float32", prompt, longer)
    made.submit("lossy", prompt, longer)
    made.submit("exact", prompt, longer)
    got: dict[str, list[int]] = {"lossy": [], "exact": []}
    recoded = 0
    while made.has_work:
        for update in made.step():
            assert update.error is None
            for delta in update.deltas:
                got[update.request_id].extend(delta.token_ids)
        made.check()
        if "lossy" in made.requests and got["lossy"]:
            recoded += recode_old(made, "lossy", keep=2)
    assert recoded > 5
    assert got["exact"] == exact, "who shares its pages reads them as they were"
    assert len(got["lossy"]) == 24
    assert made.stats().cache.held_pages == 0
    warm = tiny.run(made, {"warm": prompt}, longer)["warm"]
    assert warm.tokens[0] == exact, "what others find is exact"
    assert warm.updates[-1].metrics.cached_tokens > 0
    stored = [page for entry in made.ledger.index.entries.values() for page in entry.pages if page is not None]
    formats = {made.ledger.arena.slab(made.ledger.arena.slab_of(page)).format for page in stored}
    assert {fmt.codec for fmt in formats} == {"float32"}


def test_nothing_that_was_computed_after_recoded_pages_is_found() -> None:
    prompt, made = tiny.random_prompt(80, 11), engine((None, None), "float32")
    longer = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)
    made.submit("lossy", prompt, longer)
    while not any(update.deltas for update in made.step()):
        pass
    assert recode_old(made, "lossy", keep=1) > 0
    (sequence,) = made.requests["lossy"].sequences
    before = sequence.kv.held_bytes
    while made.has_work:
        made.step()
        made.check()
    assert before > 0
    assert max(entry.position for entry in made.ledger.index.entries.values()) == 64, "the prompt's last whole page"
    follow_up = [*prompt, *sequence.tokens[80:120]]
    done = tiny.run(made, {"follow-up": follow_up}, GREEDY)["follow-up"]
    assert done.tokens[0] == cold((None, None), "float32", follow_up)
    assert done.updates[-1].metrics.cached_tokens == 80


def test_a_cut_into_a_recoded_page_is_written_again() -> None:
    prompt, made = tiny.random_prompt(80, 12), engine((None, None), "float32")
    made.submit("a", prompt, SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True))
    while not any(update.deltas for update in made.step()):
        pass
    (sequence,) = made.requests["a"].sequences
    kv = sequence.kv
    for index in (2, 3):
        assert kv.recode(0, index, "int8")
    with pytest.raises(InternalError):
        kv.recode(0, 40, "int8")
    kv.truncate(56)
    made.check()
    assert kv.tables[0].format_of(3).codec == "int8"
    kv.append(*prompt[56:81])
    assert kv.reserve(kv.ready(99))
    codecs = [kv.tables[0].format_of(index).codec for index in range(5)]
    assert codecs == ["float32", "float32", "int8", "int8", "float32"]
    assert kv.tables[0].writable[3]
    made.check()
    made.abort("a")
    made.check()
    assert made.stats().cache.held_pages == 0


def test_a_fork_reads_recoded_pages_as_they_are() -> None:
    windows, prompt = (None, None), tiny.random_prompt(100, 9)
    made = engine(windows, "float32", step_tokens=40)
    made.submit("a", prompt, SamplingParams(n=3, seed=1, temperature=1.0, max_tokens=8, ignore_eos=True))
    made.step()
    made.step()
    assert recode_old(made, "a", keep=1) > 0
    tokens = 0
    while made.has_work:
        tokens += sum(len(delta.token_ids) for update in made.step() for delta in update.deltas)
        made.check()
        for request in made.requests.values():
            for sequence in request.sequences:
                for table in sequence.kv.tables:
                    for index, page in table.pages():
                        slab = made.ledger.arena.slab(made.ledger.arena.slab_of(page))
                        assert slab.format == table.format_of(index)
    assert tokens == 3 * 8
