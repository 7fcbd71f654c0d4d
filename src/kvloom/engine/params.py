"""Sampling parameters of a request. Names follow vLLM's where it has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvloom.engine.reasoning import ReasoningBudget
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError

MAX_SAMPLES = 128
MAX_LOGPROBS = 100
MAX_STOPS = 64
_REPETITION_PENALTIES = 0.01, 100.0
"""Logits are divided by it, or multiplied: far from 1 nothing is left of them, or they overflow."""
_GREEDY_BELOW = 1e-5  # dividing logits by less leaves one candidate anyway, or overflows


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample tokens and when to stop. Raises ParamsError on construction when a value is out of range.

    temperature: 0 (below 1e-5) is greedy. top_k: 0 or -1 keeps all. top_p, min_p: probabilities. seed: None derives one
    from the engine's. max_tokens: None means as many as fit; 0 computes only the prompt, and its log probabilities if
    requested. min_tokens: before so many, no token and no stop string ends the answer; only its form does,
    where nothing can follow. logprobs / prompt_logprobs: number of top alternatives to report (0 reports only the
    sampled token; None reports nothing). structured_outputs: the form that the answer must have.
    reasoning: how long the answer's reasoning may get, and its marks; not with a form, which has none.
    prompt_embedding: report the mean of the prompt's last hidden states, of length 1; no KV is reused then.
    """

    n: int = 1
    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = field(default_factory=dict)
    seed: int | None = None
    stop: str | tuple[str, ...] | list[str] | None = ()
    stop_token_ids: tuple[int, ...] | list[int] | None = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: StructuredOutputsParams | None = None
    reasoning: ReasoningBudget | None = None
    prompt_embedding: bool = False

    def __post_init__(self) -> None:
        stops = (self.stop,) if isinstance(self.stop, str) else _sequence("stop", self.stop)
        object.__setattr__(self, "stop", stops)
        object.__setattr__(self, "stop_token_ids", _sequence("stop_token_ids", self.stop_token_ids))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias or {}))
        object.__setattr__(self, "top_k", 0 if self.top_k == -1 else self.top_k)
        _whole("n", self.n, 1, MAX_SAMPLES)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 0, None)
        _whole("min_tokens", self.min_tokens, 0, None)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParamsError(
                f"min_tokens is {self.min_tokens}, more than max_tokens, which is {self.max_tokens}", param="min_tokens"
            )
        if self.prompt_embedding and self.max_tokens != 0:
            raise ParamsError("an embedding is of a prompt alone: max_tokens must be 0", param="prompt_embedding")
        _real("temperature", self.temperature, 0.0, 100.0)
        _whole("top_k", self.top_k, 0, None)
        _real("top_p", self.top_p, 0.0, 1.0, above=True)
        _real("min_p", self.min_p, 0.0, 1.0)
        _real("repetition_penalty", self.repetition_penalty, *_REPETITION_PENALTIES)
        _real("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _real("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        for token, bias in self.biases.items():
            _whole("logit_bias key", token, 0, None)
            _real("logit_bias", bias, -100.0, 100.0)
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**64 - 1)
        for name, value in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if value is not None:
                _whole(name, value, 0, MAX_LOGPROBS)
        if len(stops) > MAX_STOPS:
            raise ParamsError(f"stop has {len(stops)} strings, at most {MAX_STOPS} are allowed", param="stop")
        if any(not isinstance(text, str) or not text for text in stops):
            raise ParamsError("every stop must be a non-empty string", param="stop")
        for token in self.stop_tokens:
            _whole("stop_token_ids", token, 0, None)
        if not isinstance(self.structured_outputs, StructuredOutputsParams | None):
            raise ParamsError("structured_outputs must be StructuredOutputsParams", param="structured_outputs")
        if self.reasoning is not None:
            self._check_reasoning(self.reasoning)

    def _check_reasoning(self, budget: ReasoningBudget) -> None:
        if not isinstance(budget, ReasoningBudget):
            raise ParamsError("reasoning must be a ReasoningBudget", param="reasoning")
        _whole("reasoning", budget.tokens, 0, None)
        if not budget.form.open or not budget.form.close:
            raise ParamsError("reasoning needs marks that are not empty", param="reasoning")
        if self.structured_outputs is not None:
            raise ParamsError("an answer that is held to a form has no reasoning to bound", param="reasoning")

    @property
    def greedy(self) -> bool:
        return self.temperature < _GREEDY_BELOW

    @property
    def adjusts_logits(self) -> bool:
        """Whether logits are modified before sampling."""
        penalties = self.repetition_penalty != 1.0 or self.presence_penalty or self.frequency_penalty
        return bool(penalties or self.logit_bias)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return tuple(self.stop_token_ids or ())

    @property
    def biases(self) -> Mapping[int, float]:
        """Token id to the value added to its logit."""
        return self.logit_bias or {}


def some_tokens(max_tokens: int | None) -> int | None:
    """``max_tokens`` where an answer is expected. Raises ParamsError for zero."""
    if max_tokens is not None:
        _whole("max_tokens", max_tokens, 1, None)
    return max_tokens


def _sequence(name: str, value: object) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ParamsError(f"{name} must be a list, got {value!r}", param=name)
    return tuple(value)


def _whole(name: str, value: object, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        limit = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ParamsError(f"{name} must be a whole number {limit}, got {value!r}", param=name.split()[0])


def _real(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high or (above and value == low):  # type: ignore[operator]
        limit = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise ParamsError(f"{name} must be a number {limit}, got {value!r}", param=name)
