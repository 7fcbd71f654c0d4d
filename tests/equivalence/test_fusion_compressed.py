"""Documents of which only what a compression leaves is read, against plain torch over the same entries."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import tiny
import tiny_decoder
from fused_in_torch import Left, assert_like, full_prefill, fused_prefill, logprobs_of
from kvloom.arrays import Floats
from kvloom.attend.lists import HeadLists
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.kv import Result
from kvloom.engine.params import SamplingParams
from kvloom.errors import KvloomError, ParamsError
from kvloom.memory.cells import decoded, labels
from kvloom.model.decoder import Decoder
from kvloom.policy.actions import Drop
from kvloom.policy.compression import Compression, compression_of
from kvloom.policy.compression.base import LayerContext
from kvloom.policy.compression.controls import KeepAll
from kvloom.policy.fusion import parse_fusion

SCORED = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, logprobs=8)
KNORM = compression_of("knorm", 0.5)
METHODS = {
    "knorm": KNORM,
    "keydiff, uneven": compression_of("keydiff", 0.6, allocator="adakv"),
    "sink_recent": compression_of("sink_recent", 0.7),
    "random": compression_of("random", 0.3, seed=3),
    "recode": compression_of("knorm", 0.6, compactor="recode"),
}
MERGED = {
    "random": compression_of("random", 0.6, compactor="d2o"),
    "keydiff": compression_of("keydiff", 0.4, compactor="d2o", allocator="adakv"),
}
SELECTORS = ["reuse", "a3:ratio=0.3", "epic:tokens=4", "fusionrag", "prophetkv:ratio=0.3", "recompute", "a3+epic"]


@functools.cache
def model(windows: tuple[int | None, ...] = (None,) * 4) -> Decoder:
    return tiny_decoder.decoder(windows, activations="float32")


def made(seed: int = 1, prefix: int = 7, lengths: tuple[int, ...] = (40, 33, 50), question: int = 11):
    documents, at = [], prefix
    for length in lengths:
        documents.append((at, at + length))
        at += length
    return tiny.random_prompt(at + question, seed), tuple(documents)


def engine_of(**given: object) -> tiny.Engine:
    """It fuses whether that is worth it or not."""
    engine = tiny.make_engine(**{"model": model(), "kv_bytes": "16MiB", "step_tokens": 32} | given)
    engine.intake.worth = lambda cache, prompt_tokens: True
    return engine


def asked(text: str, documents: tuple[tuple[int, int], ...], **given: object) -> CacheParams:
    return CacheParams(**{"fusion": parse_fusion(text), "documents": documents, "compression": KNORM} | given)


def fused(engine: tiny.Engine, prompt: list[int], cache: CacheParams, params: SamplingParams = SCORED) -> tiny.Done:
    return tiny.run(engine, {"fused": prompt}, params, cache=cache)["fused"]


def result_of(engine: tiny.Engine, tokens: Sequence[int]) -> Result:
    (found,) = [each for each in engine.results._by_key.values() if each.tokens.tolist() == list(tokens)]
    return found


def left_of(engine: tiny.Engine, tokens: Sequence[int]) -> list[Left]:
    """What is left of a text, as it is stored, all lists of a layer and head together."""
    found: dict[tuple[int, int], list[tuple[np.ndarray, ...]]] = {}
    for fmt, of_group in zip(engine.layout.formats, result_of(engine, tokens).lists, strict=True):
        for lists in of_group:
            assert isinstance(lists, HeadLists)
            for slot, layer in enumerate(fmt.layers):
                for head in range(lists.heads):
                    found.setdefault((layer, head), []).append(entries(engine, lists, slot * lists.heads + head))
    return [
        Left(layer, head, *(np.concatenate(parts) for parts in zip(*lists, strict=True)))
        for (layer, head), lists in found.items()
    ]


def entries(engine: tiny.Engine, lists: HeadLists, number: int) -> tuple[np.ndarray, ...]:
    memory, fmt = engine.ledger.arena.memory, lists.format
    parts = [(np.empty(0, np.int64), np.empty((0, fmt.k_dim), np.float32), np.empty((0, fmt.v_dim), np.float32))]
    biases = [np.empty(0, np.float32)]
    for at in range(*lists.bounds_L1[number : number + 2].tolist()):
        page, mask = int(lists.page_ids_P[at]), 0xFFFF if lists.masks_P is None else int(lists.masks_P[at])
        there = np.array([mask >> entry & 1 for entry in range(16)], np.bool_)
        (positions_S, bias_S), (k_SD, v_SD) = labels(memory, fmt, page), decoded(memory, fmt, page, 0, 0)
        parts.append((positions_S[there].astype(np.int64), k_SD[there], v_SD[there]))
        biases.append(bias_S[there])
    return *(np.concatenate(each) for each in zip(*parts, strict=True)), np.concatenate(biases)


def reference(engine: tiny.Engine, prompt: list[int], documents: tuple, text: str, lead: Sequence[int] = ()):
    left = [left_of(engine, [*lead, *prompt[start:stop]]) for start, stop in documents]
    return fused_prefill(engine.model, prompt, documents, parse_fusion(text), lead, left=left)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("method", METHODS)
def test_the_engine_does_what_the_reference_does(method: str, selector: str) -> None:
    prompt, documents = made()
    engine = engine_of()
    done = fused(engine, prompt, asked(selector, documents, compression=METHODS[method]))
    expected = reference(engine, prompt, documents, selector)
    assert done.updates[-1].metrics.fused.repaired == len(expected.rows)
    assert_like(done, expected)


@pytest.mark.parametrize("method", MERGED)
def test_merged_entries_are_read_as_they_are(method: str) -> None:
    prompt, documents = made(seed=2)
    engine = engine_of()
    done = fused(engine, prompt, asked("reuse", documents, compression=MERGED[method]))
    assert_like(done, reference(engine, prompt, documents, "reuse"))


@pytest.mark.parametrize("selector", ["reuse", "a3:ratio=0.3", "prophetkv"])
@pytest.mark.parametrize("shape", [(1, (30, 21)), (5, (2, 6)), (17, (16, 32)), (1, (70,))], ids=str)
def test_any_lengths_behind_a_lead_that_is_not_read(shape: tuple, selector: str) -> None:
    prefix, lengths = shape
    prompt, documents = made(seed=5, prefix=prefix, lengths=lengths, question=6)
    engine = engine_of(step_tokens=24, lead=(96,))
    done = fused(engine, prompt, asked(selector, documents))
    assert_like(done, reference(engine, prompt, documents, selector, (96,)))


def test_without_a_prefix() -> None:
    prompt, documents = made(prefix=0, lengths=(30, 21))
    engine = engine_of()
    done = fused(engine, prompt, asked("a3:ratio=0.2", documents))
    assert_like(done, reference(engine, prompt, documents, "a3:ratio=0.2"))


def test_it_is_another_answer_than_that_over_whole_documents() -> None:
    """Or the other tests would show nothing."""
    prompt, documents = made(seed=3)
    engine = engine_of()
    fused(engine, prompt, asked("reuse", documents, compression=compression_of("random", 0.8)))
    left = reference(engine, prompt, documents, "reuse")
    whole = fused_prefill(model(), prompt, documents, parse_fusion("reuse"))
    assert np.abs(left.logits_V - whole.logits_V).max() > 0.1


@pytest.mark.parametrize("selector", ["reuse", "a3:ratio=0.2", "fusionrag:ratio=0.2"])
def test_where_nothing_is_removed_it_is_a_fusion_of_whole_documents(selector: str) -> None:
    prompt, documents = made(seed=3)
    done = fused(engine_of(), prompt, asked(selector, documents, compression=compression_of("knorm", 0.0)))
    assert_like(done, fused_prefill(model(), prompt, documents, parse_fusion(selector)))


@pytest.mark.parametrize("selector", ["a3", "epic+a3", "recompute", "fusionrag", "prophetkv"])
def test_at_full_ratio_it_is_a_full_prefill(selector: str) -> None:
    prompt, documents = made(seed=3)
    done = fused(engine_of(), prompt, asked(f"{selector}:ratio=1", documents))
    assert_like(done, full_prefill(model(), prompt))


def test_what_stays_is_what_stays_of_the_same_text_by_itself() -> None:
    """The request of a passage leaves it under the same name, for whoever reads it as a document."""
    prompt, documents = made()
    expected = fused(engine_of(), prompt, asked("a3", documents))
    engine = engine_of()
    for start, stop in documents:
        cache = CacheParams(kept_as="chunk", compression=KNORM, compress_after=stop - start)
        tiny.run(engine, {"passage": [*prompt[start:stop], 5]}, SamplingParams(max_tokens=0), cache=cache)
    assert len(engine.results) == 3
    done = fused(engine, prompt, asked("a3", documents))
    assert logprobs_of(done) == logprobs_of(expected)
    assert done.updates[-1].metrics.fused.found == 123
    assert len(engine.results) == 3


def test_a_hit_has_the_bits_of_a_miss_and_computes_nothing() -> None:
    prompt, documents = made()
    engine = engine_of()
    first = fused(engine, prompt, asked("a3", documents))
    again = fused(engine, prompt, asked("a3", documents))
    metrics = again.updates[-1].metrics
    assert logprobs_of(again) == logprobs_of(first)
    assert first.updates[-1].metrics.fused.found == 0
    assert metrics.fused.found == 123
    assert metrics.fused.compression == "knorm:ratio=0.5"
    assert metrics.computed_tokens == int(130 * 0.15) + 11 + 4
    lost = result_of(engine, prompt[slice(*documents[1])])
    engine.ledger.apply(Drop(next(iter(lost.pages))))
    assert logprobs_of(fused(engine, prompt, asked("a3", documents))) == logprobs_of(first)
    engine.check()


def test_it_answers_no_other_request() -> None:
    """Neither exact ones, nor fused ones of whole documents, nor those that ask for another compression."""
    prompt, documents = made(prefix=20)
    fresh = engine_of()
    whole = fused(fresh, prompt, CacheParams(fusion=parse_fusion("a3"), documents=documents))
    other = fused(engine_of(), prompt, asked("a3", documents, compression=compression_of("knorm", 0.6)))
    engine = engine_of()
    fused(engine, prompt, asked("a3", documents))
    assert len(engine.results) == 3
    exact = tiny.run(engine, {"exact": prompt}, SCORED)["exact"]
    assert exact.tokens[0] == full_prefill(model(), prompt).greedy(5)
    assert exact.updates[-1].metrics.cached_tokens == 20
    again = fused(engine, prompt, CacheParams(fusion=parse_fusion("a3"), documents=documents))
    assert logprobs_of(again) == logprobs_of(whole)
    assert again.updates[-1].metrics.fused.found == 123, "exact KV of documents was computed on the way"
    assert again.updates[-1].metrics.fused.compression is None
    harder = fused(engine, prompt, asked("a3", documents, compression=compression_of("knorm", 0.6)))
    assert logprobs_of(harder) == logprobs_of(other)
    assert len(engine.results) == 6
    salted = fused(engine, prompt, asked("a3", documents, salt="theirs")).updates[-1].metrics.fused
    assert salted.found == 0


def test_without_permission_to_write_nothing_is_found() -> None:
    prompt, documents = made()
    engine = engine_of()
    done = fused(engine, prompt, asked("a3", documents, write=False))
    assert not len(engine.results)
    again = fused(engine, prompt, asked("a3", documents, read=False))
    assert again.updates[-1].metrics.fused.found == 0
    assert logprobs_of(again) == logprobs_of(done)
    assert engine.ledger.held_pages == 0


def test_many_on_the_same_documents_make_them_once_and_hold_them_once() -> None:
    prompt, documents = made()
    engine = engine_of(step_tokens=48)
    questions = {f"q{n}": prompt[:-9] + tiny.random_prompt(9, n) for n in range(4)}
    done = tiny.run(engine, questions, SCORED, cache=asked("a3", documents))
    assert sorted(it.updates[-1].metrics.fused.found for it in done.values()) == [0, 123, 123, 123]
    assert len(engine.results) == 3
    for name, it in done.items():
        assert_like(it, reference(engine, questions[name], documents, "a3"))
    assert engine.ledger.held_pages == 0


def test_with_others_beside_it_nobody_has_other_bits() -> None:
    prompts = {"a": made(seed=1)[0], "b": made(seed=2, prefix=30)[0], "c": tiny.random_prompt(90, 9)}
    caches = {
        "a": asked("a3:ratio=0.3", made(seed=1)[1]),
        "b": CacheParams(fusion=parse_fusion("a3:check_layer=0"), documents=made(seed=2, prefix=30)[1]),
        "c": CacheParams(compression=KNORM, compress_after=60),
    }
    alone = {
        name: tiny.run(engine_of(), {name: prompt}, SCORED, cache=caches[name])[name]
        for name, prompt in prompts.items()
    }
    engine = engine_of(step_tokens=20)
    for name, prompt in prompts.items():
        engine.submit(name, prompt, SCORED, cache=caches[name])
    together = tiny.drain(engine, list(prompts))
    for name in prompts:
        assert logprobs_of(together[name]) == logprobs_of(alone[name])
    assert engine.ledger.held_pages == 0


def test_it_holds_less_and_says_how_much() -> None:
    prompt, documents = made(lengths=(96, 96, 96))
    whole = fused(engine_of(), prompt, CacheParams(fusion=parse_fusion("reuse"), documents=documents))
    left = fused(engine_of(), prompt, asked("reuse", documents, compression=compression_of("knorm", 0.75)))
    assert left.updates[-1].metrics.kv_bytes < 0.5 * whole.updates[-1].metrics.kv_bytes


def test_continuations_share_it() -> None:
    prompt, documents = made()
    params = SamplingParams(temperature=1.0, seed=5, n=3, max_tokens=20, ignore_eos=True, logprobs=4)
    expected = fused(engine_of(), prompt, asked("a3", documents), params)
    crowded = fused(engine_of(max_seqs=2), prompt, asked("a3", documents), params)
    assert crowded.tokens == expected.tokens


def test_preempted_it_comes_to_the_same() -> None:
    prompt, documents = made()
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logprobs=2)
    expected = fused(engine_of(), prompt, asked("a3", documents), params)
    engine = engine_of(kv_bytes="1100KiB", step_tokens=24)
    names = {"r0": prompt, "r1": [*prompt[:-2], 3, 4], "r2": [*prompt[:-2], 5, 6], "r3": [*prompt[:-2], 7, 8]}
    for name, each in names.items():
        engine.submit(name, each, params, cache=asked("a3", documents))
    done = tiny.drain(engine, list(names))
    assert logprobs_of(done["r0"]) == logprobs_of(expected)
    assert all(len(it.tokens[0]) == 40 for it in done.values())
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize("steps", range(0, 16, 3))
def test_aborted_at_any_time_nothing_is_left(steps: int) -> None:
    prompt, documents = made()
    engine = engine_of(step_tokens=24)
    tiny.abort_after(engine, steps, prompt, SCORED, asked("a3+prophetkv", documents))


def test_a_method_that_fails_ends_its_own_request() -> None:
    @dataclass(frozen=True)
    class Broken(KeepAll):
        name: ClassVar[str] = "broken"

        def scores(self, context: LayerContext) -> Floats:
            raise RuntimeError("it broke")

    prompt, documents = made()
    engine = engine_of()
    expected = tiny.run(engine_of(), {"other": prompt[:50]}, SCORED)["other"]
    engine.submit("broken", prompt, SCORED, cache=asked("a3", documents, compression=Compression(Broken(), 0.5)))
    engine.submit("other", prompt[:50], SCORED)
    done = tiny.drain(engine, ["broken", "other"])
    assert isinstance(done["broken"].updates[-1].error, KvloomError)
    assert done["other"].tokens == expected.tokens
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize("windows", [(24, None, 24), (30, 30, 30)], ids=["hybrid", "windows only"])
def test_with_windows_documents_are_read_as_they_are_and_not_repaired(windows: tuple[int | None, ...]) -> None:
    prompt, documents = made()
    engine = engine_of(model=model(windows))
    done = fused(engine, prompt, asked("reuse", documents))
    assert_like(done, reference(engine, prompt, documents, "reuse"))
    assert engine.ledger.held_pages == 0
    with pytest.raises(ParamsError, match="layers with a window"):
        engine.submit("fused", prompt, SCORED, cache=asked("a3", documents))


def test_where_a_fusion_is_not_faster_the_answer_is_exact() -> None:
    prompt, documents = made()
    engine = engine_of()
    engine.intake.worth = lambda cache, prompt_tokens: False
    done = fused(engine, prompt, asked("a3", documents))
    assert done.tokens[0] == full_prefill(model(), prompt).greedy(5)
    assert (done.updates[-1].metrics.fused, done.updates[-1].metrics.compressed) == (None, None)
