"""Fused prompts of models in which some layers have a window, against plain torch, and what they hold meanwhile."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import tiny
import tiny_decoder
from dict_tier import DictTier
from fused_in_torch import assert_like, full_prefill, fused_prefill, logprobs_of
from kvloom.engine.cache_params import CacheParams, Source
from kvloom.engine.params import SamplingParams
from kvloom.engine.tiers import tiers as tiers_of
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.model.decoder import Decoder
from kvloom.policy.actions import Drop
from kvloom.policy.cost import PrefillCost
from kvloom.policy.fusion import parse_fusion

SCORED = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, logprobs=8)
LONG = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True, logprobs=2)
MODELS = {
    "gemma-like": ((40, 40, None, 40, None, 40), 500.0),
    "full first": ((None, 24, 24, None), 2_000.0),
    "windows only": ((30, 30, 30), None),
}
SELECTORS = ["reuse", "a3", "cacheblend", "epic", "fusionrag", "prophetkv", "recompute", "a3+epic"]
PREFIX, LENGTHS, QUESTION = 50, (40, 33, 50), 11


@functools.cache
def model(name: str) -> Decoder:
    windows, base = MODELS[name]
    return tiny_decoder.decoder(windows, activations="float32", local_base=base)


def made(seed: int = 1, prefix: int = PREFIX, question: int = QUESTION):
    documents, at = [], prefix
    for length in LENGTHS:
        documents.append((at, at + length))
        at += length
    return tiny.random_prompt(at + question, seed), tuple(documents)


def engine_of(name: str, **given: object) -> tiny.Engine:
    """It fuses whether that is worth it or not."""
    engine = tiny.make_engine(**{"model": model(name), "kv_bytes": "16MiB", "step_tokens": 32} | given)
    engine.intake.worth = lambda cache, prompt_tokens: True
    return engine


def asked(text: str, documents: tuple[tuple[int, int], ...], **given: object) -> CacheParams:
    return CacheParams(fusion=parse_fusion(text), documents=documents, **given)


def fused(engine: tiny.Engine, prompt: list[int], cache: CacheParams, params: SamplingParams = SCORED) -> tiny.Done:
    return tiny.run(engine, {"fused": prompt}, params, cache=cache)["fused"]


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("name", MODELS)
def test_the_engine_does_what_the_reference_does(name: str, selector: str) -> None:
    prompt, documents = made()
    done = fused(engine_of(name), prompt, asked(selector, documents))
    expected = fused_prefill(model(name), prompt, documents, parse_fusion(selector))
    assert done.updates[-1].metrics.fused.repaired == len(expected.rows)
    assert_like(done, expected)


@pytest.mark.parametrize("text", ["cacheblend:ratio=0.2,filters=3,wider=100", "cacheblend:check_layer=0,filters=2"])
def test_filters_do_what_the_reference_does(text: str) -> None:
    prompt, documents = made()
    done = fused(engine_of("gemma-like"), prompt, asked(text, documents))
    assert_like(done, fused_prefill(model("gemma-like"), prompt, documents, parse_fusion(text)))


@pytest.mark.parametrize("selector", ["a3:ratio=1", "fusionrag:ratio=1", "recompute"])
@pytest.mark.parametrize("name", MODELS)
def test_at_full_ratio_it_is_a_full_prefill(name: str, selector: str) -> None:
    prompt, documents = made(seed=3)
    done = fused(engine_of(name), prompt, asked(selector, documents), LONG)
    assert done.tokens[0] == full_prefill(model(name), prompt, room=80).greedy(60)


@pytest.mark.parametrize("name", MODELS)
def test_reuse_differs_from_a_full_prefill(name: str) -> None:
    """Or the other tests would show nothing."""
    prompt, documents = made(seed=3)
    reused = fused_prefill(model(name), prompt, documents, parse_fusion("reuse"))
    assert np.abs(reused.logits_V - full_prefill(model(name), prompt).logits_V).max() > 0.1


@pytest.mark.parametrize("lead", [(), (96,)], ids=["no lead", "lead"])
@pytest.mark.parametrize(("prefix", "question"), [(1, 5), (3, 70), (90, 1)])
def test_short_and_long_prefixes_and_questions(lead: tuple[int, ...], prefix: int, question: int) -> None:
    """A question that is longer than the window sees the documents in its first rows alone."""
    prompt, documents = made(5, prefix, question)
    prompt[: len(lead)] = lead
    done = fused(engine_of("gemma-like", lead=lead), prompt, asked("a3:ratio=0.3", documents), LONG)
    expected = fused_prefill(model("gemma-like"), prompt, documents, parse_fusion("a3:ratio=0.3"), lead, room=80)
    assert done.tokens[0] == expected.greedy(60)


@pytest.mark.parametrize("name", MODELS)
def test_layers_up_to_the_check_layer_have_the_bits_of_a_full_prefill(name: str) -> None:
    prompt, documents = made(prefix=21)
    ordinary, engine = engine_of(name, step_tokens=64), engine_of(name, step_tokens=24)
    tiny.run(ordinary, {"full": prompt}, SCORED)
    engine.submit("fused", prompt, SCORED, cache=asked("a3:ratio=0.3", documents))
    sequence, seen = engine.requests["fused"].sequences[0], 0
    while not sequence.num_generated:
        engine.step()
        kv = sequence.kv
        if kv.split is None or sequence.layerwise is None or sequence.layerwise.phase.value != "repair":
            continue
        for group, number in kv.split.tables.items():
            part = kv.tables[number]
            for block in ordinary.ledger.events.idle_blocks.values():
                index, page = block.position // 16, part.get(block.position // 16)
                if block.format.name != kv.tables[group].format.name or not part.is_full(index) or page is None:
                    continue
                assert bytes_of(engine, page, part.format.page_bytes) == bytes_of(
                    ordinary, block.page, part.format.page_bytes
                )
                seen += 1
    assert seen


def bytes_of(engine: tiny.Engine, page: int, size: int) -> bytes:
    return bytes(engine.ledger.arena.memory[page * GRAIN_BYTES : page * GRAIN_BYTES + size])


@pytest.mark.parametrize("name", MODELS)
def test_pages_of_documents_are_never_written_to(name: str) -> None:
    prompt, documents = made()
    engine = engine_of(name)
    fused(engine, prompt, asked("reuse", documents))
    blocks = engine.ledger.events.idle_blocks
    before = {block.page: bytes_of(engine, block.page, block.format.page_bytes) for block in blocks.values()}
    assert len(before) > 8
    others = {f"r{n}": tiny.random_prompt(PREFIX, 40 + n) + prompt[PREFIX:-3] + [n, 5, 6] for n in range(3)}
    tiny.run(engine, others, SCORED, cache=asked("a3:ratio=0.4", documents))
    tiny.run(engine, {"exact": prompt}, SCORED)
    after = engine.ledger.events.idle_blocks
    assert all(bytes_of(engine, page, after[page].format.page_bytes) == kept for page, kept in before.items())


@pytest.mark.parametrize("name", MODELS)
def test_neither_it_nor_others_have_other_bits_together(name: str) -> None:
    """Ordinary requests among them, one of which finds what another has computed."""
    prompts = {"a": made(1)[0], "b": made(2, 30)[0], "miss": tiny.random_prompt(90, 9), "hit": made(1)[0]}
    caches = {
        "a": asked("a3:ratio=0.3", made(1)[1]),
        "b": asked("cacheblend:check_layer=0", made(2, 30)[1]),
        "miss": CacheParams(),
        "hit": CacheParams(),
    }
    alone = {
        each: tiny.run(engine_of(name), {each: prompt}, SCORED, cache=caches[each])[each]
        for each, prompt in prompts.items()
    }
    engine = engine_of(name, step_tokens=20)
    tiny.run(engine, {"before": prompts["hit"]}, SCORED)
    for each, prompt in prompts.items():
        engine.submit(each, prompt, SCORED, cache=caches[each])
    together = tiny.drain(engine, list(prompts))
    assert together["hit"].updates[-1].metrics.cached_tokens > 90
    for each in prompts:
        assert logprobs_of(together[each]) == logprobs_of(alone[each])


@pytest.mark.parametrize("selector", ["reuse", "epic:tokens=4"])
def test_what_no_row_sees_any_more_is_let_go(selector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes by it."""
    prompt, documents = made()

    def begun() -> tiny.Engine:
        engine = engine_of("gemma-like")
        engine.submit("fused", prompt, LONG, cache=asked(selector, documents))
        while not engine.requests["fused"].sequences[0].num_generated:
            engine.step()
            engine.check()
        return engine

    engine = begun()
    kv = engine.requests["fused"].sequences[0].kv
    windows = engine.layout.windows
    for group, window in enumerate(windows):
        spans = [(3, 40), (3, 33), (4, 50)] if window is None else [(3, 41)]  # 41 before the question: 10 and 33 more
        assert len(kv.read_of(group)) == sum(pages for pages, _ in spans)
    done = logprobs_of(tiny.drain(engine, ["fused"])["fused"])
    assert engine.ledger.held_pages == 0
    monkeypatch.setattr("kvloom.engine.fusing.fusing.forget_passed", lambda *_: None)
    other = begun()
    assert len(other.requests["fused"].sequences[0].kv.read_of(0)) == 10
    assert logprobs_of(tiny.drain(other, ["fused"])["fused"]) == done


