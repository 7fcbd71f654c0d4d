"""Log-likelihoods of given texts, teacher-forced: the context of several continuations is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.engine.engine import Engine
from kvloom.errors import EvalError
from kvloom.eval.single import SingleSequence
from kvloom.model.base import Logits


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of a continuation: summed log probability in nats, and whether greedy decoding would have generated it."""

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
        wanted_R = np.array(targets[first : first + len(logits_RV)])
        total += float(log_softmax(logits_RV)[np.arange(len(wanted_R)), wanted_R].sum())
        greedy &= bool((logits_RV.argmax(axis=-1) == wanted_R).all())
        first += len(logits_RV)
    return Likelihood(total, greedy)


def log_softmax(logits_RV: Logits) -> npt.NDArray[np.float64]:
    """Log probabilities in nats, (R, V), computed in float64."""
    shifted_RV = logits_RV.astype(np.float64) - logits_RV.max(axis=-1, keepdims=True)
    logprobs_RV: npt.NDArray[np.float64] = shifted_RV - np.log(np.exp(shifted_RV).sum(axis=-1, keepdims=True))
    return logprobs_RV
