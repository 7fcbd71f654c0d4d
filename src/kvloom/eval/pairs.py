"""Contexts and continuations, tokenized as in lm-evaluation-harness so that scores can be compared.

Both are encoded together, and the continuation is what follows as many tokens as the context alone has. White space at
the end of the context belongs to the continuation. Source: ``TemplateLM._encode_pair`` and ``HFLM`` of the harness;
inputs that abort a run there are scored here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from kvloom.engine.engine import Engine
from kvloom.eval.likelihood import Likelihood, likelihoods
from kvloom.eval.subject import Tokenizer

Pair = tuple[list[int], list[int]]
"""Tokens of a context, at least one, and of its continuation."""


def first_token(tokenizer: Tokenizer) -> int:
    """The context of a text that has none: the start token, or else an end token."""
    first = tokenizer.bos_token_id
    return min(tokenizer.eos_token_ids, default=0) if first is None else first


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text. The start token is not added to a text that has it, as from a chat template."""
    text = text.encode(errors="replace").decode()  # a data set may contain lone surrogates
    brought = tokenizer.decode([first_token(tokenizer)], skip_special_tokens=False)
    return tokenizer.encode(text, add_special_tokens=not (brought and text.startswith(brought)))


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Tokens of both. The continuation may have none: it may be empty, or merge into the context's last token."""
    first = first_token(tokenizer)
    if not context:
        tokens = tokenizer.encode(continuation.encode(errors="replace").decode(), add_special_tokens=False)
        return ([first], tokens[1:]) if tokens[:1] == [first] else ([first], tokens)
    before = encode_text(tokenizer, context.rstrip())
    return before or [first], encode_text(tokenizer, context + continuation)[len(before) :]


def cut_left(pair: Pair, limit: int) -> Pair:
    """Truncate a pair on the left to fit a context of ``limit``; the last token is never read."""
    context, continuation = pair
    kept = (context + continuation)[-(limit + 1) :]
    scored = min(len(continuation), len(kept) - 1)
    return kept[: len(kept) - scored], kept[len(kept) - scored :]


def score_pairs(engine: Engine, pairs: Sequence[Pair]) -> list[Likelihood]:
    """Likelihoods of the continuations, in the order of ``pairs``; equal contexts are computed once.

    An empty continuation has probability 1.
    """
    found = {index: Likelihood(0.0, True) for index in range(len(pairs))}
    by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, (context, continuation) in enumerate(pairs):
        if continuation:
            by_context[tuple(context)].append(index)
    for shared, indices in by_context.items():
        answers = likelihoods(engine, shared, [pairs[index][1] for index in indices])
        found.update(zip(indices, answers, strict=True))
    return [found[index] for index in range(len(pairs))]