@pytest.mark.parametrize("group", [0, 1])
def test_a_page_that_one_kind_of_layers_has_lost_is_computed_again(group: int) -> None:
    prompt, documents = made()
    engine = engine_of("gemma-like")
    first = fused(engine, prompt, asked("a3:ratio=0.3", documents))
    start, _ = documents[0]
    head = tuple(prompt[start : start + 16])
    lost = [entry.pages[group] for entry in engine.ledger.index.entries.values() if entry.tokens == head]
    engine.ledger.apply(Drop(lost[0]))
    again = fused(engine, prompt, asked("a3:ratio=0.3", documents))
    assert again.updates[-1].metrics.fused.found == sum(LENGTHS) - 16
    assert logprobs_of(again) == logprobs_of(first)
    third = fused(engine, prompt, asked("a3:ratio=0.3", documents))
    assert third.updates[-1].metrics.fused.found == sum(LENGTHS)


def test_documents_come_from_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)
    prompt, documents = made()
    engine = engine_of("gemma-like", tiers=[DictTier()])
    first = fused(engine, prompt, asked("a3:ratio=0.3", documents))
    assert engine.tiers.flush(10)
    engine.ledger.reset()
    engine.prefill_cost.cost = PrefillCost(0.0, 1e-2, 0.0)  # loading is faster
    again = fused(engine, prompt, asked("a3:ratio=0.3", documents))
    assert again.updates[-1].metrics.fused.found == sum(LENGTHS)
    assert logprobs_of(again) == logprobs_of(first)


