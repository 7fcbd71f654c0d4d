"""Questions over passages, fused and not: what ``matkv`` and ``sustained-reuse`` ask."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kvloom import LLM, CacheParams, SamplingParams
from kvloom.eval.corpus import shipped_corpus
from kvloom.policy.fusion import parse_fusion

Passages = Sequence[Sequence[int]]

SELECTOR = "a3"
"""At its default ratio, 15%."""

FULL = CacheParams(read=False, write=False)
"""Everything is computed, in order, and nothing is left behind."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt over passages. ``documents``: where they lie in it."""

    tokens: list[int]
    documents: tuple[tuple[int, int], ...]

    def fused(self, selector: str = SELECTOR, read: bool = True) -> CacheParams:
        """``read``: whether passages are looked up, or all computed alone again, for nobody else."""
        return CacheParams(fusion=parse_fusion(selector), documents=self.documents, read=read, write=read)


@dataclass(frozen=True, slots=True)
class Answered:
    """``seconds``: from asking to the last token. ``cpu_s``: of all threads. ``found``: tokens of documents."""

    tokens: list[int]
    seconds: float
    cpu_s: float
    ttft_s: float
    found: int


def question_over(llm: LLM, passages: Passages, rng: random.Random, number: int) -> Question:
    """What comes before the passages, and after them, is never said again."""
    encode, sentences = llm.get_tokenizer().encode, shipped_corpus().sentences
    said = " ".join(rng.sample(list(sentences), 2))
    tokens = encode(f"Reader {number} says: {said} Answer with the help of the passages.\n\n")
    documents = []
    for passage in passages:
        documents.append((len(tokens), len(tokens) + len(passage)))
        tokens = [*tokens, *passage]
    about = rng.choice(sentences).split()[:6]
    asked = f"\n\nQuestion {number}: what do the passages say about {' '.join(about)}?\nAnswer:"
    return Question([*tokens, *encode(asked, add_special_tokens=False)], tuple(documents))


def answered(llm: LLM, question: Question, cache: CacheParams, tokens: int) -> Answered:
    """Ask, alone. ``tokens``: of the answer."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    (output,) = llm.generate([{"prompt_token_ids": question.tokens}], params, cache_params=cache)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    metrics = output.metrics
    assert metrics.ttft_s is not None
    found = 0 if metrics.fused is None else metrics.fused.found
    return Answered(list(output.outputs[0].token_ids), wall_s, cpu_s, metrics.ttft_s, found)
