"""Picking the next token from one row of logits. A row's result depends on that row and its own generator only.

Order, as in vLLM: bias, penalties, temperature, top-k, top-p, min-p, draw. Log probabilities are those of the raw
logits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from kvloom.engine.outputs import Logprob, TokenLogprobs
from kvloom.engine.params import SamplingParams

_QUICK_TOP = 1024


@dataclass(slots=True)
class Sampler:
    """One sequence's random stream and its counts of generated tokens. ``generator`` is None for greedy decoding."""

    params: SamplingParams
    prompt: Sequence[int]
    generator: torch.Generator | None
    generated: Counter[int] = field(default_factory=Counter)

    @staticmethod
    def start(params: SamplingParams, prompt: Sequence[int], seed: int) -> Sampler:
        generator = None if params.greedy else torch.Generator().manual_seed(seed % 2**63)
        return Sampler(params, prompt, generator)

    def draw(self, logits_V: torch.Tensor) -> int:
        """Choose a token; ``logits_V`` is float32 and is not modified."""
        adjusted = self._penalised(logits_V)
        if self.generator is None:
            token = int(torch.argmax(adjusted))
        else:
            token = self._random(adjusted / self.params.temperature)
        self.generated[token] += 1
        return token

    def _penalised(self, logits_V: torch.Tensor) -> torch.Tensor:
        p = self.params
        plain = p.repetition_penalty == 1.0 and not p.presence_penalty and not p.frequency_penalty
        if plain and not p.logit_bias:
            return logits_V
        logits = logits_V.clone()
        for token, bias in p.logit_bias.items():
            logits[token] += bias
        if p.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(self.prompt) | set(self.generated)))
            values = logits[seen]
            logits[seen] = torch.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
        if self.generated and (p.presence_penalty or p.frequency_penalty):
            tokens = torch.tensor(list(self.generated.keys()))
            counts = torch.tensor(list(self.generated.values()), dtype=torch.float32)
            logits[tokens] -= p.frequency_penalty * counts + p.presence_penalty
        return logits

    def _random(self, logits_V: torch.Tensor) -> int:
        values, tokens = self._candidates(logits_V)
        weights = torch.exp((values - values[0]).double())
        keep = torch.ones_like(weights, dtype=torch.bool)
        if self.params.min_p > 0.0:
            keep &= weights >= self.params.min_p
        if self.params.top_p < 1.0:
            total = torch.exp((logits_V - values[0]).double()).sum() if self.params.top_k == 0 else weights.sum()
            before = torch.cumsum(weights, 0) - weights
            keep &= before < self.params.top_p * total
        cumulative = torch.cumsum(torch.where(keep, weights, 0.0), 0)
        point = torch.rand((), dtype=torch.float64, generator=self.generator) * cumulative[-1]
        return int(tokens[torch.searchsorted(cumulative, point, right=True).clamp(max=len(tokens) - 1)])

    def _candidates(self, logits_V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits in falling order with their tokens: all that the filters can let through."""
        size = logits_V.numel()
        top_k, top_p, min_p = self.params.top_k, self.params.top_p, self.params.min_p
        if top_k:
            return _falling(logits_V, min(top_k, size))
        if top_p < 1.0 or min_p > 0.0:
            values, tokens = _falling(logits_V, min(_QUICK_TOP, size))
            weights = torch.exp((values - values[0]).double())
            enough = weights.sum() >= top_p * torch.exp((logits_V - values[0]).double()).sum()
            if (top_p < 1.0 and enough) or weights[-1] < min_p:
                return values, tokens
        return _falling(logits_V, size)


def _falling(logits_V: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest in falling order; ties by token id, so that the order is one and the same everywhere."""
    values, tokens = (
        torch.sort(logits_V, descending=True, stable=True) if count == logits_V.numel() else _top(logits_V, count)
    )
    return values[:count], tokens[:count]


def _top(logits_V: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    threshold = torch.topk(logits_V, count).values[-1]
    tokens = torch.nonzero(logits_V >= threshold).flatten()
    values, order = torch.sort(logits_V[tokens], descending=True, stable=True)
    return values, tokens[order]


def token_logprobs(logits_V: torch.Tensor, token: int, top: int, text_of: Callable[[int], str]) -> TokenLogprobs:
    """The chosen token's raw log probability and rank, then those of the ``top`` likeliest."""
    normaliser = torch.logsumexp(logits_V, dim=-1)
    chosen = logits_V[token]
    rank = int((logits_V > chosen).sum()) + 1
    result = {token: Logprob(float(chosen - normaliser), rank, text_of(token))}
    if top:
        values, tokens = _falling(logits_V, min(top, logits_V.numel()))
        for place, (value, other) in enumerate(zip(values.tolist(), tokens.tolist(), strict=True), start=1):
            result.setdefault(other, Logprob(float(value - float(normaliser)), place, text_of(other)))
    return result
