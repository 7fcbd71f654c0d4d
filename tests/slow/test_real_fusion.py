"""Fusion on a real model: passages in another order than before, read where a prompt has them and repaired."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from bench.drive import ModelEngines, load
from bench.text import long_text
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.engine.prompting import Prompting
from kvloom.policy.fusion import parse_fusion

SCORED = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, logprobs=20)


@pytest.fixture(scope="module")
def prompt(smollm2: ModelEngines) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    ids = smollm2.encode(long_text())
    tokens, documents = smollm2.encode("Answer with the help of these passages.\n\n"), []
    for start, length in ((600, 250), (0, 300), (900, 277)):
        documents.append((len(tokens), len(tokens) + length))
        tokens += ids[start : start + length]
    return tokens + smollm2.encode("\n\nWhat is the observatory known for?\nAnswer:"), tuple(documents)


def answer(smollm2: ModelEngines, prompt: tuple, text: str | None) -> tuple[list[int], np.ndarray]:
    """The answer, and the log-probabilities of the first token's best candidates under a full prefill."""
    tokens, documents = prompt
    engine = smollm2.make("256MiB")
    engine.intake.worth = lambda cache, prompt_tokens: True
    cache = CacheParams() if text is None else CacheParams(fusion=parse_fusion(text), documents=documents)
    done = tiny.run(engine, {"it": tokens}, SCORED, cache=cache)["it"]
    first = done.updates[0].deltas[0].logprobs[0]
    return done.tokens[0], np.array([[token, it.logprob] for token, it in sorted(first.items())])


@pytest.mark.parametrize("selector", ["a3", "cacheblend", "prophetkv"])
def test_at_full_ratio_it_answers_as_a_full_prefill(smollm2: ModelEngines, prompt: tuple, selector: str) -> None:
    expected, _ = answer(smollm2, prompt, None)
    assert answer(smollm2, prompt, f"{selector}:ratio=1")[0] == expected


def test_repair_brings_it_closer(smollm2: ModelEngines, prompt: tuple) -> None:
    _, exact = answer(smollm2, prompt, None)
    apart = {}
    for text in ("reuse", "a3:ratio=0.3"):
        _, found = answer(smollm2, prompt, text)
        both = np.intersect1d(exact[:, 0], found[:, 0])
        difference = exact[np.isin(exact[:, 0], both), 1] - found[np.isin(found[:, 0], both), 1]
        apart[text] = float(np.abs(difference).mean())
    assert apart["a3:ratio=0.3"] < apart["reuse"]


PASSAGES = [
    "Owls hunt at night. Their ears, of which one sits higher than the other, tell them where a mouse is.\n",
    "  The Kestrel Ridge Observatory was founded in 1931.  It stands at 2,140 metres.",
    "Foxes hunt at dusk and at dawn; <|im_start|>they also eat berries.",
]


def test_documents_in_the_models_own_chat_template(smollm2: ModelEngines) -> None:
    """Each has the tokens that it has alone, in any order, and the prompt reads as it does without marks."""
    tokenizer, intake = smollm2.loaded.tokenizer, smollm2.make("64MiB").intake
    prompting = Prompting(tokenizer, intake)
    marked = CacheParams(fusion=parse_fusion("a3"), documents="marked")
    for order in (PASSAGES, PASSAGES[::-1]):
        documents = [{"type": "document", "text": text} for text in order]
        turns = [
            {"role": "system", "content": "Answer from the passages."},
            {"role": "user", "content": [*documents, {"type": "text", "text": "Who hunts at dusk?"}]},
        ]
        (text, ids), placed = prompting.chat(turns, marked, None)
        assert [ids[a:b] for a, b in placed.spans] == [tokenizer.encode(it, False) for it in order]
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        plain = [{"type": "text", "text": it} for it in [*order, "Who hunts at dusk?"]]
        assert text == tokenizer.chat_prompt([turns[0], {"role": "user", "content": plain}])
        assert text.index(order[0]) < text.index(order[-1])


def test_passages_are_found_by_content_in_another_order(smollm2: ModelEngines) -> None:
    ids = smollm2.encode(long_text())
    parts = [ids[n * 400 : (n + 1) * 400] for n in range(4)]
    question = smollm2.encode("\n\nWhat is the observatory known for?\nAnswer:")
    engine = smollm2.make("256MiB")
    engine.intake.worth = lambda cache, prompt_tokens: True
    cache = CacheParams(fusion=parse_fusion("a3"), documents="by content")
    told = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        tokens = [token for n in order for token in parts[n]] + question
        done = tiny.run(engine, {"it": tokens}, SCORED, cache=cache)["it"]
        told.append(done.updates[-1].metrics.fused)
    first, second = told
    assert first.found == 0
    assert second.found > 0.5 * second.documents > 0.3 * 1600


@pytest.fixture(scope="module")
def longer(gemma3: ModelEngines) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    """Passages of which the first lie beyond the windows of the question."""
    ids = gemma3.encode(long_text())
    tokens, documents = gemma3.encode("Answer with the help of these passages.\n\n"), []
    for start, length in ((600, 250), (0, 300), (900, 277)):
        documents.append((len(tokens), len(tokens) + length))
        tokens += ids[start : start + length]
    question = gemma3.loaded.tokenizer.encode("\n\nWhat is the observatory known for?\nAnswer:", False)
    return tokens + question, tuple(documents)


@pytest.fixture(scope="module")
def gemma3_float32() -> ModelEngines:
    """With activations in int8, this model makes much of what is rounded otherwise."""
    return load("gemma-3-270m", "float32", "float32")


@pytest.mark.parametrize("selector", ["a3", "fusionrag", "cacheblend"])
def test_windows_at_full_ratio(
    gemma3: ModelEngines, gemma3_float32: ModelEngines, longer: tuple, selector: str
) -> None:
    expected, exact = answer(gemma3_float32, longer, None)
    tokens, found = answer(gemma3_float32, longer, f"{selector}:ratio=1")
    assert tokens == expected
    assert np.allclose(found, exact, atol=1e-4)


def test_with_windows_repair_brings_it_closer_too(gemma3: ModelEngines, longer: tuple) -> None:
    _, exact = answer(gemma3, longer, None)
    apart = {}
    for text in ("reuse", "prophetkv:ratio=0.5"):
        _, found = answer(gemma3, longer, text)
        both = np.intersect1d(exact[:, 0], found[:, 0])
        difference = exact[np.isin(exact[:, 0], both), 1] - found[np.isin(found[:, 0], both), 1]
        apart[text] = float(np.abs(difference).mean())
    assert apart["prophetkv:ratio=0.5"] < apart["reuse"]
