"""Learn LU-KV's profile of a scorer: what each KV head loses, of what turns out to be needed, by keeping only so much.

Source: LU-KV (Tang et al. 2026, arXiv 2602.08585), the offline protocol, with full attention throughout. We differ:
what follows a context is not sampled from the model but read, so that what counts is known: facts of the context stated
once more, and the text as it goes on; and losses are averaged, not the divisions that are best for each (``lukv.py``
says why).

Legend: B lengths, L layers, K KV heads, S entries, G shares that are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import EvalError
from kvloom.eval.single import SingleSequence
from kvloom.eval.subject import Subject
from kvloom.learn.texts import Passage
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Floats, LayerContext, Scorer
from kvloom.policy.compression.needs import Attention, Cached, Following, Need
from kvloom.policy.compression.profile import MadeFor, Profile
from kvloom.policy.compression.utility import contribution_norms, loss_curves, utility
from kvloom.policy.compression.words import words_of

Doubles = npt.NDArray[np.float64]

SHARES_G: Doubles = np.concatenate([np.linspace(0, 0.1, 11), np.linspace(0.125, 1, 36)])
"""Finer where little is kept."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Looks at what the texts after a context attend to in it, by query head, and at the values there."""

    name: ClassVar[str] = "reading on"
    after: tuple[tuple[int, ...], ...]

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Attention(Following(self.after), "max", by_query_head=True), Cached.VALUES})

    def scores(self, context: LayerContext) -> Floats:
        return np.zeros(context.shape, np.float32)


def learn_profile(
    subject: Subject,
    scorer: Scorer,
    passages: Mapping[int, Sequence[Passage]],
    advance: Callable[[int], None] = lambda tokens: None,
) -> Profile:
    """A profile for the subject's model. ``passages``: by length. ``advance`` is told the tokens of each that is done.

    Raises EvalError when there is nothing to learn from.
    """
    if not passages or not all(passages.values()):
        raise EvalError("there is nothing to learn from")
    model = subject.engine.model
    owners = sorted(layer for group in model.kv_map.groups for layer in group.layers)
    maps = {layer: model.output_map(layer) for layer in owners}
    by_length = []
    for _, texts in sorted(passages.items()):
        losses = []
        for passage in texts:
            utilities = _utilities(subject, passage, maps)
            scores = _scores(subject, scorer, passage)
            losses.append(np.stack([loss_curves(utilities[n], scores[n], SHARES_G) for n in owners]))
            advance(len(passage.context))
        by_length.append(np.mean(losses, axis=0))
    losses_BLKG = np.minimum.accumulate(np.stack(by_length).astype(np.float32), axis=-1)
    made_for = MadeFor(model.weights_id, scorer.name, words_of(scorer), _digest(passages))
    return Profile(made_for, tuple(sorted(passages)), tuple(owners), SHARES_G, losses_BLKG)


def _utilities(subject: Subject, passage: Passage, maps: Mapping[int, Floats]) -> dict[int, Doubles]:
    """By layer, (K, S)."""
    found = {}
    for context in _contexts(subject, Compression(Reading(passage.after), 0.0), passage):
        norms_HS = contribution_norms(context.v_SKD, maps[context.layer], len(passage.context))
        found[context.layer] = utility(_seen(context), norms_HS, context.v_SKD.shape[1])
    return found


def _scores(subject: Subject, scorer: Scorer, passage: Passage) -> dict[int, Floats]:
    """By layer, (K, S)."""
    compression = Compression(scorer, 0.0)
    return {context.layer: compression.scores(context) for context in _contexts(subject, compression, passage)}


def _contexts(subject: Subject, compression: Compression, passage: Passage) -> list[LayerContext]:
    longest = max(map(len, passage.after))
    room = max(longest, len(passage.context) + 64)  # a scorer may have the context repeated
    sequence = SingleSequence(subject.engine, min(subject.engine.max_len, len(passage.context) + room))
    sequence.watch(compression, passage.context)
    sequence.append(passage.context)
    return list(sequence.contexts(compression))


def _seen(context: LayerContext) -> Floats:
    assert context.measured.attention_KS is not None
    return context.measured.attention_KS


def _digest(passages: Mapping[int, Sequence[Passage]]) -> str:
    """Names the texts."""
    shown = json.dumps([[length, [[p.context, p.after] for p in texts]] for length, texts in sorted(passages.items())])
    return hashlib.sha256(shown.encode()).hexdigest()[:16]
