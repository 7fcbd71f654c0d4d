"""For the examples: chats in which passages are marked become prompts over documents.

Whoever puts a prompt together puts ``marked(passage)`` where the passage belongs, in any template; ``answered`` finds
the marks, and has the KV of what lies between them found, wherever in a prompt it was before. The marks themselves
never reach the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from kvloom import LLM, CacheParams, RequestOutput, SamplingParams, fusion_of

MODEL = "smollm2-135m-instruct"
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


def marked(passage: str) -> str:
    """A passage for a prompt. Marks that its text brings along are taken out: nobody's text marks anything."""
    return f"{_OPEN}{without_marks(passage).strip()}{_CLOSE}"


def without_marks(text: str) -> str:
    return text.replace(_OPEN, "").replace(_CLOSE, "")


def prompt_of(llm: LLM, text: str) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    """Token ids of a text, and where what is marked lies in them."""
    encode = llm.get_tokenizer().encode
    ids: list[int] = []
    documents = []
    for number, piece in enumerate(_MARKED.split(text)):  # what is marked has odd numbers
        start = len(ids)
        ids += encode(without_marks(piece), add_special_tokens=False)
        if number % 2 and len(ids) > start:
            documents.append((start, len(ids)))
    return ids, tuple(documents)


def answered(
    llm: LLM, messages: Sequence[Mapping[str, str]], params: SamplingParams, selector: str = "a3", ratio: float = 0.15
) -> RequestOutput:
    """Answer a chat. Passages are read as they were computed alone, and ``ratio`` of the rows is repaired."""
    ids, documents = prompt_of(llm, llm.get_tokenizer().chat_prompt(messages))
    cache = CacheParams(fusion=fusion_of(selector, ratio), documents=documents) if documents else CacheParams()
    return llm.generate([{"prompt_token_ids": ids}], params, cache_params=cache)[0]


def reused(output: RequestOutput) -> str:
    """One line on where the prompt's KV came from, and when the first token came."""
    metrics, tokens = output.metrics, len(output.prompt_token_ids)
    assert metrics.ttft_s is not None
    when = f"first token after {1e3 * metrics.ttft_s:.0f} ms"
    if metrics.fused is None:
        return f"prompt of {tokens} tokens, {metrics.cached_tokens} of them in the cache; {when}"
    fused = metrics.fused
    return (
        f"prompt of {tokens} tokens; passages {fused.documents}, of which {fused.found} were there and "
        f"{fused.repaired} were repaired; {when}"
    )


def embedded(llm: LLM, texts: Sequence[str]) -> list[list[float]]:
    """Vectors of length 1: the mean of a text's last hidden states, as `/v1/embeddings` has them."""
    params = SamplingParams(max_tokens=0, prompt_embedding=True)
    outputs = llm.generate([{"prompt": text} for text in texts], params, cache_params=CacheParams(write=False))
    return [output.embedding.tolist() for output in outputs if output.embedding is not None]
