"""What one engine does for one request, and for several at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.errors import ConfigError, ParamsError, PromptTooLong, RequestError
from kvloom.segment import Miss, Resident, Reused, Span, Why


def greedy(**changes: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 8, "ignore_eos": True} | changes)


PROMPT = tiny.random_prompt(40, 1)


class TestEnding:
    def test_max_tokens(self) -> None:
        done = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy(max_tokens=3))["a"]
        assert (len(done.tokens[0]), done.reasons[0]) == (3, "length")

    def test_none_fills_the_context(self) -> None:
        engine = tiny.make_engine(kv_bytes=160_000)
        done = tiny.run(engine, {"a": PROMPT}, greedy(max_tokens=None))["a"]
        assert len(PROMPT) + len(done.tokens[0]) == engine.max_len
        assert done.reasons[0] == "length"

    def test_stop_token(self) -> None:
        tokens = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy())["a"].tokens[0]
        done = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy(stop_token_ids=(tokens[2],)))["a"]
        last = done.updates[-1].deltas[-1]
        assert done.tokens[0] == tokens[: tokens.index(tokens[2]) + 1]
        assert (last.finish_reason, last.stop_reason) == ("stop", tokens[2])
        assert len(done.text[0]) == len(done.tokens[0]) - 1, "a stop token is not part of the text"

    def test_stop_string(self) -> None:
        whole = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy())["a"].text[0]
        done = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy(stop=whole[3:5]))["a"]
        assert done.text[0] == whole[: whole.index(whole[3:5])]
        assert done.updates[-1].deltas[-1].stop_reason == whole[3:5]

    def test_end_of_text_and_ignoring_it(self) -> None:
        towards_end = {"logit_bias": {0: 100.0}}
        ended = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy(ignore_eos=False, **towards_end))["a"]
        assert (ended.tokens[0], ended.reasons[0], ended.text[0]) == ([0], "stop", "")
        ignored = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy(**towards_end))["a"]
        assert ignored.tokens[0] == [0] * 8


class TestRefusing:
    @pytest.mark.parametrize(
        ("prompt", "params", "error", "words"),
        [
            ([], {}, RequestError, "empty"),
            ([1, 97], {}, RequestError, "97"),
            ([-1], {}, RequestError, "-1"),
            ([1.5], {}, RequestError, "whole numbers"),
            (["a"], {}, RequestError, "whole numbers"),
            ([1, None], {}, RequestError, "whole numbers"),
            ([True], {}, RequestError, "whole numbers"),
            ([1] * 512, {}, PromptTooLong, "512"),
            ([1], {"logit_bias": {500: 1.0}}, ParamsError, "500"),
            ([1], {"stop_token_ids": (97,)}, ParamsError, "97"),
        ],
    )
    def test_at_once_and_with_the_numbers(self, prompt: list, params: dict, error: type, words: str) -> None:
        engine = tiny.make_engine()
        with pytest.raises(error, match=words):
            engine.submit("a", prompt, greedy(**params))
        assert not engine.has_work
        engine.check()

    def test_a_prompt_beyond_the_kv_budget_names_both_numbers(self) -> None:
        engine = tiny.make_engine(kv_bytes=160_000)
        with pytest.raises(PromptTooLong, match=rf"{engine.max_len} tokens.*{engine.max_len + 1}.*160000 bytes"):
            engine.submit("a", [1] * (engine.max_len + 1), greedy())

    def test_the_longest_prompt_that_is_allowed_runs(self) -> None:
        engine = tiny.make_engine((24, None), kv_bytes=240_000)
        done = tiny.run(engine, {"a": tiny.random_prompt(engine.max_len - 1, 3)}, greedy())["a"]
        assert len(done.tokens[0]) == 1

    def test_a_budget_below_one_token(self) -> None:
        with pytest.raises(ConfigError, match="too small"):
            tiny.make_engine(kv_bytes=10_000)

    def test_a_request_id_in_use(self) -> None:
        engine = tiny.make_engine()
        engine.submit("a", [1], greedy())
        with pytest.raises(RequestError, match="in use"):
            engine.submit("a", [1], greedy())


class TestScores:
    def test_logprobs_of_the_answer(self) -> None:
        done = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy(logprobs=3))["a"]
        scores = [entry for update in done.updates for delta in update.deltas for entry in delta.logprobs]
        assert len(scores) == 8
        for token, entry in zip(done.tokens[0], scores, strict=True):
            assert next(iter(entry)) == token
            assert len(entry) == 3, "greedy: the chosen token is among the top three"
            assert entry[token].rank == 1

    @pytest.mark.parametrize("step_tokens", [7, 64])
    def test_prompt_logprobs_equal_a_plain_forward(self, step_tokens: int) -> None:
        engine = tiny.make_engine(step_tokens=step_tokens)
        tiny.run(engine, {"warm-up": PROMPT}, greedy())
        done = tiny.run(engine, {"a": PROMPT}, greedy(prompt_logprobs=0))["a"]
        scores = done.updates[-1].prompt_logprobs
        assert scores[0] is None
        model, attend = tiny.TinyModel(), tiny.DenseAttend()
        attend.windows = (None, None)
        hidden = model.forward(np.array(PROMPT), tiny._Positions(np.arange(len(PROMPT))), attend)
        expected = torch.log_softmax(torch.from_numpy(model.logits(hidden)), -1)
        for position in range(1, len(PROMPT)):
            token = PROMPT[position]
            assert scores[position][token].logprob == pytest.approx(float(expected[position - 1, token]), abs=1e-4)
        assert done.updates[-1].metrics.misses == [Miss(Span(0, 40), Why.NOT_ASKED)]


class TestSharing:
    def test_requests_that_arrive_together_compute_a_shared_prefix_once(self) -> None:
        engine = tiny.make_engine()
        shared = tiny.random_prompt(64, 2)
        done = tiny.run(engine, {f"r{n}": [*shared, n + 1, n + 2] for n in range(5)}, greedy(max_tokens=1))
        cached = [d.updates[-1].metrics.cached_tokens for d in done.values()]
        assert cached == [0, 64, 64, 64, 64]
        assert engine.stats().computed_tokens == 66 + 4 * 2

    def test_who_waits_for_an_aborted_request_computes_itself(self) -> None:
        engine = tiny.make_engine(step_tokens=8)
        engine.submit("first", PROMPT, greedy())
        engine.submit("second", PROMPT, greedy())
        engine.step()
        assert [s.owner for s in engine.scheduler.queues.waiting] == ["second/0"]
        engine.abort("first")
        assert tiny.drain(engine, ["second"])["second"].tokens[0] == tiny.oracle((None, None), PROMPT, 8)

    def test_salts_keep_apart_and_say_so(self) -> None:
        engine = tiny.make_engine()
        tiny.run(engine, {"a": PROMPT}, greedy(), cache=CacheParams(salt="one"))
        other = tiny.run(engine, {"b": PROMPT}, greedy(), cache=CacheParams(salt="two"))["b"].updates[-1].metrics
        assert other.cached_tokens == 0
        assert Why.OTHER_SALT in {miss.why for miss in other.misses}
        same = tiny.run(engine, {"c": PROMPT}, greedy(), cache=CacheParams(salt="one"))["c"].updates[-1].metrics
        assert same.cached_tokens == 39

    def test_the_running_twin_is_deduplicated(self) -> None:
        engine = tiny.make_engine()
        tiny.run(engine, {"a": PROMPT}, greedy(prompt_logprobs=0))
        pages = engine.stats().cache.cached_pages
        tiny.run(engine, {"b": PROMPT}, greedy(prompt_logprobs=0))
        assert engine.stats().cache.cached_pages == pages


class TestWhy:
    def reasons(self, engine: tiny.Engine, name: str, prompt: list[int]) -> list[tuple[Why, int, int]]:
        metrics = tiny.run(engine, {name: prompt}, greedy(max_tokens=1))[name].updates[-1].metrics
        return [(miss.why, miss.span.start, miss.span.stop) for miss in metrics.misses]

    def test_new_then_differs_then_last_token(self) -> None:
        engine = tiny.make_engine()
        assert self.reasons(engine, "a", PROMPT) == [(Why.NEW, 0, 40)]
        other = [*PROMPT[:20], *[t % 96 + 1 for t in PROMPT[20:]]]
        assert self.reasons(engine, "b", other) == [(Why.DIFFERS, 20, 32), (Why.NEW, 32, 40)]
        assert self.reasons(engine, "c", PROMPT) == [(Why.LAST_TOKEN, 39, 40)]

    def test_reset(self) -> None:
        engine = tiny.make_engine()
        self.reasons(engine, "a", PROMPT)
        engine.reset_cache()
        assert self.reasons(engine, "b", PROMPT)[0] == (Why.RESET, 0, 32)

    def test_evicted_by_need(self) -> None:
        engine = tiny.make_engine(kv_bytes=160_000)
        self.reasons(engine, "a", PROMPT)
        for n in range(8):
            self.reasons(engine, f"other{n}", tiny.random_prompt(60, 50 + n))
        assert engine.stats().cache.evicted_pages > 0
        assert self.reasons(engine, "b", PROMPT)[0][0] is Why.EVICTED

    def test_window_pages_given_back(self) -> None:
        engine = tiny.make_engine((8, None))
        prompt = tiny.random_prompt(96, 9)
        self.reasons(engine, "a", prompt)
        for entry in list(engine.ledger.index.entries.values()):
            if (page := entry.pages[1]) is not None and entry.position >= 80:
                engine.ledger.apply(tiny.Drop(page))
        assert self.reasons(engine, "b", prompt)[-1] == (Why.WINDOW, 80, 96)


class TestWindows:
    def test_memory_is_global_times_t_plus_local_times_window(self) -> None:
        engine = tiny.make_engine((24, 24, None), step_tokens=16)
        engine.submit("a", tiny.random_prompt(300, 4), greedy(max_tokens=100))
        _full, window = engine.layout.formats
        while engine.has_work:
            engine.step()
            if not engine.requests:
                break
            (sequence,) = engine.requests["a"].sequences
            computed = len(sequence.tokens) - len(sequence.kv.missing)
            assert sequence.kv.tables[0].count() * 16 >= computed
            # between steps: the window, rounded up to pages at both ends
            assert sequence.kv.tables[1].count() <= -(-24 // 16) + 1
            assert engine.ledger.bytes_of(window)[0] <= 3 * window.page_bytes

    def test_context_shows_segments(self) -> None:
        engine = tiny.make_engine(step_tokens=16)
        engine.submit("a", PROMPT, greedy())
        engine.step()
        (segment, rest) = engine.requests["a"].sequences[0].kv.context()
        assert (segment.span, segment.state) == (Span(0, 16), Resident("ram", "full"))
        assert rest.span == Span(16, 40)


def test_answers_do_not_depend_on_the_company() -> None:
    prompts = {f"p{n}": tiny.random_prompt(10 + 7 * n, n) for n in range(6)}
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=10, ignore_eos=True, logprobs=1)
    together = tiny.run(tiny.make_engine(step_tokens=24), prompts, params)
    for name, prompt in prompts.items():
        alone = tiny.run(tiny.make_engine(), {name: prompt}, params)[name]
        assert alone.tokens == together[name].tokens


def test_the_engine_seed_decides_when_the_request_has_none() -> None:
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    runs = [tiny.run(tiny.make_engine(seed=s), {"a": PROMPT}, params)["a"].tokens for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_who_waits_for_the_pages_of_another_is_deferred_and_steps_are_counted_by_rows() -> None:
    engine = tiny.make_engine(step_tokens=128)
    engine.submit("a", [*PROMPT, *range(40)], greedy())
    engine.submit("b", [*PROMPT, *range(40)], greedy())
    engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.deferred) == (1, 1, 1)
    assert stats.step_rows.total == stats.computed_tokens == len(PROMPT) + 40
    engine.step()
    assert engine.stats().deferred == 0
    while engine.has_work:
        engine.step()
    stats = engine.stats()
    assert stats.step_rows.total == stats.computed_tokens
    assert sum(stats.step_rows.counts) <= stats.steps


def test_forks_respect_the_limit_on_sequences() -> None:
    engine = tiny.make_engine(max_seqs=2)
    engine.submit("a", PROMPT, greedy(n=10, temperature=1.0, seed=1))
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.stats().running)
        engine.check()
    assert most == 2
    assert engine.stats().finished == {"length": 10}


def test_a_request_without_room_ends_once_whatever_its_other_continuations_were_given() -> None:
    """Two of three continuations fail in a step in which the third got rows."""
    engine = tiny.make_engine()
    engine.submit("a", PROMPT, greedy(n=3, temperature=1.0, seed=1))
    engine.submit("b", PROMPT, greedy())
    engine.step()

    class NoRoomForTwo:
        def run(self, queues, plan) -> None:
            for sequence in [s for s in queues.running if s.request.id == "a"][:2]:
                plan.no_room(sequence)

    stages = engine.scheduler.stages
    engine.scheduler.stages = (*stages, NoRoomForTwo())
    (update,) = [update for update in engine.step() if update.request_id == "a"]
    engine.scheduler.stages = stages
    assert (update.finished, "exhausted" in str(update.error)) == (True, True)
    assert sorted(delta.index for delta in update.deltas) == [0, 1, 2]
    engine.check()
    assert tiny.drain(engine, ["b"])["b"].tokens[0][-1] == tiny.oracle((None, None), PROMPT, 8)[-1]


def test_every_continuation_of_an_aborted_request_ends() -> None:
    engine = tiny.make_engine(step_tokens=8)
    engine.submit("a", PROMPT, greedy(n=3))
    engine.step()
    update = engine.abort("a")
    assert [(delta.index, delta.finish_reason) for delta in update.deltas] == [(n, "abort") for n in range(3)]


def test_a_fork_leaves_the_tail_of_its_prompt_findable() -> None:
    engine, prompt = tiny.make_engine(), tiny.random_prompt(28, 3)
    tiny.run(engine, {"a": prompt}, greedy(n=2, max_tokens=1))
    metrics = tiny.run(engine, {"b": prompt}, greedy(max_tokens=1))["b"].updates[-1].metrics
    assert metrics.cached_tokens == 27
    assert metrics.reused == [Reused(Span(0, 27), "ram")]


def test_aborting_at_any_moment_leaves_nothing() -> None:
    for steps in range(12):
        engine = tiny.make_engine((24, None), step_tokens=8)
        engine.submit("a", PROMPT, greedy(n=3, max_tokens=6))
        for _ in range(steps):
            engine.step()
        update = engine.abort("a")
        assert update is None or update.finished
        engine.check()
        assert engine.stats().cache.held_pages == 0
        assert engine.abort("a") is None


def test_metrics_tell_times_in_order() -> None:
    metrics = tiny.run(tiny.make_engine(), {"a": PROMPT}, greedy())["a"].updates[-1].metrics
    assert 0 <= metrics.queue_s <= metrics.ttft_s == metrics.token_times_s[0]
    assert metrics.token_times_s == sorted(metrics.token_times_s)
    assert metrics.token_times_s[-1] <= metrics.total_s
