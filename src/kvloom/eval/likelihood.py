"""Log-likelihoods of given texts, teacher-forced: the context of several continuations is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kvloom.engine.engine import Engine
from kvloom.errors import EvalError
from kvloom.eval.single import SingleSequence


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of a continuation: summed log probability in nats, and whether greedy decoding would have said it."""

    logprob: float
    greedy: bool


def likelihoods(engine: Engine, context: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Likelihood]:
    """Likelihoods of continuations of one context, which has at least one token. float64 log-softmax.

    Raises EvalError when something is empty or does not fit the model.
    """
    if not context or not all(continuations):
        raise EvalError("a context and each of its continuations need at least one token")
    longest = len(context) + max(map(len, continuations)) - 1
    if longest > engine.context_limit:
        raise EvalError(f"{longest} tokens to score, but the model's context holds {engine.context_limit}")
    sequence = SingleSequence(engine, longest)
    if len(context) > 1:
        sequence.append(context[:-1])
    sequence.mark()
    found = []
    for continuation in continuations:
        sequence.rewind()
        found.append(_likelihood(sequence, [context[-1], *continuation[:-1]], continuation))
    return found


def _likelihood(sequence: SingleSequence, inputs: Sequence[int], targets: Sequence[int]) -> Likelihood:
    total, greedy, first = 0.0, True, 0
    for logits_RV in sequence.score(inputs):
        wanted_R1 = torch.tensor(targets[first : first + len(logits_RV)])[:, None]
        logprobs_RV = torch.log_softmax(logits_RV.double(), dim=-1)
        total += float(logprobs_RV.gather(1, wanted_R1).sum())
        greedy &= bool((logits_RV.argmax(dim=-1, keepdim=True) == wanted_R1).all())
        first += len(logits_RV)
    return Likelihood(total, greedy)
