"""Fidelity without labels: what a policy does to the probabilities of a text that is given, token by token.

The text is cut in two. Its first part is the context: prefilled, then treated by the policy. The rest is
teacher-forced, over the exact context, over the treated one, and over none, and the distributions after every token
are compared. Log-softmax in float64. There are three views of it, none of which sees all:

- All tokens after the context. Most follow from those just before, so that whoever keeps recent entries looks good, and
  even who keeps none: what few tokens need the context for drowns.
- The first 32 of them, which have little before them but the context. What is needed later does not show.
- Those to recall: the exact model finds them e times likelier with the context than without. Damage to all others does
  not show; and as they are chosen by what the exact model got right, any change looks a little worse than it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.errors import EvalError
from kvloom.eval.likelihood import log_softmax
from kvloom.eval.policy import FLOOR, Policy
from kvloom.eval.single import SingleSequence
from kvloom.eval.stats import Interval, bootstrap
from kvloom.eval.subject import Subject
from kvloom.model.base import Indices, Logits
from kvloom.policy.compression import compression_of

Floats = npt.NDArray[np.float64]
_BLOCK = 32
"""Neighbouring tokens are alike, so the bootstrap draws blocks of them."""
_RECALL_BLOCK = 8
"""Tokens that need the context come in names, numbers and quotes."""
NEAR = 32
LEAST_GAIN = 1.0
"""Nats by which the context must help a token, for it to be one that is recalled."""


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """A text in tokens; the first ``cut`` are the context."""

    tokens: Sequence[int]
    cut: int


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """Per scored token: negative log-likelihoods and KL(exact || other) in nats, and whether the top token is one.

    ``nll_blind``: without the context; None when nobody looked.
    """

    nll_exact: Floats
    nll_other: Floats
    kl: Floats
    agrees: npt.NDArray[np.bool_]
    nll_blind: Floats | None = None

    @property
    def gain(self) -> Floats:
        """Nats by which the context helps the exact model."""
        assert self.nll_blind is not None, "nobody looked without the context"
        return self.nll_blind - self.nll_exact

    def at(self, chosen: slice | npt.NDArray[np.bool_]) -> TokenScores:
        """Some of the tokens."""
        blind = None if self.nll_blind is None else self.nll_blind[chosen]
        return TokenScores(self.nll_exact[chosen], self.nll_other[chosen], self.kl[chosen], self.agrees[chosen], blind)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Some tokens of all texts. ``kl`` in nats per token."""

    tokens: int
    kl: Interval
    top1_agreement: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall(View):
    """Tokens that need the context. ``kept``: share of what the context gives them, in nats, that is left.

    1 is the exact cache; 0 is a model that never saw the context; below 0 it is misled.
    """

    kept: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """All texts together. ``kl`` in nats per token; ``bytes_ratio``: KV held after the context, other by exact.

    ``recall``: None when no token needed the context, or nobody looked.
    """

    tokens: int
    perplexity_exact: float
    perplexity_other: float
    kl: Interval
    max_kl: float
    top1_agreement: Interval
    bytes_ratio: float
    near: View
    recall: Recall | None


def compare_logits(
    exact: Iterable[Logits], other: Iterable[Logits], targets: Sequence[int], blind: Iterable[Logits] | None = None
) -> TokenScores:
    """Score streams of logits blocks (R, V), cut alike, against the tokens that really follow.

    Row n predicts ``targets[n]``; rows beyond the targets are left out. Raises EvalError when a stream is too short.
    """
    parts = []
    first = 0
    for a_RV, b_RV in zip(exact, other, strict=False):
        wanted = np.array(targets[first : first + len(a_RV)], np.int64)
        if not len(wanted):
            break
        parts.append(_compare_block(a_RV[: len(wanted)], b_RV[: len(wanted)], wanted))
        first += len(wanted)
    if first < len(targets):
        raise EvalError(f"{len(targets)} tokens to score, but logits for {first} only")
    columns = [np.concatenate([part[n] for part in parts]) for n in range(4)]
    without = None if blind is None else _nll(blind, targets)
    return TokenScores(columns[0], columns[1], columns[2], columns[3].astype(bool), without)


def _compare_block(a_RV: Logits, b_RV: Logits, targets_R: Indices) -> list[Floats]:
    a, b = log_softmax(a_RV), log_softmax(b_RV)
    kl_R = (np.exp(a) * (a - b)).sum(axis=-1)
    rows_R = np.arange(len(targets_R))
    same_R = (a_RV.argmax(axis=-1) == b_RV.argmax(axis=-1)).astype(np.float64)
    return [-a[rows_R, targets_R], -b[rows_R, targets_R], np.maximum(kl_R, 0.0), same_R]


def _nll(stream: Iterable[Logits], targets: Sequence[int]) -> Floats:
    parts: list[Floats] = []
    first = 0
    for logits_RV in stream:
        wanted_R = np.array(targets[first : first + len(logits_RV)], np.int64)
        parts.append(-log_softmax(logits_RV)[np.arange(len(wanted_R)), wanted_R])
        first += len(wanted_R)
    return np.concatenate(parts)


