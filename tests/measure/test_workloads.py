"""Workloads ask what they say, of every engine the same; limits and bounds are what the arithmetic says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.bench.bounds import Bound, Demand, best_rates
from kvloom.bench.engine_target import EngineTarget
from kvloom.bench.limits import Limits, measure_limits, prefill_flop
from kvloom.bench.measuring import check_fits, measure
from kvloom.bench.target import Answer
from kvloom.bench.workloads import Figure, MultiTurn, SharedPrefix, Single, Together, random_tokens, text_tokens
from kvloom.errors import ConfigError
from kvloom.model.spec import ModelSpec, RopeSpec
from tiny import VOCAB, make_engine

SMALL = [Single(20, 5), Together(3, 10, 4), SharedPrefix(2, 32, 5, 3), MultiTurn(2, 2, 12, 4)]


class Recorder:
    """A target: the first token after a second, each further one half a second later."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], ...] | str] = []

    def reset(self) -> None:
        self.asked.append("reset")

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        self.asked.append(tuple(tuple(prompt) for prompt in prompts))
        return [Answer([7] * num_new, [1.0 + 0.5 * n for n in range(num_new)]) for _ in prompts]


def figures(workload: Single | Together | SharedPrefix | MultiTurn) -> tuple[list[Figure], Recorder]:
    recorder = Recorder()
    return workload.measure(recorder, random_tokens(1000, 1)), recorder


def test_single() -> None:
    found, recorder = figures(Single(128, 9, "of text"))
    assert found == [
        Figure("prefill 128 of text", 128.0, "tok/s"),
        Figure("decode after 128 of text", 2.0, "tok/s"),
    ]
    assert recorder.asked[0] == "reset"


def test_together() -> None:
    found, recorder = figures(Together(4, 64, 8))
    assert found == [Figure("4 x (64 in + 8 out)", 4 * 8 / 4.5, "out tok/s")]
    assert len(set(recorder.asked[1])) == 4


def test_shared_prefix_times_only_what_comes_after_the_prefix() -> None:
    found, recorder = figures(SharedPrefix(3, 50, 5, 3))
    assert found[0].value == 3 * 3 / 2.0
    (prefix,), prompts = recorder.asked[1:]
    assert all(prompt[:50] == prefix and len(prompt) == 55 for prompt in prompts)


def test_chats_take_turns_and_remember() -> None:
    found, recorder = figures(MultiTurn(2, 3, 10, 4))
    assert found == [Figure("2 chats x 3 turns, each to 42", 24 / (6 * 2.5), "out tok/s")]
    sent = [prompts[0] for prompts in recorder.asked[1:]]
    assert [len(prompt) for prompt in sent] == [10, 10, 24, 24, 38, 38]
    assert sent[4][:28] == (*sent[2], 7, 7, 7, 7)
    assert sent[0] != sent[1]


