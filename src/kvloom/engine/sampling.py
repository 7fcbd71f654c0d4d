"""Picking the next token from one row of logits. A row's result depends on that row and its own generator only.

Order, as in vLLM: bias, penalties, what is not allowed, temperature, top-k, top-p, min-p, draw. Log probabilities are
those of the raw logits. numpy throughout: these are small arrays, and waking a team of threads for each costs more than
the work.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvloom.engine.grammar import Constraint
from kvloom.engine.outputs import Logprob, TokenLogprobs
from kvloom.engine.params import SamplingParams
from kvloom.engine.reasoning import ReasoningLimit
from kvloom.errors import NumericsError

_TOPS = (256, 4096, 32768)
"""Candidates to sort before all are: the filters seldom let more through."""

Logits = npt.NDArray[np.float32]
Allowed = npt.NDArray[np.bool_]
_NEVER = np.float32(-np.inf)
_Tokens = npt.NDArray[np.intp]


class NextScores(NamedTuple):
    """What the model says of one sequence's next token. ``argmax``: the first of the largest logits."""

    logits_V: Logits
    argmax: int

    def check(self) -> None:
        """Raise NumericsError unless a token can be picked. Minus infinity is fine: it rules a token out.

        One number tells of all: the argmax is the first NaN if there is one, and infinite with any that is.
        """
        if not math.isfinite(peak := self.logits_V.item(self.argmax)):
            raise _not_finite(peak)


@dataclass(slots=True)
class Sampler:
    """One sequence's random stream, and its counts of generated tokens if ``params`` want logits adjusted by them.

    ``generator`` is None for greedy decoding. ``constraint``: the form of the answer; ``ends``: tokens that end it.
    ``reasoning``: what ends its reasoning, until it is over.
    ``takes_argmax``: the next token is the argmax, whatever the logits are.
    """

    params: SamplingParams
    prompt: Sequence[int]
    generator: np.random.Generator | None
    constraint: Constraint | None = None
    ends: Sequence[int] = ()
    reasoning: ReasoningLimit | None = None
    generated: Counter[int] = field(default_factory=Counter)
    takes_argmax: bool = field(init=False)
    _early: int = field(init=False)
    _prompt_tokens: set[int] | None = None

    def __post_init__(self) -> None:
        self._early = self.params.min_tokens
        self._settle()

    @staticmethod
    def start(
        params: SamplingParams,
        prompt: Sequence[int],
        seeds: Sequence[int],
        constraint: Constraint | None = None,
        ends: Sequence[int] = (),
        reasoning: ReasoningLimit | None = None,
    ) -> Sampler:
        """``seeds`` together name the random stream: streams that differ in any of them are independent."""
        generator = None if params.greedy else np.random.default_rng([seed % 2**64 for seed in seeds])
        return Sampler(params, prompt, generator, constraint, list(ends), reasoning)

    @property
    def over(self) -> bool:
        """Whether the answer has the form that it must have, and nothing can follow."""
        return self.constraint is not None and self.constraint.over

    def draw(self, logits_V: Logits, argmax: int | None = None) -> int:
        """Choose a token; ``logits_V`` is not modified. ``argmax``: the first of its largest, if that is known."""
        if self.takes_argmax and argmax is not None:
            return argmax
        forced = None if self.reasoning is None else self.reasoning.next
        token = self._picked(logits_V, argmax) if forced is None else forced
        if self.params.adjusts_logits:
            self.generated[token] += 1
        if self.constraint is not None:
            self.constraint.take(token)
        if self._early or self.reasoning is not None:
            self._pass(token)
        return token

    def _pass(self, token: int) -> None:
        self._early = max(0, self._early - 1)
        if self.reasoning is not None:
            self.reasoning.take(token)
            self.reasoning = None if self.reasoning.over else self.reasoning
        self._settle()

    def _settle(self) -> None:
        free = self.constraint is None and self.reasoning is None and not self._early
        self.takes_argmax = free and self.generator is None and not self.params.adjusts_logits

    def _picked(self, logits_V: Logits, argmax: int | None) -> int:
        allowed_V = None if self.constraint is None and not self._early else self._allowed(len(logits_V))
        first = self.generator is None and not self.params.adjusts_logits
        if first and argmax is not None and (allowed_V is None or allowed_V[argmax]):
            return argmax
        return self._drawn(logits_V, allowed_V)

    def _drawn(self, logits_V: Logits, allowed_V: Allowed | None) -> int:
        """Bias and penalties first: nothing makes a token likely that is not allowed."""
        logits_V = self._adjusted(logits_V) if self.params.adjusts_logits else logits_V
        return self._choose(logits_V if allowed_V is None else np.where(allowed_V, logits_V, _NEVER))

    def _allowed(self, size: int) -> Allowed:
        """Of (V,). Before ``min_tokens``, tokens that end the answer are not, unless nothing else is."""
        allowed_V = np.ones(size, np.bool_) if self.constraint is None else self.constraint.allowed()
        if self._early and self.ends:
            longer_V = allowed_V.copy()
            longer_V[self.ends] = False
            return longer_V if longer_V.any() else allowed_V
        return allowed_V

    def _choose(self, logits_V: Logits) -> int:
        if self.generator is not None:
            with np.errstate(over="ignore"):  # what comes of it is checked
                scaled_V = logits_V / np.float32(self.params.temperature)
            return self._random(scaled_V, self.generator)
        top = int(np.argmax(logits_V))
        _check_peak(logits_V[top])
        return top

    def _adjusted(self, logits_V: Logits) -> Logits:
        p = self.params
        logits = logits_V.copy()
        for token, bias in p.biases.items():
            logits[token] += bias
        if p.repetition_penalty != 1.0:
            if self._prompt_tokens is None:
                self._prompt_tokens = set(self.prompt)
            seen = np.array(list(self._prompt_tokens | self.generated.keys()), dtype=np.intp)
            values = logits[seen]
            logits[seen] = np.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
        if self.generated and (p.presence_penalty or p.frequency_penalty):
            tokens = np.array(list(self.generated.keys()), dtype=np.intp)
            counts = np.array(list(self.generated.values()), dtype=np.float32)
            logits[tokens] -= p.frequency_penalty * counts + p.presence_penalty
        return logits

    def _random(self, logits_V: Logits, generator: np.random.Generator) -> int:
        peak = logits_V.max()
        _check_peak(peak)
        if not self.params.top_k and self.params.top_p == 1.0 and self.params.min_p == 0.0:
            return _pick(_weights(logits_V, peak), generator)
        values, tokens = self._candidates(logits_V)
        weights = _weights(values, values[0])
        keep = np.ones(len(weights), dtype=bool)
        if self.params.min_p > 0.0:
            keep &= weights >= self.params.min_p
        if self.params.top_p < 1.0:
            total = weights.sum() if self.params.top_k else _weights(logits_V, values[0]).sum()
            keep &= np.cumsum(weights) - weights < self.params.top_p * total
        return int(tokens[_pick(np.where(keep, weights, 0.0), generator)])

    def _candidates(self, logits_V: Logits) -> tuple[Logits, _Tokens]:
        """Logits in falling order with their tokens: at least all that the filters can let through."""
        size = len(logits_V)
        top_k, top_p, min_p = self.params.top_k, self.params.top_p, self.params.min_p
        if top_k:
            return _falling(logits_V, min(top_k, size))
        total = _weights(logits_V, logits_V.max()).sum()
        for count in _TOPS:
            values, tokens = _falling(logits_V, min(count, size))
            weights = _weights(values, values[0])
            if (top_p < 1.0 and weights.sum() >= top_p * total) or weights[-1] < min_p:
                return values, tokens
        return _falling(logits_V, size)