def fidelity(
    subject: Subject,
    policy: Policy,
    texts: Sequence[Sequence[int]],
    context_share: float = 0.5,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Fidelity:
    """Compare a policy with the exact cache on texts given as token ids. Raises EvalError when one does not fit.

    ``context_share``: how much of each text is context. ``advance`` is told the tokens of every text that is done.
    """
    if not 0.0 < context_share < 1.0:
        raise EvalError(f"the context's fraction of a text must be between 0 and 1, got {context_share}")
    passages = [Passage(tokens, round(len(tokens) * context_share)) for tokens in texts]
    return fidelity_at(subject, policy, passages, advance)


def fidelity_at(
    subject: Subject,
    policy: Policy,
    passages: Sequence[Passage],
    advance: Callable[[int], None] = lambda tokens: None,
) -> Fidelity:
    """As ``fidelity``, with every text cut at a place of its own."""
    if not passages:
        raise EvalError("there is no text to compare on")
    scores, held = [], np.zeros(2)
    for number, passage in enumerate(passages):
        tokens, cut = passage.tokens, passage.cut
        if cut < 1 or len(tokens) - cut < 2 or len(tokens) > subject.engine.max_len:
            raise EvalError(
                f"text {number} has {len(tokens)} tokens; `{subject.name}` takes from 4 to {subject.engine.max_len}"
            )
        capacity = min(subject.engine.max_len, 2 * len(tokens))  # a method may compute more, and forget it
        exact, other = (SingleSequence(subject.engine, each) for each in (len(tokens), capacity))
        if policy.compression is not None:
            other.watch(policy.compression, tokens[:cut])
        for sequence in (exact, other):
            sequence.append(tokens[:cut])
        if policy.compression is not None:
            other.compress(policy.compression)
        held += exact.held_bytes, other.held_bytes
        read, targets = tokens[cut:-1], tokens[cut + 1 :]
        blind = _without_context(subject, len(tokens)).score(read)
        scores.append(compare_logits(exact.score(read), other.score(read), targets, blind))
        advance(len(tokens))
    return summarize(scores, float(held[1] / held[0]))


def noise_floor(subject: Subject, passages: Sequence[Passage]) -> View:
    """What comes of moving everything and dropping nothing: differences of that size say nothing about a policy."""
    keep_all, scores = compression_of(FLOOR), []
    for passage in passages:
        tokens, cut = passage.tokens, passage.cut
        exact, moved = (SingleSequence(subject.engine, len(tokens)) for _ in range(2))
        for sequence in (exact, moved):
            sequence.append(tokens[:cut])
        moved.compress(keep_all)
        scores.append(compare_logits(exact.score(tokens[cut:-1]), moved.score(tokens[cut:-1]), tokens[cut + 1 :]))
    return _view(scores, _BLOCK)


def summarize(scores: Sequence[TokenScores], bytes_ratio: float = 1.0) -> Fidelity:
    """All tokens of all texts together."""
    everything = _view(scores, _BLOCK)
    return Fidelity(
        tokens=everything.tokens,
        perplexity_exact=math.exp(np.concatenate([each.nll_exact for each in scores]).mean()),
        perplexity_other=math.exp(np.concatenate([each.nll_other for each in scores]).mean()),
        kl=everything.kl,
        max_kl=max(float(each.kl.max()) for each in scores),
        top1_agreement=everything.top1_agreement,
        bytes_ratio=bytes_ratio,
        near=_view([each.at(slice(NEAR)) for each in scores], _RECALL_BLOCK),
        recall=_recall(scores),
    )


def _view(scores: Sequence[TokenScores], block: int) -> View:
    return View(
        tokens=sum(len(each.kl) for each in scores),
        kl=_blocked([each.kl for each in scores], block),
        top1_agreement=_blocked([each.agrees.astype(np.float64) for each in scores], block),
    )


def _recall(scores: Sequence[TokenScores]) -> Recall | None:
    looked = [each for each in scores if each.nll_blind is not None]
    chosen = [part for part in (each.at(each.gain >= LEAST_GAIN) for each in looked) if len(part.kl)]
    if not chosen:
        return None
    gain = float(np.concatenate([each.gain for each in chosen]).mean())
    lost = _blocked([each.nll_other - each.nll_exact for each in chosen], _RECALL_BLOCK)
    view = _view(chosen, _RECALL_BLOCK)
    kept = Interval(1 - lost.mean / gain, 1 - lost.high / gain, 1 - lost.low / gain)
    return Recall(tokens=view.tokens, kl=view.kl, top1_agreement=view.top1_agreement, kept=kept)


def _without_context(subject: Subject, capacity: int) -> SingleSequence:
    """A sequence that begins where the context ends, behind the model's own first token if it has one."""
    sequence = SingleSequence(subject.engine, capacity)
    first = subject.tokenizer.bos_token_id
    if first is not None:
        sequence.append([first])
    return sequence


def _blocked(columns: Sequence[Floats], block: int) -> Interval:
    """Interval of the mean over tokens, from blocks; the mean itself is that of the tokens."""
    means = [part.mean() for values in columns for part in np.array_split(values, max(1, len(values) // block))]
    interval = bootstrap([float(mean) for mean in means])
    return Interval(float(np.concatenate(columns).mean()), interval.low, interval.high)
