"""What is heard of a dictated answer is what the model says of it, exactly and fused."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
import tiny_decoder
from fused_in_torch import full_prefill, fused_prefill, run
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.eval.dictated import Heard, exact_answer, heard
from kvloom.model.decoder import Decoder
from kvloom.policy.fusion import fusion_of, parse_fusion

PARAMS = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPT, DOCUMENTS = tiny.random_prompt(120, 1), ((10, 60), (60, 100))


def model() -> Decoder:
    return tiny_decoder.decoder((None,) * 4, activations="float32")


def engine() -> tiny.Engine:
    made = tiny.make_engine(model=model(), kv_bytes="16MiB")
    made.intake.worth = lambda cache, prompt_tokens: True
    return made


def way(text: str) -> CacheParams:
    return CacheParams(fusion=parse_fusion(text), documents=DOCUMENTS)


def log_softmax(logits_V: np.ndarray) -> np.ndarray:
    shifted_V = logits_V.astype(np.float64) - logits_V.max()
    return shifted_V - np.log(np.exp(shifted_V).sum())


def in_torch(words: list[int], text: str) -> list[float]:
    """KL at each of these words, of a fused prefill in plain torch from a full one."""
    exact, other = full_prefill(model(), PROMPT), fused_prefill(model(), PROMPT, DOCUMENTS, parse_fusion(text))
    found = []
    pair = [exact.logits_V, other.logits_V]
    for number, word in enumerate(words):
        p, q = map(log_softmax, pair)
        found.append(float((np.exp(p) * (p - q)).sum()))
        at = [len(PROMPT) + number]
        pair = [it.model.logits(run(it.model, it.kv, [word], at))[0] for it in (exact, other)]
    return found


def test_the_exact_answer_is_the_ordinary_one() -> None:
    found = exact_answer(engine(), PROMPT, PARAMS)
    assert found.answer == tiny.run(engine(), {"it": PROMPT}, PARAMS)["it"].tokens[0]
    assert [int(logits_V.argmax()) for logits_V in found.logits] == found.answer
    assert found.text == "".join(map(tiny.CharTokenizer.token_text, found.answer))


def test_it_says_what_it_is_told() -> None:
    words = [5, 9, 2, 40, 41, 3]
    found = exact_answer(engine(), PROMPT, PARAMS, words)
    assert found.answer == words
    after = exact_answer(engine(), [*PROMPT, *words[:3]], PARAMS)
    assert np.allclose(found.logits[3], after.logits[0], atol=1e-5)


@pytest.mark.parametrize("text", ["reuse", "a3:ratio=0.3", "prophetkv:ratio=0.1"])
def test_divergences_are_those_of_a_fused_prefill_in_torch(text: str) -> None:
    it = engine()
    exact = exact_answer(it, PROMPT, PARAMS)
    (found,) = heard(it, PROMPT, PARAMS, [way(text)], exact)
    assert found.kls == pytest.approx(in_torch(exact.answer, text), abs=2e-4, rel=0.02)
    assert found.kl > 1e-3


def test_together_and_alone_are_the_same_and_own_answers_are_ordinary_ones() -> None:
    texts = ["reuse", "a3", "epic:ratio=0.1", "recompute"]
    it = engine()
    exact = exact_answer(it, PROMPT, PARAMS)
    together = heard(it, PROMPT, PARAMS, list(map(way, texts)), exact)
    for text, found in zip(texts, together, strict=True):
        (alone,) = heard(engine(), PROMPT, PARAMS, [way(text)], exact)
        assert (alone.kls, alone.answer) == (found.kls, found.answer)
        ordinary = tiny.run(engine(), {"it": PROMPT}, PARAMS, cache=way(text))["it"]
        assert found.answer == ordinary.tokens[0]
    assert together[-1].answer == exact.answer
    assert together[-1].kl < 1e-4
    it.check()


def test_nobody_need_answer_himself() -> None:
    it = engine()
    exact = exact_answer(it, PROMPT, PARAMS)
    (found,) = heard(it, PROMPT, PARAMS, [CacheParams(fusion=fusion_of("a3"), documents=DOCUMENTS)], exact, own=False)
    assert isinstance(found, Heard)
    assert found.answer == []
    assert len(found.kls) == len(exact.answer)
    assert not it.has_work