def _check_peak(value: np.floating[Any]) -> None:
    if not math.isfinite(value):
        raise _not_finite(value)


def _not_finite(value: float | np.floating[Any]) -> NumericsError:
    return NumericsError(
        f"the model's scores are not finite numbers ({value}): no token can be sampled",
        hint="its weights are damaged, or they overflow: check the file, or run it with float32 activations",
    )


def _weights(logits: Logits, top: np.float32) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):  # so far below the top, a weight is 0
        return np.exp((logits - top).astype(np.float64))


def _pick(weights: npt.NDArray[np.float64], generator: np.random.Generator) -> int:
    """An index, drawn in proportion to the weights."""
    cumulative = np.cumsum(weights)
    point = generator.random() * cumulative[-1]
    return min(int(np.searchsorted(cumulative, point, side="right")), len(weights) - 1)


def _falling(logits_V: Logits, count: int) -> tuple[Logits, _Tokens]:
    """The ``count`` largest in falling order; ties by token id, so that the order is one and the same everywhere."""
    tokens: _Tokens = np.arange(len(logits_V))
    if count < len(logits_V):
        threshold = np.partition(logits_V, -count)[-count]
        tokens = np.flatnonzero(logits_V >= threshold)
    order = tokens[np.argsort(-logits_V[tokens], kind="stable")][:count]
    return logits_V[order], order


def token_logprobs(logits_V: Logits, token: int, top: int, text_of: Callable[[int], str]) -> TokenLogprobs:
    """The chosen token's raw log probability and rank, then those of the ``top`` most likely. Raises NumericsError."""
    peak = logits_V.max()
    _check_peak(peak)
    normaliser = float(peak) + float(np.log(_weights(logits_V, peak).sum()))
    rank = int((logits_V > logits_V[token]).sum()) + 1
    result = {token: Logprob(float(logits_V[token]) - normaliser, rank, text_of(token))}
    if top:
        values, tokens = _falling(logits_V, min(top, len(logits_V)))
        for place, (value, other) in enumerate(zip(values.tolist(), tokens.tolist(), strict=True), start=1):
            result.setdefault(other, Logprob(value - normaliser, place, text_of(other)))
    return result
