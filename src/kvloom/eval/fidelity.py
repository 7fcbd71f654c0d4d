"""Fidelity without labels: what a policy does to the probabilities of a text that is given, token by token.

The text is cut in two. Its first part is the context: prefilled, then treated by the policy. The rest is
teacher-forced, once over the exact context and once over the treated one, and the two distributions after every token
are compared. Log-softmax in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.errors import EvalError
from kvloom.eval.likelihood import log_softmax
from kvloom.eval.policy import Exact, KeepPolicy, Policy
from kvloom.eval.single import SingleSequence
from kvloom.eval.stats import Interval, bootstrap
from kvloom.eval.subject import Subject
from kvloom.model.base import Indices, Logits

Floats = npt.NDArray[np.float64]
_BLOCK = 32
"""Neighbouring tokens are alike, so the bootstrap draws blocks of them."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """Per scored token: negative log-likelihoods and KL(exact || other) in nats, and whether the top token is one."""

    nll_exact: Floats
    nll_other: Floats
    kl: Floats
    agrees: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """All texts together. ``kl`` in nats per token; ``bytes_ratio``: KV held after the context, other by exact."""

    tokens: int
    perplexity_exact: float
    perplexity_other: float
    kl: Interval
    max_kl: float
    top1_agreement: Interval
    bytes_ratio: float


def compare_logits(exact: Iterable[Logits], other: Iterable[Logits], targets: Sequence[int]) -> TokenScores:
    """Score two streams of logits blocks (R, V), cut alike, against the tokens that really follow.

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
    return TokenScores(columns[0], columns[1], columns[2], columns[3].astype(bool))


def _compare_block(a_RV: Logits, b_RV: Logits, targets_R: Indices) -> list[Floats]:
    a, b = log_softmax(a_RV), log_softmax(b_RV)
    kl_R = (np.exp(a) * (a - b)).sum(axis=-1)
    rows_R = np.arange(len(targets_R))
    same_R = (a_RV.argmax(axis=-1) == b_RV.argmax(axis=-1)).astype(np.float64)
    return [-a[rows_R, targets_R], -b[rows_R, targets_R], np.maximum(kl_R, 0.0), same_R]


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
        raise EvalError(f"the context's share of a text must be between 0 and 1, got {context_share}")
    if not texts:
        raise EvalError("there is no text to compare on")
    scores, held = [], np.zeros(2)
    for number, tokens in enumerate(texts):
        cut = round(len(tokens) * context_share)
        if cut < 1 or len(tokens) - cut < 2 or len(tokens) > subject.engine.max_len:
            raise EvalError(
                f"text {number} has {len(tokens)} tokens; `{subject.name}` takes from 4 to {subject.engine.max_len}"
            )
        exact, other = (SingleSequence(subject.engine, len(tokens)) for _ in range(2))
        for sequence in (exact, other):
            sequence.append(tokens[:cut])
        _treat(other, policy)
        held += exact.held_bytes, other.held_bytes
        rest = tokens[cut:]
        scores.append(compare_logits(exact.score(rest[:-1]), other.score(rest[:-1]), rest[1:]))
        advance(len(tokens))
    return summarize(scores, float(held[1] / held[0]))


def summarize(scores: Sequence[TokenScores], bytes_ratio: float = 1.0) -> Fidelity:
    """All tokens of all texts together."""
    kl = np.concatenate([each.kl for each in scores])
    return Fidelity(
        tokens=len(kl),
        perplexity_exact=math.exp(np.concatenate([each.nll_exact for each in scores]).mean()),
        perplexity_other=math.exp(np.concatenate([each.nll_other for each in scores]).mean()),
        kl=_blocked([each.kl for each in scores]),
        max_kl=float(kl.max()),
        top1_agreement=_blocked([each.agrees.astype(np.float64) for each in scores]),
        bytes_ratio=bytes_ratio,
    )


def _treat(sequence: SingleSequence, policy: Policy) -> None:
    if isinstance(policy, KeepPolicy):
        sequence.retain(policy)
    elif not isinstance(policy, Exact):
        raise EvalError(f"policy `{policy.name}` says neither that it is exact nor what it keeps")


def _blocked(columns: Sequence[Floats]) -> Interval:
    """Interval of the mean over tokens, from blocks; the mean itself is that of the tokens."""
    means = [block.mean() for values in columns for block in np.array_split(values, max(1, len(values) // _BLOCK))]
    interval = bootstrap([float(mean) for mean in means])
    return Interval(float(np.concatenate(columns).mean()), interval.low, interval.high)
