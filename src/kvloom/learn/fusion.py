"""Learn how far fused answers are from those of a full prefill, by selector and by how much is computed again.

A context is cut into pieces, which are documents in another order than the text has them. What follows is read, not
sampled: its first tokens are the question, the others are the answer, at each of which distributions are compared.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError
from kvloom.eval.dictated import exact_answer, heard
from kvloom.learn.texts import Passage
from kvloom.policy.fusion import Fusion
from kvloom.policy.fusion.profile import Curve, Profile

RATIOS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_ASKED, _ANSWER = 16, 32
"""Tokens of the question, and of the answer at most."""

Documents = tuple[tuple[int, int], ...]


def learn_fusion(
    engine: Engine,
    fusions: Sequence[Fusion],
    passages: Sequence[Passage],
    size: int,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Profile:
    """A profile for the engine's model. ``size``: tokens of a document. ``advance`` is told the tokens of each passage
    that is done. The engine fuses whether that is faster or not, from now on.

    Raises EvalError when there is nothing to learn from.
    """
    after = [_told(passage) for passage in passages]
    if not fusions or not any(after):
        raise EvalError("there is nothing to learn from")
    engine.intake.worth = lambda cache, prompt_tokens: True
    ways = [(fusion.selector, ratio, replace(fusion, ratio=ratio, rule=None)) for fusion in fusions for ratio in RATIOS]
    kls: list[list[float]] = [[] for _ in ways]
    for number, (passage, told) in enumerate(zip(passages, after, strict=True)):
        prompt, documents = shuffled(passage.context, size, engine.lead, random.Random(f"fusion/{number}"))
        if told:
            found = _kls(engine, [*prompt, *told[:_ASKED]], documents, told[_ASKED:], [way for *_, way in ways])
            for mine, kl in zip(kls, found, strict=True):
                mine.append(kl)
        advance(len(passage.context))
    curves: dict[str, list[tuple[float, float]]] = {fusion.selector: [] for fusion in fusions}
    for (selector, ratio, _), mine in zip(ways, kls, strict=True):
        curves[selector].append((ratio, fmean(mine)))
    return Profile(engine.model.weights_id, _digest(passages, size), _as_curves(curves))


def shuffled(
    context: Sequence[int], size: int, lead: tuple[int, ...], rng: random.Random
) -> tuple[list[int], Documents]:
    """A context's pieces of ``size`` tokens in another order, behind ``lead``, with which it may begin; their spans."""
    first = len(lead) if tuple(context[: len(lead)]) == lead else 0
    pieces = [list(context[start : start + size]) for start in range(first, len(context), size)]
    rng.shuffle(pieces)
    tokens, documents = list(lead), []
    for piece in pieces:
        documents.append((len(tokens), len(tokens) + len(piece)))
        tokens += piece
    return tokens, tuple(documents)


def _told(passage: Passage) -> tuple[int, ...]:
    """Question and answer, of the longest text that may follow: all passages weigh the same. Empty: it is too short."""
    after = max(passage.after, key=len, default=())[: _ASKED + _ANSWER]
    return after if len(after) > _ASKED else ()


def _kls(
    engine: Engine, prompt: list[int], documents: Documents, answer: Sequence[int], ways: Sequence[Fusion]
) -> list[float]:
    params = SamplingParams(temperature=0.0, max_tokens=len(answer), ignore_eos=True)
    exact = exact_answer(engine, prompt, params, answer)
    caches = [CacheParams(fusion=fusion, documents=documents) for fusion in ways]
    groups = [caches[start : start + len(RATIOS)] for start in range(0, len(caches), len(RATIOS))]  # in little memory
    return [each.kl for group in groups for each in heard(engine, prompt, params, group, exact, own=False)]


def _as_curves(measured: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Curve]:
    return {selector: Curve.of(points) for selector, points in measured.items()}


def _digest(passages: Sequence[Passage], size: int) -> str:
    """Names what was read, and how it was cut."""
    shown = json.dumps([size, RATIOS, [[passage.context, passage.after] for passage in passages]])
    return hashlib.sha256(shown.encode()).hexdigest()[:16]