def test_continuations_share_it() -> None:
    prompt, documents = made()
    params = SamplingParams(temperature=1.0, seed=5, n=3, max_tokens=40, ignore_eos=True, logprobs=4)
    expected = fused(engine_of("gemma-like"), prompt, asked("a3", documents), params)
    crowded = fused(engine_of("gemma-like", max_seqs=2), prompt, asked("a3", documents), params)
    assert crowded.tokens == expected.tokens
    assert len(set(map(tuple, expected.tokens.values()))) > 1


def test_preempted_it_comes_to_the_same() -> None:
    prompt, documents = made()
    expected = fused(engine_of("gemma-like"), prompt, asked("a3", documents), LONG)
    engine = engine_of("gemma-like", kv_bytes="1300KiB", step_tokens=24)
    names = {"r0": prompt, "r1": [*prompt[:-2], 3, 4], "r2": [*prompt[:-2], 5, 6]}
    for name, each in names.items():
        engine.submit(name, each, LONG, cache=asked("a3", documents))
    done = tiny.drain(engine, list(names))
    assert logprobs_of(done["r0"]) == logprobs_of(expected)
    assert all(len(it.tokens[0]) == 60 for it in done.values())
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize("steps", range(1, 22, 4))
def test_aborted_at_any_time_nothing_is_left(steps: int) -> None:
    prompt, documents = made()
    engine = engine_of("gemma-like", step_tokens=24)
    tiny.abort_after(engine, steps, prompt, LONG, asked("a3+prophetkv", documents))


@pytest.mark.parametrize("selector", ["reuse", "a3:ratio=0.3", "recompute"])
@pytest.mark.parametrize("name", MODELS)
def test_parts_of_an_earlier_context(name: str, selector: str) -> None:
    earlier, question = tiny.random_prompt(150, 1), tiny.random_prompt(9, 77)
    prompt, documents = earlier[:50] + earlier[83:150] + question, ((50, 117),)
    source = Source(tuple(earlier), (83,))
    engine = engine_of(name)
    tiny.run(engine, {"earlier": earlier}, SCORED)
    done = fused(engine, prompt, asked(selector, documents, source=source), LONG)
    assert done.updates[-1].metrics.fused.found == 67
    fusion = parse_fusion(selector)
    expected = fused_prefill(model(name), prompt, documents, fusion, source=source, room=80)
    assert done.tokens[0] == expected.greedy(60)