@pytest.mark.parametrize("workload", SMALL, ids=lambda workload: workload.name)
def test_the_sizes_that_a_workload_tells_are_those_it_asks_for(workload: Together) -> None:
    recorder = Recorder()
    answered: list[int] = []
    whole = recorder.run

    def run(prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        answered.append(len(prompts) * num_new)
        return whole(prompts, num_new)

    recorder.run = run  # type: ignore[method-assign]
    workload.measure(recorder, random_tokens(1000, 1))
    assert sum(answered) == workload.output_tokens
    lengths = [len(prompt) for prompts in recorder.asked if prompts != "reset" for prompt in prompts]
    new = getattr(workload, "num_new")  # noqa: B009
    assert max(lengths) + new == workload.longest
    assert workload.longest <= workload.kv_tokens


@given(st.integers(1, 2000), st.integers(0, 50))
def test_text_is_cut_from_the_text(count: int, seed: int) -> None:
    drawn = text_tokens(list(range(200, 300)), 50_000, seed)(count)
    assert len(drawn) == count
    assert all(later == 200 + (earlier - 199) % 100 for earlier, later in pairwise(drawn[1:]))


def test_texts_do_not_begin_alike() -> None:
    draw = text_tokens([5], 50_000, 1)
    assert len({draw(3)[0] for _ in range(50)}) == 50


def test_the_same_seed_draws_the_same() -> None:
    assert random_tokens(500, 3)(40) == random_tokens(500, 3)(40) != random_tokens(500, 4)(40)
    assert all(100 <= token < 500 for token in random_tokens(500, 3)(400))


def test_a_real_engine_answers_and_reuses() -> None:
    engine = make_engine()
    heard: list[int] = []
    target = EngineTarget(engine, heard.append)
    tokens = random_tokens(VOCAB, 1)
    for workload in SMALL:
        before = engine.account.hit_tokens
        assert all(figure.value > 0 for figure in workload.measure(target, tokens))
        reused = engine.account.hit_tokens - before
        assert (reused > 0) == isinstance(workload, SharedPrefix | MultiTurn)
        engine.check()
    assert sum(heard) == sum(workload.output_tokens for workload in SMALL)


def smollm2_spec(windows: tuple[int | None, ...] = (None,) * 30) -> ModelSpec:
    return ModelSpec(
        family="llama",
        width=576,
        num_layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        ffn_width=1536,
        vocab_size=49152,
        context_length=8192,
        norm_eps=1e-5,
        windows=windows,
        rope=RopeSpec(64, 1e5),
        attn_scale=0.125,
    )


def test_prefill_arithmetic() -> None:
    linear = 30 * 2 * 576 * (2 * 576 + 2 * 192 + 3 * 1536)
    assert prefill_flop(smollm2_spec(), 1) == linear + 4 * 576 * 30
    assert prefill_flop(smollm2_spec(), 100) == 100 * linear + 4 * 576 * 30 * 5050
    assert prefill_flop(smollm2_spec((None,) * 29 + (10,)), 100) == 100 * linear + 4 * 576 * (29 * 5050 + 955)


def test_limits_are_positive() -> None:
    limits = measure_limits(threads=1, repeats=1)
    assert limits.read_gb_s > 0.1
    assert limits.sgemm_gflop_s > 0.1


DEMAND = Demand(smollm2_spec(), 10**8, ((20_000.0, None), (1000.0, 512)))


def test_a_window_is_read_no_further_than_it_reaches() -> None:
    assert DEMAND.kv_bytes(100) == 100 * 21_000
    assert DEMAND.kv_bytes(2048) == 2048 * 20_000 + 512 * 1000


def test_bounds() -> None:
    bound = Bound(DEMAND, Limits(read_gb_s=20.0, sgemm_gflop_s=100.0))
    rates = best_rates(Single(512, 9), bound)
    assert rates["decode after 512"] == pytest.approx(20e9 / (10**8 + 512 * 21_000))
    assert rates["prefill 512"] == pytest.approx(512 * 100e9 / prefill_flop(smollm2_spec(), 512))
    reading = Bound(DEMAND, Limits(read_gb_s=20.0, sgemm_gflop_s=1e9))
    saved = reading.decode_s([2100] * 8) - reading.decode_s([2100] * 8, shared=2048)
    assert saved == pytest.approx(7 * DEMAND.kv_bytes(2048) / 20e9)
    for workload in SMALL:
        assert set(best_rates(workload, bound)) == {figure.name for figure in figures(workload)[0]}


def test_decoding_many_rows_is_bound_by_arithmetic() -> None:
    slow = Bound(DEMAND, Limits(read_gb_s=1e6, sgemm_gflop_s=1.0))
    assert slow.decode_s([10] * 4) == pytest.approx(4 * slow.decode_s([10]))


def test_measure_interleaves_and_keeps_every_round() -> None:
    bound = Bound(DEMAND, Limits(20.0, 100.0))
    rows = measure(make_engine(), SMALL[:2], 3, bound, lambda count: None)
    assert [row.name for row in rows] == ["prefill 20", "decode after 20", "3 x (10 in + 4 out)"]
    assert all(len(row.values) == 3 and row.share == row.median / row.limit for row in rows)


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    engine = make_engine()
    with pytest.raises(ConfigError, match=rf"2005 tokens, the engine holds {engine.max_len}"):
        check_fits([Single(2000, 5)], engine)
    check_fits(SMALL, engine)
