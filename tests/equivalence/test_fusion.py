"""Fused prompts in the engine against a fused prefill in plain torch, for every selector and ratio."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import tiny
import tiny_decoder
from fused_in_torch import Fused, fused_prefill
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.model.decoder import Decoder
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
    return tiny.make_engine(model=model(), kv_bytes="16MiB", **given)


def asked(text: str, documents: tuple[tuple[int, int], ...], **given: object) -> CacheParams:
    return CacheParams(fusion=parse_fusion(text), documents=documents, **given)


def logprobs_of(done: tiny.Done) -> list[dict[int, float]]:
    found = [each for update in done.updates for delta in update.deltas for each in delta.logprobs or ()]
    return [{token: it.logprob for token, it in each.items()} for each in found]


def assert_like(done: tiny.Done, expected: Fused, tolerance: float = 2e-3) -> None:
    """The same tokens; and of the first one, the same distribution within the tolerance."""
    assert done.tokens[0] == expected.greedy(len(done.tokens[0]))
    exact = expected.logits_V.astype(np.float64)
    exact = exact - np.log(np.exp(exact - exact.max()).sum()) - exact.max()
    for token, logprob in logprobs_of(done)[0].items():
        assert logprob == pytest.approx(exact[token], abs=tolerance)


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
