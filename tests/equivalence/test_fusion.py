"""Fused prompts in the engine against a fused prefill in plain torch, for every selector and ratio."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import tiny
import tiny_decoder
from fused_in_torch import assert_like, full_prefill, fused_prefill, logprobs_of
from kvloom.attend.lists import SequenceList
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.fusing import Fusing, Phase
from kvloom.engine.params import SamplingParams
from kvloom.engine.planner import Turned
from kvloom.engine.scheduler.fuse import Fuse
from kvloom.engine.scheduler.state import StepPlan
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.cells import cell
from kvloom.memory.format import PageFormat
from kvloom.model.decoder import Decoder
from kvloom.model.rope import RopeTable
from kvloom.model.spec import Llama3Scaling, RopeSpec
from kvloom.policy.fusion import parse_fusion

ANSWER = 5
SCORED = SamplingParams(temperature=0.0, max_tokens=ANSWER, ignore_eos=True, logprobs=8)
SELECTORS = ["a3", "cacheblend", "epic", "fusionrag", "prophetkv", "recompute", "a3+epic", "cacheblend+prophetkv"]


@functools.cache
def model(layers: int = 4) -> Decoder:
    return tiny_decoder.decoder((None,) * layers, activations="float32")


def made(seed: int = 1, prefix: int = 7, lengths: tuple[int, ...] = (40, 33, 50), gaps: int = 0, question: int = 11):
    """A prompt and its documents. Tokens ``gaps`` lie between two of them."""
    documents, at = [], prefix
    for length in lengths:
        documents.append((at, at + length))
        at += length + gaps
    length = documents[-1][1] + question
    return tiny.random_prompt(length, seed), tuple(documents)


def engine_of(**given: object) -> tiny.Engine:
    """It fuses whether that is worth it or not."""
    engine = tiny.make_engine(**{"model": model(), "kv_bytes": "16MiB"} | given)
    engine.intake.worth = lambda cache, prompt_tokens: True
    return engine


def asked(text: str, documents: tuple[tuple[int, int], ...], **given: object) -> CacheParams:
    return CacheParams(fusion=parse_fusion(text), documents=documents, **given)


def fused(engine: tiny.Engine, prompt: list[int], cache: CacheParams, params: SamplingParams = SCORED) -> tiny.Done:
    return tiny.run(engine, {"fused": prompt}, params, cache=cache)["fused"]


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("selector", SELECTORS)
def test_the_engine_does_what_the_reference_does(selector: str, ratio: float) -> None:
    prompt, documents = made()
    cache = asked(f"{selector}:ratio={ratio}", documents)
    done = fused(engine_of(step_tokens=32), prompt, cache)
    expected = fused_prefill(model(), prompt, documents, parse_fusion(f"{selector}:ratio={ratio}"))
    report = done.updates[-1].metrics.fused
    assert report is not None
    assert report.repaired == len(expected.rows)
    assert_like(done, expected)


@pytest.mark.parametrize("selector", ["a3", "epic:tokens=4", "prophetkv"])
@pytest.mark.parametrize("lead", [(), (96,)], ids=["no lead", "lead"])
@pytest.mark.parametrize("gaps", [0, 3])
@pytest.mark.parametrize("shape", [(1, (3, 4)), (5, (2, 6)), (17, (16, 32)), (1, (70,))], ids=str)
def test_any_lengths_and_leads(selector: str, lead: tuple[int, ...], gaps: int, shape: tuple) -> None:
    """Documents within a page, beside each other or with other tokens between them; questions on the same page."""
    prefix, lengths = shape
    prompt, documents = made(seed=5, prefix=prefix, lengths=lengths, gaps=gaps, question=6)
    prompt[: len(lead)] = lead
    done = fused(engine_of(step_tokens=24, lead=lead), prompt, asked(selector, documents))
    assert_like(done, fused_prefill(model(), prompt, documents, parse_fusion(selector), lead))


def test_documents_from_the_first_token_on() -> None:
    prompt, documents = made(prefix=0, lengths=(30, 21))
    done = fused(engine_of(), prompt, asked("a3:ratio=0.2", documents))
    assert_like(done, fused_prefill(model(), prompt, documents, parse_fusion("a3:ratio=0.2")))


@pytest.mark.parametrize("check_layer", [0, 2])
def test_another_check_layer(check_layer: int) -> None:
    prompt, documents = made()
    text = f"a3:check_layer={check_layer}"
    assert_like(
        fused(engine_of(), prompt, asked(text, documents)),
        fused_prefill(model(), prompt, documents, parse_fusion(text)),
    )


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(("filters", "wider", "check_layer"), [(1, 50, 1), (2, 100, 0), (3, 40, 1)])
def test_filters_do_what_the_reference_does(filters: int, wider: int, check_layer: int, ratio: float) -> None:
    prompt, documents = made(gaps=2)
    text = f"cacheblend:ratio={ratio},filters={filters},wider={wider},check_layer={check_layer}"
    expected = fused_prefill(model(6), prompt, documents, parse_fusion(text))
    done = fused(engine_of(model=model(6), step_tokens=24), prompt, asked(text, documents))
    assert done.updates[-1].metrics.fused.repaired == len(expected.rows) == min(int(ratio * 134), 123)
    assert_like(done, expected)


def test_filters_that_drop_nothing_change_no_bit() -> None:
    prompt, documents = made()
    plain, filtered = (
        logprobs_of(fused(engine_of(model=model(6)), prompt, asked(f"cacheblend:ratio=0.3{more}", documents)))
        for more in ("", ",filters=3,wider=0")
    )
    assert plain == filtered
    narrowed = fused(engine_of(model=model(6)), prompt, asked("cacheblend:ratio=0.3,filters=3", documents))
    assert logprobs_of(narrowed) != plain


def test_filters_beside_others_change_no_bit() -> None:
    prompts = {"a": made(seed=1)[0], "b": made(seed=2, prefix=30)[0], "c": tiny.random_prompt(90, 9)}
    caches = {
        "a": asked("cacheblend:ratio=0.3,filters=2", made(seed=1)[1]),
        "b": asked("cacheblend:check_layer=0,filters=1", made(seed=2, prefix=30)[1]),
        "c": CacheParams(),
    }
    alone = {
        name: tiny.run(engine_of(model=model(6)), {name: prompt}, SCORED, cache=caches[name])
        for name, prompt in prompts.items()
    }
    engine = engine_of(model=model(6), step_tokens=20)
    for name, prompt in prompts.items():
        engine.submit(name, prompt, SCORED, cache=caches[name])
    together = tiny.drain(engine, list(prompts))
    for name in prompts:
        assert logprobs_of(together[name]) == logprobs_of(alone[name][name])
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize("steps", range(4, 22, 3))
def test_aborted_between_filters_nothing_is_left(steps: int) -> None:
    prompt, documents = made()
    engine = engine_of(model=model(6), step_tokens=24)
    tiny.abort_after(engine, steps, prompt, SCORED, asked("cacheblend:ratio=0.3,filters=3", documents))


def test_filters_and_continuations() -> None:
    prompt, documents = made()
    params = SamplingParams(temperature=1.0, seed=5, n=3, max_tokens=20, ignore_eos=True, logprobs=4)
    cache = asked("cacheblend:ratio=0.3,filters=2", documents)
    expected = fused(engine_of(model=model(6)), prompt, cache, params)
    crowded = fused(engine_of(model=model(6), max_seqs=2), prompt, cache, params)
    assert crowded.tokens == expected.tokens


def test_a_document_twice() -> None:
    prompt, documents = made(lengths=(20, 20))
    (first, last), (again, end) = documents
    prompt[again:end] = prompt[first:last]
    done = fused(engine_of(), prompt, asked("a3", documents))
    assert_like(done, fused_prefill(model(), prompt, documents, parse_fusion("a3")))


@pytest.mark.parametrize("selector", ["a3", "cacheblend", "fusionrag", "prophetkv", "recompute"])
def test_at_full_ratio_it_is_a_full_prefill(selector: str) -> None:
    prompt, documents = made(seed=3)
    assert_like(fused(engine_of(), prompt, asked(f"{selector}:ratio=1", documents)), full_prefill(model(), prompt))


def test_reuse_differs_from_a_full_prefill() -> None:
    """Or the other tests would show nothing."""
    prompt, documents = made(seed=3)
    reused = fused_prefill(model(), prompt, documents, parse_fusion("reuse"))
    assert np.abs(reused.logits_V - full_prefill(model(), prompt).logits_V).max() > 0.1
    assert_like(fused(engine_of(), prompt, asked("reuse", documents)), reused)


@pytest.mark.parametrize("selector", ["reuse", "a3:ratio=0.1", "epic", "prophetkv:ratio=0.3"])
def test_one_document_right_behind_the_lead_is_exact(selector: str) -> None:
    prompt, documents = made(prefix=1, lengths=(75,), question=13)
    done = fused(engine_of(lead=prompt[:1]), prompt, asked(selector, documents))
    assert_like(done, full_prefill(model(), prompt))


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.6])
def test_layers_up_to_the_check_layer_have_the_bits_of_a_full_prefill(ratio: float) -> None:
    prompt, documents = made(prefix=21)
    ordinary = engine_of(step_tokens=64)
    tiny.run(ordinary, {"full": prompt}, SCORED)
    engine = engine_of(step_tokens=24)
    engine.submit("fused", prompt, SCORED, cache=asked(f"a3:ratio={ratio}", documents))
    while not engine.requests["fused"].sequences[0].num_generated:
        engine.step()
    kv = engine.requests["fused"].sequences[0].kv
    assert kv.split is not None
    table = kv.tables[kv.split.tables[0]]
    whole = {block.position // 16: block for block in ordinary.ledger.events.idle_blocks.values()}
    for index in range(len(prompt) // 16):
        assert _bytes(engine, table.ids[index], table.format) == _bytes(ordinary, whole[index].page, table.format)


def _bytes(engine: tiny.Engine, page: int, fmt: PageFormat) -> bytes:
    start = page * GRAIN_BYTES
    return bytes(engine.ledger.arena.memory[start : start + fmt.page_bytes])


def test_pages_of_documents_are_never_written_to() -> None:
    prompt, documents = made()
    engine = engine_of()
    fused(engine, prompt, asked("reuse", documents))
    before = {
        block.page: _bytes(engine, block.page, block.format) for block in engine.ledger.events.idle_blocks.values()
    }
    assert len(before) > 8
    others = {f"r{n}": tiny.random_prompt(7, 40 + n) + prompt[7:-3] + tiny.random_prompt(9, n) for n in range(3)}
    tiny.run(engine, others, SCORED, cache=asked("a3:ratio=0.4", documents))
    after = engine.ledger.events.idle_blocks
    assert all(_bytes(engine, page, after[page].format) == kept for page, kept in before.items())


def test_others_find_documents_and_only_documents() -> None:
    prompt, documents = made(prefix=20)
    engine = engine_of()
    cache = asked("a3", documents)
    first = fused(engine, prompt, cache).updates[-1].metrics
    assert first.fused is not None
    assert first.fused.found == 0
    (a, b), (c, d), (e, f) = documents
    moved = prompt[:20] + prompt[e:f] + prompt[a:b] + prompt[c:d] + prompt[f:]
    spans = ((20, 20 + f - e), (20 + f - e, 20 + f - e + b - a), (20 + f - e + b - a, f))
    again = fused(engine, moved, asked("a3", spans))
    metrics = again.updates[-1].metrics
    assert metrics.fused is not None
    assert metrics.fused.found == metrics.fused.documents == 123
    assert_like(again, fused_prefill(model(), moved, spans, parse_fusion("a3")))
    exact = tiny.run(engine, {"exact": prompt}, SCORED)["exact"]
    assert exact.updates[-1].metrics.cached_tokens == 20
    assert exact.tokens[0] == full_prefill(model(), prompt).greedy(ANSWER)
    salted = fused(engine, prompt, asked("a3", documents, salt="theirs")).updates[-1].metrics.fused
    assert salted is not None
    assert salted.found == 0
    assert salted.documents == 123


def test_with_others_beside_it() -> None:
    """Neither it nor they have other bits, whatever their check layers."""
    prompts = {"a": made(seed=1)[0], "b": made(seed=2, prefix=30)[0], "c": tiny.random_prompt(90, 9)}
    caches = {
        "a": asked("a3:ratio=0.3", made(seed=1)[1]),
        "b": asked("cacheblend:check_layer=0", made(seed=2, prefix=30)[1]),
        "c": CacheParams(),
    }
    alone = {
        name: tiny.run(engine_of(), {name: prompt}, SCORED, cache=caches[name]) for name, prompt in prompts.items()
    }
    engine = engine_of(step_tokens=20)
    for name, prompt in prompts.items():
        engine.submit(name, prompt, SCORED, cache=caches[name])
    together = tiny.drain(engine, list(prompts))
    for name in prompts:
        assert logprobs_of(together[name]) == logprobs_of(alone[name][name])


def test_continuations_share_it() -> None:
    prompt, documents = made()
    params = SamplingParams(temperature=1.0, seed=5, n=3, max_tokens=20, ignore_eos=True, logprobs=4)
    expected = fused(engine_of(), prompt, asked("a3", documents), params)
    crowded = fused(engine_of(max_seqs=2), prompt, asked("a3", documents), params)
    assert crowded.tokens == expected.tokens
    assert len(set(map(tuple, expected.tokens.values()))) > 1


def test_many_on_the_same_documents_compute_them_once() -> None:
    prompt, documents = made()
    engine = engine_of(step_tokens=48)
    questions = {f"q{n}": prompt[:-9] + tiny.random_prompt(9, n) for n in range(4)}
    done = tiny.run(engine, questions, SCORED, cache=asked("a3", documents))
    found = sorted(it.updates[-1].metrics.fused.found for it in done.values())
    assert found == [0, 123, 123, 123]
    for name, it in done.items():
        assert_like(it, fused_prefill(model(), questions[name], documents, parse_fusion("a3")))


def test_preempted_it_comes_to_the_same() -> None:
    prompt, documents = made()
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logprobs=2)
    expected = fused(engine_of(), prompt, asked("a3", documents), params)
    engine = engine_of(kv_bytes="740KiB", step_tokens=24)
    names = {"r0": prompt, "r1": [*prompt[:-2], 3, 4], "r2": [*prompt[:-2], 5, 6]}
    for name, each in names.items():
        engine.submit(name, each, params, cache=asked("a3", documents))
    done = tiny.drain(engine, list(names))
    assert engine.preempt.preemptions > 0
    assert logprobs_of(done["r0"]) == logprobs_of(expected)
    assert all(len(it.tokens[0]) == 40 for it in done.values())


@pytest.mark.parametrize("steps", range(0, 16, 2))
def test_aborted_at_any_time_nothing_is_left(steps: int) -> None:
    prompt, documents = made()
    engine = engine_of(step_tokens=24)
    tiny.abort_after(engine, steps, prompt, SCORED, asked("a3+prophetkv", documents))


def test_without_permission_to_write_nothing_is_found() -> None:
    prompt, documents = made()
    engine = engine_of()
    fused(engine, prompt, asked("a3", documents, write=False))
    again = fused(engine, prompt, asked("a3", documents))
    assert again.updates[-1].metrics.fused.found == 0


@pytest.mark.parametrize("selector", ["a3:ratio=0.4", "epic:ratio=0.3"])
def test_what_is_hidden_is_never_read(selector: str) -> None:
    """Old entries of rows that are computed again, and what a page has behind a document, may be anything."""
    prompt, documents = made()
    expected = logprobs_of(fused(engine_of(), prompt, asked(selector, documents)))
    engine = engine_of()
    engine.submit("fused", prompt, SCORED, cache=asked(selector, documents))
    sequence = engine.requests["fused"].sequences[0]
    fuse = next(stage for stage in engine.scheduler.stages if isinstance(stage, Fuse))
    while not isinstance(sequence.layerwise, Fusing) or sequence.layerwise.phase is not Phase.REPAIR:
        fuse.run(engine.scheduler.queues, StepPlan(0))
        if isinstance(sequence.layerwise, Fusing) and sequence.layerwise.phase is Phase.REPAIR:
            break
        assert engine.step() == []
    poisoned = 0
    for each in sequence.kv.lists[0]:
        if not each.format.labelled:
            poisoned += poison(engine, each)
    assert poisoned > 30
    assert logprobs_of(tiny.drain(engine, ["fused"])["fused"]) == expected


def poison(engine: tiny.Engine, it: SequenceList) -> int:
    """Make all of a list that its mask hides NaN; how many entries these are."""
    count = 0
    for page, mask in zip(it.page_ids_P.tolist(), it.masks_P.tolist(), strict=True):
        for entry in range(16):
            if mask >> entry & 1:
                continue
            count += 1
            for slot in range(len(it.format.layers)):
                for head in range(it.format.heads):
                    keys_B, values_B = cell(engine.ledger.arena.memory, it.format, page, slot, head)
                    keys_B.view(np.float32).reshape(-1, 16)[:, entry] = np.nan
                    values_B.view(np.float32).reshape(16, -1)[entry] = np.nan
    return count


@pytest.mark.parametrize("shift", [0, 1, 4095, 100_000, -1])
@pytest.mark.parametrize("scaling", [None, Llama3Scaling(8.0, 1.0, 4.0, 8192)], ids=["plain", "scaled"])
def test_turned_queries_meet_keys_as_keys_turned_anew_would(shift: int, scaling: Llama3Scaling | None) -> None:
    rope, rng, stored = RopeTable(RopeSpec(32, 500_000.0, scaling)), np.random.default_rng(0), 300
    rope.cover(stored + max(shift, 0) + 512)
    turns = Turned(rope.angles.astype(np.float32)).turns(np.array([shift], np.int32))
    assert all(map(np.array_equal, turns, rope.turns(np.array([shift], np.int32))))

    def rotated(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        a, b = np.split(x, 2)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin])

    query, key = rng.standard_normal((2, 32)).astype(np.float32)
    asking = stored + shift + 200
    anew = rotated(query, rope.cos[asking], rope.sin[asking]) @ rotated(
        key, rope.cos[stored + shift], rope.sin[stored + shift]
    )
    turned = rotated(rotated(query, rope.cos[asking], rope.sin[asking]), turns[0][0], turns[1][0])
    as_it_lies = turned @ rotated(key, rope.cos[stored], rope.sin[stored])
    far = 1e-5 if abs(shift) < 10_000 else 2e-2  # angles of float32, as models are trained with
    assert abs(as_it_lies - anew) < far * np.linalg.norm(query) * np.linalg.norm(key)
